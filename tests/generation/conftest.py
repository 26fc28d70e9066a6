"""Seeds, a server and the command, for the tests of generation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from extes import cli, seeds, transcript
from tests.generation.server import Behaviour, Server, running

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def seed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first of the project's seeds for each scenario."""
    folder = tmp_path_factory.mktemp("seeds")
    dialogues, _ = seeds.load()
    for dialogue in dialogues:
        _, scenario, number = dialogue.id.split("/")
        if int(number) == 1:
            (folder / scenario).mkdir(exist_ok=True)
            (folder / scenario / f"{number}.txt").write_text(transcript.format(dialogue), encoding="utf-8")
    return folder


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start servers that end with the test: ``serve(form="text")``."""
    with ExitStack() as stack:
        yield lambda **behaviour: stack.enter_context(running(Behaviour(**behaviour)))


@dataclass
class Run:
    """A run of the command: exit status and what it printed."""

    status: int
    out: str
    err: str


class Workplace:
    """Runs ``extes generate`` on pools of a test, in this process or in one of its own."""

    def __init__(self, folder: Path, seed_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.seeds, self._capsys = folder, seed_folder, capsys

    def pool(self, name: str = "pool") -> Path:
        return self.folder / name

    def arguments(self, url: str, *more: str, pool: str = "pool", target: int = 24, accept: bool = True) -> list[str]:
        base = ["generate", "--base-url", url, "--model", "m", "--pool", str(self.pool(pool)), "--target", str(target)]
        return base + ["--seeds", str(self.seeds)] + ["--auto-accept"] * accept + list(more)

    def generate(self, url: str, *more: str, **options: Any) -> Run:
        return self.extes(*self.arguments(url, *more, **options))

    def extes(self, *arguments: str) -> Run:
        self._capsys.readouterr()
        status = cli.main(list(arguments))
        out, err = self._capsys.readouterr()
        return Run(status, out, err)

    def start(self, url: str, *more: str, **options: Any) -> subprocess.Popen[str]:
        """The command as a process of its own."""
        command = [sys.executable, "-m", "extes.cli", *self.arguments(url, *more, **options)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def log(self, pool: str = "pool") -> bytes:
        return (self.pool(pool) / "pool.jsonl").read_bytes()

    def events(self, pool: str = "pool", kind: str | None = None) -> list[dict[str, Any]]:
        events = [json.loads(line) for line in self.log(pool).splitlines()]
        return [e for e in events if kind in (None, e["event"])]

    def outcomes(self, pool: str = "pool") -> dict[str, int]:
        """Every request of a pool by its end: a code, ``accepted`` or ``candidate``."""
        counts: dict[str, int] = {}
        for event in self.events(pool, "slot"):
            for request in event["requests"]:
                end = request.get("code") or request["state"]
                counts[end] = counts.get(end, 0) + 1
        return counts


@pytest.fixture
def work(tmp_path: Path, seed_folder: Path, capsys: pytest.CaptureFixture[str]) -> Workplace:
    return Workplace(tmp_path, seed_folder, capsys)


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    path = tmp_path / "prices.toml"
    path.write_text(
        'date = "2026-11-01"\ncurrency = "USD"\n'
        '[[model]]\nname = "m"\ninput = 2.0\ncached_input = 1.0\noutput = 8.0\nbatch = 0.5\n'
    )
    return path
