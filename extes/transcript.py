"""The plain-text form of a dialogue: what people write seeds in, and what they read them in.

scenario: Academic Stress
description: Who this is and what happened.
arc: resists, unresolved

Seeker: One line a turn.
Supporter [Clarification]: One line, the strategy in brackets.
"""

from __future__ import annotations

import re

from extes import taxonomy
from extes.dialogue import Dialogue, DialogueError, Turn

_HEADER = re.compile(r"^([a-z]+):\s*(.*)$")
_KEYS = ("scenario", "description", "arc")
_TURN = re.compile(r"^(Seeker|Supporter)\s*(?:\[([^\]]*)\])?\s*:\s*(.*)$")


def parse(text: str, id: str, source: str = "seed") -> Dialogue:
    """The dialogue a text stands for. Raises :class:`DialogueError` naming the line at fault."""
    header: dict[str, str] = {}
    turns: list[Turn] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line:
            continue
        if match := _TURN.match(line):
            turns.append(_turn(match, number))
        elif not turns and (match := _HEADER.match(line)):
            if match[1] not in _KEYS or match[1] in header:
                what = "is there twice" if match[1] in header else f"is not one of {', '.join(_KEYS)}"
                raise DialogueError("bad_header", f'line {number}: "{match[1]}:" {what}')
            header[match[1]] = match[2]
        else:
            raise DialogueError("bad_line", f'line {number}: expected "Seeker: ..." or "Supporter [Strategy]: ..."')
    for key in ("scenario", "description"):
        if not header.get(key):
            raise DialogueError(f"no_{key}", f'the header has no "{key}:" line')
    if header["scenario"] not in taxonomy.SCENARIO:
        near = taxonomy.closest_scenario(header["scenario"])
        hint = f"; did you mean {near!r}?" if near else ""
        raise DialogueError("unknown_scenario", f"{header['scenario']!r} is not one of the 36 scenarios{hint}")
    if not turns:
        raise DialogueError("no_turns", "there are no turns")
    arc = [a.strip() for a in header.get("arc", "").split(",") if a.strip()]
    provenance = {"source": source, "arc": arc}
    return Dialogue(id, header["scenario"], header["description"], tuple(turns), provenance)


def _turn(match: re.Match[str], number: int) -> Turn:
    speaker, label, text = match.groups()
    if not text.strip():
        raise DialogueError("empty_text", f"line {number}: the turn has no text")
    if speaker == "Seeker":
        if label:
            raise DialogueError("seeker_strategy", f"line {number}: a seeker turn has no strategy")
        return Turn("seeker", text.strip())
    if not label:
        raise DialogueError("no_strategy", f"line {number}: a supporter turn needs a strategy in brackets")
    if label not in taxonomy.STRATEGY:
        near = taxonomy.closest_strategy(label)
        hint = f"; did you mean {near!r}?" if near else ""
        raise DialogueError("unknown_strategy", f"line {number}: {label!r} is not one of the 16 strategies{hint}")
    return Turn("supporter", text.strip(), label)


def format(dialogue: Dialogue) -> str:
    """The text of a dialogue; ``parse(format(d), d.id)`` gives its turns back."""
    lines = [
        f"scenario: {dialogue.scenario}",
        f"description: {dialogue.description}",
        f"arc: {', '.join(dialogue.provenance.get('arc', []))}".rstrip(),
        "",
    ]
    for turn in dialogue.turns:
        who = "Seeker" if turn.speaker == "seeker" else f"Supporter [{turn.strategy}]"
        lines.append(f"{who}: {' '.join(turn.text.split())}")
    return "\n".join(lines) + "\n"
