"""What keeps a generated dialogue out, each reason with a code. Pure: an answer in, a dialogue or a code out.

Patterns and bounds are data (``extes/resources/generation/checks.toml``). Near-duplicates need the whole pool and are
found by ``duplicates``. A machine's checks keep out what is plainly wrong; whether a dialogue is good, people judge.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files

from extes import taxonomy
from extes.dialogue import Turn
from extes.generation.ladder import Parsed

_DATA = tomllib.loads((files("extes") / "resources" / "generation" / "checks.toml").read_text(encoding="utf-8"))

VERSION: str = _DATA["version"]
_LENGTH = _DATA["length"]
_COPY_WORDS: int = _DATA["copy"]["words"]
DUPLICATE_JACCARD: float = _DATA["duplicate"]["jaccard"]

# Every code a request can end with, beside being kept. README.md explains them; a test compares the two.
CODES = (
    "format_refused",
    "unparsable",
    "empty_reply",
    "truncated",
    "provider_refused",
    "prompt_too_long",
    "bad_request",
    "no_reply",
    "role_order",
    "missing_strategy",
    "unknown_strategy",
    "few_strategies",
    "too_few_turns",
    "too_many_turns",
    "turn_too_long",
    "too_short",
    "empty_turn",
    "meta_talk",
    "placeholder",
    "personal_data",
    "unsafe_advice",
    "crisis_unmet",
    "copied_from_exemplar",
    "near_duplicate",
)


def _compile(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{p})" for p in patterns), re.IGNORECASE)


_PATTERNS = [
    (p["code"], p["speaker"], _compile(p["patterns"]), _compile(p.get("except", ["(?!)"]))) for p in _DATA["pattern"]
]
_DISCLOSED, _MET = _compile(_DATA["crisis"]["disclosed"]), _compile(_DATA["crisis"]["met"])
_WORD = re.compile(r"[\w']+")


@dataclass(frozen=True)
class Rejection:
    """Why a dialogue was kept out: a code of :data:`CODES`, and the detail a person needs to see it."""

    code: str
    detail: str


@dataclass(frozen=True)
class Checked:
    """An answer that passed: turns with official strategies, and what was mapped or read over."""

    description: str
    turns: tuple[Turn, ...]
    repairs: tuple[str, ...]


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def stretches(turns: Iterable[Turn]) -> set[tuple[str, ...]]:
    """Every stretch of 12 words within a turn."""
    found: set[tuple[str, ...]] = set()
    for turn in turns:
        said = words(turn.text)
        found.update(tuple(said[i : i + _COPY_WORDS]) for i in range(len(said) - _COPY_WORDS + 1))
    return found


def check(parsed: Parsed, exemplars: Sequence[tuple[str, set[tuple[str, ...]]]]) -> Checked | Rejection:
    """Hold an answer against every rule; the first one broken names the code.

    ``exemplars`` are (id, :func:`stretches`) of the dialogues its own prompt showed.
    """
    turns, mapped, rejection = _labelled(parsed)
    if rejection := rejection or _form(turns) or _said(turns) or _copied(turns, exemplars):
        return rejection
    return Checked(parsed.description, tuple(turns), (*parsed.repairs, *mapped))


def _labelled(parsed: Parsed) -> tuple[list[Turn], list[str], Rejection | None]:
    turns: list[Turn] = []
    mapped: list[str] = []
    for number, said in enumerate(parsed.turns, 1):
        if not said.text:
            return turns, mapped, Rejection("empty_turn", f"turn {number} has no text")
        if said.speaker == "seeker":
            turns.append(Turn("seeker", said.text))
            continue
        if not said.label or not said.label.strip():
            return turns, mapped, Rejection("missing_strategy", f"turn {number} has no strategy")
        strategy = taxonomy.closest_strategy(said.label)
        if strategy is None:
            return turns, mapped, Rejection("unknown_strategy", f"turn {number}: {said.label[:60]!r}")
        if strategy != said.label:
            mapped.append("strategy_mapped")
        turns.append(Turn("supporter", said.text, strategy))
    return turns, sorted(set(mapped)), None


def _form(turns: Sequence[Turn]) -> Rejection | None:
    if turns[0].speaker == "supporter" and turns[0].strategy != "Others":
        return Rejection("role_order", "the supporter speaks first, and not to greet (Others)")
    for number, (one, two) in enumerate(itertools.pairwise(turns), 2):
        if one.speaker == two.speaker:
            return Rejection("role_order", f"turn {number}: two {two.speaker} turns in a row")
    if len(turns) < _LENGTH["turns_least"]:
        return Rejection("too_few_turns", f"{len(turns)} turns, at least {_LENGTH['turns_least']}")
    if len(turns) > _LENGTH["turns_most"]:
        return Rejection("too_many_turns", f"{len(turns)} turns, at most {_LENGTH['turns_most']}")
    lengths = [len(t.text.split()) for t in turns]
    if (longest := max(lengths)) > _LENGTH["turn_words_most"]:
        where = lengths.index(longest) + 1
        return Rejection("turn_too_long", f"turn {where}: {longest} words, at most {_LENGTH['turn_words_most']}")
    if sum(lengths) < _LENGTH["words_least"]:
        return Rejection("too_short", f"{sum(lengths)} words in all, at least {_LENGTH['words_least']}")
    different = len({t.strategy for t in turns if t.strategy})
    if different < _LENGTH["strategies_least"]:
        return Rejection("few_strategies", f"{different} different strategies, at least {_LENGTH['strategies_least']}")
    return None


def _said(turns: Sequence[Turn]) -> Rejection | None:
    """Patterns turn by turn, and whether a disclosed crisis was met."""
    disclosed: int | None = None
    for number, turn in enumerate(turns, 1):
        for code, speaker, pattern, allowed in _PATTERNS:
            if speaker not in ("both", turn.speaker):
                continue
            if pattern.search(turn.text) and (match := pattern.search(allowed.sub(" ", turn.text))):
                return Rejection(code, f"turn {number}: {match[0][:60]!r}")
        if turn.speaker == "seeker":
            if disclosed is None and _DISCLOSED.search(turn.text):
                disclosed = number
        elif disclosed is not None and _MET.search(turn.text):
            disclosed = 0
    if disclosed:
        return Rejection("crisis_unmet", f"turn {disclosed} discloses a crisis; no later turn asks or names human help")
    return None


def _copied(turns: Sequence[Turn], exemplars: Sequence[tuple[str, set[tuple[str, ...]]]]) -> Rejection | None:
    own = stretches(turns)
    for id, theirs in exemplars:
        if shared := own & theirs:
            return Rejection("copied_from_exemplar", f"{id}: {' '.join(min(shared))!r}")
    return None
