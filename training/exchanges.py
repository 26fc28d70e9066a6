"""Short exchanges with slots, written for the starter models: reading, telling them in variants, and their bar.

    python training/exchanges.py [FILE ...]      # check, with counts and a sample of variants

A small model learns what a reply has to do with its message only if it sees the same reply take up many different
particulars. So each exchange is written once, with slots, and told many times (form: ``training/exchanges/README.md``).

Knows files and text; knows nothing of tokens. Standard library only, but for ``extes``.
"""

from __future__ import annotations

import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from extes import taxonomy
from extes.dialogue import Dialogue, Turn
from extes.errors import Problem

FOLDER = Path(__file__).resolve().parent / "exchanges"
VARIANTS = 12  # told of each exchange, at most
REPLY_WORDS = range(3, 61)
EXCHANGES = range(1, 5)

_TURN = re.compile(r"(Seeker|Supporter)(?: \[([^\]]+)\])?: (.+)")
_SLOT = re.compile(r"\{(\w+)(?:([=:])([^{}]*))?\}")
_FANCY = re.compile(r"[^\x20-\x7e]|[*_#<>\[\]{}|]|\.\.\.")
_OWN_LIFE = re.compile(
    r"\b(I('ve| have) been (there|through)|happened to me|my own (life|experience)|when I was)\b", re.I
)


class ExchangeError(ValueError):
    """An exchange that cannot be read; the message says what is wrong."""


@dataclass(frozen=True)
class Exchange:
    """One to four exchanges with slots. ``id`` is ``exchange/<file>/<number in the file>``."""

    id: str
    scenario: str | None
    turns: tuple[Turn, ...]
    slots: dict[str, tuple[str, ...]]

    @property
    def combinations(self) -> int:
        return prod(len(choices) for choices in self.slots.values())

    def told(self, choice: dict[str, int]) -> list[Turn]:
        """The turns with each slot filled by the alternative of that number."""

        def fill(match: re.Match[str]) -> str:
            name, kind, text = match.groups()
            return (text.split("|") if kind else self.slots[name])[choice[name]]

        return [Turn(t.speaker, _capitals(_SLOT.sub(fill, t.text)), t.strategy) for t in self.turns]

    def variants(self, most: int) -> list[Dialogue]:
        """Up to ``most`` different fillings, drawn by a seed of the exchange's own: the same in every run."""
        rng = random.Random(self.id)
        picked = rng.sample(range(self.combinations), min(most, self.combinations))
        found = []
        for number, index in enumerate(picked, 1):
            choice = {}
            for name, choices in self.slots.items():
                index, choice[name] = divmod(index, len(choices))
            # What is told of one exchange stays on one side of a split: it descends from it.
            provenance = {"source": "exchanges", "exemplars": [self.id]}
            found.append(Dialogue(f"{self.id}/{number}", self.scenario, "", tuple(self.told(choice)), provenance))
        return found


def _capitals(text: str) -> str:
    """A slot that begins a sentence asks for its capital with ``^``."""
    return re.sub(r"\^(\w)", lambda m: m[1].upper(), text)


def parse(text: str, id: str, scenario: str | None) -> Exchange:
    """One block of a file. Raises :class:`ExchangeError`."""
    turns, slots = [], {}
    for line in text.strip().splitlines():
        match = _TURN.fullmatch(line.strip())
        if not match:
            raise ExchangeError(f'not "Seeker: ..." or "Supporter [strategy]: ...": {line[:60]}')
        speaker, label, said = match[1].lower(), match[2], match[3]
        strategy = taxonomy.closest_strategy(label) if label else None
        if (speaker == "supporter") != (strategy is not None):
            raise ExchangeError(
                f"a supporter turn has one of the 16 strategies in brackets, a seeker turn none: {line[:60]}"
            )
        for name, kind, listed in _SLOT.findall(said):
            choices = tuple(listed.split("|"))
            if kind == "=" and name not in slots:
                slots[name] = choices
            elif kind == "=":
                raise ExchangeError(f"slot {name} is defined twice; repeat it as {{{name}}}")
            elif name not in slots:
                raise ExchangeError(f"slot {name} is used before it is defined as {{{name}=...|...}}")
            elif kind == ":" and len(choices) != len(slots[name]):
                raise ExchangeError(f"slot {name} has {len(slots[name])} alternatives, here {len(choices)}")
        turns.append(Turn(speaker, said, strategy))  # type: ignore[arg-type]
    if [t.speaker for t in turns] != ["seeker", "supporter"] * (len(turns) // 2) or len(turns) // 2 not in EXCHANGES:
        raise ExchangeError("one to four exchanges, each a seeker turn and the supporter turn that answers it")
    return Exchange(id, scenario, tuple(turns), slots)


def read(path: Path) -> Iterator[Exchange | str]:
    """The exchanges of a file in their order; a line of text for each that cannot be read."""
    scenario = next((s.name for s in taxonomy.SCENARIOS if s.slug == path.stem), None)
    blocks = re.split(r"\n\s*\n", path.read_text(encoding="utf-8").strip())
    for number, block in enumerate(blocks, 1):
        try:
            yield parse(block, f"exchange/{path.stem}/{number}", scenario)
        except ExchangeError as error:
            yield f"{path.name}, exchange {number}: {error}"


def files(folder: Path = FOLDER) -> list[Path]:
    return sorted(folder.rglob("*.txt"))


def load(folder: Path = FOLDER) -> list[Exchange]:
    """All exchanges under a folder. Raises :class:`Problem` that names each one that cannot be read."""
    found = [one for path in files(folder) for one in read(path)]
    if wrong := [e for e in found if isinstance(e, str)]:
        raise Problem("the exchanges cannot be read:\n" + "\n".join(wrong))
    return [e for e in found if isinstance(e, Exchange)]


def problems(exchange: Exchange) -> list[str]:
    """What a machine can see of the bar."""
    found = []
    for dialogue in exchange.variants(VARIANTS):
        for turn in dialogue.turns:
            if mark := _FANCY.search(turn.text):
                found.append(f'plain characters only, and no stray slot marks: "{mark[0]}" in: {turn.text[:60]}')
            if turn.speaker == "seeker":
                continue
            if (n := len(turn.text.split())) not in REPLY_WORDS:
                found.append(
                    f"a reply has {REPLY_WORDS.start} to {REPLY_WORDS.stop - 1} words, here {n}: {turn.text[:60]}"
                )
            if _OWN_LIFE.search(turn.text):
                found.append(f"the supporter has no life of its own to tell of: {turn.text[:60]}")
            if turn.text.lstrip("\"'(")[:1].islower():
                found.append(f"a reply begins with a capital: {turn.text[:60]}")
    return [f"{exchange.id}: {p}" for p in dict.fromkeys(found)]


def main(paths: list[Path]) -> int:
    found = [one for path in paths for one in read(path)]
    exchanges = [e for e in found if isinstance(e, Exchange)]
    wrong = [e for e in found if isinstance(e, str)] + [p for e in exchanges for p in problems(e)]
    openings = Counter(e.turns[0].text for e in exchanges if len(e.turns[0].text.split()) > 8)
    wrong += [f"said twice: {text[:70]}" for text, n in openings.items() if n > 1]
    rng = random.Random(len(exchanges))
    for exchange in rng.sample(exchanges, min(3, len(exchanges))):
        print(exchange.id)
        for turn in rng.choice(exchange.variants(VARIANTS)).turns:
            print(f"  {turn.speaker}{f' [{turn.strategy}]' if turn.strategy else ''}: {turn.text}")
    told = sum(len(e.variants(VARIANTS)) for e in exchanges)
    replies = Counter(t.strategy for e in exchanges for t in e.turns if t.strategy)
    print(f"{len(exchanges)} exchanges, {sum(replies.values())} replies, {told} variants told")
    print(", ".join(f"{name} {n}" for name, n in replies.most_common()))
    print("\n".join(wrong) or "no problems")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main([Path(p) for p in sys.argv[1:]] or files()))
