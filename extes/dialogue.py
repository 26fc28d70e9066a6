"""A dialogue: what one is, its canonical JSON line, and reports of what reading did. Standard library only.

Knows nothing of where dialogues come from: ``extes.wild`` reads ExTES.json as it circulates, ``extes.transcript`` the
plain-text form of the seeds.

Canonical form, one object a line::

    {"id": "seed/academic-stress/1", "scenario": "Academic Stress", "description": "...",
     "turns": [{"speaker": "seeker", "text": "..."},
               {"speaker": "supporter", "text": "...", "strategy": "Clarification"}],
     "provenance": {"source": "seed", ...}}
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from extes import taxonomy
from extes.errors import Problem

Speaker = Literal["seeker", "supporter"]
SPEAKERS: tuple[Speaker, Speaker] = ("seeker", "supporter")


class DialogueError(Problem):
    """A file or item that cannot be read as dialogues. ``code`` names the reason; the text says what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Turn:
    """One message. ``strategy`` is an official strategy name, or ``None`` where none is labelled. A supporter turn with
    ``train`` false is context for a model that is tuned, never what it learns to say."""

    speaker: Speaker
    text: str
    strategy: str | None = None
    train: bool = True


@dataclass(frozen=True)
class Dialogue:
    """Scenario, description, turns, provenance. ``scenario`` is official, or ``None`` where it is not known."""

    id: str
    scenario: str | None
    description: str
    turns: tuple[Turn, ...]
    provenance: dict[str, Any] = field(default_factory=dict)

    def messages(self) -> list[dict[str, str]]:
        """Chat form: seeker is ``user``, supporter is ``assistant``."""
        role = {"seeker": "user", "supporter": "assistant"}
        return [{"role": role[t.speaker], "content": t.text} for t in self.turns]


def content_hash(scenario: str | None, turns: Iterable[Turn]) -> str:
    """16 hex digits that identify a dialogue by what it says."""
    body = json.dumps([scenario, [[t.speaker, t.text, t.strategy] for t in turns]], ensure_ascii=False)
    return hashlib.sha256(body.encode()).hexdigest()[:16]


@dataclass
class Report:
    """What became of every item of a file: ``items == clean + repaired + rejected``, always.

    ``repairs`` counts what was mended (an item may need several); ``rejections`` has one code an item.
    """

    source: str
    items: int = 0
    clean: int = 0
    repaired: int = 0
    repairs: Counter[str] = field(default_factory=Counter)
    rejections: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    @property
    def rejected(self) -> int:
        return sum(self.rejections.values())

    def keep(self, where: str, repairs: Iterable[str]) -> None:
        codes = Counter(repairs)
        self.items += 1
        self.repairs += codes
        self.repaired += bool(codes)
        self.clean += not codes
        for code in codes:
            self.examples.setdefault(code, where)

    def reject(self, where: str, code: str) -> None:
        self.items += 1
        self.rejections[code] += 1
        self.examples.setdefault(code, where)

    def __str__(self) -> str:
        sums = f"{self.clean} clean + {self.repaired} repaired + {self.rejected} rejected"
        lines = [f"{self.source}: {self.items} items = {sums}"]
        for title, counts in (("repaired", self.repairs), ("rejected", self.rejections)):
            lines += [f"  {title:9} {n:>7}  {code}  (first: {self.examples[code]})" for code, n in counts.most_common()]
        return "\n".join(lines)


def to_json(dialogue: Dialogue) -> dict[str, Any]:
    turns = [
        {"speaker": t.speaker, "text": t.text}
        | ({"strategy": t.strategy} if t.strategy else {})
        | ({} if t.train else {"train": False})
        for t in dialogue.turns
    ]
    return {
        "id": dialogue.id,
        "scenario": dialogue.scenario,
        "description": dialogue.description,
        "turns": turns,
        "provenance": dialogue.provenance,
    }


def from_json(item: Any) -> Dialogue:
    """The dialogue a canonical object stands for; raises :class:`DialogueError` with a code if it is not one."""
    if not isinstance(item, dict):
        raise DialogueError("not_an_object", "a dialogue is a JSON object")
    for key, kind in (("id", str), ("description", str), ("turns", list), ("provenance", dict)):
        if not isinstance(item.get(key), kind):
            raise DialogueError(f"bad_{key}", f'"{key}" is missing or not a {kind.__name__}')
    scenario = item.get("scenario")
    if scenario is not None and not (isinstance(scenario, str) and scenario in taxonomy.SCENARIO):
        raise DialogueError("unknown_scenario", f"{scenario!r} is not one of the 36 scenarios")
    if not item["turns"]:
        raise DialogueError("no_turns", "a dialogue has at least one turn")
    return Dialogue(
        item["id"], scenario, item["description"], tuple(_turn(t) for t in item["turns"]), item["provenance"]
    )


def _turn(item: Any) -> Turn:
    if not isinstance(item, dict) or item.get("speaker") not in SPEAKERS:
        raise DialogueError("bad_speaker", 'a turn has "speaker": "seeker" or "supporter"')
    text, strategy = item.get("text"), item.get("strategy")
    if not isinstance(text, str) or not text.strip():
        raise DialogueError("empty_text", "a turn has text")
    if strategy is not None and not (isinstance(strategy, str) and strategy in taxonomy.STRATEGY):
        raise DialogueError("unknown_strategy", f"{strategy!r} is not one of the 16 strategies")
    return Turn(item["speaker"], text, strategy, item.get("train") is not False)


def read_text(path: Path) -> tuple[str, bool]:
    """A file's text and whether bytes had to be replaced; raises :class:`DialogueError` if there is nothing to read."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DialogueError("unreadable", f"{path}: cannot be read ({error.strerror}); check the path") from error
    if not raw.strip():
        raise DialogueError("empty_file", f"{path}: the file is empty")
    encoding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text, damaged = raw.decode(encoding), False
    except UnicodeDecodeError:
        text, damaged = raw.decode(encoding, errors="replace"), True
    if not text.strip():
        raise DialogueError("empty_file", f"{path}: the file is empty")
    return text, damaged


def whole(item: Any) -> Any:
    """A decoded JSON value with half characters (lone surrogates, which no file can hold) replaced."""
    return json.loads(json.dumps(item, ensure_ascii=False).encode("utf-8", "replace"))


def read_jsonl(path: Path) -> tuple[list[Dialogue], Report]:
    """Read canonical JSON lines. Bad lines are rejected with a code and counted; good ones are kept."""
    text, damaged = read_text(path)
    report, dialogues, seen = Report(str(path)), [], set()
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            dialogue = from_json(whole(json.loads(line)))
        except DialogueError as error:
            report.reject(where, error.code)
            continue
        except (ValueError, RecursionError):
            report.reject(where, "bad_json")
            continue
        if dialogue.id in seen:
            report.reject(where, "duplicate_id")
            continue
        seen.add(dialogue.id)
        dialogues.append(dialogue)
        report.keep(where, ["invalid_utf8"] if damaged and "\ufffd" in line else [])
    return dialogues, report


def write_jsonl(dialogues: Iterable[Dialogue], path: Path) -> None:
    """Write canonical JSON lines, whole or not at all."""
    staging = path.with_name(path.name + ".tmp")
    with staging.open("w", encoding="utf-8") as out:
        for dialogue in dialogues:
            out.write(json.dumps(to_json(dialogue), ensure_ascii=False) + "\n")
    staging.replace(path)
