"""``extes push dataset``: what is exported arrives, opens with ``datasets``, and reads back as the same dialogues."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from extes import dialogue
from extes.cli import main
from tests.hub.server import Hub


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    path = tmp_path / "seeds.jsonl"
    assert main(["seeds", "export", "--out", str(path)]) == 0
    return path


def push(file: Path, *more: str) -> int:
    return main(["push", "dataset", str(file), "extes/seeds", "--licence", "cc-by-4.0", *more])


def test_what_is_pushed_opens_with_datasets_and_is_the_same(hub: Hub, seeds: Path) -> None:
    import datasets

    assert push(seeds) == 0
    rows = datasets.load_dataset("extes/seeds", split="train")
    back = [dialogue.from_json(row | {"provenance": json.loads(row["provenance"])}) for row in rows]
    there, _ = dialogue.read_jsonl(seeds)
    assert back == there and len(there) == 108
    assert hub.files("extes/seeds", "dataset")["dialogues.jsonl"] == seeds.read_bytes()


def test_every_field_of_a_turn_survives(hub: Hub, seeds: Path) -> None:
    from training import sources

    dialogues, _ = dialogue.read_jsonl(seeds)
    first = dialogues[0]
    turns = (first.turns[0], replace(first.turns[1], train=False, strategy=None), *first.turns[2:])
    dialogues[0] = replace(
        first, turns=turns, provenance={"source": "seed", "odd": [1, None, {"a": "é"}]}, scenario=None
    )
    dialogue.write_jsonl(dialogues, seeds)
    push(seeds)
    assert sources.read("hub:extes/seeds").dialogues == tuple(dialogues)


def test_the_card_counts_and_states_the_licence(hub: Hub, seeds: Path) -> None:
    push(seeds)
    card = hub.files("extes/seeds", "dataset")["README.md"].decode()
    assert (
        "license: cc-by-4.0" in card and "108 emotional-support dialogues" in card and "108 with source `seed`" in card
    )


def test_again_does_nothing_and_dry_runs_touch_nothing(
    hub: Hub, seeds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(seeds, "--dry-run") == 0 and not hub.requests
    assert "data/dialogues.parquet" in capsys.readouterr().out
    push(seeds, "--private")
    assert hub.repo("extes/seeds", "dataset").private
    commits = len(hub.repo("extes/seeds", "dataset").history())
    assert push(seeds) == 0 and "Nothing to do" in capsys.readouterr().out
    assert len(hub.repo("extes/seeds", "dataset").history()) == commits


def test_an_empty_licence_is_none(hub: Hub, seeds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", "dataset", str(seeds), "extes/seeds", "--licence", "", "--dry-run"]) == 2
    assert "--licence is empty" in capsys.readouterr().err


def test_a_file_with_a_bad_line_is_not_published(hub: Hub, seeds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seeds.write_text(seeds.read_text() + '{"id": "x"}\n')
    assert push(seeds) == 2 and "bad_description" in capsys.readouterr().err
    assert not hub.requests
