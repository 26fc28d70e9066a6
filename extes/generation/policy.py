"""Which dialogues a request shows as examples: exemplar policies, each an object with one method.

A policy sees a shelf of exemplars and is given its ``rng``; it never sees texts, files or the endpoint.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Protocol


@dataclass(frozen=True)
class Exemplar:
    """What a policy may know of a dialogue. ``depth`` is 0 for a seed; ``strategies`` are those of its turns."""

    id: str
    scenario: str
    depth: int
    strategies: tuple[str, ...]

    @property
    def human(self) -> bool:
        return self.depth == 0


@dataclass(frozen=True)
class Shelf:
    """What exemplars are drawn from in one round, and the strategies the pool lacks (share of turns missing)."""

    exemplars: Sequence[Exemplar]
    deficit: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def by_scenario(self) -> dict[str, list[Exemplar]]:
        groups: dict[str, list[Exemplar]] = {}
        for exemplar in self.exemplars:
            groups.setdefault(exemplar.scenario, []).append(exemplar)
        return groups

    @cached_property
    def human(self) -> list[Exemplar]:
        return [e for e in self.exemplars if e.human]

    @cached_property
    def machine(self) -> list[Exemplar]:
        return [e for e in self.exemplars if not e.human]

    @cached_property
    def cumulative_weights(self) -> list[float]:
        """Running sum of each exemplar's weight: the mean deficit of its strategies, above a floor for everyone."""
        return list(accumulate(FLOOR + self._mean_deficit(e) for e in self.exemplars))

    def _mean_deficit(self, exemplar: Exemplar) -> float:
        return sum(self.deficit.get(s, 0.0) for s in exemplar.strategies) / max(1, len(exemplar.strategies))


# Below this weight an exemplar would never be seen again, and the pool would narrow to a few that use rare strategies.
FLOOR = 0.002
# Self-Instruct shows 6 human-written and 2 machine-written instructions (Wang et al. 2023, section 2.2).
HUMAN_SHARE = 6 / 8


class Policy(Protocol):
    name: str

    def draw(self, rng: random.Random, shelf: Shelf, scenario: str, k: int) -> list[Exemplar]:
        """``k`` different exemplars for a request about ``scenario``; fewer where the shelf holds fewer."""


class Uniform:
    """Every seed and every accepted dialogue is equally likely."""

    name = "uniform"

    def draw(self, rng: random.Random, shelf: Shelf, scenario: str, k: int) -> list[Exemplar]:
        return rng.sample(shelf.exemplars, min(k, len(shelf.exemplars)))


class Mixed:
    """Self-Instruct's ratio: three quarters human, rounded at random so that it holds on average."""

    name = "mixed"

    def draw(self, rng: random.Random, shelf: Shelf, scenario: str, k: int) -> list[Exemplar]:
        machine = k * (1 - HUMAN_SHARE)
        n = int(machine) + (rng.random() < machine % 1)
        n = min(n, len(shelf.machine))
        drawn = rng.sample(shelf.human, min(k - n, len(shelf.human))) + rng.sample(shelf.machine, n)
        rng.shuffle(drawn)
        return drawn


class Balanced:
    """One exemplar of the wanted scenario, the others each of a different scenario, scenarios equally likely."""

    name = "balanced"

    def draw(self, rng: random.Random, shelf: Shelf, scenario: str, k: int) -> list[Exemplar]:
        others = [s for s in shelf.by_scenario if s != scenario]
        rng.shuffle(others)
        chosen = ([scenario] if scenario in shelf.by_scenario else []) + others
        drawn = [rng.choice(shelf.by_scenario[s]) for s in chosen[:k]]
        while len(drawn) < min(k, len(shelf.exemplars)):  # fewer scenarios than exemplars wanted
            extra = rng.choice(shelf.exemplars)
            if extra not in drawn:
                drawn.append(extra)
        rng.shuffle(drawn)
        return drawn


class Deficit:
    """Exemplars that use strategies the pool lacks are more likely, in proportion to what is lacking."""

    name = "deficit"

    def draw(self, rng: random.Random, shelf: Shelf, scenario: str, k: int) -> list[Exemplar]:
        drawn: dict[str, Exemplar] = {}
        while len(drawn) < min(k, len(shelf.exemplars)):
            one = rng.choices(shelf.exemplars, cum_weights=shelf.cumulative_weights)[0]
            drawn[one.id] = one
        return list(drawn.values())


POLICIES: dict[str, Policy] = {p.name: p for p in (Uniform(), Mixed(), Balanced(), Deficit())}
