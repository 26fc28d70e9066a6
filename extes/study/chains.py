"""Events and the chains they form. Pure: computes hashes, finds the first break, puts chains in order.

A chain is what one process wrote: places 1, 2, 3 ... and in each event's hash the hash of the one before. Its first
event (kind ``chain``) names the chains that it follows, with place and hash of their ends as it found them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any


class Broken(Exception):
    """The log is not what was written. The text names the first event that shows it."""


@dataclass(frozen=True)
class Event:
    """One thing that happened. ``hash`` covers this event and, through its predecessor's, all before it.

    ``seq`` is its row here; ``chain`` and ``place`` name it everywhere. ``text`` is its body as written, JSON.
    """

    seq: int
    chain: str
    place: int
    schema: int
    id: str
    at: str
    kind: str
    comparison: str | None
    number: int | None
    text: str
    hash: str

    @cached_property
    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.text)
        return body


@dataclass(frozen=True)
class Batch:
    """A run of one chain's events, both ends included, that travels as one."""

    chain: str
    first: int
    last: int

    @property
    def name(self) -> str:
        return f"{self.chain}-{self.first:08d}-{self.last:08d}"


def event_hash(event: Event, previous: str) -> str:
    """The hash of an event by the rule of its schema version; ``previous`` is the hash before it, "" for the first."""
    parts: list[Any] = [previous, event.id, event.at, event.kind, event.comparison, event.number, event.text]
    if event.schema >= 2:
        parts = [event.schema, event.chain, event.place, *parts]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class Check:
    """Takes the events of a log one by one and raises :class:`Broken` at the first that does not fit.

    ``beginnings`` are the log's events of kind ``chain``; ``ends`` the last place and hash of each chain so far. Chains
    may be mixed; within one, the order is that of its places.
    """

    def __init__(self, beginnings: Iterable[Event]) -> None:
        self.ends: dict[str, tuple[int, str]] = {}
        self._told: dict[tuple[str, int], tuple[str, str]] = {}
        for event in beginnings:
            for chain, (place, hash) in event.body["follows"].items():
                self._told.setdefault((chain, place), (hash, event.chain))

    def add(self, event: Event) -> None:
        place, previous = self.ends.get(event.chain, (0, ""))
        where = f"event {event.place} of chain {event.chain} ({event.kind}, {event.at})"
        if event.place != place + 1:
            raise Broken(f"{where} comes after event {place}: what was between is missing or out of order")
        if event_hash(event, previous) != event.hash:
            raise Broken(f"{where} does not follow from those before it: it, or the one before it, was altered")
        if told := self._told.pop((event.chain, event.place), None):
            hash, by = told
            if hash != event.hash:
                raise Broken(f"{where} is not the event that chain {by} found there")
        self.ends[event.chain] = (event.place, event.hash)

    def finish(self) -> None:
        """After the last event: no chain may be shorter than a later one found it."""
        for (chain, place), (_, by) in self._told.items():
            last = self.ends.get(chain, (0, ""))[0]
            raise Broken(f"event {last + 1} of chain {chain} is missing: chain {by} found {place} events there")

    @property
    def seal(self) -> str:
        """One hash over the ends of all chains: 64 hex digits that stand for the whole log."""
        return hashlib.sha256(json.dumps(sorted(self.ends.items())).encode()).hexdigest()


def in_order(chains: Mapping[str, Sequence[Event]]) -> list[Event]:
    """The events of several whole chains as one sequence: after what their chain follows, else by time.

    A clock that stepped back, or differs between machines, puts no event before one that its chain builds on. Raises
    :class:`Broken` where chains follow one another in a circle.
    """
    follows = {chain: _follows(events[0], chains) for chain, events in chains.items()}
    times: dict[str, list[str]] = {}
    keyed: list[tuple[tuple[str, int, int], Event]] = []
    try:
        order = list(TopologicalSorter(follows).static_order())
    except CycleError as error:
        raise Broken(f"chains {', '.join(error.args[1])} follow one another in a circle") from error
    for rank, chain in enumerate(order):
        latest = max((times[o][place - 1] for o, place in follows[chain].items()), default="")
        times[chain] = []
        for event in chains[chain]:
            latest = max(latest, event.at)
            times[chain].append(latest)
            keyed.append(((latest, rank, event.place), event))
    return [event for _, event in sorted(keyed, key=lambda pair: pair[0])]


def _follows(first: Event, chains: Mapping[str, Sequence[Event]]) -> dict[str, int]:
    """The chains that are here and that one follows, and how far they had come."""
    if first.kind != "chain":
        return {}
    told = first.body["follows"].items()
    return {other: place for other, (place, _) in told if other in chains and 0 < place <= len(chains[other])}
