"""Shared by all tests: a scripted study, and the portal as a real process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.hub.server import Hub

ROOT = Path(__file__).resolve().parent.parent

STUDY = """
name = "rehearsal"
version = "1"
title = "Rehearsal"
minimum_exchanges = 3
maximum_exchanges = 6
reveal = true
results = "open"
chat = "warm_7b_arm"
consent = "consent.md"

[generation]
words_per_second = 0
deadline_seconds = 5
seed = 7

[[criteria]]
name = "fluency"
label = "Fluency"
definition = "Whose messages were more fluent?"

[[criteria]]
name = "overall"
label = "Overall"
definition = "Whose support do you prefer?"
answers = ["a", "tie", "b", "both_bad", "cant_judge"]

[[arms]]
name = "warm_7b_arm"
label = "The warm provider"
kind = "scripted"
replies = ["That was a long day to carry alone. What was the worst hour of it?"]

[[arms]]
name = "cold_13b_arm"
label = "The cold provider"
kind = "scripted"
replies = ["I see. Try sleeping more."]
"""


def write_study(folder: Path, text: str = STUDY, consent: str = "We keep what you write.") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "consent.md").write_text(consent, encoding="utf-8")
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def study_path(tmp_path: Path) -> Path:
    return write_study(tmp_path / "study")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@dataclass
class Portal:
    """``python app.py`` as a process. ``stop`` sends a signal and waits."""

    study: Path
    data: Path
    process: subprocess.Popen[str] | None = None
    url: str = ""
    env: dict[str, str] = field(default_factory=dict)

    def start(self) -> Portal:
        port = free_port()
        env = os.environ | {
            "EXTES_STUDY": str(self.study),
            "EXTES_DATA_DIR": str(self.data),
            "GRADIO_SERVER_PORT": str(port),
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
        }
        env |= self.env
        self.data.parent.mkdir(parents=True, exist_ok=True)
        self.log = (self.data.parent / "portal.log").open("w", encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "app.py")], env=env, stdout=self.log, stderr=self.log, text=True, cwd=ROOT
        )
        self.url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 120
        while "Models are ready" not in self.output():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the portal did not start:\n{self.output()}")
            time.sleep(0.2)
        return self

    def output(self) -> str:
        return (self.data.parent / "portal.log").read_text(encoding="utf-8")

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(timeout=30)
        self.log.close()
        return code

    def ratings(self, tmp: Path) -> list[dict]:
        """What ``extes ratings export`` writes, read back."""
        import json

        out = tmp / "export.jsonl"
        command = [sys.executable, "-m", "extes.cli", "ratings", "export", "--data", str(self.data), "--out", str(out)]
        subprocess.run(command, check=True, cwd=ROOT)
        return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def portal(tmp_path_factory: pytest.TempPathFactory):
    """One scripted portal for all tests that leave it running."""
    folder = tmp_path_factory.mktemp("portal")
    running = Portal(write_study(folder / "study"), folder / "run" / "data").start()
    yield running
    running.stop()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A local Hub of this test's own, which the imported huggingface_hub and datasets take for the real one."""
    import datasets
    import huggingface_hub
    from huggingface_hub.utils import close_session

    with Hub() as running:
        for name, value in running.env(tmp_path / "hf").items():
            monkeypatch.setenv(name, value)
        for name, value in {
            "ENDPOINT": running.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": running.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(tmp_path / "hf" / "hub"),
        }.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", running.url)  # what module-level functions use
        if transformers_hub := sys.modules.get("transformers.utils.hub"):
            monkeypatch.setattr(transformers_hub, "_hf_api", None)  # it remembers the endpoint of its first use
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", running.url)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf" / "datasets")
        close_session()
        yield running
        close_session()


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's waits between its own retries take no time; what it sends is unchanged."""
    from huggingface_hub import file_download
    from huggingface_hub.utils import _http

    class Clock:
        sleep = staticmethod(lambda seconds: time.sleep(min(seconds, 0.01)))

        def __getattr__(self, name: str) -> object:
            return getattr(time, name)

    for module in (_http, file_download):
        monkeypatch.setattr(module, "time", Clock())


CONSENT = {"agreed": True, "of_age": True, "publish_transcript": False, "scenario": None}
RATING = {"answers": {"fluency": "a", "overall": "both_bad"}, "comment": ""}
