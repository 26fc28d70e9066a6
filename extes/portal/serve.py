"""The running portal: reads the settings, opens the store, restores it if it must, serves the pages, then loads the
models; stops cleanly, with what the Hub does not have yet sent on the way out."""

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
FLUSH_SECONDS = 20  # a container has about 30 from SIGTERM to the end


def main() -> int:
    """Serve until SIGINT or SIGTERM. Exit status 2 where study, store, dataset or models cannot be used."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    warnings.simplefilter("ignore", FutureWarning)  # the libraries' talk among themselves
    warnings.simplefilter("ignore", DeprecationWarning)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")

    from extes.arms.arm import Arm, ArmError
    from extes.collection import settings
    from extes.study import config, keys
    from extes.study.health import Health
    from extes.study.roster import build as build_arms
    from extes.study.store import Store

    port = os.environ.get("GRADIO_SERVER_PORT", "7860")
    if not port.isdecimal() or int(port) > 65535:
        print(f"GRADIO_SERVER_PORT is {port!r}; it is a number up to 65535, or not set at all", file=sys.stderr)
        return 2
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        study = config.load(Path(os.environ.get("EXTES_STUDY") or ROOT / "studies" / "starter.toml"))
        dataset = settings.dataset(study)
        store = Store(Path(os.environ.get("EXTES_DATA_DIR") or "data"))
        found = ""
        if dataset:
            from extes.collection.restore import at_start

            found = at_start(store, dataset)
    except Problem as error:
        print(error, file=sys.stderr)
        return 2
    arms = build_arms(study)

    from extes.portal.app import build, launch
    from extes.study.conduct import Conduct

    try:
        conduct = Conduct(study, store, arms, Health(store, settings.bounds(study), dataset.repo if dataset else ""))
        demo = build(conduct)
        try:
            url = launch(demo)
        except (OSError, ValueError) as error:
            print(f"cannot serve: {error}; GRADIO_SERVER_PORT names another port", file=sys.stderr)
            return 2
        print(f"The portal is at {url}\nStudy: {study.title} ({study.name}, {study.hash})", flush=True)
        print(f"Ratings are kept in {store.folder.resolve()}", flush=True)
        outbox = None
        if dataset:
            kind = "public, redacted" if dataset.public else "private, complete"
            print(f"and sent to the dataset {dataset.repo} ({kind}). {found}", flush=True)
            from extes.collection.outbox import Outbox

            if not keys.given():
                print(f"The pseudonyms' key is on this disk alone; if it may vanish, set {keys.VARIABLE}.", flush=True)
            outbox = Outbox(lambda: Store(store.folder), dataset, study, study.hub.every_seconds)
            outbox.start()
        print("Models are loading.", flush=True)

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
        if outbox and dataset:
            if outbox.flush(FLUSH_SECONDS):
                print(f"Everything is in {dataset.repo}.", flush=True)
            else:
                left = store.backlog(dataset.repo)
                print(f"{left} events are not in {dataset.repo} yet; the next start sends them.", flush=True)
        if failed:
            print(failed[0], file=sys.stderr)
            return 2
        print("The portal has stopped; every acknowledged rating is on disk.", flush=True)
        if outbox and outbox.busy:  # Python would wait for the uploads of a Hub that hangs, minutes long
            sys.stderr.flush()
            os._exit(0)
        return 0
    except Problem as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        store.close()
