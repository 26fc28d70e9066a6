"""Which strategy? Finished runs of one base, one data set and one budget side by side, as Markdown and a picture.

    python training/compare.py --out eval_results/strategies.md RUN RUN RUN ...

Each model is loaded from its run folder, scores every held-out dialogue (for intervals) and answers three openings.
Time, memory and parameters are the run's own. Knows run folders; trains nothing.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from extes.errors import Problem

OPENINGS = (
    "My dog died yesterday and I can't stop crying.",
    "I lost my job last week and I don't know how to tell my wife.",
    "I feel so lonely since I moved to this city.",
)
SAMPLING = {"do_sample": True, "temperature": 0.4, "top_p": 0.9, "no_repeat_ngram_size": 4}
MAX_NEW_TOKENS = 72
SEED = 1
DRAWS = 2000
ALIKE = ("base", "base_revision", "parameters", "data_sha256", "steps", "trained_tokens", "template", "seed")
BASE = "base, untuned"

HEAD = """# Which strategy?

`{base}` ({parameters:.1f} M parameters) tuned with {count} strategies on the same rows in the same order: \
{steps:,} optimiser steps of {batch} rows, {tokens:,} trained tokens each, seed {seed}. Data: {data}. Made by

```sh
python training/compare.py --out {out} {runs}
```

from runs of code version {code}. Perplexity is per token over the supporter's tokens of dialogues that no run has \
learnt from; in brackets its 95 % interval, were other dialogues held out (bootstrap over dialogues, {draws:,} draws). \
Time and memory are of one run each on {device}; memory is that of {memory}.
"""
CAVEAT = """Times are rough: whatever else the machine did is in them. One base, one seed, and for each strategy one \
learning rate, set by hand and not searched for: what is close here may come out the other way round elsewhere. A base \
of {parameters:.1f} M parameters is a thousandth of what most of these strategies were made for: that few parameters \
suffice to adapt a large model cannot show here. Perplexity says how expected held-out replies are, not whether they \
help anyone; that is what the portal asks people."""


@dataclass(frozen=True)
class Tuned:
    """A model of the comparison. ``parts`` holds, for each held-out set, ``(nll, tokens)`` of each dialogue, shape
    ``(dialogues, 2)``. ``record`` is the run's; empty for the base."""

    name: str
    record: dict[str, Any]
    parts: dict[str, np.ndarray]
    replies: tuple[str, ...]

    def perplexity(self, dataset: str) -> float:
        nll, tokens = self.parts[dataset].sum(axis=0)
        return math.exp(nll / tokens)

    def draws(self, dataset: str, seed: int = SEED) -> np.ndarray:
        """Perplexities of :data:`DRAWS` resamples of the dialogues; the same resamples for every model."""
        parts = self.parts[dataset]
        chosen = np.random.default_rng(seed).integers(len(parts), size=(DRAWS, len(parts)))
        sums = parts[chosen].sum(axis=1)
        return np.exp(sums[:, 0] / sums[:, 1])


def compare(runs: Sequence[Path], out: Path) -> None:
    """Write ``out`` and the picture beside it. Raises :class:`Problem` if the runs cannot be held side by side."""
    from training import recipe as recipes
    from training import strategies
    from training.data import prepare
    from training.record import same_start
    from training.run import RunFolder
    from training.tune import quiet

    folders = [RunFolder(path) for path in runs]
    for folder in folders:
        if folder.weights is None:
            raise Problem(f"{folder.path} is not a finished run; run its command again, or leave it out")
    records = [folder.read("run.json") for folder in folders]
    if unlike := differing(records):
        raise Problem("these runs are not of one budget and one data set:\n  " + "\n  ".join(unlike))
    with quiet():
        loaded = [
            recipes.load(folder.recipe, []).model_copy(update={"base_revision": record["base_revision"]})
            for folder, record in zip(folders, records, strict=True)
        ]
        tokenizer = strategies.load_tokenizer(loaded[0])
        prepared = prepare(loaded[0].data, tokenizer)
        if not prepared.held_out:
            raise Problem("these runs held nothing out to be compared on; train with data.held_out above zero")
        for folder, record in zip(folders, records, strict=True):
            same_start(folder, record, record | {"data_sha256": prepared.data_sha256})
        tokenizer.chat_template = prepared.template
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(prepared.end_of_turn)
        plain = loaded[0].model_copy(update={"adapter": None, "quantization": None})
        tuned = [_measured(BASE, {}, strategies.load_base(plain).eval(), tokenizer, prepared.held_out)]
        for folder, recipe, record in zip(folders, loaded, records, strict=True):
            print(f"{recipe.strategy}: scoring and answering", flush=True)
            model = strategies.load_tuned(recipe, folder.path)
            tuned.append(_measured(recipe.strategy, record, model, tokenizer, prepared.held_out))
    out.parent.mkdir(parents=True, exist_ok=True)
    picture = out.with_suffix(".png")
    draw(tuned, picture)
    out.write_text(report(tuned, out, picture.name), encoding="utf-8")
    print(f"wrote {out} and {picture}")


def differing(records: Sequence[dict[str, Any]]) -> list[str]:
    """One line for each thing that should be the same in all runs and is not."""
    found = []
    for key in ALIKE:
        for record in records[1:]:
            if record[key] != records[0][key]:
                found.append(
                    f"{key}: {records[0][key]!r} in {records[0]['strategy']}, {record[key]!r} in {record['strategy']}"
                )
    return found


def _measured(name: str, record: dict[str, Any], model: Any, tokenizer: Any, held_out: dict[str, list[Any]]) -> Tuned:
    from training.perplexity import score

    parts = {}
    for dataset, examples in held_out.items():
        dialogues: dict[str, list[Any]] = {}
        for example in examples:
            dialogues.setdefault(example.id.partition("#")[0], []).append(example)
        scored = [score(model, pieces) for pieces in dialogues.values()]
        parts[dataset] = np.array([(s.nll, s.tokens) for s in scored])
    return Tuned(name, record, parts, tuple(reply(model, tokenizer, opening) for opening in OPENINGS))


def reply(model: Any, tokenizer: Any, opening: str) -> str:
    """One sampled reply, made presentable as the portal would."""
    import torch

    from extes.study.tidy import tidy

    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": opening}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
    ).to(model.device)
    torch.manual_seed(SEED)
    with torch.inference_mode():
        said = model.generate(
            input_ids=asked["input_ids"],
            attention_mask=asked["attention_mask"],
            max_new_tokens=MAX_NEW_TOKENS,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            **SAMPLING,
        )[0]
    new = said[asked["input_ids"].shape[1] :]
    finish = "length" if len(new) == MAX_NEW_TOKENS and new[-1] != tokenizer.eos_token_id else "stop"
    return tidy(tokenizer.decode(new, skip_special_tokens=True), finish)


def report(tuned: Sequence[Tuned], out: Path, picture: str) -> str:
    """The page. ``tuned[0]`` is the base."""
    base, *others = tuned
    first = others[0].record
    sets = list(base.parts)
    sizes = {s: f"{s}, {len(base.parts[s])} dialogues" for s in sets}
    rows = []
    for one in sorted(others, key=lambda t: t.perplexity(sets[0])):
        r = one.record
        share = r["trainable_parameters"] / r["parameters"]
        rows.append(
            f"| {one.name} | {r['trainable_parameters']:,} ({share:.2%}) | "
            + " | ".join(_interval(one, s) for s in sets)
            + f" | {r['seconds'] / 60:.1f} min | {r['peak_memory_bytes'] / 1e6:,.0f} MB |"
        )
    rows.append(f"| {BASE} | 0 | " + " | ".join(_interval(base, s) for s in sets) + " | | |")
    table = [
        "| strategy | parameters learnt | " + " | ".join(sizes.values()) + " | time | peak memory |",
        "|---|---:|" + "---:|" * len(sets) + "---:|---:|",
        *rows,
    ]
    verdict = [f"- {name}: {said}" for name, said in ((s, _verdict(tuned, s)) for s in sets)]
    replies = []
    for n, opening in enumerate(OPENINGS):
        replies += [f"> {opening}\n", *(f"- **{t.name}**: {t.replies[n] or '(nothing)'}" for t in tuned), ""]
    head = HEAD.format(
        base=first["base"],
        parameters=first["parameters"] / 1e6,
        count=len(others),
        steps=first["steps"],
        batch=first["recipe"]["batch"],
        tokens=first["trained_tokens"],
        seed=first["seed"],
        data=", ".join(first["sources"]),
        out=(Path(out.parent.name) / out.name).as_posix(),
        runs=" ".join(f"RUNS/{t.record['strategy']}" for t in others),
        code=", ".join(sorted({t.record["code_version"][:12] for t in others})),
        draws=DRAWS,
        device=first["device"],
        memory=first["peak_memory_kind"],
    )
    return "\n".join(
        [
            head,
            *table,
            f"\n![held-out perplexity]({picture})\n",
            "## What may be concluded\n",
            *verdict,
            "",
            CAVEAT.format(parameters=first["parameters"] / 1e6),
            "\n## Replies\n",
            f"To openings written for this page; one reply each, not chosen. Temperature {SAMPLING['temperature']}, "
            f"top-p {SAMPLING['top_p']}, no four tokens twice, at most {MAX_NEW_TOKENS} tokens, seed {SEED}.\n",
            *replies,
            "## Settings\n",
            "| strategy | learning rate | adapter |\n|---|---:|---|",
            *(_settings(t) for t in others),
            "",
        ]
    )


def _interval(one: Tuned, dataset: str) -> str:
    low, high = np.percentile(one.draws(dataset), [2.5, 97.5])
    return f"{one.perplexity(dataset):.2f} [{low:.2f}, {high:.2f}]"


def _verdict(tuned: Sequence[Tuned], dataset: str) -> str:
    """The best, and which others the held-out dialogues cannot tell from it (paired, 95 %, Bonferroni)."""
    base, *others = tuned
    ranked = sorted(others, key=lambda t: t.perplexity(dataset))
    best, rest = ranked[0], ranked[1:]
    edge = 2.5 / max(1, len(rest))
    tied = [t.name for t in rest if np.percentile(t.draws(dataset) - best.draws(dataset), edge) <= 0]
    worse = [t.name for t in others if np.percentile(base.draws(dataset) - t.draws(dataset), edge) <= 0]
    told = f"lowest with **{best.name}** ({best.perplexity(dataset):.2f}; the base {base.perplexity(dataset):.2f})"
    told += f"; not to be told from it on these dialogues: {', '.join(tied)}" if tied else "; ahead of all others"
    return told + (f". Not shown to improve on the base: {', '.join(worse)}." if worse else ".")


def _settings(one: Tuned) -> str:
    recipe = one.record["recipe"]
    adapter = dict(recipe.get("adapter") or {"config": "every weight"})
    told = ", ".join([str(adapter.pop("config")), *(f"{k} = {v}" for k, v in adapter.items())])
    if "quantization" in recipe:
        told += f"; base in {recipe['quantization'].get('bnb_4bit_quant_type', '8 bits')}"
    return f"| {one.name} | {recipe['learning_rate']:g} | {told} |"


def draw(tuned: Sequence[Tuned], path: Path) -> None:
    """Perplexity of each strategy with its interval, one panel for each held-out set; the base as a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    base, *others = tuned
    sets = list(base.parts)
    ranked = sorted(others, key=lambda t: -t.perplexity(sets[0]))
    size = (1.8 + 3.9 * len(sets), 1.4 + 0.34 * len(ranked))
    figure, panels = pyplot.subplots(1, len(sets), figsize=size, dpi=150, sharey=True, squeeze=False, facecolor="white")
    for axes, dataset in zip(panels[0], sets, strict=True):
        for row, one in enumerate(ranked):
            low, high = np.percentile(one.draws(dataset), [2.5, 97.5])
            axes.plot([low, high], [row, row], color="#9fc3d9", lw=5, solid_capstyle="butt")
            axes.plot(one.perplexity(dataset), row, "o", color="#1f6f9c", ms=5)
        axes.axvline(base.perplexity(dataset), color="#d1495b", lw=1.2)
        axes.annotate("base", (base.perplexity(dataset), len(ranked) - 0.55), color="#d1495b", ha="center", fontsize=9)
        axes.set_title(f"held out: {dataset}", loc="left", fontsize=10, pad=14)
        axes.set_xlabel("perplexity per token (less is better)", fontsize=9)
        axes.grid(axis="x", color="#dddddd", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_yticks(range(len(ranked)), [t.name for t in ranked])
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="finished run folders")
    parser.add_argument("--out", type=Path, required=True, help="FILE.md; the picture gets its name with .png")
    args = parser.parse_args()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        compare(args.runs, args.out)
    except Problem as problem:
        print(f"compare: {problem}", file=sys.stderr)
        return problem.status
    return 0


if __name__ == "__main__":
    sys.exit(main())
