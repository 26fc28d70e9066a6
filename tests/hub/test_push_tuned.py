"""What ``training/finetune.py`` really leaves can be pushed, loads from the Hub, and is the model that was tuned."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

from extes.cli import main
from tests.hub.server import Hub
from tests.training import tiny
from training.tune import tune

STRATEGIES = os.environ.get("EXTES_PUSH_STRATEGIES", "lora full qlora llama_adapter").split()
NOT_MERGED = {"full", "prompt", "prefix", "p_tuning", "llama_adapter"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny.write_base(tmp_path_factory.mktemp("ann-example") / "base"))


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny.write_dialogues(tmp_path_factory.mktemp("ann-example") / "made.jsonl"))


def logits(model) -> torch.Tensor:
    ids = torch.arange(5, 45).reshape(2, 20)
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return found


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_tuned_run_is_pushed_and_loads_as_it_was_tuned(
    hub: Hub, base: Path, dialogues: Path, tmp_path: Path, strategy: str
) -> None:
    import peft

    if strategy == "qlora":
        pytest.importorskip("bitsandbytes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # tuning asks the Hub nothing
        recipe = tiny.small(strategy, base, dialogues, "licence=cc-by-nc-4.0")
        done = tune(recipe, tmp_path / "run", say=None)

    api = HfApi()
    api.create_repo("extes/base")
    api.upload_folder(repo_id="extes/base", folder_path=base)
    command = ["push", "model", str(tmp_path / "run"), "--base", "extes/base"]
    assert main([*command, "extes/tuned"]) == 0

    if strategy == "full":
        there = AutoModelForCausalLM.from_pretrained("extes/tuned")
    else:
        there = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("extes/base"), "extes/tuned")
    if strategy != "qlora":  # tuned on a rounded base
        torch.testing.assert_close(logits(there), logits(done.model), rtol=0, atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained("extes/tuned")
    assert "hello" in tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)

    files = hub.files("extes/tuned")
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "cc-by-nc-4.0" and card.data.base_model == "extes/base"
    measured = {metric["name"] for metric in done.metrics}
    assert {result.metric_type for result in card.data.eval_results} == measured and "perplexity" in measured
    [digest] = done.record["data_sha256"].values()
    assert digest[:16] in card.text
    assert {"recipe.toml", "run.json", "metrics.json", "log.jsonl", "curves.png"} <= set(files)
    assert json.loads(files["run.json"])["strategy"] == strategy
    for path, content in files.items():
        assert b"ann-example" not in content, path

    if strategy in NOT_MERGED:
        assert main([*command, "extes/merged", "--merged"]) == 2
    else:
        assert main([*command, "extes/merged", "--merged"]) == 0
        whole = AutoModelForCausalLM.from_pretrained("extes/merged")
        torch.testing.assert_close(logits(whole), logits(there), rtol=0, atol=1e-4)
