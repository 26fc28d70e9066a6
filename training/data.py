"""What a model is tuned on: ESConv and the seeds, split, cut into windows. Knows roles and turns; tokens only by count.

A window is a run of whole exchanges of one dialogue that fits ``max_length`` tokens; the windows of a dialogue cover
all of its turns once. What does not fit even alone is counted and reported, never dropped in silence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from extes import seeds
from extes.dialogue import Dialogue
from training import corpora
from training.corpora import Exchanged

Messages = list[dict[str, str]]


def seed_split(held_out: int) -> tuple[list[Dialogue], list[Dialogue]]:
    """Seeds for training and seeds kept away, chosen by the hash of their ids."""
    dialogues, problems = seeds.load()
    if problems:
        raise SystemExit("the seeds cannot be read:\n" + "\n".join(problems))
    order = sorted(dialogues, key=lambda d: hashlib.sha256(d.id.encode()).hexdigest())
    return order[held_out:], order[:held_out]


def from_seed(dialogue: Dialogue) -> Exchanged:
    return Exchanged(dialogue.id, tuple((m["role"], m["content"]) for m in dialogue.messages()))


def tuning_data(corpora_dir: Path, held_out_seeds: int) -> tuple[list[Exchanged], dict[str, list[Exchanged]]]:
    """Dialogues to train on, and the held-out ones by source."""
    esconv = list(corpora.read(corpora_dir, "esconv-part"))
    kept, away = seed_split(held_out_seeds)
    train = [d for d in esconv if not corpora.held_out(d)] + [from_seed(d) for d in kept]
    held = {"esconv": [d for d in esconv if corpora.held_out(d)], "seeds": [from_seed(d) for d in away]}
    return train, held


def windows(dialogue: Exchanged, length: Callable[[Messages], int], max_length: int) -> tuple[list[Messages], int]:
    """Windows of a dialogue, and the number of supporter turns that fit into none."""
    found: list[Messages] = []
    current: Messages = []
    lost = 0
    for exchange in _exchanges(dialogue.turns):
        if length(current + exchange) <= max_length:
            current = current + exchange
            continue
        if current:
            found.append(current)
        if length(exchange) <= max_length:
            current = exchange
        else:
            lost, current = lost + 1, []
    if current:
        found.append(current)
    return [w for w in found if any(m["role"] == "assistant" for m in w)], lost


def _exchanges(turns: Sequence[tuple[str, str]]) -> list[Messages]:
    """Seeker turn with the supporter turn that answers it; a greeting stands alone."""
    exchanges: list[Messages] = []
    for role, text in turns:
        message = {"role": role, "content": text}
        if role == "user" or not exchanges or exchanges[-1][-1]["role"] == "assistant":
            exchanges.append([message])
        else:
            exchanges[-1].append(message)
    return exchanges
