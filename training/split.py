"""Which dialogues are kept away from training: by cluster and by lineage, never by row.

A cluster is what says nearly the same: dialogues with one telling opening, and near-duplicates (Jaccard index of word
3-grams from 0.5), joined transitively. A cluster stays on one side. Which side, its roots decide: the seeds a generated
dialogue descends from through its exemplars, or, where there is no lineage, the hash of its opening. A cluster with
roots on both sides is *set aside*: it neither trains nor is held out, because it would leak either way.

Knows dialogues; knows nothing of tokens or files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from extes import seeds
from extes.dialogue import Dialogue
from extes.generation.duplicates import Duplicates, Sketch
from training.corpora import falls_out

NEAR_DUPLICATE = 0.5
TELLING_WORDS = 5  # an opening of fewer ("Hi, how are you?") says nothing of what follows
SEED = "seed/"  # how the ids of seeds begin
Side = Literal["train", "held_out", "set_aside"]


@dataclass(frozen=True)
class Candidate:
    """A dialogue and where it is from. ``whole`` sources are held out entirely."""

    source: str
    dialogue: Dialogue
    whole: bool = False

    @property
    def key(self) -> str:
        """The opening message, so that two answers to one question stay on one side."""
        return self.dialogue.turns[0].text.lower()[:80]


def seeds_away(ids: Iterable[str], number: int) -> frozenset[str]:
    """The seeds kept away, chosen by the hash of their ids."""
    return frozenset(sorted(ids, key=lambda id: hashlib.sha256(id.encode()).hexdigest())[:number])


def seed_ids(candidates: Iterable[Candidate]) -> set[str]:
    """Of the seeds of this project, and of those that the data hold or descend from."""
    found, _ = seeds.load()
    ids = {d.id for d in found}
    for candidate in candidates:
        ids |= {id for id in (candidate.dialogue.id, *_parents(candidate.dialogue)) if id.startswith(SEED)}
    return ids


def split(
    candidates: Sequence[Candidate], away: frozenset[str], per_mille: int, sketches: Sequence[Sketch], lineage: bool
) -> list[Side]:
    """The side of each candidate, in their order.

    ``away`` are the ids of held-out seeds, ``per_mille`` the share of other roots. Without ``lineage``, generated
    dialogues are split like any others: siblings of training dialogues are then held out, which flatters a model.
    """
    trees = _Lineage({c.dialogue.id: c.dialogue for c in candidates} if lineage else {})
    sides: list[Side] = ["train"] * len(candidates)
    for cluster in _clusters(candidates, sketches):
        roots = {root for n in cluster for root in trees.roots(candidates[n].dialogue)}
        if not roots:
            roots = {min(candidates[n].key for n in cluster)}
        out = {root in away if root.startswith(SEED) else falls_out(root, per_mille) for root in roots}
        out |= {True for n in cluster if candidates[n].whole}
        side: Side = "set_aside" if len(out) == 2 else "held_out" if True in out else "train"
        for n in cluster:
            sides[n] = "held_out" if candidates[n].whole else side
    return sides


def leaking(train: Sequence[Sketch], held_out: Sequence[Sketch]) -> list[bool]:
    """Of each held-out dialogue: has it a near-duplicate among those that train?"""
    index = Duplicates(NEAR_DUPLICATE)
    for n, sketch in enumerate(train):
        index.add(str(n), sketch)
    return [bool(index.near(sketch)) for sketch in held_out]


def sketched(dialogues: Iterable[Dialogue]) -> list[Sketch]:
    """About half a millisecond each."""
    maker = Duplicates(NEAR_DUPLICATE)
    return [maker.sketch("\n".join(turn.text for turn in d.turns)) for d in dialogues]


class _Lineage:
    """Roots of generated dialogues, followed through exemplars to what was not generated. An exemplar that the data do
    not hold is a root itself: give the whole pool, or what it descends from cannot be known."""

    def __init__(self, known: Mapping[str, Dialogue]) -> None:
        self._known = known
        self._found: dict[str, frozenset[str]] = {}

    def roots(self, dialogue: Dialogue) -> frozenset[str]:
        """Empty where a dialogue has no lineage: it is then its own beginning."""
        if dialogue.id.startswith(SEED):
            return frozenset([dialogue.id])
        return self._of(dialogue.id) if dialogue.id in self._known and _parents(dialogue) else frozenset()

    def _of(self, id: str) -> frozenset[str]:
        if id not in self._found:
            self._found[id] = frozenset([id])  # also ends a circle, which only a damaged file can hold
            if parents := _parents(self._known[id]) if id in self._known else []:
                self._found[id] = frozenset[str]().union(*(self._of(p) for p in parents))
        return self._found[id]


def _parents(dialogue: Dialogue) -> list[str]:
    exemplars = dialogue.provenance.get("exemplars")
    return [e for e in exemplars if isinstance(e, str)] if isinstance(exemplars, list) else []


def _clusters(candidates: Sequence[Candidate], sketches: Sequence[Sketch]) -> Iterator[list[int]]:
    """Connected components of "opens alike" and "is a near-duplicate of"."""
    parent = list(range(len(candidates)))

    def find(n: int) -> int:
        while parent[n] != n:
            parent[n] = parent[parent[n]]
            n = parent[n]
        return n

    index, openings = Duplicates(NEAR_DUPLICATE), dict[str, int]()
    for n, (candidate, sketch) in enumerate(zip(candidates, sketches, strict=True)):
        alike = {int(near.id) for near in index.near(sketch)}
        if len(candidate.key.split()) >= TELLING_WORDS:
            alike.add(openings.setdefault(candidate.key, n))
        for other in alike:
            parent[find(n)] = find(other)
        index.add(str(n), sketch)
    groups: dict[int, list[int]] = {}
    for n in range(len(candidates)):
        groups.setdefault(find(n), []).append(n)
    yield from groups.values()
