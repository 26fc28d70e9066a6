"""The public corpora the starter models learn from: reading, cleaning, splitting, hashing.

Knows the corpora's file form and their blemishes. Does not know tokens, models or templates.

Form: one JSON object a line, gzipped, with ``id``, ``source`` and ``turns: [{speaker, text, strategy?}]``.
The text of the corpora is never part of this repository; ``--corpora DIR`` says where it lies.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training import exchanges

CORPORA = {
    "empathetic-dialogues": "EmpatheticDialogues (Rashkin et al. 2019), CC BY-NC 4.0",
    "self-dialogue": "Self-dialogue corpus (Fainberg et al. 2018), BSD 3-Clause",
    "topical-chat": "Topical-Chat (Gopalakrishnan et al. 2019), CDLA-Sharing-1.0",
    "counsel-chat": "Counsel-Chat (Bertagnolli 2020), MIT on the repository; texts from a public site",
    "esconv-part": "ESConv (Liu et al. 2021), about 40 %, CC BY-NC 4.0",
}

HELD_OUT_PER_MILLE = 20
EXCHANGES_PER_MILLE = 100  # as many as tuning holds out, so that what it scores is new to the base as well
SITUATIONS = "empathetic-situations"
EXCHANGES = {
    "exchanges-by-scenario": "by-scenario",
    "exchanges-by-kind": "by-kind",
}  # the folders of training/exchanges
FEWEST_WORDS = 5  # a situation of fewer is a note, not a message

_SENTENCE_START = re.compile(r"(^|[.!?]\s+)([a-z])")
_LONE_I = re.compile(r"\bi(?=\b(?!\.e))")
_SPACES = re.compile(r"\s+")
_SPACE_BEFORE_PUNCTUATION = re.compile(r"\s+([.,!?;:])(?=\s|$)")
_REPEATED = re.compile(r"([!?.,])\1{2,}")
_PLAIN = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-", "\u2026": "..."}
)


@dataclass(frozen=True)
class Exchanged:
    """A dialogue as training sees it: alternating ``(role, text)`` with role ``user`` or ``assistant``."""

    id: str
    turns: tuple[tuple[str, str], ...]
    key: str = ""  # what decides the split, where it is not the opening message


def clean(text: str) -> str:
    """Plain quotes, single spaces, capital at each sentence's start, "I" for "i", a mark at the end.

    The corpora differ in case (one is all lower case); a small model should not spend its weights on that.
    """
    text = _SPACES.sub(" ", text.translate(_PLAIN)).strip()
    text = text.encode("ascii", "ignore").decode()
    text = _SPACE_BEFORE_PUNCTUATION.sub(r"\1", text)
    text = _REPEATED.sub(r"\1\1\1", text)
    text = _LONE_I.sub("I", text)
    text = _SENTENCE_START.sub(lambda m: m[1] + m[2].upper(), text)
    if text and text[-1].isalnum():
        text += "."
    return text


def exchanged(id: str, turns: list[tuple[str, str]]) -> Exchanged:
    """Clean the turns, drop empty and doubled ones, and join consecutive turns of one speaker."""
    joined: list[tuple[str, str]] = []
    for speaker, raw in turns:
        role, text = ("user" if speaker == "seeker" else "assistant"), clean(raw)
        if not text:
            continue
        if joined and joined[-1][0] == role:
            if joined[-1][1] != text:
                joined[-1] = (role, f"{joined[-1][1]} {text}")
        else:
            joined.append((role, text))
    return Exchanged(id, tuple(joined))


def read(corpora: Path, name: str) -> Iterator[Exchanged]:
    """The dialogues of a corpus. ``empathetic-situations`` is EmpatheticDialogues told anew: each opens with the
    situation as its speaker first wrote it down, in place of the opening message, and stays on the side of the split
    where the dialogue is. The exchanges are those of this project, as they are written: people do type so."""
    if name in EXCHANGES:
        yield from _exchanges(exchanges.FOLDER / EXCHANGES[name])
        return
    with gzip.open(path(corpora, name), "rt", encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            dialogue = exchanged(record["id"], [(t["speaker"], t["text"]) for t in record["turns"]])
            if len(dialogue.turns) < 2:
                continue
            if name == SITUATIONS:
                situation = clean(record["situation"])
                if len(situation.split()) < FEWEST_WORDS or dialogue.turns[0][0] != "user":
                    continue
                key, turns = split_key(dialogue), (("user", situation), *dialogue.turns[1:])
                dialogue = Exchanged(f"{dialogue.id}-situation", turns, key)
            yield dialogue


def _exchanges(folder: Path) -> Iterator[Exchanged]:
    for one in exchanges.load(folder):
        for told in one.variants(exchanges.VARIANTS):
            turns = tuple(("user" if t.speaker == "seeker" else "assistant", t.text) for t in told.turns)
            yield Exchanged(told.id, turns, one.id)


def sha256(corpora: Path, name: str) -> str:
    """Of the bytes that a corpus is read from."""
    if name not in EXCHANGES:
        return file_hash(path(corpora, name))
    digest = hashlib.sha256()
    for file in exchanges.files(exchanges.FOLDER / EXCHANGES[name]):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def path(corpora: Path, name: str) -> Path:
    return corpora / f"{'empathetic-dialogues' if name == SITUATIONS else name}.jsonl.gz"


def split_key(dialogue: Exchanged) -> str:
    """What decides the split: the opening message, so that two answers to one question stay on one side."""
    return dialogue.key or dialogue.turns[0][1].lower()[:80]


def held_out(dialogue: Exchanged) -> bool:
    few = EXCHANGES_PER_MILLE if dialogue.id.startswith("exchange/") else HELD_OUT_PER_MILLE
    return falls_out(split_key(dialogue), few)


def falls_out(key: str, per_mille: int) -> bool:
    """Whether a key is among the ``per_mille`` of all keys that are kept away; the same in every run."""
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:4], "big") % 1000 < per_mille


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
