"""What a run leaves behind, how its steps are made, and runs side by side."""

import io
import itertools
import json
import shutil

import pytest
import torch
from huggingface_hub import ModelCard

from extes.errors import Problem
from tests.training import tiny
from training import batches, compare
from training import recipe as recipes
from training.data import Example
from training.progress import Line, Log, duration
from training.run import RunFolder, command
from training.tune import tune


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    base, dialogues = tiny.write_base(folder / "base"), tiny.write_dialogues(folder / "made.jsonl")
    runs = {s: folder / s for s in ("lora", "prompt")}
    for strategy, run in runs.items():
        tune(tiny.small(strategy, base, dialogues, "licence=cc-by-4.0"), run, say=None)
    return base, dialogues, runs


def test_a_finished_folder_holds_all_that_was_promised(made):
    _, _, runs = made
    run = runs["lora"]
    assert {p.name for p in run.iterdir()} == {
        "recipe.toml", "run.json", "metrics.json", "log.jsonl", "curves.png", "README.md", "adapter"
    }  # fmt: skip
    held = {p.name for p in (run / "adapter").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "chat_template.jinja"} <= held
    assert not any(p.suffix == ".bin" for p in run.rglob("*"))
    assert (run / "curves.png").read_bytes()[:4] == b"\x89PNG"
    record = json.loads((run / "run.json").read_text())
    assert len(record["data_sha256"]["made"]) == 64
    assert record["data_counts"]["train"]["trained"] > 0
    assert record["environment"]["torch"] == torch.__version__
    assert record["seconds"] > 0 and record["peak_memory_bytes"] > 1e8
    for metric in json.loads((run / "metrics.json").read_text()):
        assert metric["signature"] and metric["tokens"] > 0 and metric["of"] in ("base", "tuned")


def test_the_recipe_of_a_run_makes_it_again(made, tmp_path):
    _, _, runs = made
    again = tune(recipes.load(runs["lora"] / "recipe.toml", []), tmp_path / "again", say=None)
    weights = "adapter_model.safetensors"
    assert (again.weights / weights).read_bytes() == (runs["lora"] / "adapter" / weights).read_bytes()
    assert "--config RUN/recipe.toml" in again.record["command"]


def test_the_card_is_one_the_hub_reads_and_names_no_folder_of_this_machine(made):
    base, _, runs = made
    card = ModelCard.load(runs["lora"] / "README.md")
    assert card.data.license == "cc-by-4.0" and card.data.library_name == "peft"
    value = {
        m["name"]: m["value"] for m in json.loads((runs["lora"] / "metrics.json").read_text()) if m["of"] == "tuned"
    }
    assert {r.metric_type: r.metric_value for r in card.data.eval_results} == {k: round(v, 4) for k, v in value.items()}
    for name in ("README.md", "run.json", "metrics.json", "log.jsonl"):
        assert str(base.parent) not in (runs["lora"] / name).read_text()
    for wanted in ("Not for care", "Held-out perplexity", "ESConv", "Intended use and limits", "SHA-256"):
        assert wanted in card.content


def test_without_held_out_dialogues_a_run_says_so_and_ends(made, tmp_path):
    base, dialogues, _ = made
    none = ["data.held_out.per_mille=0", "data.held_out.seeds=0"]
    done = tune(tiny.small("lora", base, dialogues, *none), tmp_path / "run", say=None)
    assert done.metrics == []
    assert "none held out" in (tmp_path / "run" / "README.md").read_text()
    with pytest.raises(Problem, match="held nothing out"):
        compare.compare([tmp_path / "run"], tmp_path / "page.md")


def test_runs_side_by_side(made, tmp_path, capsys):
    _, _, runs = made
    compare.compare(list(runs.values()), tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    for strategy, run in runs.items():
        record = json.loads((run / "run.json").read_text())
        value = next(m["value"] for m in json.loads((run / "metrics.json").read_text()) if m["of"] == "tuned")
        assert f"| {strategy} | {record['trainable_parameters']:,} (" in page
        assert f"{value:.2f} [" in page  # from the weights on disk, the same figure as the run's own
        assert page.count(f"- **{strategy}**: ") >= len(compare.OPENINGS)
    assert "lowest with **" in page and (tmp_path / "page.png").stat().st_size > 5000


def test_data_that_changed_since_the_runs_are_not_scored(made, tmp_path):
    _, _, runs = made
    run = shutil.copytree(runs["lora"], tmp_path / "lora")
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"data_sha256": {"made": "0" * 64}}))
    with pytest.raises(Problem, match="made changed since"):
        compare.compare([run], tmp_path / "page.md")


def test_runs_of_unlike_budgets_are_not_compared(made, tmp_path):
    base, dialogues, runs = made
    longer = tune(tiny.small("ia3", base, dialogues, "max_steps=6"), tmp_path / "ia3", say=None)
    with pytest.raises(Problem, match="steps: 4 in lora, 6 in ia3"):
        compare.compare([runs["lora"], longer.folder], tmp_path / "page.md")
    with pytest.raises(Problem, match="is not a finished run"):
        compare.compare([runs["lora"], tmp_path], tmp_path / "page.md")


def example(size):
    return Example("x", "s", list(range(size)), [-100, *range(1, size)], 1, ())


@pytest.mark.parametrize("rows", [5, 40, 333])
def test_every_row_is_met_equally_often_and_the_widest_batch_first(rows):
    lengths = [10 + (7 * n) % 50 for n in range(rows)]
    steps = batches.steps_for(rows, 3, 8)
    order = batches.order(lengths, 8, steps, seed=1)
    assert len(order) == steps * 8
    met = [order.count(row) for row in range(rows)]
    assert max(met) - min(met) <= 1 and min(met) >= 3
    assert max(lengths) in [lengths[row] for row in order[:8]]
    assert order == batches.order(lengths, 8, steps, seed=1) != batches.order(lengths, 8, steps, seed=2)


def test_rows_of_like_length_share_a_batch():
    lengths = [10 + (37 * n) % 400 for n in range(800)]
    examples = [example(n) for n in lengths]
    order = batches.order(lengths, 8, 100, seed=1)
    assert batches.padding_share(examples, order, 8) < 0.05
    assert batches.padding_share(examples, list(range(800)), 8) > 0.3


def test_processes_share_each_step_without_changing_it():
    for processes, micro in itertools.product((1, 2, 4), (0, 1, 2)):
        held, times = batches.split(16, micro, processes)
        assert held * times * processes == 16
    with pytest.raises(ValueError, match="cannot be shared equally by 3"):
        batches.split(16, 0, 3)


def test_padding_carries_no_loss_and_is_not_attended_to():
    out = batches.collate([example(3), example(5)])
    assert out["labels"].tolist() == [[-100, 1, 2, -100, -100], [-100, 1, 2, 3, 4]]
    assert out["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


@pytest.mark.parametrize("rest", ['{"step": 4, "lo', '{"step": 4, "held_out": {"seeds": 3.1}'])
def test_a_log_cut_off_in_its_last_line_is_taken_up(rest, tmp_path):
    log = Log(tmp_path / "log.jsonl")
    for step in (1, 2, 3):
        log.add({"step": step, "loss": 1.0})
    with log.path.open("a") as out:
        out.write(rest)
    assert [e["step"] for e in log.rewind(2)] == [1, 2] == [e["step"] for e in log.entries()]


def test_steps_after_the_last_full_log_are_logged_and_timed(made, tmp_path):
    base, dialogues, _ = made
    recipe = tiny.small("lora", base, dialogues, "max_steps=3", "log_steps=2")
    record = tune(recipe, tmp_path / "run", say=None).record
    entries = Log(tmp_path / "run" / "log.jsonl").entries()
    assert [e["step"] for e in entries] == [2, 3]
    assert record["seconds"] == round(entries[-1]["seconds"], 1)


def test_one_line_in_a_terminal_and_lines_in_a_file():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream, wanted in ((Terminal(), "\rlonger line\rshort      \n"), (io.StringIO(), "longer line\nshort\n")):
        line = Line(stream, shown=True)
        line.update("longer line")
        line.update("short", keep=True)
        line.close()
        assert stream.getvalue() == wanted
    assert [duration(s) for s in (42, 420, 12000)] == ["42 s", "7 min", "3 h 20 min"]


def test_the_command_that_makes_a_run_again_starts_as_many_processes_and_shards_as_it_did(monkeypatch):
    """Without --multi_gpu or a configuration accelerate starts one process, whatever their number, on a CPU."""
    assert command("lora", 1).startswith("python training/finetune.py ")
    assert command("lora", 2).startswith("accelerate launch --multi_gpu --num_processes 2 training/finetune.py ")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert command("full", 8).startswith(
        "accelerate launch --config_file training/accelerate/fsdp.yaml --num_processes 8 "
    )


def test_a_file_is_replaced_whole(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write("run.json", {"a": 1})
    with pytest.raises(TypeError):
        folder.write("run.json", {"a": object()})
    assert folder.read("run.json") == {"a": 1}
