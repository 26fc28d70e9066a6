"""Write the starter's model cards: what was trained on what, held-out perplexity, and twenty openings answered.

    python training/card.py --runs RUN_DIR --corpora DIR --models models

Everything in a card is read from the run folders or computed here from the shipped weights.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from extes.arms.arm import Sampling
from extes.arms.local import Engine, LocalArm
from extes.study.tidy import tidy
from training import corpora
from training.data import from_seed, seed_split, windows
from training.perplexity import perplexity

OPENINGS = 20
SEED = 1
MAX_NEW_TOKENS = 72
SAMPLING = Sampling(0.7, 0.9, 1.1)

HEAD = """---
license: cc-by-nc-4.0
language: en
library_name: {library}
pipeline_tag: text-generation
tags: [emotional-support, extes, llama]
{base}---

# {title}

{what}

**Not for care.** It is a demonstration of a pipeline, small enough to live in its repository. It does not know who it
talks to, forgets, contradicts itself, gives advice nobody should follow, and has no notion of danger. Never use it as
support for anyone; the portal that hosts it screens messages and shows help lines for that reason.
"""


def terms() -> str:
    lines = "\n".join(f"- {name}" for name in corpora.CORPORA.values())
    return f"""## Data and terms

{lines}
- Seeds of this project (tuned model only), CC BY 4.0

Because of EmpatheticDialogues and ESConv the weights are **CC BY-NC 4.0**. No text of the corpora is part of the
repository. ESConv and the seeds were not seen by the base.
"""


async def answer(arm: LocalArm, opening: str) -> str:
    said, finish = "", None
    async for piece in arm.reply([{"role": "user", "content": opening}], MAX_NEW_TOKENS, SEED):
        said, finish = said + piece.text, piece.finish or finish
    return tidy(said, finish)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder with base-1, base and lora")
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--models", type=Path, default=Path("models"))
    args = parser.parse_args()

    stages = [json.loads((args.runs / name / "run.json").read_text()) for name in ("base-1", "base")]
    lora = json.loads((args.runs / "lora" / "run.json").read_text())
    base_dir, lora_dir = args.models / "starter-base", args.models / "starter-lora"
    engine = Engine(str(base_dir), {"tuned": str(lora_dir)})
    engine.load()
    arms = {n: LocalArm(n, engine, a, SAMPLING) for n, a in (("base", ""), ("tuned", "tuned"))}

    # Held-out perplexity, both arms, from the weights as shipped
    tokenizer, model = engine.tokenizer, engine.model
    seeds_away = [from_seed(d) for d in seed_split(lora["config"]["held_out_seeds"])[1]]
    held = {
        "EmpatheticDialogues": [d for d in corpora.read(args.corpora, "empathetic-dialogues") if corpora.held_out(d)],
        "ESConv": [d for d in corpora.read(args.corpora, "esconv-part") if corpora.held_out(d)],
        "seeds": seeds_away,
    }

    def length(messages: list[dict[str, str]]) -> int:
        return len(tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"])

    table: list[dict[str, Any]] = []
    for name, dialogues in held.items():
        cut = [w for d in dialogues for w in windows(d, length, lora["config"]["max_length"])[0]]
        with model.disable_adapter():
            base = perplexity(model, tokenizer, cut)
        table.append(
            {"data": name, "dialogues": len(dialogues), "base": base, "tuned": perplexity(model, tokenizer, cut)}
        )
        print(table[-1], flush=True)
    rows = "\n".join(
        f"| {r['data']} ({r['dialogues']} dialogues, {r['base']['tokens']:,} tokens) "
        f"| {r['base']['perplexity']:.2f} | {r['tuned']['perplexity']:.2f} |"
        for r in table
    )
    scores = f"""## Held-out perplexity

Over supporter tokens (end of turn included), weighted by tokens, from the weights as shipped.

| held-out data | base | tuned |
|---|---|---|
{rows}
"""

    # Twenty openings that neither model has seen: the first words of held-out seeds, five words or more
    openings = [d.turns[0][1] for d in seeds_away if d.turns[0][0] == "user"]
    openings += [d.turns[1][1] for d in seeds_away if d.turns[0][0] != "user"]
    openings = openings[:OPENINGS]
    lines = []
    for opening in openings:
        lines.append(f"> {opening}\n")
        for name, arm in arms.items():
            lines.append(f"- **{name}**: {asyncio.run(answer(arm, opening))}")
        lines.append("")
    sampled = (
        f"temperature {SAMPLING.temperature}, top-p {SAMPLING.top_p}, repetition penalty {SAMPLING.repetition_penalty}"
    )
    samples = (
        f"## Twenty openings from held-out seeds\n\nFirst reply of each arm, {sampled}, seed {SEED}, not selected.\n\n"
        + "\n".join(lines)
    )

    made = "\n".join(
        f"- stage {n}: {s['training_tokens'] / 1e6:.1f} M tokens, loss on {s['arguments']['loss']}, "
        f"mixture `{s['arguments']['mixture']}`"
        for n, s in enumerate(stages, 1)
    )
    logs = [json.loads(x) for x in (args.runs / "base" / "log.jsonl").read_text().splitlines()]
    last = next(e["held_out"] for e in reversed(logs) if "held_out" in e)
    loss = ", ".join(f"{n} {v:.3f} (perplexity {math.exp(v):.1f})" for n, v in last.items())
    common = f"{scores}\n{samples}\n{terms()}"
    again = "Made by `bash training/runs/starter.sh`; arguments, data hashes and logs are in `run/`.\n"
    (base_dir / "README.md").write_text(
        HEAD.format(
            library="transformers",
            base="",
            title="ExTES Portal starter: base",
            what=f"A LLaMA of {stages[0]['parameters'] / 1e6:.1f} M parameters, trained from scratch on conversations "
            f"on {stages[0]['device']}:\n\n{made}\n\nHeld-out loss at the end, in nats per reply token: {loss}.\n\n"
            + again,
        )
        + "\n"
        + common,
        encoding="utf-8",
    )
    config = lora["config"]
    (lora_dir / "README.md").write_text(
        HEAD.format(
            library="peft",
            base="base_model: starter-base\n",
            title="ExTES Portal starter: tuned for emotional support",
            what=f"A LoRA adapter (r = {config['lora']['r']}, every linear layer) on the starter base, tuned for "
            f"{config['epochs']} epochs on ESConv (the part at hand) and this project's seeds; "
            f"{lora['windows']} windows of up to {config['max_length']} tokens, loss on supporter tokens only.\n\n"
            + again,
        )
        + "\n"
        + common,
        encoding="utf-8",
    )
    print(f"wrote {base_dir / 'README.md'} and {lora_dir / 'README.md'}")


if __name__ == "__main__":
    main()
