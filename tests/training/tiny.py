"""A model that is tuned in a second, and dialogues for it: random weights, a tokenizer trained on the spot."""

import json
import random

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.conftest import ROOT
from training import recipe as recipes
from training.tokenizer import train_tokenizer

RECIPES = ROOT / "training" / "recipes"
FEELINGS = ["sad", "tired", "angry", "lost", "alone", "worried", "ashamed", "numb", "restless", "hurt", "empty"]
THINGS = ["my exam", "my old dog", "the new job", "my sister", "the long move", "my back", "the money", "that night"]
ASKS = ["What about it weighs the most?", "Who knows of it?", "When did it begin?", "What would help tonight?"]


def write_dialogues(path, count=40):
    """ESConv's form, one dialogue a line; none like another, of two to five exchanges."""
    rng = random.Random(3)
    lines = []
    for n in range(count):
        turns = []
        for _ in range(rng.randint(2, 5)):
            one, two, thing = rng.choice(FEELINGS), rng.choice(FEELINGS), rng.choice(THINGS)
            said = f"I am {one} and {two} about {thing}, day {rng.randint(2, 999)} of it."
            asked = f"Being {two} over {thing} is hard. {rng.choice(ASKS)} {rng.choice(ASKS)}"
            turns += [{"speaker": "seeker", "text": said}, {"speaker": "supporter", "text": asked}]
        lines.append(json.dumps({"id": f"made-{n}", "turns": turns}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_base(folder):
    """A LLaMA of about 100,000 random weights with the starter's template."""
    texts = [f"I am {f} about {t}. {a} Being over is hard." for f in FEELINGS for t in THINGS for a in ASKS]
    tokenizer = train_tokenizer(texts, 400)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        initializer_range=0.2,  # far from uniform, so that a difference shows
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def small(strategy, base, dialogues, *overrides, folder=RECIPES):
    """A recipe of the project, on the tiny model for a few steps."""
    changed = [
        f"base={base}",
        f'data.train=["esconv:{dialogues}"]',
        "data.held_out.per_mille=200",
        "data.max_length=128",
        "max_steps=4",
        "batch=4",
        "warmup_steps=0",
        "precision=fp32",
        "log_steps=2",
        "eval_steps=2",
        "save_steps=2",
    ]
    if strategy == "llama_adapter":
        changed.append("adapter.adapter_layers=2")
    return recipes.load(folder / f"{strategy}.toml", [*changed, *overrides])
