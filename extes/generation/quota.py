"""How many dialogues of each scenario a target asks for, and how far a pool is from the strategies it should hold.

Pure arithmetic over names and counts; knows nothing of dialogues or files.
"""

from __future__ import annotations

import math
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from extes import taxonomy
from extes.generation.errors import Stop


def weights(mix: str) -> dict[str, float]:
    """Each scenario's weight: ``paper`` (the published counts), ``even``, or a TOML file of ``"Name" = weight``."""
    if mix == "paper":
        return {s.name: float(s.count) for s in taxonomy.SCENARIOS}
    if mix == "even":
        return {s.name: 1.0 for s in taxonomy.SCENARIOS}
    try:
        table = tomllib.loads(Path(mix).read_text(encoding="utf-8-sig"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Stop(f'--mix {mix}: {error}; give paper, even, or a TOML file of "scenario name" = weight') from error
    for name, weight in table.items():
        if name not in taxonomy.SCENARIO:
            near = taxonomy.closest_scenario(name)
            hint = f"; did you mean {near!r}?" if near else ""
            raise Stop(f"--mix {mix}: {name!r} is not one of the 36 scenarios{hint}")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise Stop(f"--mix {mix}: the weight of {name!r} is {weight!r}; give a number of 0 or more")
    if not sum(table.values()):
        raise Stop(f"--mix {mix}: no scenario has a weight above 0")
    return {s.name: float(table.get(s.name, 0)) for s in taxonomy.SCENARIOS}


def scenarios(target: int, weight: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers that add up to ``target`` in proportion to the weights (largest remainder)."""
    total = sum(weight.values())
    exact = {name: target * w / total for name, w in weight.items()}
    quota = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: quota[name] - exact[name])
    for name in by_remainder[: target - sum(quota.values())]:
        quota[name] += 1
    return quota


_STRATEGY_TOTAL = sum(s.count for s in taxonomy.STRATEGIES)
STRATEGY_SHARE: dict[str, float] = {s.name: s.count / _STRATEGY_TOTAL for s in taxonomy.STRATEGIES}


def strategy_deficit(used: Counter[str]) -> dict[str, float]:
    """Of each strategy, the share of all turns that is missing against the published mix; 0 where there is enough."""
    total = sum(used.values())
    if not total:
        return dict(STRATEGY_SHARE)
    return {name: max(0.0, share - used[name] / total) for name, share in STRATEGY_SHARE.items()}
