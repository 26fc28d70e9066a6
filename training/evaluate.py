"""Held-out loss of a model on all processes together. Knows processes; the score itself is ``training/perplexity.py``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from training.data import Example
from training.perplexity import nll


@dataclass(frozen=True)
class Score:
    """Summed negative log-likelihood in nats of the supporter's tokens of one held-out set, and their number."""

    nll: float
    tokens: int

    @property
    def per_token(self) -> float:
        return self.nll / self.tokens

    @property
    def perplexity(self) -> float:
        return math.exp(self.per_token)


def score(model: Any, sets: dict[str, Sequence[Example]], batch: int, share: tuple[int, int] = (0, 1)) -> dict[str, Score]:
    """Score each set that is not empty. ``share`` is ``(rank, processes)``: each process takes every n-th row and the
    sums are added up. Where weights are sharded every process must run every row: leave ``share`` as it is."""
    rank, processes = share
    training = model.training
    model.eval()
    found = {}
    # Weights in bf16 on a GPU meet adapters in fp32: autocast settles the mixture as it does in training.
    half = any(p.dtype == torch.bfloat16 for p in model.parameters())
    device = next(model.parameters()).device.type
    with torch.autocast(device, torch.bfloat16) if half else nullcontext():
        for name, examples in sets.items():
            if not examples:
                continue
            mine = examples[rank::processes]
            total, tokens = nll(model, mine, batch) if mine else (0.0, 0)
            if processes > 1:
                both = torch.tensor([total, tokens], dtype=torch.float64, device=device)
                torch.distributed.all_reduce(both)
                total, tokens = float(both[0]), int(both[1])
            found[name] = Score(total, tokens)
    model.train(training)
    return found
