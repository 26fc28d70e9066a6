"""Every strategy on a tiny model: trains, scores, saves, loads again with the same logits, generates, and merges where
that is defined. A strategy of one's own is a recipe file and nothing else."""

import json

import pytest
import torch

from extes.errors import Problem
from tests.training import tiny
from training import strategies
from training.record import perplexities
from training.tune import tune

STRATEGIES = sorted(path.stem for path in tiny.RECIPES.glob("*.toml"))
NOT_MERGED = {"full", "prompt", "prefix", "p_tuning", "llama_adapter", "qlora"}
VERA = """
strategy = "vera"
learning_rate = 1e-2
[adapter]
config = "VeraConfig"
r = 8
target_modules = ["q_proj", "v_proj"]
"""


def logits(model):
    ids = torch.arange(5, 45).reshape(2, 20)
    with torch.inference_mode():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def test_the_eleven_strategies_are_there():
    wanted = "full lora rslora dora qlora ia3 prompt prefix p_tuning llama_adapter oft"
    assert set(wanted.split()) == set(STRATEGIES)


@pytest.mark.parametrize("strategy", [*STRATEGIES, "vera"])
def test_strategy_from_recipe_to_reloaded_weights(strategy, base, dialogues, tmp_path):
    if strategy == "qlora":
        pytest.importorskip("bitsandbytes")
    if strategy == "vera":
        (tmp_path / "vera.toml").write_text(VERA)
    recipe = tiny.small(strategy, base, dialogues, folder=tmp_path if strategy == "vera" else tiny.RECIPES)
    run = tmp_path / "run"
    done = tune(recipe, run, say=None)

    before, after = perplexities(done.metrics, "base"), perplexities(done.metrics, "tuned")
    assert before.keys() == after.keys() == {"made"}
    assert before["made"] != pytest.approx(after["made"], rel=1e-7), "nothing was learnt"
    assert (done.record["trainable_parameters"] == done.record["parameters"]) == (strategy == "full")
    assert [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()] == [2, 4]

    again = strategies.load_tuned(recipe, run)
    torch.testing.assert_close(logits(again), logits(done.model), rtol=0, atol=1e-5)
    prompt = torch.arange(5, 15).reshape(1, 10)
    said = again.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=5, do_sample=False)
    assert said.shape[1] > prompt.shape[1]

    if strategy in NOT_MERGED:
        with pytest.raises(Problem, match="cannot merge"):
            strategies.merge(again)
    else:
        tuned = logits(again)
        torch.testing.assert_close(logits(strategies.merge(again)), tuned, rtol=0, atol=1e-4)
