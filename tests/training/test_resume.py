"""A run that is killed goes on and ends as if it had not been; a finished one does nothing; another is refused."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

from extes.errors import Problem
from tests.conftest import ROOT
from tests.training import tiny
from training import recipe as recipes
from training.run import RunFolder
from training.tune import tune

STEPS = ["max_steps=12", "log_steps=1", "save_steps=2", "eval_steps=4"]


def learnt(run):
    """What must not depend on whether a run was broken off: weights, losses and scores; not the clock's figures."""
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [(e["step"], e["loss"], e["lr"], e.get("held_out")) for e in entries]
    weights = b"".join(path.read_bytes() for path in sorted(RunFolder(run).weights.glob("*.safetensors")))
    return losses, weights, json.loads((run / "metrics.json").read_text())


class Stopped(Exception):
    pass


def stop_at(step, monkeypatch):
    """The run dies when it would log this step, which is before the checkpoint of that step is written."""
    from training.progress import Progress

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.global_step == step:
            raise Stopped
        return whole(self, args, state, control, logs=logs, **kwargs)

    whole = Progress.on_log
    monkeypatch.setattr(Progress, "on_log", on_log)


@pytest.mark.parametrize("strategy", ["full", "lora", "qlora", "p_tuning", "llama_adapter"])
def test_a_broken_run_ends_as_an_unbroken_one(strategy, base, dialogues, tmp_path, monkeypatch):
    if strategy == "qlora":
        pytest.importorskip("bitsandbytes")
    recipe = tiny.small(strategy, base, dialogues, *STEPS)
    tune(recipe, tmp_path / "unbroken", say=None)
    with monkeypatch.context() as patched:
        stop_at(6, patched)
        with pytest.raises(Stopped):
            tune(recipe, tmp_path / "broken", say=None)
    said = []
    tune(recipe, tmp_path / "broken", say=said.append)
    assert "resuming at step 4 of 12" in said
    assert learnt(tmp_path / "broken") == learnt(tmp_path / "unbroken")
    assert not (tmp_path / "broken" / "checkpoints").exists()


def test_a_killed_process_leaves_a_run_that_goes_on(base, dialogues, tmp_path):
    recipe = tiny.small("lora", base, dialogues, *STEPS, "max_steps=40")
    tune(recipe, tmp_path / "unbroken", say=None)
    (tmp_path / "recipe.toml").write_text(recipes.dump(recipe))
    run = tmp_path / "killed"
    script = str(ROOT / "training" / "finetune.py")
    command = [sys.executable, script, "--config", str(tmp_path / "recipe.toml"), "--output", str(run)]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(run.glob("checkpoints/checkpoint-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert RunFolder(run).weights is None, "it was over before it was killed"
    tune(recipe, run, say=None)
    # Another number of threads would add up in another order; the process had one, and so do the tests' own runs.
    assert learnt(run)[0] == learnt(tmp_path / "unbroken")[0]
    assert learnt(run)[1] == learnt(tmp_path / "unbroken")[1]


def test_a_checkpoint_cut_off_while_written_is_passed_over(base, dialogues, tmp_path, monkeypatch):
    recipe = tiny.small("lora", base, dialogues, *STEPS)
    with monkeypatch.context() as patched:
        stop_at(6, patched)
        with pytest.raises(Stopped):
            tune(recipe, tmp_path / "run", say=None)
    (tmp_path / "run" / "checkpoints" / "checkpoint-6").mkdir()
    (tmp_path / "run" / "log.jsonl").open("a").write('{"step": 6, "lo')
    said = []
    tune(recipe, tmp_path / "run", say=said.append)
    assert "resuming at step 4 of 12" in said


def test_killed_after_its_last_step_it_takes_no_further_one(base, dialogues, tmp_path, monkeypatch):
    from training import tune as module

    recipe = tiny.small("lora", base, dialogues, *STEPS)
    tune(recipe, tmp_path / "unbroken", say=None)
    with monkeypatch.context() as patched:
        patched.setattr(module, "_write", lambda *_: (_ for _ in ()).throw(Stopped))
        with pytest.raises(Stopped):
            tune(recipe, tmp_path / "run", say=None)
    assert (tmp_path / "run" / "checkpoints" / "checkpoint-12").exists()
    tune(recipe, tmp_path / "run", say=None)
    assert learnt(tmp_path / "run") == learnt(tmp_path / "unbroken")


def test_killed_while_it_is_written_down_a_run_holds_each_figure_once(base, dialogues, tmp_path, monkeypatch):
    recipe = tiny.small("lora", base, dialogues, *STEPS)
    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "finish", lambda *_: (_ for _ in ()).throw(Stopped))
        with pytest.raises(Stopped):
            tune(recipe, tmp_path / "run", say=None)
    found = tune(recipe, tmp_path / "run", say=None).metrics
    assert len({(m["name"], m["dataset"], m["of"]) for m in found}) == len(found) == 4


def test_a_finished_run_does_nothing_and_another_recipe_is_refused(base, dialogues, tmp_path):
    run = tmp_path / "run"
    recipe = tiny.small("lora", base, dialogues)
    tune(recipe, run, say=None)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    said = []
    assert tune(recipe, run, say=said.append).model is None
    assert "nothing to do" in said[0]
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    with pytest.raises(Problem, match=r"adapter\.r: 16 there, 4 now"):
        tune(tiny.small("lora", base, dialogues, "adapter.r=4"), run, say=None)
    weights = load_file(run / "adapter" / "adapter_model.safetensors")
    assert weights


def test_less_at_once_is_the_same_training(base, dialogues, tmp_path, monkeypatch):
    """What a person is told to change after running out of memory may be changed in the same folder."""
    recipe = tiny.small("lora", base, dialogues, *STEPS, "adapter.lora_dropout=0.0")
    whole = tune(recipe, tmp_path / "whole", say=None)
    with monkeypatch.context() as patched:
        stop_at(6, patched)
        with pytest.raises(Stopped):
            tune(recipe, tmp_path / "run", say=None)
    smaller = recipe.model_copy(update={"micro_batch": 1, "gradient_checkpointing": True})
    pieces = tune(smaller, tmp_path / "run", say=None)
    for one, other in zip(whole.metrics, pieces.metrics, strict=True):
        assert one["value"] == pytest.approx(other["value"], rel=1e-4)


def test_changed_data_is_noticed_on_resume(base, tmp_path, monkeypatch):
    path = tiny.write_dialogues(tmp_path / "made.jsonl")
    recipe = tiny.small("lora", base, path, *STEPS)
    with monkeypatch.context() as patched:
        stop_at(6, patched)
        with pytest.raises(Stopped):
            tune(recipe, tmp_path / "run", say=None)
    tiny.write_dialogues(path, count=41)
    with pytest.raises(Problem, match="other data: made changed"):
        tune(recipe, tmp_path / "run", say=None)
