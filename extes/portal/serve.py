"""The running portal: reads the settings, opens the store, serves the pages, then loads the models; stops cleanly."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path

from extes.errors import Problem

ROOT = Path(__file__).resolve().parent.parent.parent


def main() -> int:
    """Serve until SIGINT or SIGTERM. Exit status 2 where study, store or models cannot be used."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    warnings.simplefilter("ignore", FutureWarning)  # the libraries' talk among themselves
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")

    from extes.arms.arm import Arm, ArmError
    from extes.study import config
    from extes.study.roster import build as build_arms
    from extes.study.store import Store

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        study = config.load(Path(os.environ.get("EXTES_STUDY") or ROOT / "studies" / "starter.toml"))
        store = Store(Path(os.environ.get("EXTES_DATA_DIR") or "data"))
    except Problem as error:
        print(error, file=sys.stderr)
        return 2
    arms = build_arms(study)

    from extes.portal.app import build, launch
    from extes.study.conduct import Conduct

    try:
        demo = build(Conduct(study, store, arms))
        try:
            url = launch(demo)
        except (OSError, ValueError) as error:
            print(f"cannot serve: {error}; GRADIO_SERVER_PORT names another port", file=sys.stderr)
            return 2
        print(f"The portal is at {url}\nStudy: {study.title} ({study.name}, {study.hash})", flush=True)
        print(f"Ratings are kept in {store.folder.resolve()}\nModels are loading.", flush=True)

        failed: list[ArmError] = []

        def load(arms: Mapping[str, Arm]) -> None:
            try:
                for arm in arms.values():
                    arm.load()
                print("Models are ready. Press Ctrl+C to stop.", flush=True)
            except ArmError as error:
                failed.append(error)
                stop.set()

        threading.Thread(target=load, args=(arms,), name="load", daemon=True).start()
        stop.wait()
        demo.close(verbose=False)
        if failed:
            print(failed[0], file=sys.stderr)
            return 2
        print("The portal has stopped; every acknowledged rating is on disk.", flush=True)
        return 0
    except Problem as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        store.close()
