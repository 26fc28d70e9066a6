"""Where training data comes from: one dialogue form out of every file form, with a report whose counts add up.

    seeds                                the hand-written dialogues of this repository
    exchanges[:N]                        its short exchanges, each told in up to N variants (1 unless said)
    esconv:PATH                          ESConv, as published (.json) or one dialogue a line (.jsonl, .jsonl.gz)
    extes:PATH                           ExTES.json as it circulates
    pool:PATH                            the accepted dialogues of a pool (its folder), or canonical JSON lines
    hub:OWNER/NAME[@REVISION][:SPLIT]    a Hub dataset in canonical, chat ("messages") or ExTES form

Knows forms and their blemishes. Knows nothing of tokens, templates or which dialogues are held out.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extes import dialogue, seeds, wild
from extes.dialogue import Dialogue, DialogueError, Report, Turn
from extes.errors import Problem
from training import corpora, exchanges

FORMS = "seeds, exchanges[:VARIANTS], esconv:PATH, extes:PATH, pool:PATH, hub:OWNER/NAME[@REVISION][:SPLIT]"
# ESConv's labels differ between the copies that circulate.
SPELLING = {"Questions": "Question", "Other": "Others"}


@dataclass(frozen=True)
class Source:
    """What one source gave. ``label`` names it without naming this machine; ``sha256`` is of the bytes read."""

    label: str
    dialogues: tuple[Dialogue, ...]
    report: Report
    sha256: str


def read(spec: str) -> Source:
    """Read a source. Raises :class:`Problem` for an unknown form, a missing file, or one that is something else."""
    kind, _, where = spec.partition(":")
    if spec == "seeds":
        return _seeds()
    if kind == "exchanges" and (not where or where.isdecimal()):
        return _exchanges(int(where or 1))
    if kind == "hub" and "/" in where:
        return _hub(where)
    readers: dict[str, Callable[[Path], tuple[list[Dialogue], Report]]]
    readers = {"esconv": _esconv, "extes": wild.read_extes_json, "pool": _pool}
    if kind not in readers or not where:
        raise Problem(f'data source "{spec}" is unknown; a source is one of: {FORMS}')
    path = Path(where).expanduser()
    if not path.exists():
        raise Problem(f'data source "{spec}": there is no {path}; check the path')
    if path.is_dir() and kind != "pool":
        raise Problem(f'data source "{spec}": {path} is a folder; name the file')
    dialogues, report = readers[kind](path)
    content = path / "pool.jsonl" if path.is_dir() else path
    return Source(_stem(path), tuple(dialogues), report, corpora.file_hash(content))


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".json")


def _seeds() -> Source:
    found, problems = seeds.load()
    if problems:
        raise Problem("the seeds cannot be read:\n" + "\n".join(problems))
    report = Report("seeds")
    for one in found:
        report.keep(one.id, [])
    return Source("seeds", tuple(found), report, content_sha256(found))


def _exchanges(most: int) -> Source:
    found = tuple(told for one in exchanges.load() for told in one.variants(most))
    report = Report("exchanges")
    for told in found:
        report.keep(told.id, [])
    return Source("exchanges", found, report, content_sha256(found))


def content_sha256(dialogues: Iterable[Dialogue]) -> str:
    """Of the dialogues in canonical form, for what is no single file."""
    digest = hashlib.sha256()
    for one in dialogues:
        digest.update(json.dumps(dialogue.to_json(one), ensure_ascii=False, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def _pool(path: Path) -> tuple[list[Dialogue], Report]:
    if path.is_file():
        return dialogue.read_jsonl(path)
    from extes.generation.pool import Pool

    report, accepted = Report(str(path)), []
    with Pool(path, write=False) as pool:
        for entry, one in pool.dialogues():
            if entry.state == "accepted":
                accepted.append(one)
                report.keep(one.id, [])
            else:
                report.reject(one.id, f"state_{entry.state}")
    return accepted, report


def _esconv(path: Path) -> tuple[list[Dialogue], Report]:
    """ESConv is written in haste: every text is cleaned (see ``corpora.clean``), which is not counted as a repair."""
    report, found, seen = Report(str(path)), [], set()
    for where, item in _esconv_items(path, report):
        repairs: list[str] = []
        try:
            one = _esconv_dialogue(item, where, repairs)
        except DialogueError as error:
            report.reject(where, error.code)
            continue
        if one.id in seen:
            report.reject(where, "duplicate_id")
            continue
        seen.add(one.id)
        found.append(one)
        report.keep(where, repairs)
    return found, report


def _esconv_items(path: Path, report: Report) -> Iterator[tuple[str, Any]]:
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise Problem(f"{path}: cannot be read as ESConv ({error}); fetch it again, or check the path") from error
    if text.lstrip().startswith("["):
        try:
            items = json.loads(text)
        except ValueError as error:
            raise Problem(f"{path}: is not whole JSON ({error}); fetch it again") from error
        yield from ((f"item {n}", item) for n, item in enumerate(items))
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except ValueError:
                report.reject(f"line {number}", "bad_json")


def _esconv_dialogue(item: Any, where: str, repairs: list[str]) -> Dialogue:
    if not isinstance(item, dict):
        raise DialogueError("not_an_object", "a dialogue is a JSON object")
    said = item.get("turns", item.get("dialog"))
    if not isinstance(said, list):
        raise DialogueError("no_turns", 'a dialogue has "turns" (or, as published, "dialog")')
    turns = _cleaned([_esconv_turn(t, repairs) for t in said], repairs)
    if len(turns) < 2:
        raise DialogueError("one_speaker_only", "a dialogue has turns of both speakers")
    provenance = {"source": str(item.get("source", "ESConv"))}
    return Dialogue(str(item.get("id", where)), None, "", tuple(turns), provenance)


def _esconv_turn(item: Any, repairs: list[str]) -> Turn:
    if not isinstance(item, dict):
        raise DialogueError("bad_turn", "a turn is a JSON object")
    text = item.get("text", item.get("content"))
    if item.get("speaker") not in ("seeker", "supporter", "usr", "sys") or not isinstance(text, str):
        raise DialogueError("bad_turn", 'a turn has "speaker" (seeker, supporter) and "text" or "content"')
    annotation = item.get("annotation")
    label = item.get("strategy") or (annotation.get("strategy") if isinstance(annotation, dict) else None)
    label = label.strip() if isinstance(label, str) and label.strip() else None
    if label in SPELLING:
        repairs.append("strategy_mapped")
    speaker = "seeker" if item["speaker"] in ("seeker", "usr") else "supporter"
    strategy = SPELLING.get(label, label) if label and speaker == "supporter" else None
    return Turn(speaker, text, strategy, item.get("train") is not False)


def _cleaned(turns: list[Turn], repairs: list[str]) -> list[Turn]:
    """As ``corpora.exchanged``, which pre-training uses, with the labels kept: of joined turns the first label."""
    joined: list[Turn] = []
    for turn in turns:
        text = corpora.clean(turn.text)
        if not text:
            repairs.append("empty_text")
        elif not joined or joined[-1].speaker != turn.speaker:
            joined.append(Turn(turn.speaker, text, turn.strategy, turn.train))
        elif joined[-1].text == text:
            repairs.append("doubled_turn")
        else:
            repairs.append("consecutive_turns_joined")
            last = joined[-1]
            whole = f"{last.text} {text}"
            joined[-1] = Turn(turn.speaker, whole, last.strategy or turn.strategy, last.train and turn.train)
    return joined


def _hub(where: str) -> Source:
    """A Hub dataset; the rows of one split. The digest is of the dialogues, so that a moved branch shows."""
    import datasets

    where, _, split = where.partition(":")
    name, _, revision = where.partition("@")
    try:
        rows = datasets.load_dataset(name, revision=revision or None, split=split or "train")
    except Exception as error:  # the library raises some thirty kinds; each means that there is no such data
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Problem(
            f'data source "hub:{where}": cannot be loaded ({reason}). Check the name, the revision and the split; '
            "for a private dataset log in first (hf auth login)."
        ) from error
    report, found = Report(name), []
    for number, row in enumerate(rows):
        repairs: list[str] = []
        try:
            found.append(row_dialogue(row, f"{name}/{number}", repairs))
            report.keep(f"row {number}", repairs)
        except DialogueError as error:
            report.reject(f"row {number}", error.code)
    return Source(name, tuple(found), report, content_sha256(found))


def row_dialogue(row: dict[str, Any], id: str, repairs: list[str]) -> Dialogue:
    """The dialogue of a table's row, whichever of the three forms it has; raises :class:`DialogueError`."""
    row = {key: value for key, value in row.items() if value is not None}
    if isinstance(row.get("messages"), list):
        return _chat(row["messages"], str(row.get("id", id)), repairs)
    if isinstance(row.get("turns"), list):
        provenance = row.get("provenance", {})
        try:
            provenance = json.loads(provenance) if isinstance(provenance, str) else provenance
        except ValueError as error:
            raise DialogueError("bad_provenance", "provenance is a table, or one as JSON") from error
        return dialogue.from_json({"id": id, "description": ""} | row | {"provenance": provenance})
    if isinstance(row.get("content"), list):
        if not all(isinstance(said, dict) for said in row["content"] if said):
            raise DialogueError("bad_turn", "a turn is a table")
        content = [{k: v for k, v in said.items() if v is not None} for said in row["content"] if said]
        return wild.dialogue_of(row | {"content": content}, repairs)
    raise DialogueError("unknown_form", 'a row has "turns", "messages" or "content"')


def _chat(messages: list[Any], id: str, repairs: list[str]) -> Dialogue:
    turns = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise DialogueError("bad_message", 'a message has "role" and "content"')
        if message.get("role") == "system":
            repairs.append("system_message_left_out")
            continue
        if message.get("role") not in ("user", "assistant"):
            raise DialogueError("bad_role", "a role is user or assistant (or system)")
        if not message["content"].strip():
            repairs.append("empty_text")
            continue
        speaker = "seeker" if message["role"] == "user" else "supporter"
        train, strategy = message.get("train") is not False, message.get("strategy") or None
        if not isinstance(strategy, str | None):
            raise DialogueError("bad_message", 'a message\'s "strategy" is a name')
        turns.append(Turn(speaker, message["content"].strip(), strategy, train))
    if not any(t.speaker == "supporter" for t in turns):
        raise DialogueError("no_supporter_turn", "there is no supporter turn")
    return Dialogue(id, None, "", tuple(wild.joined(turns, repairs)), {"source": "chat"})
