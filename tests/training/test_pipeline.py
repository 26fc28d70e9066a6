"""From corpora to adapter on a CPU: the real scripts, a corpus made here, a model of a few thousand weights."""

import gzip
import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from training import corpora

FEELINGS = ["sad", "tired", "angry", "lost", "alone", "worried", "ashamed", "numb"]
THINGS = ["my exam", "my dog", "the job", "my sister", "the move", "my back", "the money", "that night"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Run the scripts once: pre-training in two stages, then the adapter."""
    folder = tmp_path_factory.mktemp("training")
    for name in corpora.CORPORA:
        with gzip.open(folder / f"{name}.jsonl.gz", "wt", encoding="utf-8") as out:
            for n in range(160):
                feeling, thing = FEELINGS[n % 8], THINGS[n // 8 % 8]
                turns = [
                    {"speaker": "seeker", "text": f"I feel {feeling} about {thing}, {n} days now"},
                    {"speaker": "supporter", "text": f"What about {thing} makes you feel {feeling}?"},
                ]
                out.write(json.dumps({"id": f"{name}-{n}", "turns": turns}) + "\n")

    def run(script, *arguments):
        command = [sys.executable, str(ROOT / "training" / script), *map(str, arguments)]
        env = os.environ | {"TORCH_COMPILE_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    shape = ["--vocab-size", 400, "--hidden", 64, "--layers", 1]
    small = ["--length", 64, "--batch", 4, "--max-steps", 12, "--corpora", folder]
    one = ["--output", folder / "one", "--mixture", "esconv-part:1,counsel-chat:2", *shape, *small]
    two = ["--output", folder / "two", "--init", folder / "one", "--mixture", "counsel-chat:3", "--loss", "replies"]
    three = ["--config", ROOT / "training" / "recipes" / "lora.toml", "--output", folder / "lora"]
    three += ["--set", f"base={folder / 'two' / 'model'}", "--set", "epochs=1", "--set", "data.max_length=128"]
    three += ["--set", f'data.train=["esconv:{folder / "esconv-part.jsonl.gz"}"]', "--set", "max_steps=20"]
    run("pretrain.py", *one)
    run("pretrain.py", *two, *small)
    run("finetune.py", *three)
    return folder, run, {"pretrain.py": one, "finetune.py": three}


def test_every_step_leaves_weights_a_record_and_a_log(made):
    folder, *_ = made
    for stage, weights in (("one", "model"), ("two", "model"), ("lora", "adapter")):
        assert list((folder / stage / weights).glob("*.safetensors"))
        record = json.loads((folder / stage / "run.json").read_text())
        assert record["data_sha256"]
        assert (folder / stage / "log.jsonl").read_text()
    stages = [json.loads((folder / stage / "run.json").read_text())["arguments"] for stage in ("one", "two")]
    assert stages[0]["vocab_size"] == stages[1]["vocab_size"]
    metrics = json.loads((folder / "lora" / "metrics.json").read_text())
    tokens = {(m["dataset"], m["of"]): m["tokens"] for m in metrics}
    assert tokens["esconv-part", "base"] == tokens["esconv-part", "tuned"] > 0


@pytest.mark.parametrize("script", ["pretrain.py", "finetune.py"])
def test_a_finished_run_does_nothing(made, script):
    _, run, arguments = made
    assert "nothing to do" in run(script, *arguments[script])


def test_exactly_the_supporters_tokens_carry_loss(made):
    from transformers import AutoTokenizer

    from training.pretrain import IGNORED, encode

    tokenizer = AutoTokenizer.from_pretrained(made[0] / "one" / "model")
    turns = (("user", "I feel sad."), ("assistant", "What about?"), ("user", "My dog."), ("assistant", "Go on."))
    ids, labels = encode(tokenizer, corpora.Exchanged("x", turns), "replies")
    kept = tokenizer.decode([i for i, label in zip(ids, labels, strict=True) if label != IGNORED])
    assert kept == "What about?<|end|>Go on.<|end|>"
