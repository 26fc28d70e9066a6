"""The 36 scenarios and 16 strategies of ExTES, as values. Standard library only.

Names and counts are those published with arXiv 2308.11584; definitions are this project's own words
(``extes/resources/taxonomy.toml``, which has a version).
"""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class Strategy:
    """One way to support. ``esconv`` is the label among ESConv's 8 it is mapped to."""

    name: str
    abbreviation: str
    count: int
    esconv: str
    definition: str


@dataclass(frozen=True)
class Scenario:
    """One situation a seeker may be in. ``count`` is its number of dialogues in the published ExTES."""

    name: str
    count: int
    definition: str

    @property
    def slug(self) -> str:
        """The name in lower case with dashes, as in ``seeds/<slug>/1.txt``."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


_DATA = tomllib.loads((files("extes") / "resources" / "taxonomy.toml").read_text(encoding="utf-8"))

VERSION: str = _DATA["version"]
STRATEGIES: tuple[Strategy, ...] = tuple(Strategy(**row) for row in _DATA["strategy"])
SCENARIOS: tuple[Scenario, ...] = tuple(Scenario(**row) for row in _DATA["scenario"])
STRATEGY: dict[str, Strategy] = {s.name: s for s in STRATEGIES}
SCENARIO: dict[str, Scenario] = {s.name: s for s in SCENARIOS}

ESCONV_LABELS = (
    "Question",
    "Restatement or Paraphrasing",
    "Reflection of feelings",
    "Self-disclosure",
    "Affirmation and Reassurance",
    "Providing Suggestions",
    "Information",
    "Others",
)

# Strategies that tell the seeker what to do or know; a supporter earns them by understanding first.
ADVICE = frozenset(
    {
        "Suggest Options",
        "Collaborative Planning",
        "Provide Different Perspectives",
        "Reframe Negative Thoughts",
        "Share Information",
        "Promote Self-Care Practices",
        "Stress Management",
    }
)

# A near miss has to be this similar (difflib ratio) to count as a misspelling rather than as another label.
NEAR_MISS = 0.82


def _plain(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", label.lower()).strip()


def _closest(label: str, names: dict[str, str]) -> str | None:
    plain = _plain(label)
    if not plain:
        return None
    if plain in names:
        return names[plain]
    near = difflib.get_close_matches(plain, names, n=1, cutoff=NEAR_MISS)
    return names[near[0]] if near else None


_STRATEGY_NAMES = {_plain(s.name): s.name for s in STRATEGIES}
_STRATEGY_NAMES |= {_plain(s.abbreviation): s.name for s in STRATEGIES}
_STRATEGY_NAMES |= {_plain(f"{s.name} ({s.abbreviation})"): s.name for s in STRATEGIES}
_SCENARIO_NAMES = {_plain(s.name): s.name for s in SCENARIOS}


def closest_strategy(label: str) -> str | None:
    """The official strategy a label means: exact, by abbreviation, or a near miss; ``None`` if none is close."""
    return _closest(label, _STRATEGY_NAMES)


def closest_scenario(label: str) -> str | None:
    """The official scenario a label means: exact or a near miss; ``None`` if none is close."""
    return _closest(label, _SCENARIO_NAMES)
