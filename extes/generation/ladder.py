"""The output ladder: ``json_schema``, then ``json_object``, then plain text with the strategy in brackets.

Servers that call themselves OpenAI-compatible differ most in structured output, and some answer 200 with prose. So a
request steps down a rung on a refusal and on an answer that cannot be parsed. Knows how to ask on each rung and how to
read the answer; knows nothing of HTTP, and does not judge what was said (``checks`` does).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from extes import taxonomy
from extes.dialogue import whole

RUNGS = ("json_schema", "json_object", "text")


class Unparsable(ValueError):
    """The answer is not in the form that was asked for; the text says what was found instead."""


@dataclass(frozen=True)
class Said:
    """One turn as the model gave it: ``label`` is not yet held against the closed set."""

    speaker: str
    text: str
    label: str | None = None


@dataclass(frozen=True)
class Parsed:
    """An answer read. ``repairs`` names what was read over: prose around the object, a missing description."""

    description: str
    turns: tuple[Said, ...]
    repairs: tuple[str, ...] = ()


class _Turn(BaseModel):
    model_config = ConfigDict(extra="ignore")
    speaker: str
    text: str
    strategy: str | None = None


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore")
    description: str = ""
    turns: list[_Turn]


# Strict mode wants every field required and no others allowed.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "description": {"type": "string"},
        "turns": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "speaker": {"type": "string", "enum": ["seeker", "supporter"]},
                    "strategy": {
                        "anyOf": [{"type": "string", "enum": [s.name for s in taxonomy.STRATEGIES]}, {"type": "null"}]
                    },
                    "text": {"type": "string"},
                },
                "required": ["speaker", "strategy", "text"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["description", "turns"],
    "additionalProperties": False,
}


def response_format(rung: str) -> dict[str, Any]:
    """What a rung adds to the payload."""
    if rung == "json_schema":
        schema = {"name": "dialogue", "strict": True, "schema": SCHEMA}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    return {"response_format": {"type": "json_object"}} if rung == "json_object" else {}


def parse(content: str, rung: str) -> Parsed:
    """Read an answer given on a rung; raises :class:`Unparsable`."""
    return _parse_text(content) if rung == "text" else _parse_json(content)


def _parse_json(content: str) -> Parsed:
    start = content.find("{")
    if start < 0:
        raise Unparsable(f"no JSON object in {_excerpt(content)}")
    try:
        value, end = json.JSONDecoder().raw_decode(content, start)
        value = whole(value)
    except (ValueError, RecursionError) as error:
        raise Unparsable(f"broken JSON ({error})") from error
    try:
        answer = _Answer.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise Unparsable(f"wrong shape: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if not answer.turns:
        raise Unparsable("no turns")
    turns = []
    for turn in answer.turns:
        speaker = _SPEAKER.get(turn.speaker.strip().lower())
        if speaker is None:
            raise Unparsable(f"unknown speaker {_excerpt(turn.speaker)}")
        turns.append(Said(speaker, _clean(turn.text), turn.strategy if speaker == "supporter" else None))
    around = content[:start].strip(" \n`") not in ("", "json") or bool(content[end:].strip(" \n`"))
    repairs = ["text_around_json"] * around + ["description_missing"] * (not answer.description.strip())
    return Parsed(_clean(answer.description), tuple(turns), tuple(repairs))


_SPEAKER = {
    **dict.fromkeys(("seeker", "user", "client", "help-seeker"), "seeker"),
    **dict.fromkeys(("supporter", "assistant", "ai", "helper"), "supporter"),
}
_LINE = re.compile(
    r"^[\s>*_#-]*(?P<who>" + "|".join(_SPEAKER) + r")[*_ ]*(?:[\[(](?P<before>[^\])]*)[\])])?[*_ ]*:[*_ ]*"
    r"(?:\[(?P<after>[^\]]*)\])?[*_ ]*(?P<text>.*)$",
    re.IGNORECASE,
)
_DESCRIPTION = re.compile(r"^[\s>*_#]*description[*_ ]*:[*_ ]*(.+)$", re.IGNORECASE)


@dataclass
class _Reading:
    turns: list[Said] = field(default_factory=list)
    description: str = ""
    repairs: list[str] = field(default_factory=list)


def _parse_text(content: str) -> Parsed:
    """The paper's form, one turn a line; ``Supporter: [Strategy] text`` and bold names are read too.

    A line that is no turn belongs to the turn above it, unless a blank line parts them: then it is talk around the
    dialogue, is left out, and is named as a repair.
    """
    reading, gap = _Reading(), True
    for raw in content.splitlines():
        line = raw.strip()
        if match := _LINE.match(line):
            speaker = _SPEAKER[match["who"].lower()]
            label = match["before"] or match["after"]
            reading.turns.append(Said(speaker, _clean(match["text"]), label if speaker == "supporter" else None))
        elif line and not reading.turns and (found := _DESCRIPTION.match(line)):
            reading.description = _clean(found[1])
        elif line and reading.turns and not gap:
            last = reading.turns[-1]
            reading.turns[-1] = Said(last.speaker, f"{last.text} {_clean(line)}".strip(), last.label)
        elif line.strip("`-*_ "):
            reading.repairs.append("text_around_dialogue")
        gap = not line
    if len(reading.turns) < 2:
        raise Unparsable(f'no "Seeker:" and "Supporter [Strategy]:" lines in {_excerpt(content)}')
    if not reading.description:
        reading.repairs.append("description_missing")
    return Parsed(reading.description, tuple(reading.turns), tuple(sorted(set(reading.repairs))))


_PLAIN = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2026": "...", "\u00a0": " "})
# Nothing a person types, and bad for terminals and databases.
_PLAIN |= dict.fromkeys([*range(0x20), *range(0x7F, 0xA0), 0xFEFF], " ")


def _clean(text: str) -> str:
    """One line of plain quotes, as the seeds are written."""
    return " ".join(text.translate(_PLAIN).split())


def _excerpt(text: str) -> str:
    return repr(" ".join(text.split())[:60])


def first_rung(tried: Mapping[str, int], parsed: Mapping[str, int], refused: Mapping[str, int]) -> str:
    """The rung to begin on, from what the endpoint did so far; the last one where none has worked.

    A rung is ruled out once the server refused it and answered on a lower one, or once at least four answers came and
    fewer than half could be parsed. One bad answer of many steps down that request alone.
    """
    for n, rung in enumerate(RUNGS[:-1]):
        answered_below = any(tried.get(lower, 0) for lower in RUNGS[n + 1 :])
        if refused.get(rung, 0) and answered_below:
            continue
        if tried.get(rung, 0) >= 4 and parsed.get(rung, 0) / tried[rung] < 0.5:
            continue
        return rung
    return RUNGS[-1]
