"""Planning a round: which scenario, which exemplars, which strategies each of its requests asks for.

A round is a function of the pool and of ``rng`` alone. Knows nothing of the endpoint, of files or of what is in flight
elsewhere: what was planned and is not yet back is given as ``pending`` and counted as if it will be kept.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from extes.generation import prompt
from extes.generation.policy import POLICIES, Shelf
from extes.generation.settings import PROBE, Settings

# Strategies a request names; naming all that are lacking would make every dialogue a list of them.
WANTED = 4


@dataclass(frozen=True)
class Slot:
    """One place of a round: what is asked for. ``exemplars`` are dialogue ids, the parents of what comes back."""

    round: int
    number: int
    scenario: str
    exemplars: tuple[str, ...]
    strategies: tuple[str, ...]
    angles: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.round}/{self.number}"

    def to_json(self) -> dict[str, Any]:
        return {
            "scenario": self.scenario,
            "exemplars": self.exemplars,
            "strategies": self.strategies,
            "angles": self.angles,
        }

    @staticmethod
    def from_json(round: int, number: int, item: Mapping[str, Any]) -> Slot:
        return Slot(
            round,
            number,
            item["scenario"],
            tuple(item["exemplars"]),
            tuple(item["strategies"]),
            tuple(item["angles"]),
        )


def plan_round(
    round: int,
    first: bool,
    settings: Settings,
    shelf: Shelf,
    quota: Mapping[str, int],
    kept: Counter[str],
    pending: Counter[str],
    rng: random.Random,
) -> list[Slot]:
    """The slots of a round; none where all that is missing is already pending. ``kept`` and ``pending`` by scenario."""
    missing = {name: max(0, n - kept[name] - pending[name]) for name, n in quota.items()}
    wanted = settings.target - kept.total() - pending.total()
    size = min(PROBE if first else settings.round_size, wanted, sum(missing.values()))
    if size <= 0:
        return []
    names = sorted(missing)
    scenarios = rng.sample(names, counts=[missing[n] for n in names], k=size)
    policy = POLICIES[settings.policy]
    return [
        Slot(
            round,
            number,
            scenario,
            tuple(e.id for e in policy.draw(rng, shelf, scenario, settings.exemplars)),
            _strategies(rng, shelf.deficit),
            prompt.draw_angles(rng),
        )
        for number, scenario in enumerate(scenarios)
    ]


def _strategies(rng: random.Random, deficit: Mapping[str, float]) -> tuple[str, ...]:
    """Up to four strategies, drawn without replacement in proportion to what the pool lacks of them."""
    left = {name: lack for name, lack in sorted(deficit.items()) if lack > 0}
    drawn: list[str] = []
    while left and len(drawn) < WANTED:
        name = rng.choices(list(left), weights=list(left.values()))[0]
        drawn.append(name)
        del left[name]
    return tuple(drawn)
