"""Carry a fully tuned model as an adapter on its base: what tuning changed, as LoRA by singular value decomposition.

    python training/extract.py RUN --rank 64 --output FOLDER

Full tuning gives a second copy of the weights; the portal serves every arm from one. Each weight's change is
approximated by its best matrix of the given rank (Eckart and Young 1936); at full rank nothing is lost. The change of a
norm goes, exactly, into the linear layers that read what it scales.

Knows transformers, peft and run folders. Llama-like models only (RMS norms before attention and MLP).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import peft
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from extes.errors import Problem
from training import recipe as recipes
from training.data import prepare
from training.perplexity import score
from training.run import RunFolder
from training.strategies import load_base
from training.tune import quiet

# Which norm scales what a linear layer reads
READS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}


def changes(base: Any, tuned: Any) -> dict[str, torch.Tensor]:
    """What is added to each weight of ``base`` to do as ``tuned`` does, by module name, in float32."""
    before = {n: p.detach().float() for n, p in base.named_parameters(remove_duplicate=False)}
    after = {n: p.detach().float() for n, p in tuned.named_parameters(remove_duplicate=False)}
    scale: dict[str, torch.Tensor] = {"lm_head": after["model.norm.weight"] / before["model.norm.weight"]}
    for n in range(base.config.num_hidden_layers):
        for norm, readers in READS.items():
            name = f"model.layers.{n}.{norm}.weight"
            scale |= {f"model.layers.{n}.{reader}": after[name] / before[name] for reader in readers}
    names = [n.removesuffix(".weight") for n, p in before.items() if p.ndim == 2]
    return {n: after[f"{n}.weight"] * scale.get(n, 1.0) - before[f"{n}.weight"] for n in names}


def extract(base: Any, found: dict[str, torch.Tensor], rank: int) -> Any:
    """``base`` with a LoRA adapter of that rank for each of the :func:`changes`, in evaluation mode."""
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=rank,
        target_modules=sorted({name.rpartition(".")[2] for name in found}),
        ensure_weight_tying=False,  # a norm's change makes that of the output differ from that of the input
    )
    model = peft.get_peft_model(base, config)
    for name, change in found.items():
        u, s, v = torch.linalg.svd(change, full_matrices=False)
        root = s[:rank].sqrt()
        layer = model.base_model.model.get_submodule(name)
        a, b = root[:, None] * v[:rank], u[:, :rank] * root
        with torch.no_grad():
            if name.endswith("embed_tokens"):
                layer.lora_embedding_A["default"].copy_(b.T)
                layer.lora_embedding_B["default"].copy_(a.T)
            else:
                layer.lora_A["default"].weight.copy_(a)
                layer.lora_B["default"].weight.copy_(b)
    return model.eval()


def kept(change: torch.Tensor, rank: int) -> float:
    """The share of a change's squared length that its best approximation of that rank has."""
    squares = torch.linalg.svdvals(change).square()
    return float(squares[:rank].sum() / squares.sum().clamp_min(1e-30))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run of full tuning")
    parser.add_argument("--output", type=Path, required=True, help="where the adapter goes")
    parser.add_argument("--rank", type=int, default=64)
    args = parser.parse_args()
    if args.rank < 1:
        parser.error("--rank is 1 or more")
    folder = RunFolder(args.run)
    if folder.weights is None or folder.weights.name != "model":
        sys.exit(f"{args.run}: no finished run of full tuning here; an adapter needs no extraction")
    try:
        with quiet():
            print(carried(folder, args.output, args.rank))
    except Problem as problem:
        sys.exit(f"extract: {problem}")


def carried(folder: RunFolder, output: Path, rank: int) -> str:
    """Write the adapter of a finished run; what was kept and what that costs, in two lines."""
    commit = folder.read("run.json")["base_revision"]  # of a base on the Hub, that which was tuned
    recipe = recipes.load(folder.recipe, []).model_copy(update={"base_revision": commit})
    base = load_base(recipe)
    tuned = AutoModelForCausalLM.from_pretrained(folder.weights, dtype=torch.float32)
    if "model.layers.0.input_layernorm.weight" not in dict(base.named_parameters()):
        sys.exit(f"{recipe.base}: a {base.config.model_type!r} model; only those built like LLaMA can be extracted")
    tokenizer = AutoTokenizer.from_pretrained(folder.weights)
    found = changes(base, tuned)
    shares = [kept(change, rank) for change in found.values()]
    model = extract(base, found, rank)
    model.peft_config["default"].base_model_name_or_path = recipe.base_name or recipe.base
    model.half().save_pretrained(output, save_embedding_layers=False)
    (output / "README.md").unlink(missing_ok=True)  # peft's empty form of a card
    # What it costs, over the run's own held-out data: of the tuned model and of the adapter
    held_out = prepare(recipe.data, tokenizer).held_out
    model.float()  # the rounding to 16 bits stays
    cost = {n: [round(score(m, e).per_token, 2) for m in (tuned.eval(), model)] for n, e in held_out.items()}
    tokenizer.save_pretrained(output)
    record = {"rank": rank, "kept_least": round(min(shares), 4), "kept_most": round(max(shares), 4), "perplexity": cost}
    (output / "extract.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    numbers = sum(p.numel() for n, p in model.named_parameters() if ".lora_" in n)
    return (
        f"wrote {output}: rank {rank}, {numbers:,} parameters; of the squared change of each of {len(shares)} "
        f"matrices it keeps {min(shares):.1%} to {max(shares):.1%}\nheld-out perplexity, all of it and what is kept: "
        + ", ".join(f"{name} {before:.2f} and {after:.2f}" for name, (before, after) in cost.items())
    )


if __name__ == "__main__":
    main()
