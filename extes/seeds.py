"""The seeds: loading them, and proving the bar that ``seeds/README.md`` sets.

Knows the rules a machine can check. That a dialogue is true to life, a reader has to judge.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from extes import taxonomy, transcript
from extes.dialogue import Dialogue, DialogueError, read_text

SEEDS = Path(__file__).resolve().parent.parent / "seeds"

ARCS = ("resists", "unresolved", "repair", "terse", "anger", "ask", "crisis")
TURNS = range(14, 25)
OVERLAP_WORDS = 12
UNDERSTANDING_TURNS = 3
RESISTING_SHARE = 1 / 3

_META = re.compile(
    r"\b(as an ai|language model|chatbot|i am an? (ai|bot)|i'm an? (ai|bot)|as a therapist|i'm a therapist)\b", re.I
)
_FANCY = re.compile(r"[\u2010-\u2015\u2018-\u201f\u2026*_#\U0001f000-\U0001faff\u2600-\u27bf]")
_WORD = re.compile(r"[\w']+")


@dataclass
class SeedReport:
    """What a check found. ``problems`` is empty when the bar is met."""

    dialogues: list[Dialogue] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def scenarios(self) -> Counter[str]:
        return Counter(d.scenario for d in self.dialogues if d.scenario)

    @property
    def strategies(self) -> Counter[str]:
        return Counter(t.strategy for d in self.dialogues for t in d.turns if t.strategy)

    @property
    def arcs(self) -> Counter[str]:
        return Counter(a for d in self.dialogues for a in d.provenance["arc"])


def load(folder: Path = SEEDS) -> tuple[list[Dialogue], list[str]]:
    """All seeds under a folder, sorted by id, and a line for each file that could not be read."""
    dialogues, problems = [], []
    for path in sorted(folder.glob("*/*.txt")):
        try:
            text, damaged = read_text(path)
            if damaged:
                raise DialogueError("invalid_utf8", "the file is not valid UTF-8")
            dialogues.append(transcript.parse(text, f"seed/{path.parent.name}/{path.stem}"))
        except DialogueError as error:
            problems.append(f"{path.parent.name}/{path.name}: {error}")
    if not dialogues and not problems:
        problems.append(f"{folder}: no seed files (*/*.txt) here; name the folder with --dir")
    return dialogues, problems


def check(folder: Path = SEEDS, each_scenario: int = 1, each_strategy: int = 1) -> SeedReport:
    """Load the seeds and hold them against the bar."""
    dialogues, problems = load(folder)
    report = SeedReport(dialogues, problems)
    for dialogue in dialogues:
        problems += [f"{dialogue.id}: {p}" for p in dialogue_problems(dialogue)]
    problems += overlaps(dialogues)
    for scenario in taxonomy.SCENARIOS:
        if (n := report.scenarios[scenario.name]) < each_scenario:
            problems.append(f"scenario {scenario.name}: {n} seeds, wanted {each_scenario}")
    for strategy in taxonomy.STRATEGIES:
        if (n := report.strategies[strategy.name]) < each_strategy:
            problems.append(f"strategy {strategy.name}: used {n} times, wanted {each_strategy}")
    if dialogues and report.arcs["resists"] < RESISTING_SHARE * len(dialogues):
        problems.append(f"arc resists: {report.arcs['resists']} of {len(dialogues)} seeds, wanted a third")
    problems += [f"arc {arc}: no seed shows it" for arc in ARCS if not report.arcs[arc]]
    return report


def dialogue_problems(dialogue: Dialogue) -> list[str]:
    """What keeps one dialogue from the bar."""
    turns, arc = dialogue.turns, dialogue.provenance["arc"]
    problems = [f"unknown arc {a!r}; the arcs are {', '.join(ARCS)}" for a in arc if a not in ARCS]
    folder = dialogue.id.split("/")[1]
    if dialogue.scenario and taxonomy.SCENARIO[dialogue.scenario].slug != folder:
        problems.append(f"lies in {folder}/ but its scenario is {dialogue.scenario}")
    if len(turns) not in TURNS:
        problems.append(f"{len(turns)} turns, wanted {TURNS.start} to {TURNS.stop - 1}")
    if turns[0].speaker == "supporter" and turns[0].strategy != "Others":
        problems.append("a supporter who speaks first greets (Others)")
    for n, (one, two) in enumerate(itertools.pairwise(turns), 2):
        if one.speaker == two.speaker:
            problems.append(f"turn {n}: two {two.speaker} turns in a row")
    early = [t for t in turns if t.speaker == "supporter"][:UNDERSTANDING_TURNS]
    if "repair" not in arc:
        problems += [f"advice before understanding ({t.strategy})" for t in early if t.strategy in taxonomy.ADVICE]
    for n, turn in enumerate(turns, 1):
        if turn.speaker == "supporter" and (match := _META.search(turn.text)):
            problems.append(f"turn {n}: says {match[0]!r}")
        if match := _FANCY.search(turn.text):
            problems.append(f"turn {n}: {match[0]!r} is not plain punctuation")
    return problems


def overlaps(dialogues: Sequence[Dialogue]) -> list[str]:
    """Pairs of dialogues that share a stretch of 12 words, each pair once, with the stretch."""
    first: dict[tuple[str, ...], str] = {}
    found: dict[tuple[str, str], str] = {}
    for dialogue in dialogues:
        for turn in dialogue.turns:
            words = _WORD.findall(turn.text.lower())
            for i in range(len(words) - OVERLAP_WORDS + 1):
                stretch = tuple(words[i : i + OVERLAP_WORDS])
                other = first.setdefault(stretch, dialogue.id)
                if other != dialogue.id:
                    found.setdefault((other, dialogue.id), " ".join(stretch))
    return [f"{a} and {b} share: {stretch}" for (a, b), stretch in found.items()]
