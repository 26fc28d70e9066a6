"""ExTES.json as it circulates: read with every known defect repaired or rejected under a code, and written.

Form: a list of ``{"scene", "description", "content": [{"User": ...}, {"AI Strategy": ..., "AI": ...}, ...]}``.

Repairs (the dialogue is kept): ``odd_key``, ``user_and_ai_in_one_object``, ``null_text``, ``empty_text``,
``response_in_dict``, ``text_in_list``, ``strategy_mapped``, ``strategy_unknown``, ``scene_mapped``, ``scene_unknown``,
``scene_missing``, ``consecutive_turns_joined``, ``extra_top_level_key``, ``extra_turn_key``, ``description_missing``,
``not_a_turn``, ``ai_first``, ``user_last`` (both kept as they are), ``invalid_utf8`` and
``lone_surrogate``.
Rejections (it is not): ``not_an_object``, ``no_content``, ``no_supporter_turn``, ``no_seeker_turn``,
``duplicate``, ``bad_json`` and ``file_truncated`` (the unreadable rest of a file counts as one item).
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from extes import taxonomy
from extes.dialogue import Dialogue, DialogueError, Report, Turn, content_hash, read_text, whole

_SEPARATORS = re.compile(r"[\s,]*")
_TOP_LEVEL = {"scene", "description", "content"}
_SPEAKER_KEYS = {"seeker": {"user", "seeker"}, "supporter": {"ai", "assistant", "supporter"}}
_BESIDE_A_SPEAKER = {"a", "b", "response", "reply", "text", "message", "utterance"}


def read_extes_json(path: Path) -> tuple[list[Dialogue], Report]:
    """Read an ExTES file; returns the dialogues and a report whose counts add up.

    Raises :class:`DialogueError` where the file as a whole is no ExTES file: unreadable, empty, not JSON.
    """
    text, damaged = read_text(path)
    report = Report(str(path))
    dialogues: list[Dialogue] = []
    seen: set[str] = set()
    for where, item in _items(text, report, path):
        repairs = []
        try:
            mended = whole(item)
            if mended != item:
                repairs.append("lone_surrogate")
            elif damaged and "\ufffd" in json.dumps(item, ensure_ascii=False):
                repairs.append("invalid_utf8")
            dialogue = dialogue_of(mended, repairs)
        except DialogueError as error:
            report.reject(where, error.code)
            continue
        except RecursionError:  # writing a value takes a few levels more than reading it
            report.reject(where, "bad_json")
            continue
        if dialogue.id in seen:
            report.reject(where, "duplicate")
            continue
        seen.add(dialogue.id)
        dialogues.append(dialogue)
        report.keep(where, repairs)
    return dialogues, report


def write_extes_json(dialogues: Iterable[Dialogue], path: Path) -> None:
    """Write the circulating form, one dialogue a line inside the list, whole or not at all."""
    staging = path.with_name(path.name + ".tmp")
    with staging.open("w", encoding="utf-8") as out:
        out.write("[")
        for n, dialogue in enumerate(dialogues):
            content = [
                {"User": t.text} if t.speaker == "seeker" else {"AI Strategy": t.strategy or "", "AI": t.text}
                for t in dialogue.turns
            ]
            item = {"scene": dialogue.scenario or "", "description": dialogue.description, "content": content}
            out.write(("," if n else "") + "\n" + json.dumps(item, ensure_ascii=False))
        out.write("\n]\n")
    staging.replace(path)


def _items(text: str, report: Report, path: Path) -> Iterator[tuple[str, Any]]:
    """Each item of the list, decoded one by one, so that a file cut in half still yields what is whole."""
    start = _SEPARATORS.match(text).end()  # type: ignore[union-attr]
    if text[start : start + 1] not in ("[", "{"):
        raise DialogueError("not_json", f"{path}: not an ExTES file; it begins with {text[start : start + 20]!r}")
    closed = text[start] == "{"
    position = start if closed else start + 1
    decoder, index = json.JSONDecoder(), 0
    while True:
        position = _SEPARATORS.match(text, position).end()  # type: ignore[union-attr]
        if position >= len(text):
            if not closed:
                report.reject(f"item {index}", "file_truncated")
            return
        if text[position] == "]" and not closed:
            if text[position + 1 :].strip():
                report.reject(f"item {index}", "bad_json")
            return
        try:
            item, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            cut = not closed and not text.rstrip().endswith("]")
            report.reject(f"item {index}", "file_truncated" if cut else "bad_json")
            return
        yield f"item {index}", item
        index += 1


def dialogue_of(item: Any, repairs: list[str]) -> Dialogue:
    if not isinstance(item, dict):
        raise DialogueError("not_an_object", "an item is a JSON object")
    content = item.get("content")
    if not isinstance(content, list) or not content:
        raise DialogueError("no_content", '"content" is missing or empty')
    extra = {k: v for k, v in item.items() if k not in _TOP_LEVEL}
    if extra:
        repairs.append("extra_top_level_key")
    turns = joined([turn for entry in content for turn in _turns(entry, repairs)], repairs)
    speakers = {t.speaker for t in turns}
    for speaker in ("seeker", "supporter"):
        if speaker not in speakers:
            raise DialogueError(f"no_{speaker}_turn", f"there is no {speaker} turn")
    if turns[0].speaker == "supporter":
        repairs.append("ai_first")
    if turns[-1].speaker == "seeker":
        repairs.append("user_last")
    scenario = _scenario(item.get("scene"), repairs)
    description = item.get("description")
    if not isinstance(description, str) or not description.strip():
        repairs.append("description_missing")
        description = ""
    provenance: dict[str, Any] = {"source": "ExTES"}
    if item.get("scene") != scenario:
        provenance["scene"] = item.get("scene")
    if extra:
        provenance["extra"] = extra
    return Dialogue(f"extes/{content_hash(scenario, turns)}", scenario, description.strip(), tuple(turns), provenance)


def _scenario(scene: Any, repairs: list[str]) -> str | None:
    if not isinstance(scene, str) or not scene.strip():
        repairs.append("scene_missing")
        return None
    scenario = taxonomy.closest_scenario(scene)
    if scenario is None:
        repairs.append("scene_unknown")
    elif scenario != scene:
        repairs.append("scene_mapped")
    return scenario


def _turns(entry: Any, repairs: list[str]) -> Iterator[Turn]:
    """The turns in one object: usually one, sometimes the seeker's and the supporter's together."""
    if not isinstance(entry, dict):
        repairs.append("not_a_turn")
        return
    said: list[tuple[str, Any]] = []
    label: Any = None
    for key, value in entry.items():
        kind = _kind(key)
        if kind == "strategy":
            label = value
            if key != "AI Strategy":
                repairs.append("odd_key")
        elif kind:
            said.append((kind, value))
            if key not in ("User", "AI"):
                repairs.append("odd_key")
        else:
            repairs.append("extra_turn_key")
    if len(said) > 1:
        repairs.append("user_and_ai_in_one_object")
    if not said:
        repairs.append("not_a_turn")
    for speaker, value in said:
        text = _text(value, repairs)
        if not text:
            continue
        if speaker == "seeker":
            yield Turn("seeker", text)
        else:
            if isinstance(value, dict) and label is None:
                label = next((v for k, v in value.items() if _kind(k) == "strategy"), None)
            yield Turn("supporter", text, _strategy(label, repairs))


def _kind(key: str) -> str | None:
    """What a key holds, by its words: ``User A``, ``AI_strategy`` and ``AI Strategies`` occur."""
    words = set(re.sub(r"[^a-z]+", " ", key.lower()).split())
    if any(w.startswith("strateg") for w in words):
        return "strategy"
    for speaker, names in _SPEAKER_KEYS.items():
        if words & names and words <= names | _BESIDE_A_SPEAKER:
            return speaker
    return None


def _text(value: Any, repairs: list[str]) -> str:
    if value is None:
        repairs.append("null_text")
        return ""
    if isinstance(value, dict):
        repairs.append("response_in_dict")
        value = next((v for k, v in value.items() if k.lower() in ("response", "text", "content", "ai")), "")
    if isinstance(value, list):
        repairs.append("text_in_list")
        value = " ".join(v for v in value if isinstance(v, str))
    text = value.strip() if isinstance(value, str) else ""
    if not text:
        repairs.append("empty_text")
    return text


def _strategy(label: Any, repairs: list[str]) -> str | None:
    """An empty label is how ExTES marks greetings and goodbyes: no repair, no strategy."""
    if isinstance(label, list):
        label = next((v for v in label if isinstance(v, str)), "")
    if not isinstance(label, str) or not label.strip():
        return None
    strategy = taxonomy.closest_strategy(label)
    if strategy is None:
        repairs.append("strategy_unknown")
    elif strategy != label:
        repairs.append("strategy_mapped")
    return strategy


def joined(turns: list[Turn], repairs: list[str]) -> list[Turn]:
    """Consecutive turns of one speaker become one; the first strategy among them is kept."""
    said: list[Turn] = []
    for speaker, run in itertools.groupby(turns, key=lambda turn: turn.speaker):
        together = list(run)
        strategy = next((turn.strategy for turn in together if turn.strategy), None)
        train = all(turn.train for turn in together)
        said.append(Turn(speaker, " ".join(turn.text for turn in together), strategy, train))
        repairs += ["consecutive_turns_joined"] * (len(together) - 1)
    return said
