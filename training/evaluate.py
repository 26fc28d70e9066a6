"""Held-out scores of a model, by all processes together. Knows processes and precision; the score of one process is
``training/perplexity.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from training.data import Example
from training.perplexity import Score, score

Sets = Mapping[str, Sequence[Example]]


def scores(model: Any, sets: Sets, batch: int, share: tuple[int, int] = (0, 1)) -> dict[str, Score]:
    """The score of each set that is not empty. ``share`` is ``(rank, processes)``: each process takes every n-th row
    and the sums are added up. Where weights are sharded, every process must run every row: leave it as it is."""
    rank, processes = share
    weight = next(iter(model.parameters()))
    # A bf16 base on a GPU meets adapters in fp32: autocast settles the mixture as it does in training.
    half = weight.device.type == "cuda" and any(p.dtype == torch.bfloat16 for p in model.parameters())
    found = {}
    with torch.autocast("cuda", torch.bfloat16) if half else nullcontext():
        for name, examples in sets.items():
            if not examples:
                continue
            mine = examples[rank::processes]
            scored = score(model, mine, batch) if mine else Score()
            found[name] = _sum(scored, weight.device) if processes > 1 else scored
    return found


def _sum(part: Score, device: torch.device) -> Score:
    sums = torch.tensor([part.nll, part.tokens, part.words], dtype=torch.float64, device=device)
    torch.distributed.all_reduce(sums)
    nll, tokens, words = sums.tolist()
    return Score(nll, int(tokens), int(words))
