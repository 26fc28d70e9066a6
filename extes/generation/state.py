"""What a pool's log adds up to. Pure: events in, counts and open rounds out. Knows nothing of files or the endpoint.

Events, in the order they come: ``run`` (settings), ``seed`` (a dialogue; again where it changed), ``retire`` (a seed
that was taken away), ``plan`` (a round's slots), ``slot`` (what became of one, with every request it took), ``brake``
(drift crossed a bound) and ``decision`` (a person's verdict on a candidate; made by the review, which is a part of its
own). A dialogue's state is the latest that the log gives it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from extes.generation import ladder
from extes.generation.plan import Slot
from extes.generation.policy import Exemplar

KEPT = ("accepted", "candidate")


@dataclass
class Entry:
    """A dialogue of the pool. ``span`` is where its event lies in the log: offset and length in bytes."""

    exemplar: Exemplar
    state: str
    parents: tuple[str, ...]
    span: tuple[int, int]


@dataclass
class Round:
    """A planned round; ``done`` slots are in the log already, in order."""

    number: int
    rung: str
    slots: list[Slot]
    done: int = 0


@dataclass
class State:
    """The sum of a log. ``first_round`` is that of the latest run; ``barren`` counts slots since one was kept."""

    entries: dict[str, Entry] = field(default_factory=dict)
    settings: dict[str, Any] | None = None
    runs: int = 0
    first_round: int = 0
    next_round: int = 0
    open: list[Round] = field(default_factory=list)
    kept: Counter[str] = field(default_factory=Counter)
    strategies: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[tuple[str, str | None]] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    repairs: Counter[str] = field(default_factory=Counter)
    rungs: Counter[str] = field(default_factory=Counter)
    tokens: dict[str, Counter[str]] = field(default_factory=lambda: {"provider": Counter(), "estimate": Counter()})
    requests: int = 0
    slots: int = 0
    given_up: int = 0
    barren: int = 0
    braked: tuple[str, ...] = ()
    _tried: Counter[str] = field(default_factory=Counter)
    _parsed: Counter[str] = field(default_factory=Counter)
    _refused: Counter[str] = field(default_factory=Counter)

    def apply(self, event: Mapping[str, Any], span: tuple[int, int]) -> None:
        """Add one event. Raises KeyError, TypeError or ValueError where it is not an event this version knows."""
        kind = event["event"]
        if kind == "slot":
            self._slot(event, span)
        elif kind == "seed":
            self._enter(event["dialogue"], "seed", 0, (), span)
        elif kind == "plan":
            slots = [Slot.from_json(event["round"], n, s) for n, s in enumerate(event["slots"])]
            self.open.append(Round(event["round"], event["rung"], slots))
            self.next_round = event["round"] + 1
        elif kind == "run":
            self._run(event["settings"])
        elif kind == "retire":
            self.entries[event["id"]].state = "retired"
        elif kind == "brake":
            self.braked = tuple(event["reasons"])
        elif kind == "decision":
            self._decision(event)
        else:
            raise ValueError(f"unknown event {kind!r}")

    @property
    def shelf(self) -> list[Exemplar]:
        """What exemplars are drawn from: seeds and accepted dialogues; seeds alone once the brake is on."""
        states = ("seed",) if self.braked else ("seed", "accepted")
        return [e.exemplar for e in self.entries.values() if e.state in states]

    @property
    def pending(self) -> Counter[str]:
        """Slots planned and not yet back, by scenario."""
        return Counter(slot.scenario for r in self.open for slot in r.slots[r.done :])

    @property
    def rung(self) -> str:
        """Where the ladder starts, from what this endpoint did in this pool."""
        return ladder.first_rung(self._tried, self._parsed, self._refused)

    def waiting(self, finished: int) -> str:
        """What to say of the finished requests in the cache that no slot of the log has used; empty where none is.

        Fewer than the log has used: the cache was lost or put back, and nothing can be said.
        """
        unused = finished - (self.requests - self.outcomes[("rejected", "no_reply")])
        if unused <= 0:
            return ""
        if self.given_up:
            return f"and {unused} answers in the cache are of no slot, some of them of slots that were given up"
        return f"and {unused} answers wait in the cache: the next run takes them up without asking again"

    def depth(self, parents: tuple[str, ...]) -> int:
        return 1 + max((self.entries[p].exemplar.depth for p in parents if p in self.entries), default=0)

    def _run(self, settings: Mapping[str, Any]) -> None:
        before = self.settings or {}
        if any(before.get(k) != settings[k] for k in ("base_url", "model")):
            self._tried, self._parsed, self._refused = Counter(), Counter(), Counter()
        self.given_up += self.pending.total()
        self.open = []
        self.settings, self.first_round = dict(settings), self.next_round
        self.runs, self.barren, self.braked = self.runs + 1, 0, ()

    def _slot(self, event: Mapping[str, Any], span: tuple[int, int]) -> None:
        current = self.open[0]
        if (current.number, current.done) != (event["round"], event["slot"]):
            raise ValueError(f"slot {event['round']}/{event['slot']} out of order")
        slot = current.slots[current.done]
        for request in event["requests"]:
            self._request(request)
        current.done += 1
        if current.done == len(current.slots):
            self.open.pop(0)
        self.slots += 1
        self.barren += 1
        if event["state"] in KEPT:
            self._enter(event["dialogue"], event["state"], self.depth(slot.exemplars), slot.exemplars, span)
            self.kept[slot.scenario] += 1
            self.strategies.update(t["strategy"] for t in event["dialogue"]["turns"] if "strategy" in t)
            self.repairs.update(event["dialogue"]["provenance"].get("repairs", ()))
            self.rungs[event["requests"][-1]["rung"]] += 1
            self.barren = 0

    def _request(self, request: Mapping[str, Any]) -> None:
        rung, code = request["rung"], request.get("code")
        self.requests += 1
        self.outcomes[(request["state"], code)] += 1
        if code:
            self.examples.setdefault(code, request.get("detail") or "")
        if tokens := request.get("tokens"):
            self.tokens[tokens["by"]].update({k: tokens[k] for k in ("input", "output", "cached")})
        if code == "format_refused":
            self._refused[rung] += 1
        elif code not in ("truncated", "provider_refused", "prompt_too_long", "bad_request", "no_reply"):
            self._tried[rung] += 1
            self._parsed[rung] += code not in ("unparsable", "empty_reply")

    def _enter(
        self, item: Mapping[str, Any], state: str, depth: int, parents: tuple[str, ...], span: tuple[int, int]
    ) -> None:
        strategies = tuple(t["strategy"] for t in item["turns"] if t.get("strategy"))
        exemplar = Exemplar(item["id"], item["scenario"], depth, strategies)
        self.entries[item["id"]] = Entry(exemplar, state, parents, span)

    def _decision(self, event: Mapping[str, Any]) -> None:
        entry = self.entries[event["id"]]
        if entry.state == "seed":
            raise ValueError("a seed is not reviewed here")
        self.kept[entry.exemplar.scenario] += (event["state"] in KEPT) - (entry.state in KEPT)
        entry.state = event["state"]
