"""The loop: plan a round, ask, check, commit in the order of the plan, until the target is met or something says stop.

Determinism: round n is planned from the pool as it is when round n - 2 is complete, and what comes back is committed
slot by slot in the order of the plan, whatever order the network gives. So the log is a function of settings, seeds
and replies alone. Knows nothing of HTTP, money or the terminal.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import Awaitable, Sequence
from typing import Any

from extes.dialogue import Dialogue, content_hash, to_json
from extes.generation import cache, checks, ladder, plan, prompt, quota
from extes.generation.checks import Checked, Rejection
from extes.generation.client import Source
from extes.generation.drift import Drift
from extes.generation.duplicates import Duplicates, Sketch
from extes.generation.errors import Stop
from extes.generation.ladder import Parsed, Unparsable
from extes.generation.plan import Slot
from extes.generation.policy import Shelf
from extes.generation.pool import Pool
from extes.generation.settings import Settings
from extes.generation.state import Round

# One round under way while the one before it is being finished: no wait between rounds, and still a fixed order.
ROUNDS_OPEN = 2
# About what it takes to get one request onto the wire.
SENDING_SECONDS = 0.01

Request = dict[str, Any]
Resolved = tuple[list[Request], Parsed | None, float]  # the last: when it was back, in seconds of the monotonic clock


def text_of(dialogue: Dialogue) -> str:
    """What near-duplicates and drift are measured on: what is said, without names of speakers and strategies."""
    return "\n".join(t.text for t in dialogue.turns)


class Loop:
    """One run on one pool."""

    def __init__(self, pool: Pool, settings: Settings, source: Source) -> None:
        self._pool, self._settings, self._source = pool, settings, source
        self._quota = quota.scenarios(settings.target, settings.weights)
        self._duplicates = Duplicates(checks.DUPLICATE_JACCARD)
        self.drift = Drift()
        self._tasks: dict[tuple[int, int], asyncio.Task[Resolved]] = {}
        self._example = functools.lru_cache(maxsize=1024)(self._make_example)
        self._stretches = functools.lru_cache(maxsize=256)(self._make_stretches)

    def begin(self, seeds: Sequence[Dialogue]) -> None:
        """Bring the log up to date: a run event where settings changed, seeds that are new; then the indexes."""
        state = self._pool.state
        if state.settings != self._settings.to_json():
            self._pool.append({"event": "run", "settings": self._settings.to_json()})
        for seed in seeds:
            entry = state.entries.get(seed.id)
            if entry is None or entry.state != "seed" or self._pool.dialogue(seed.id) != seed:
                self._pool.append({"event": "seed", "dialogue": to_json(seed)})
        given = {seed.id for seed in seeds}
        for id in [id for id, e in state.entries.items() if e.state == "seed" and id not in given]:
            self._pool.append({"event": "retire", "id": id})
        if not any(e.state == "seed" for e in state.entries.values()):
            raise Stop("there are no seeds: name their folder with --seeds")
        self.drift.add_seeds([(text_of(d), e.exemplar.strategies) for e, d in self._pool.dialogues("seed")])
        for entry, dialogue in self._pool.dialogues():
            self._duplicates.add(dialogue.id, self._duplicates.sketch(text_of(dialogue)))
            if entry.exemplar.depth:
                self.drift.add(entry.exemplar.depth, text_of(dialogue), entry.exemplar.strategies)

    async def run(self) -> None:
        """Until the target is met. Any other end raises :class:`Stop`, once all that was in flight has come back."""
        state = self._pool.state
        try:
            while True:
                self._stop_if_barren()
                self._brake()
                self._plan()
                if not state.open:
                    break
                await self._finish(state.open[0])
                self._pool.sync()
        except Stop as why:
            self._source.stop(why)
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            raise
        except BaseException:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)  # each notes what it left behind
            raise

    def _plan(self) -> None:
        """Open rounds up to two, and start asking. Only between rounds: a resumed run must plan from the same log."""
        state, settings = self._pool.state, self._settings
        while len(state.open) < ROUNDS_OPEN and not (state.open and state.open[0].done):
            probe = state.open and state.open[-1].number == state.first_round
            if probe:
                break
            number = state.next_round
            slots = plan.plan_round(
                number,
                number == state.first_round,
                settings,
                Shelf(state.shelf, quota.strategy_deficit(state.strategies)),
                self._quota,
                state.kept,
                state.pending,
                random.Random(f"{settings.seed}/{number}"),
            )
            if not slots:
                break
            self._pool.append(
                {"event": "plan", "round": number, "rung": state.rung, "slots": [s.to_json() for s in slots]}
            )
        for round in state.open:
            for slot in round.slots[round.done :]:
                if (slot.round, slot.number) not in self._tasks:
                    self._tasks[slot.round, slot.number] = asyncio.create_task(self._resolve(slot, round.rung))

    async def _finish(self, round: Round) -> None:
        """Commit the rest of a round, slot by slot."""
        for slot in round.slots[round.done :]:
            requests, parsed, back = await self._tasks[slot.round, slot.number]
            # The place this answer frees is being filled right now; judging it can wait, sending cannot.
            await asyncio.sleep(max(0.0, back + SENDING_SECONDS - time.monotonic()))
            began = time.monotonic()
            self._commit(slot, requests, parsed)
            del self._tasks[slot.round, slot.number]
            self._stop_if_barren()
            # A queue of finished slots must not keep the next requests waiting: half of the time is the network's.
            await asyncio.sleep(time.monotonic() - began)

    def _stop_if_barren(self) -> None:
        if (barren := self._pool.state.barren) >= self._settings.give_up:
            raise Stop(
                f"nothing of the last {barren} answers could be kept; the counts by reason say why. "
                "Another --model, or a greater --give-up, would go on.",
                status=1,
            )

    async def _resolve(self, slot: Slot, first: str) -> Resolved:
        """Ask down the ladder until an answer can be parsed; every request made is in the list, the last one open."""
        requests: list[Request] = []
        rungs = ladder.RUNGS[ladder.RUNGS.index(first) :]
        for step, rung in enumerate(rungs):
            payload = self._payload(slot, rung)
            # Two slots may ask the same on purpose; a slot never asks the same twice.
            key = cache.key(self._settings.base_url, payload, f"slot {slot.name}")
            answer = await self._source.ask((slot.round, slot.number, step), key, payload)
            request: Request = {"key": key, "rung": rung, "state": "rejected"}
            if answer.tokens:
                t = answer.tokens
                request["tokens"] = {"input": t.input, "output": t.output, "cached": t.cached, "by": t.by}
            requests.append(request)
            if answer.code is None:
                try:
                    return requests, ladder.parse(answer.content, rung), time.monotonic()
                except Unparsable as error:
                    request |= {"code": "unparsable", "detail": str(error)}
                    continue
            request |= {"code": answer.code, "detail": answer.detail}
            if answer.code not in ("format_refused", "empty_reply"):
                break
        return requests, None, time.monotonic()

    def _payload(self, slot: Slot, rung: str) -> dict[str, Any]:
        examples = [self._example(id, rung) for id in slot.exemplars]
        return {
            "model": self._settings.model,
            "messages": prompt.messages(slot.scenario, examples, slot.strategies, slot.angles, rung),
            "temperature": self._settings.temperature,
            self._settings.limit_field: self._settings.max_tokens,
            **ladder.response_format(rung),
        }

    def _make_example(self, id: str, rung: str) -> tuple[str, str]:
        dialogue = self._pool.dialogue(id)
        return dialogue.scenario or "", prompt.example(dialogue, rung)

    def _make_stretches(self, id: str) -> set[tuple[str, ...]]:
        return checks.stretches(self._pool.dialogue(id).turns)

    def _commit(self, slot: Slot, requests: list[Request], parsed: Parsed | None) -> None:
        """Judge what came back and write it down: one event for a slot, whole or not at all."""
        last = requests[-1]
        judged = self._judge(slot, last, parsed) if parsed else None
        if isinstance(judged, Rejection):
            last |= {"code": judged.code, "detail": judged.detail}
        kept = None if judged is None or isinstance(judged, Rejection) else judged
        if kept:
            last["state"] = "accepted" if self._settings.auto_accept else "candidate"
        self._pool.append(
            {
                "event": "slot",
                "round": slot.round,
                "slot": slot.number,
                "requests": requests,
                "state": last["state"],
                "dialogue": to_json(kept[0]) if kept else None,
            }
        )
        if kept:
            dialogue, sketch = kept
            exemplar = self._pool.state.entries[dialogue.id].exemplar
            self._duplicates.add(dialogue.id, sketch)
            self.drift.add(exemplar.depth, text_of(dialogue), exemplar.strategies)

    def _judge(self, slot: Slot, request: Request, parsed: Parsed) -> Rejection | tuple[Dialogue, Sketch]:
        checked = checks.check(parsed, [(id, self._stretches(id)) for id in slot.exemplars])
        if isinstance(checked, Rejection):
            return checked
        dialogue = self._dialogue(slot, request, checked)
        sketch = self._duplicates.sketch(text_of(dialogue))
        if near := self._duplicates.nearest(sketch):
            return Rejection("near_duplicate", f"{near.id}, Jaccard {near.jaccard:.2f}")
        return dialogue, sketch

    def _dialogue(self, slot: Slot, request: Request, checked: Checked) -> Dialogue:
        provenance: dict[str, Any] = {
            "source": "generated",
            "model": self._settings.model,
            "exemplars": list(slot.exemplars),
            "rung": request["rung"],
            "request": request["key"],
            "depth": self._pool.state.depth(slot.exemplars),
            "asked": {"strategies": list(slot.strategies), "angles": list(slot.angles)},
        }
        if checked.repairs:
            provenance["repairs"] = list(checked.repairs)
        id = f"gen/{content_hash(slot.scenario, checked.turns)}"
        return Dialogue(id, slot.scenario, checked.description, checked.turns, provenance)

    def _brake(self) -> None:
        """Between rounds: has a depth drifted past its bounds?"""
        state, action = self._pool.state, self._settings.on_drift
        if action == "report" or (state.open and state.open[0].done):
            return
        if not state.braked and (crossed := self.drift.crossed()):
            self._pool.append({"event": "brake", "reasons": crossed, "action": action})
        if state.braked and action == "stop":
            raise Stop(
                f"drift: {'; '.join(state.braked)}. `extes pool stats` shows every depth. To go on from the seeds "
                "alone, run again with --on-drift seeds-only.",
                status=1,
            )


async def drive(loop: Loop, source: Source, more: Sequence[Awaitable[None]] = ()) -> None:
    """Run the loop with what goes on beside it (a view); ends when the loop ends."""
    beside = [asyncio.ensure_future(m) for m in more]
    try:
        await loop.run()
    finally:
        for task in beside:
            task.cancel()
        await source.close()
