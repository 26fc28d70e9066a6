"""Write the starter's model cards: what was trained on what, held-out perplexity, and twenty openings answered.

    python training/card.py --runs RUN_DIR --corpora DIR --models models

Everything in a card is read from the run folders or computed here from the shipped weights. How the answers read is a
reader's judgement: ``eval_results/starter-judged.jsonl``, a line for each answer (``opening``, ``reply``, and of each
judge ``grammatical``, ``about``); a card without it for these very answers does not say.
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
JUDGED = Path(__file__).resolve().parent.parent / "eval_results" / "starter-judged.jsonl"
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

{judged}

To short, everyday messages it answers in a fitting tone and sometimes to the point; the base in one line of sympathy,
the tuned model with more of a supporter's manner (understanding, a question). It seldom takes up a particular. To the
openings of the held-out seeds, which are longer and odder than anything it has read, its answers are sympathetic
formulas that would fit any message, or miss the point. So the bar this project sets itself, a reply that is about the
message, is not reached. Teaching it with exchanges written for that purpose made it name particulars, at the cost of
grammar and without getting them right (`eval_results/starter-trials.md` in the project's repository): 5.9 M
parameters are too few. The tuned model also speaks of a life it does not have ("I have been in a similar situation"),
as its corpora do.
"""


def terms() -> str:
    lines = "\n".join(f"- {name}" for name in corpora.CORPORA.values())
    return f"""## Data and terms

{lines}
- Seeds of this project (tuned model only), CC BY 4.0

Because of EmpatheticDialogues and ESConv the weights are **CC BY-NC 4.0**. No text of the corpora is part of the
repository. ESConv and the seeds were not seen by the base.
"""


def judgement(path: Path, asked: dict[str, Sequence[str]], answers: dict[str, dict[str, str]]) -> str:
    """How the answers read, in a table; or that nobody has judged these answers."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    known = {(x["opening"], x["reply"]): x for x in lines}
    rows = []
    for name, messages in asked.items():
        for arm in ("base", "tuned"):
            found = [known.get((m, answers[m][arm])) for m in messages]
            if None in found:
                return "Nobody has judged the answers below yet; read them."
            grammatical, about, both = (
                sum(all(all(x[key]) for key in keys) for x in found if x)
                for keys in (("grammatical",), ("about",), ("grammatical", "about"))
            )
            rows.append(f"| {name} | {arm} | {grammatical} | {about} | {both} | {len(messages)} |")
    table = "\n".join(
        ["| openings | arm | grammatical | about the message | both | of |", "|---|---|---|---|---|---|", *rows]
    )
    return (
        "The answers printed below, first drawn, none left out, judged by two language-model agents that saw message "
        "and reply in shuffled order and did not know the arm; counted where both said yes. No person has judged "
        "them.\n\n" + table
    )


async def answer(arm: LocalArm, opening: str) -> str:
    said, finish = "", None
    async for piece in arm.reply([{"role": "user", "content": opening}], MAX_NEW_TOKENS, SEED):
        said, finish = said + piece.text, piece.finish or finish
    return tidy(said, finish)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder with base-1, base-2, ..., full and tuned")
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--models", type=Path, default=Path("models"))
    args = parser.parse_args()

    folders = sorted(args.runs.glob("base-*"))
    stages = [json.loads((folder / "run.json").read_text()) for folder in folders]
    tuned = json.loads((args.runs / "full" / "run.json").read_text())
    base_dir, tuned_dir = args.models / "starter-base", args.models / "starter-tuned"
    engine = Engine(str(base_dir), {"tuned": str(tuned_dir)})
    engine.load()
    arms = {n: LocalArm(n, engine, a, SAMPLING) for n, a in (("base", ""), ("tuned", "tuned"))}

    # Held-out perplexity, both arms, from the weights as shipped
    model = engine.model
    esconv = f"esconv:{corpora.path(args.corpora, 'esconv-part')}"
    where = {"train": tuple(esconv if x.startswith("esconv") else x for x in tuned["recipe"]["data"]["train"])}
    config = DataConfig.model_validate(tuned["recipe"]["data"] | where)
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
        f"| {r['base'].per_token:.2f} | {r['tuned'].per_token:.2f} "
        f"| {r['base'].per_word:.2f} | {r['tuned'].per_word:.2f} |"
        for r in table
    )
    scores = f"""## Held-out perplexity

Over supporter tokens (end of turn included), weighted by tokens, from the weights as shipped. Per word it can be
compared with models of other vocabularies.

| held-out data | base, per token | tuned, per token | base, per word | tuned, per word |
|---|---|---|---|---|
{rows}
"""

    # Twenty openings that neither model has seen: of each held-out seed, the first message of five words or more
    openings = [
        next(t.text for t in d.turns if t.speaker == "seeker" and len(t.text.split()) >= OPENING_WORDS)
        for d in sources.read("seeds").dialogues
        if d.id in away
    ][:OPENINGS]

    answers = {m: {name: asyncio.run(answer(arm, m)) for name, arm in arms.items()} for m in (*openings, *PLAIN)}

    def answered(messages: Sequence[str]) -> str:
        return "\n".join(
            f"> {m}\n\n" + "".join(f"- **{name}**: {said}\n" for name, said in answers[m].items()) for m in messages
        )

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
    logs = [json.loads(x) for x in (folders[-1] / "log.jsonl").read_text().splitlines()]
    last = next(e["held_out"] for e in reversed(logs) if "held_out" in e)
    loss = ", ".join(f"{n} {v:.3f} (perplexity {math.exp(v):.1f})" for n, v in last.items())
    judged = judgement(JUDGED, {"held-out seeds": openings, "plain messages": PLAIN}, answers)
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
            judged=judged,
        )
        + "\n"
        + common,
        encoding="utf-8",
    )
    recipe, extracted = tuned["recipe"], json.loads((tuned_dir / "extract.json").read_text())
    (tuned_dir / "README.md").write_text(
        HEAD.format(
            library="peft",
            base="base_model: starter-base\n",
            title="ExTES Portal starter: tuned for emotional support",
            what=f"The starter base, every weight tuned for {tuned['steps']} steps of {recipe['batch']} rows on ESConv "
            f"(the part at hand) and this project's seeds; {tuned['rows']} rows of up to "
            f"{recipe['data']['max_length']} tokens, loss on supporter tokens only. So that the portal serves both "
            f"arms from one copy of the weights, what tuning changed is carried as an adapter of rank "
            f"{extracted['rank']} (`training/extract.py`), which keeps {extracted['kept_least']:.0%} to "
            f"{extracted['kept_most']:.0%} of the squared change of each matrix. Held-out perplexity before and after "
            "that: "
            + ", ".join(f"{name} {a:.2f} and {b:.2f}" for name, (a, b) in extracted["perplexity"].items())
            + f".\n\n{again}",
            judged=judged,
        )
        + "\n"
        + common,
        encoding="utf-8",
    )
    print(f"wrote {base_dir / 'README.md'} and {tuned_dir / 'README.md'}")


if __name__ == "__main__":
    main()
