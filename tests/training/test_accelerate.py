"""The same recipe by two processes: the same steps on the same rows, one folder written once, the same result."""

import json
import os
import subprocess
import sys

import pytest
import torch
import yaml

from tests.conftest import ROOT, free_port
from tests.training import tiny
from training import recipe as recipes
from training import strategies
from training.record import perplexities
from training.tune import tune

CONFIGS = ROOT / "training" / "accelerate"


def launch(recipe, folder, config):
    (folder / "recipe.toml").write_text(recipes.dump(recipe), encoding="utf-8")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / config)]
    command += ["--num_processes", "2", "--mixed_precision", "no", "--main_process_port", str(free_port())]
    command += [str(ROOT / "training" / "finetune.py")]
    command += ["--config", str(folder / "recipe.toml"), "--output", str(folder / "run")]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(("config", "strategy"), [("ddp_cpu.yaml", "lora"), ("fsdp.yaml", "full")])
def test_two_processes_learn_what_one_does(config, strategy, tmp_path):
    base = tiny.write_base(tmp_path / "base")
    dialogues = tiny.write_dialogues(tmp_path / "made.jsonl")
    same = ["adapter.lora_dropout=0.0"] if strategy == "lora" else []  # each process draws its own dropout
    recipe = tiny.small(strategy, base, dialogues, "max_steps=6", *same)
    one = tune(recipe, tmp_path / "one", say=None)
    done = launch(recipe, tmp_path, config)
    assert done.returncode == 0, done.stdout + done.stderr
    two = json.loads((tmp_path / "run" / "run.json").read_text())
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())

    assert two["processes"] == 2 and one.record["processes"] == 1
    for key in ("steps", "trained_tokens", "read_tokens", "rows", "data_sha256", "trainable_parameters"):
        assert two[key] == one.record[key]
    for of in ("base", "tuned"):
        assert perplexities(metrics, of)["made"] == pytest.approx(perplexities(one.metrics, of)["made"], rel=1e-5)
    assert [m["tokens"] for m in metrics] == [m["tokens"] for m in one.metrics]
    logs = [
        [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        for run in (one.folder, tmp_path / "run")
    ]
    assert [e["step"] for e in logs[1]] == [2, 4, 6]  # written by one of them
    for alone, together in zip(*logs, strict=True):
        assert together["loss"] == pytest.approx(alone["loss"], rel=1e-5)
        assert together["held_out"] == pytest.approx(alone["held_out"], rel=1e-4)
    # Said once, not twice
    assert done.stdout.count("step 6/6") == 1 and done.stdout.count("wrote ") == 1
    assert "2 processes" in done.stdout
    how = "--multi_gpu" if strategy == "lora" else "--config_file training/accelerate/fsdp.yaml"
    assert two["command"].startswith(f"accelerate launch {how} --num_processes 2 ")

    again = strategies.load_tuned(recipe, tmp_path / "run").state_dict()
    for name, weight in one.model.state_dict().items():
        torch.testing.assert_close(again[name], weight, rtol=1e-3, atol=1e-5)

    said = []
    tune(recipe, tmp_path / "run", say=said.append)  # by one process: it is the same run
    assert "nothing to do" in said[0]


@pytest.mark.parametrize("name", ["ddp_cpu", "fsdp", "deepspeed_zero3"])
def test_the_configurations_are_ones_that_accelerate_reads(name):
    from accelerate.commands.config.config_args import ClusterConfig

    path = CONFIGS / f"{name}.yaml"
    config = ClusterConfig.from_yaml_file(str(path))
    assert config.num_processes == yaml.safe_load(path.read_text())["num_processes"]
