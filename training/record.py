"""The records of a run, ``run.json`` and ``metrics.json``: what is in them. Knows names and figures; writes no file."""

from __future__ import annotations

import platform
from dataclasses import asdict
from typing import Any

import torch

from extes.arms.local import hub_commit
from extes.errors import Problem
from training.data import Prepared
from training.perplexity import Score
from training.recipe import Recipe
from training.run import RunFolder, code_version, command, environment, public

SIGNATURE = "token-weighted|supporter tokens and end of turn|natural log"


def begun(
    recipe: Recipe, prepared: Prepared, model: Any, steps: int, learnt: int, read: int, processes: int
) -> dict[str, Any]:
    """What is known of a run before it trains."""
    gpu = torch.cuda.is_available()
    shown = public(recipe)
    return {
        "strategy": recipe.strategy,
        "base": shown["base"],
        "base_revision": hub_commit(recipe.base, "config.json", recipe.base_revision or None) or recipe.base_revision,
        "parameters": model.num_parameters(),
        "trainable_parameters": 0,
        "weights": "adapter" if recipe.adapter else "model",
        "licence": recipe.licence,
        "sources": shown["data"]["train"],
        "data_sha256": prepared.data_sha256,
        "data_counts": asdict(prepared.counts),
        "data_counts_text": str(prepared.counts),
        "template": prepared.template_name,
        "seed": recipe.seed,
        "steps": steps,
        "rows": len(prepared.train),
        "trained_tokens": learnt,
        "read_tokens": read,
        "processes": processes,
        "device": torch.cuda.get_device_name()
        if gpu
        else f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)",
        "peak_memory_kind": "tensors on the GPU" if gpu else "the process, libraries included",
        "code_version": code_version(),
        "environment": environment(),
        "command": command(recipe.strategy, processes),
        "recipe": shown,
    }


def metrics_of(found: dict[str, Score], of: str) -> list[dict[str, Any]]:
    """Entries of ``metrics.json``. Per word, too: that can be compared between models of different tokenizers."""
    entries = []
    for dataset, s in found.items():
        about = {"dataset": dataset, "of": of, "tokens": s.tokens, "words": s.words}
        entries.append({"name": "perplexity", "value": s.per_token, **about, "signature": SIGNATURE})
        entries.append({"name": "perplexity_per_word", "value": s.per_word, **about, "signature": SIGNATURE})
    return entries


def perplexities(metrics: list[dict[str, Any]], of: str) -> dict[str, float]:
    """Per token, by held-out set; ``of`` is ``base`` or ``tuned``."""
    return {m["dataset"]: m["value"] for m in metrics if m["of"] == of and m["name"] == "perplexity"}


def same_start(folder: RunFolder, started: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise :class:`Problem` where a run would go on with other data, or on another commit of its base."""
    if started["base_revision"] != now["base_revision"]:
        raise Problem(
            f"the base {now['base']} is at another commit than when {folder.path} was begun. Begin again "
            f"in another --output, with --set base_revision={started['base_revision']}"
        )
    if changed := [s for s, digest in now["data_sha256"].items() if started["data_sha256"].get(s) != digest]:
        raise Problem(
            f"{folder.path} was begun with other data: {', '.join(changed)} changed since. Bring the old files back to "
            "go on, or give this run another --output"
        )
