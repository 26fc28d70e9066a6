"""A finished run as ``training/finetune.py`` leaves one, made here in a second: real tiny weights, a real adapter."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

RECIPE = """strategy = "lora"
base = "{base}"
licence = "cc-by-nc-4.0"
seed = 1

[adapter]
config = "LoraConfig"
r = 4

[data]
train = ["seeds", "esconv:{corpora}/esconv.jsonl.gz"]
"""

CARD = """---
license: cc-by-nc-4.0
library_name: peft
base_model: tiny
tags: [emotional-support, extes, lora]
---

# tiny tuned for emotional support (lora)

**Not for care.** A few random numbers.

## Data

- `seeds`: seed dialogues of this project, written one by one by language-model agents, CC BY 4.0
- `esconv:{corpora}/esconv.jsonl.gz`: ESConv, CC BY-NC 4.0

## Intended use and limits

Testing.

## Licence

`cc-by-nc-4.0`.
"""

METRICS = [
    {"name": "perplexity", "dataset": "seeds", "of": "base", "value": 512.5, "tokens": 90, "signature": "token|v1"},
    {"name": "perplexity", "dataset": "seeds", "of": "tuned", "value": 12.34567, "tokens": 90, "signature": "token|v1"},
]


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``base``, and an adapter of each kind the tests need (``lora``, ``prompt``) on it, and ``full``."""
    import peft
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("weights")
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<pad>", "</s>", "<|user|>", "<|assistant|>", "<|system|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    raw.train_from_iterator(["I failed my exam. That sounds hard."], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", pad_token="<pad>")
    tokenizer.chat_template = TEMPLATE

    patch = pytest.MonkeyPatch()
    patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # peft would ask the Hub about the base
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=128, eos_token_id=1, pad_token_id=0, bos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for name in ("base", "full"):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    for name, adapter in {
        "lora": peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"),
        "prompt": peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    }.items():
        base = LlamaForCausalLM.from_pretrained(folder / "base")
        peft.get_peft_model(base, adapter).save_pretrained(folder / name)
        (folder / name / "README.md").unlink()
        tokenizer.save_pretrained(folder / name)
    patch.undo()
    return folder


@pytest.fixture
def make_run(weights: Path, tmp_path: Path) -> Callable[..., Path]:
    """Make a run folder of one of the weights: ``make_run("full")``, ``make_run(record={"cannot_merge": "so"})``."""

    def make(name: str = "lora", base: str | None = None, record: dict[str, Any] | None = None) -> Path:
        run, corpora = tmp_path / f"run-{name}", tmp_path / "ann-example" / "corpora"
        kind = "model" if name == "full" else "adapter"
        shutil.copytree(weights / name, run / kind)
        recipe = RECIPE.format(base=base or weights / "base", corpora=corpora)
        if base is not None and (run / kind / "adapter_config.json").exists():
            config = json.loads((run / kind / "adapter_config.json").read_text())
            config["base_model_name_or_path"] = base
            (run / kind / "adapter_config.json").write_text(json.dumps(config))
        (run / "recipe.toml").write_text(recipe)
        written = {
            "strategy": name, "base": base or "base", "base_revision": "a" * 40, "weights": kind,
            "sources": ["seeds", "esconv:esconv.jsonl.gz"], "data_sha256": {"seeds": "ab" * 32},
            "code_version": "0123abc", "command": "python training/finetune.py --config run/recipe.toml --output again",
            "licence": "cc-by-nc-4.0", "cannot_merge": "", **(record or {}),
        }  # fmt: skip
        (run / "run.json").write_text(json.dumps(written, indent=1))
        (run / "metrics.json").write_text(json.dumps(METRICS))
        (run / "log.jsonl").write_text('{"step": 10, "loss": 3.2}\n')
        (run / "curves.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
        (run / "README.md").write_text(CARD.format(corpora=corpora))
        return run

    return make
