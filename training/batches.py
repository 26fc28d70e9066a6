"""Which rows make which optimiser step, and how rows become tensors. Knows lengths and labels; no model, no text.

The whole order of a run is one list, drawn from its seed before it starts and the same for any number of processes: it
is what makes a resumed run equal an unbroken one, and the token counts of a dry run exact. Rows of like length share a
batch, so that little is padded; where the batches come in the run is shuffled.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from training.data import Example
from training.template import IGNORED

BATCHES_SORTED_TOGETHER = 50  # as transformers' length grouping: long enough to pad little, short enough to stay mixed


def steps_for(rows: int, epochs: float, batch: int, max_steps: int = 0) -> int:
    """Optimiser steps of a run; the last batch is filled from the beginning of one more pass."""
    return max_steps or math.ceil(rows * epochs / batch)


def order(lengths: Sequence[int], batch: int, steps: int, seed: int) -> list[int]:
    """Row numbers in the order of training, ``steps * batch`` of them; each pass over the data is shuffled anew."""
    rng = random.Random(seed)
    stream: list[int] = []
    while len(stream) < steps * batch:
        pass_ = list(range(len(lengths)))
        rng.shuffle(pass_)
        stream += pass_
    stream = stream[: steps * batch]
    batches: list[list[int]] = []
    for start in range(0, len(stream), batch * BATCHES_SORTED_TOGETHER):
        part = sorted(stream[start : start + batch * BATCHES_SORTED_TOGETHER], key=lambda row: -lengths[row])
        together = [part[i : i + batch] for i in range(0, len(part), batch)]
        rng.shuffle(together)
        batches += together
    # The widest batch comes first: a run that does not fit in memory fails in its first step, not in its third hour.
    widest = max(range(len(batches)), key=lambda i: lengths[batches[i][0]])
    batches[0], batches[widest] = batches[widest], batches[0]
    return [row for rows in batches for row in rows]


class Rows(Dataset):
    """Examples in the order of training, as a dataset that is read from front to back."""

    def __init__(self, examples: Sequence[Example], order: Sequence[int]):
        self.examples, self.order = examples, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Example:
        return self.examples[self.order[index]]


def collate(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """``input_ids``, ``attention_mask`` and ``labels``, each ``(rows, longest)``, padded on the right.

    A padded place has id 0, is attended to by none, and carries no loss. The first place is nobody's target.
    """
    width = max(len(e.input_ids) for e in examples)
    ids = torch.zeros(len(examples), width, dtype=torch.long)
    attention, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for n, example in enumerate(examples):
        size = len(example.input_ids)
        ids[n, :size] = torch.tensor(example.input_ids)
        attention[n, :size] = 1
        labels[n, 1:size] = torch.tensor(example.labels[1:])
    return {"input_ids": ids, "attention_mask": attention, "labels": labels}


def padding_share(examples: Sequence[Example], order: Sequence[int], micro_batch: int) -> float:
    """Share of the places in all micro-batches that are padding."""
    lengths = [len(examples[row].input_ids) for row in order]
    parts = [lengths[i : i + micro_batch] for i in range(0, len(lengths), micro_batch)]
    return 1 - sum(lengths) / sum(len(part) * max(part) for part in parts)


def split(batch: int, micro_batch: int, processes: int) -> tuple[int, int]:
    """``(rows a process holds at once, times it does so a step)``. Raises ``ValueError`` if they do not divide."""
    if batch % processes:
        raise ValueError(f"batch ({batch}) cannot be shared equally by {processes} processes; make it a multiple")
    share = batch // processes
    micro = min(micro_batch or share, share)
    if share % micro:
        raise ValueError(f"micro_batch ({micro}) does not divide a process's share of the batch ({share} rows)")
    return micro, share // micro
