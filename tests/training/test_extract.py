"""A fully tuned model, carried as an adapter on its base, says what it says."""

import json
import re
import shutil
import subprocess
import sys
import warnings

import pytest
import torch
from transformers import AutoModelForCausalLM

from extes.arms.local import Engine
from tests.conftest import ROOT
from tests.training import tiny
from training.extract import changes, extract, kept, main
from training.record import perplexities
from training.tune import tune

WIDTH = 64  # of the tiny model: no change of its weights has a higher rank


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model):
    ids = torch.arange(5, 45).reshape(2, 20)
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@pytest.fixture(scope="module")
def run(base, dialogues, tmp_path_factory):
    run = tmp_path_factory.mktemp("full") / "run"
    tune(tiny.small("full", base, dialogues, "learning_rate=2e-2", "max_steps=8"), run, say=None)
    return run


def extracted(base, run, rank):
    return logits(extract(load(base), changes(load(base), load(run / "model")), rank))


def test_at_full_rank_nothing_is_lost_not_even_of_the_norms(base, run):
    before, tuned = load(base), load(run / "model")
    assert not torch.equal(before.model.norm.weight, tuned.model.norm.weight)
    assert not torch.allclose(logits(before), logits(tuned), atol=0.1), "nothing was learnt"
    torch.testing.assert_close(extracted(base, run, WIDTH), logits(tuned), rtol=1e-4, atol=1e-4)


def test_every_rank_more_comes_nearer(base, run):
    tuned = logits(load(run / "model"))
    away = [float((extracted(base, run, rank) - tuned).norm()) for rank in (4, 16, 48)]
    assert float((logits(load(base)) - tuned).norm()) > away[0] > away[1] > away[2]


def test_the_share_kept_is_that_of_the_largest_singular_values():
    change = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    assert [round(kept(change, rank), 4) for rank in (1, 2, 3)] == [round(9 / 14, 4), round(13 / 14, 4), 1.0]


def test_an_extracted_adapter_is_served_beside_its_base_from_one_copy_of_the_weights(base, run, tmp_path):
    command = [sys.executable, str(ROOT / "training" / "extract.py"), str(run), "--output", str(tmp_path / "adapter")]
    made = subprocess.run([*command, "--rank", str(WIDTH)], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert "of the squared change of each of 16 matrices it keeps 100.0% to 100.0%" in made.stdout
    before, after = json.loads((tmp_path / "adapter" / "extract.json").read_text())["perplexity"]["made"]
    tuned = perplexities(json.loads((run / "metrics.json").read_text()), "tuned")["made"]
    assert before == pytest.approx(tuned, abs=0.01) and after == pytest.approx(tuned, rel=0.01)
    assert "Warning" not in made.stderr

    engine = Engine(str(base), {"tuned": str(tmp_path / "adapter")})
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # a stranger who starts the portal would see it
        engine.load()
    torch.testing.assert_close(logits(engine.model), logits(load(run / "model")), rtol=0, atol=0.05)  # stored as fp16
    with engine.model.disable_adapter():
        torch.testing.assert_close(logits(engine.model), logits(load(base)), rtol=0, atol=1e-5)


def test_only_a_finished_run_of_full_tuning_can_be_extracted(tmp_path):
    command = [sys.executable, str(ROOT / "training" / "extract.py"), str(tmp_path), "--output", str(tmp_path / "out")]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "no finished run of full tuning here" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_base_that_is_gone_is_told_and_no_rank_below_one_is_taken(run, tmp_path, monkeypatch, capsys):
    moved = shutil.copytree(run, tmp_path / "run")
    recipe = (moved / "recipe.toml").read_text()
    (moved / "recipe.toml").write_text(re.sub('base = ".*"', f'base = "{tmp_path}/gone"', recipe))
    for rank, told in (("8", "there is no folder"), ("0", "--rank")):
        command = ["extract.py", str(moved), "--output", str(tmp_path / "out"), "--rank", rank]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
        assert told in f"{ended.value}{capsys.readouterr().err}"
