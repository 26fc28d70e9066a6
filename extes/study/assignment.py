"""Which two arms, which on which side: permuted blocks from a seeded stream.

Pure. Position ``n`` of the stream is a function of the study's seed, so a restart that knows how many comparisons were
opened goes on exactly where it stopped. Every block holds each ordered pair of arms ``REPEATS`` times, so sides are
balanced for every pair within any block; more than once, so that a rater to whom the first was revealed cannot tell the
second.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Side = Literal["a", "b"]
SIDES: tuple[Side, Side] = ("a", "b")
REPEATS = 2


@dataclass(frozen=True)
class Assignment:
    """One comparison's place in the design.

    ``probability`` is that of this ordered pair given the design and nothing else.
    """

    position: int
    block: int
    arms: dict[Side, str]
    probability: float
    scenario: str


def assign(seed: str, position: int, arms: Sequence[str], scenarios: Sequence[str]) -> Assignment:
    """The assignment at a position of the stream of ``seed``; ``scenario`` is for a rater who names none."""
    cells = list(itertools.permutations(arms, 2)) * REPEATS
    block, offset = divmod(position, len(cells))
    random.Random(f"{seed}/arms/{block}").shuffle(cells)
    drawn = list(scenarios)
    turn, place = divmod(position, len(drawn))
    random.Random(f"{seed}/scenarios/{turn}").shuffle(drawn)
    a, b = cells[offset]
    return Assignment(position, block, {"a": a, "b": b}, REPEATS / len(cells), drawn[place])
