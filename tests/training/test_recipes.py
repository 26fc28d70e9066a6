"""Recipes and the errors around them: whatever is wrong is told in one sentence with the place and the way out."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from extes.errors import Problem
from tests.conftest import ROOT
from tests.training import tiny
from training import recipe as recipes
from training import strategies
from training.loop import Halted, memory_errors_told
from training.run import RunFolder
from training.tune import plan, tune

LORA = tiny.RECIPES / "lora.toml"


@pytest.mark.parametrize("path", sorted(tiny.RECIPES.glob("*.toml")), ids=lambda p: p.stem)
def test_a_recipe_is_named_as_its_file_and_written_back_in_full(path, tmp_path):
    recipe = recipes.load(path, ["base=x", 'data.train=["seeds", "esconv:a \\"b\\".jsonl"]'])
    assert recipe.strategy == path.stem
    whole = tmp_path / "recipe.toml"
    whole.write_text(recipes.dump(recipe), encoding="utf-8")
    assert recipes.load(whole, []) == recipe


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("learning_rat=1", r"--set learning_rat=1: there is no key 'learning_rat'; did you mean learning_rate\?"),
        ("learning_rate=fast", r"--set learning_rate=fast: learning_rate: .*number.*'fast'"),
        ("learning_rate=-1", "greater than 0"),
        ("data.train=seeds", r'data\.train: write a list, such as \["seeds"\]'),
        ("batch=0", "greater than or equal to 1"),
        ("epochs", "write it as key=value"),
        ("data.max_length=long", r"data\.max_length: .*integer"),
        ("data.maxlength=4", r"no key 'data\.maxlength'; did you mean max_length\?"),
        ("data.held_out.seed=4", r"no key 'data\.held_out\.seed'; did you mean seeds\?"),
        ("seed.x=1", "there is no key|should be|a valid"),
        ("save_steps=15", r"save_steps \(15\) must be a multiple of log_steps \(10\)"),
        ("precision=fp8", "'bf16' or 'fp32'"),
    ],
)
def test_a_wrong_key_or_value_is_told_with_what_is_allowed(override, told):
    with pytest.raises(Problem, match=told):
        recipes.load(LORA, [override])


def test_a_recipe_saved_by_a_windows_editor_is_read(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xef\xbb\xbf" + LORA.read_bytes().replace(b"\n", b"\r\n"))
    assert recipes.load(path, []) == recipes.load(LORA, [])


def test_a_wrong_line_in_the_file_is_told_with_its_number(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('strategy = "mine"\nlearning_rate = 1e-4\n\n[data]\nmax_length = "many"\ntrian = ["seeds"]\n')
    with pytest.raises(Problem) as told:
        recipes.load(path, [])
    assert f"{path}, line 5: data.max_length" in str(told.value)
    assert f"{path}, line 6: there is no key 'data.trian'; did you mean train?" in str(told.value)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["base="], "which model should be tuned"),
        (["base=models/nowhere"], "there is no folder models/nowhere"),
        (["base=nobody/nothing-of-this-name"], "neither a folder here nor a Hub repository"),
        (["base={empty}"], "holds no model"),
        (["adapter.config=LoraConfg"], "peft has no 'LoraConfg'; the closest are LoraConfig"),
        (["adapter.rank=4"], "LoraConfig has no such argument; it has .*r, target_modules"),
        (['adapter.target_modules=["query"]'], "does not fit the base .* a 'llama' model.*query"),
        (["adapter.r=0"], "should be > 0|positive"),
        (["adapter.num_virtual_tokens=many"], r"num_virtual_tokens .*'many'.*whole number"),
        (["adapter.num_virtual_tokens=0"], r"num_virtual_tokens .*0.*whole number"),
        (["data.train=[]"], "no supporter turn to train on"),
        (["data.train=['esconv:{mute}']"], "no supporter turn to train on"),
        (["data.train=['esconv:/nowhere.jsonl']"], "there is no /nowhere.jsonl"),
        (["data.max_length=1024"], "data.max_length is 1024 tokens, and .* was made for 512"),
        (["batch=6", "micro_batch=4"], r"micro_batch \(4\) does not divide"),
        (["data.template=klingon"], 'no chat template "klingon"'),
        (["quantization.load_in_5bit=true"], "load_in_5bit|unexpected"),
    ],
)
def test_what_cannot_be_trained_is_told_before_anything_is_written(overrides, told, base, dialogues, tmp_path):
    (tmp_path / "empty").mkdir()
    mute = tmp_path / "mute.jsonl"
    mute.write_text(json.dumps({"id": "m", "turns": [{"speaker": "seeker", "text": "Hello?"}] * 2}) + "\n")
    filled = [o.replace("{empty}", str(tmp_path / "empty")).replace("{mute}", str(mute)) for o in overrides]
    recipe = tiny.small("lora", base, dialogues, *filled)
    with pytest.raises(Problem, match=told):
        tune(recipe, tmp_path / "run", say=None)
    assert not list(tmp_path.glob("run/*"))


def test_learnt_prompts_take_their_room_in_the_bases_context(base, dialogues, tmp_path):
    recipe = tiny.small("prompt", base, dialogues, "data.max_length=512", "adapter.num_virtual_tokens=8")
    with pytest.raises(Problem, match=r"was made for 512, 8 of which the strategy's own tokens take; set it to 504"):
        tune(recipe, tmp_path / "run", say=None)


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("tokenizer.json", b"", "the tokenizer of"),
        ("config.json", b"{bad", "cannot be loaded"),
        ("config.json", b'{"model_type": "t5"}', "cannot be loaded"),
        ("model.safetensors", b"cut off", "cannot be loaded"),
    ],
)
def test_a_base_with_a_broken_file_is_told(file, content, told, base, dialogues, tmp_path):
    broken = shutil.copytree(base, tmp_path / "broken")
    (broken / file).write_bytes(content)
    recipe = tiny.small("lora", broken, dialogues)
    with pytest.raises(Problem, match=told):
        tune(recipe, tmp_path / "run", say=None)
    if file != "model.safetensors":  # which a dry run does not read
        with pytest.raises(Problem, match=told):
            plan(recipe)


def test_a_base_that_lacks_weights_is_not_filled_up_with_random_ones(base, dialogues, tmp_path):
    poor = shutil.copytree(base, tmp_path / "poor")
    weights = load_file(poor / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, poor / "model.safetensors", {"format": "pt"})
    recipe = tiny.small("lora", poor, dialogues)
    with pytest.raises(Problem, match=r"1 of its weights are missing .*\(model\.layers\.1\.mlp\.up_proj\.weight\)"):
        strategies.load_base(recipe)
    weights["model.layers.1.mlp.up_proj.weight"] = torch.ones(3, 3)
    save_file(weights, poor / "model.safetensors", {"format": "pt"})
    with pytest.raises(Problem, match="another shape"):
        strategies.load_base(recipe)


def test_a_prefix_that_checkpointing_would_throw_away_is_not_trained(base, dialogues):
    with pytest.raises(Problem, match="gradient_checkpointing=false"):
        plan(tiny.small("prefix", base, dialogues, "gradient_checkpointing=true"))


def test_llama_adapter_says_which_models_it_fits(dialogues, tmp_path):
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    base = tiny.write_base(tmp_path / "base")
    size = len(AutoTokenizer.from_pretrained(base))
    config = Qwen2Config(vocab_size=size, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    config.num_attention_heads = config.num_key_value_heads = 2
    Qwen2ForCausalLM(config).save_pretrained(base)
    recipe = tiny.small("llama_adapter", base, dialogues)
    with pytest.raises(Problem, match=r"'llama_adapter' .*does not fit .*a 'qwen2' model: Unsupported model type"):
        tune(recipe, tmp_path / "run", say=None)


def test_a_base_without_a_chat_template_asks_for_one(base, dialogues, tmp_path):
    import shutil

    bare = shutil.copytree(base, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(Problem, match=r"has no chat template.*data\.template"):
        tune(tiny.small("lora", bare, dialogues), tmp_path / "run", say=None)
    assert tune(tiny.small("lora", bare, dialogues, "data.template=starter"), tmp_path / "named", say=None).weights


def test_without_bitsandbytes_the_extra_is_named(base, dialogues, tmp_path, monkeypatch):
    monkeypatch.setattr(strategies.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Problem, match=r'needs bitsandbytes: pip install "extes\[qlora\]"'):
        tune(tiny.small("qlora", base, dialogues), tmp_path / "run", say=None)
    with pytest.raises(Problem, match=r'"extes\[qlora\]", or take adamw_torch_fused'):
        tune(tiny.small("full", base, dialogues, "optimiser=paged_adamw_8bit"), tmp_path / "other", say=None)
    assert not (tmp_path / "other").exists()


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_rate(base, dialogues, tmp_path):
    recipe = tiny.small("full", base, dialogues, "learning_rate=1e30", "max_grad_norm=1e9")
    with pytest.raises(
        Halted, match=r"(loss became (nan|inf) at|loss is no number after) step \d.*learning_rate \(it is 1e\+30\)"
    ):
        tune(recipe, tmp_path / "run", say=None)


def test_a_real_failed_allocation_is_told_with_what_to_change(base, dialogues, tmp_path, monkeypatch):
    from training.loop import Tuner

    def greedy(self, *args, **kwargs):
        return torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setattr(Tuner, "compute_loss", greedy)
    with pytest.raises(
        Halted, match=r"the machine is out of memory in step 1\. Try, in this order: --set micro_batch=2"
    ):
        tune(tiny.small("full", base, dialogues), tmp_path / "run", say=None)


def test_a_gpu_out_of_memory_is_told_alike_and_other_errors_are_not_hidden():
    recipe = recipes.load(LORA, ["base=x"])
    with pytest.raises(Halted, match="the GPU is out of memory in step 4"), memory_errors_told(recipe, 8, lambda: 3):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    with pytest.raises(RuntimeError, match="shape"), memory_errors_told(recipe, 8, lambda: 3):
        raise RuntimeError("shape mismatch")


def test_what_to_change_after_a_lack_of_memory_is_what_can_be_changed():
    """Only some of it in the same folder; and smaller pieces must still make up the batch."""
    for overrides, micro in ((["batch=15"], 15), (["micro_batch=1", "gradient_checkpointing=true"], 1)):
        with pytest.raises(Halted) as started, memory_errors_told(recipes.load(LORA, overrides), micro, lambda: 0):
            raise MemoryError
        told = str(started.value)
        assert ("may be changed in the same run folder" in told) == (micro > 1)
        assert ("--set micro_batch=5, " in told) == (micro > 1)


def test_an_output_that_cannot_be_a_run_folder_is_refused(base, dialogues, tmp_path):
    recipe = tiny.small("lora", base, dialogues)
    (tmp_path / "file").write_text("")
    with pytest.raises(Problem, match="is a file; name a folder"):
        tune(recipe, tmp_path / "file", say=None)
    with pytest.raises(Problem, match="cannot be written"):
        tune(recipe, tmp_path / "file" / "run", say=None)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "recipe.toml.tmp").write_text("")  # a run killed in its first second
    (tmp_path / "full" / "probe.tmp").write_text("")
    assert not RunFolder(tmp_path / "full").check(recipe)
    (tmp_path / "full" / "thesis.doc").write_text("")
    with pytest.raises(Problem, match="holds files and is not a run folder"):
        tune(recipe, tmp_path / "full", say=None)


def test_a_dry_run_counts_exactly_what_is_then_trained(base, dialogues, tmp_path):
    recipe = tiny.small("lora", base, dialogues)
    foreseen = plan(recipe)
    done = tune(recipe, tmp_path / "run", say=None).record
    assert foreseen.trained_tokens == done["trained_tokens"]
    assert foreseen.tokens == done["read_tokens"]
    assert foreseen.steps == done["steps"]
    assert (foreseen.parameters, foreseen.trainable) == (done["parameters"], done["trainable_parameters"])


@pytest.mark.parametrize("path", sorted(tiny.RECIPES.glob("*.toml")), ids=lambda p: p.stem)
def test_a_dry_run_needs_no_weights(path, base, dialogues, tmp_path):
    import shutil

    bare = shutil.copytree(base, tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    told = str(plan(tiny.small(path.stem, bare, dialogues)))
    assert f"strategy      {path.stem} (" in told and "memory" in told


def test_from_the_command_line_a_mistake_is_one_line_and_no_traceback(base, dialogues):
    script = str(ROOT / "training" / "finetune.py")
    command = [sys.executable, script, "--config", str(LORA), "--dry-run", "--set", "learning_rat=3"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.startswith("finetune: --set learning_rat=3: there is no key") and "Traceback" not in done.stderr


@pytest.mark.parametrize("rows", ["0", "-1"])
def test_show_mask_of_no_rows_does_not_train_instead(rows, base, dialogues, tmp_path, monkeypatch):
    command = ["finetune.py", "--config", str(LORA), "--show-mask", rows, "--output", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", [*command, "--set", f"base={base}"])
    from training import finetune

    with pytest.raises(SystemExit):
        finetune.main()
    assert not (tmp_path / "run").exists()


def test_show_mask_prints_dialogues_with_the_trained_words_marked(base, dialogues, monkeypatch, capsys):
    from training import finetune

    command = ["finetune.py", "--config", str(LORA), "--show-mask", "2", "--set", f"base={base}"]
    monkeypatch.setattr(sys, "argv", [*command, "--set", f'data.train=["esconv:{dialogues}"]'])
    assert finetune.main() == 0
    shown = capsys.readouterr().out
    assert shown.count("made-") == 2 and "⟦" in shown
