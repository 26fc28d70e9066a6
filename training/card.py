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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from extes.arms.arm import Sampling
from extes.arms.local import Engine, LocalArm
from extes.study.tidy import tidy
from training import corpora, sources
from training.data import DataConfig, Maker, prepare
from training.perplexity import score
from training.split import Candidate

OPENINGS = 20
ED = "empathetic-dialogues"
SEED = 1
MAX_NEW_TOKENS = 72
SAMPLING = Sampling(0.4, 0.9, no_repeat_ngram_size=4)
OPENING_WORDS = 5
PLAIN = (
    "My dog died yesterday and I can't stop crying.",
    "I lost my job last week and I don't know how to tell my wife.",
    "I have an exam tomorrow and I am so nervous I can't sleep.",
    "My boyfriend broke up with me after four years.",
    "I feel so lonely since I moved to this city.",
    "My mother was diagnosed with cancer.",
    "I hate my boss, he yells at me every day.",
    "I think my friends are leaving me out on purpose.",
)

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

## How far it gets

To short, everyday messages it answers in grammatical English, mostly in a fitting tone and sometimes to the point; the
base in one line of sympathy, the tuned model with more of a supporter's manner (understanding, a question). It seldom
takes up a particular. To the openings of the held-out seeds, which are longer and odder than anything it has read, most
answers are sympathetic formulas that would fit any message, many miss the point, and some are nonsense. So the bar this
project sets itself, a reply that is about the message, is reached in part for plain messages, and not for those.
The tuned model also speaks of a life it does not have ("I have been in a similar situation"), as its corpora do.
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
    model = engine.model
    config = DataConfig(
        train=("seeds", f"esconv:{corpora.path(args.corpora, 'esconv-part')}"),
        max_length=lora["recipe"]["data"]["max_length"],
    )
    prepared = prepare(config, engine.tokenizer)
    away = {example.id.partition("#")[0] for example in prepared.held_out["seeds"]}
    # What pre-training held out of EmpatheticDialogues, by its own rule
    maker = Maker(config, engine.tokenizer)
    told = [Candidate("", d) for d in sources.read(f"esconv:{corpora.path(args.corpora, ED)}").dialogues]
    told = [c for c in told if corpora.falls_out(c.key, corpora.HELD_OUT_PER_MILLE)]
    held = {
        "EmpatheticDialogues": [e for c in told for e in maker.examples(c)[0]],
        "ESConv": prepared.held_out["esconv-part"],
        "seeds": prepared.held_out["seeds"],
    }
    table: list[dict[str, Any]] = []
    for name, examples in held.items():
        with model.disable_adapter():
            base = score(model, examples)
        dialogues = len({e.id.partition("#")[0] for e in examples})
        table.append({"data": name, "dialogues": dialogues, "base": base, "tuned": score(model, examples)})
        print(table[-1], flush=True)
    rows = "\n".join(
        f"| {r['data']} ({r['dialogues']} dialogues, {r['base'].tokens:,} tokens) "
        f"| {r['base'].per_token:.2f} | {r['tuned'].per_token:.2f} |"
        for r in table
    )
    scores = f"""## Held-out perplexity

Over supporter tokens (end of turn included), weighted by tokens, from the weights as shipped.

| held-out data | base | tuned |
|---|---|---|
{rows}
"""

    # Twenty openings that neither model has seen: of each held-out seed, the first message of five words or more
    openings = [
        next(t.text for t in d.turns if t.speaker == "seeker" and len(t.text.split()) >= OPENING_WORDS)
        for d in sources.read("seeds").dialogues
        if d.id in away
    ][:OPENINGS]

    def answered(messages: Sequence[str]) -> str:
        lines = []
        for message in messages:
            lines.append(f"> {message}\n")
            lines += [f"- **{name}**: {asyncio.run(answer(arm, message))}" for name, arm in arms.items()]
            lines.append("")
        return "\n".join(lines)

    sampled = f"temperature {SAMPLING.temperature}, top-p {SAMPLING.top_p}, no 4-gram twice, seed {SEED}, not selected"
    samples = (
        f"## Twenty openings from held-out seeds\n\nFirst reply of each arm, {sampled}.\n\n{answered(openings)}\n"
        f"## Plain messages, for comparison\n\nWritten for this card, with the same settings.\n\n{answered(PLAIN)}"
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
    recipe = lora["recipe"]
    (lora_dir / "README.md").write_text(
        HEAD.format(
            library="peft",
            base="base_model: starter-base\n",
            title="ExTES Portal starter: tuned for emotional support",
            what=f"A LoRA adapter (r = {recipe['adapter']['r']}, every linear layer) on the starter base, tuned for "
            f"{lora['steps']} steps of {recipe['batch']} rows on ESConv (the part at hand) and this project's seeds; "
            f"{lora['rows']} rows of up to {recipe['data']['max_length']} tokens, loss on supporter tokens only.\n\n"
            + again,
        )
        + "\n"
        + common,
        encoding="utf-8",
    )
    print(f"wrote {base_dir / 'README.md'} and {lora_dir / 'README.md'}")


if __name__ == "__main__":
    main()
