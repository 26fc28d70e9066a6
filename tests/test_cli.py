"""The ``extes`` command as a person meets it."""

import json
import subprocess
import sys

import pytest

from extes import seeds
from extes.cli import main
from tests.conftest import ROOT


def run(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "extes.cli", *map(str, arguments)], capture_output=True, text=True, cwd=ROOT
    )
    assert "Traceback" not in done.stderr
    return done


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from extes.cli import parser; parser().format_help();"
        "print([m for m in ('torch', 'gradio', 'transformers', 'pydantic', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_seeds_check_counts_and_concludes(capsys):
    assert main(["seeds", "check"]) == 0
    said = capsys.readouterr().out
    assert "108 seeds" in said
    assert "3  Academic Stress" in said
    assert said.rstrip().endswith("The bar is met.")


def test_seeds_check_fails_where_the_bar_is_not_met(capsys):
    assert main(["seeds", "check", "--each-scenario", "4"]) == 1
    assert "scenario Academic Stress: 3 seeds, wanted 4" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_seeds_exported_are_read_back(tmp_path, capsys, suffix):
    out = tmp_path / f"seeds.{suffix}"
    assert main(["seeds", "export", "--out", str(out)]) == 0
    assert main(["dialogues", "read", str(out), "--out", str(tmp_path / "again.jsonl")]) == 0
    lines = (tmp_path / "again.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(seeds.load()[0])
    assert json.loads(lines[0])["turns"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("dialogues", "read", "none.json"), "check the path"),
        (("seeds", "export", "--out", "seeds.csv"), "name the output .jsonl"),
        (("seeds", "export", "--out", "nowhere/at/all.jsonl"), "No such file"),
        (("ratings", "export", "--data", "nowhere", "--out", "x.jsonl"), "no ratings here"),
        (("ratings", "verify", "--data", "nowhere"), "no ratings here"),
        (("seeds", "sow"), "invalid choice"),
    ],
)
def test_a_wrong_call_says_what_to_do(arguments, said):
    done = run(*arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_rating_withdrawn_by_its_receipt_leaves_every_export(tmp_path, capsys):
    import asyncio

    from tests.conftest import RATING
    from tests.study.test_conduct import Study

    async def go():
        study = Study(tmp_path)
        kept = [await study.conduct.rate(await study.through(), RATING) for _ in range(2)]
        study.store.close()
        return kept[0]["receipt"]

    receipt, data, out = asyncio.run(go()), str(tmp_path / "data"), str(tmp_path / "out.jsonl")
    assert main(["ratings", "withdraw", receipt.lower(), "--data", data]) == 0
    assert main(["ratings", "export", "--data", data, "--out", out]) == 0
    assert "1 ratings" in capsys.readouterr().out
    assert main(["ratings", "withdraw", receipt, "--data", data]) == 0
    assert "before" in capsys.readouterr().out
    assert main(["ratings", "withdraw", "0000-0000-0000-0000", "--data", data]) == 2
    assert main(["ratings", "verify", "--data", data]) == 0
    assert main(["ratings", "summary", "--data", data]) == 0
    assert "1 ratings" in capsys.readouterr().out


def test_a_reader_that_has_enough_is_no_error():
    command = f"set -o pipefail; {sys.executable} -m extes.cli seeds check | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == "" and done.returncode == 141, "as of any command that a closed pipe ends"
