"""One run from start to end: pool, cache, endpoint, loop and view put together, and what it says before and after.

The only place where the parts meet. Knows the environment (``OPENAI_API_KEY``); decides nothing about content.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from extes.dialogue import Dialogue
from extes.generation import cache, client, ladder, money, plan, prompt, quota, view
from extes.generation.cache import Cache
from extes.generation.errors import Stop
from extes.generation.gate import Gate
from extes.generation.loop import Loop, drive
from extes.generation.money import Price
from extes.generation.plan import Slot
from extes.generation.policy import Exemplar, Shelf
from extes.generation.pool import LOG, Pool
from extes.generation.pressure import Pressure
from extes.generation.purse import Purse
from extes.generation.settings import Settings
from extes.generation.settler import Settler

# An answer to our prompt, in tokens, until this pool has some of its own to go by.
ANSWER_TOKENS = 1100


@dataclass(frozen=True)
class Means:
    """How a run is carried out: nothing of it changes what is asked, so nothing of it is in :class:`Settings`."""

    concurrency: int = 32
    timeout: float = 300.0
    budget: float | None = None
    prices: Path | None = None
    batch: bool = False
    poll: float = 30.0
    backoff: float = client.BACKOFF_FIRST
    every: float = view.LINE_SECONDS


def run(folder: Path, settings: Settings, seeds: Sequence[Dialogue], means: Means) -> None:
    """Carry out a run and print its end. Raises :class:`Stop` where it ends short of its target."""
    price = money.read_price(means.prices, settings.model) if means.prices else None
    key = client.api_key(os.environ)
    with Pool(folder, write=True) as pool:
        if pool.torn:
            print(f"{pool.path}: the last line was cut short; set aside, its slot is made again", file=sys.stderr)
        store = Cache(folder)
        try:
            purse = _purse(store, means, price)
            print(_before(pool, settings, seeds, purse, means), file=sys.stderr, flush=True)
            try:
                asyncio.run(_run(pool, settings, seeds, means, store, purse, key))
            finally:
                print(_after(pool, store, purse), file=sys.stderr, flush=True)
        finally:
            store.close()


async def _run(
    pool: Pool, settings: Settings, seeds: Sequence[Dialogue], means: Means, store: Cache, purse: Purse, key: str
) -> None:
    pressure = Pressure(means.concurrency)
    gate = Gate(pressure, purse)
    connection = client.connect(settings.base_url, key, means.timeout)
    settler = Settler(store, purse, means.batch)
    source: client.Source
    if means.batch:
        from extes.generation.batch import Batched

        source = Batched(connection, settler, means.poll)
    else:
        if out := store.in_batches():
            reserved = sum(most or 0.0 for _, most in out.values())
            purse.reserve(reserved)
            print(
                f"{len(out)} requests lie in a batch of an earlier run: --batch collects them. Without it they are "
                f"asked again, and their most ({reserved:.4f}) counts against the budget.",
                file=sys.stderr,
            )
        source = client.Online(connection, gate, settler, means.timeout, means.backoff)
    loop = Loop(pool, settings, source)
    loop.begin(seeds)
    kept_before, started = pool.state.kept.total(), time.monotonic()

    def look() -> view.Progress:
        seconds = time.monotonic() - started
        return view.progress(pool.state, settings, purse, pressure, source.traffic, kept_before, seconds)

    interrupted = Stop("stopped by Ctrl-C. Run the same command again to go on.", status=130)
    presses, main = 0, asyncio.current_task()

    def interrupt() -> None:
        nonlocal presses
        presses += 1
        if presses > 1 and main:
            main.cancel()
            return
        if pressure.in_flight:
            print(
                f"\nstopping when the {pressure.in_flight} requests in flight are back; Ctrl-C again leaves them, "
                "though they may be billed",
                file=sys.stderr,
                flush=True,
            )
        source.stop(interrupted)

    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupt)
    try:
        await drive(loop, source, [view.show(look, every=means.every)])
    except asyncio.CancelledError:
        if presses > 1:
            raise interrupted from None
        raise
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
        print(look().line(), file=sys.stderr, flush=True)
        if source.traffic:
            print("traffic: " + ", ".join(f"{n} {what}" for what, n in source.traffic.items()), file=sys.stderr)


def _purse(store: Cache, means: Means, price: Price | None) -> Purse:
    """What this pool has cost so far; replies of runs without a price get this one's."""
    if price is None:
        return Purse()
    if others := [c for c in store.currencies() if c != price.currency]:
        raise Stop(f"--prices: this pool was paid for in {others[0]}, the file is in {price.currency}")
    store.price({k: money.cost(t, price, batch) for k, t, batch in store.unpriced()}, price.currency)
    store.price_lost({id: money.most(n, limit, price, None) for id, n, limit, cost in store.lost() if cost is None})
    spent = store.spent()
    return Purse(means.budget, price, spent.provider + spent.estimate, spent.lost)


def _before(pool: Pool, settings: Settings, seeds: Sequence[Dialogue], purse: Purse, means: Means) -> str:
    """The estimate, before anything is sent."""
    state = pool.state
    missing = max(0, settings.target - state.kept.total())
    share = state.kept.total() / state.requests if state.kept.total() else 1.0
    known = state.tokens["provider"] + state.tokens["estimate"]
    answer = known["output"] / state.requests if known["output"] else float(min(ANSWER_TOKENS, settings.max_tokens))
    size = money.prompt_bytes(_first_payload(settings, seeds))
    e = money.estimate(missing, share, size, answer, purse.price, means.batch)
    lines = [
        f"{pool.path}: {state.kept.total()} of {settings.target} kept; {missing} to go with {settings.model}",
        f"estimate: {e.requests} requests, {e.input_tokens:,} tokens in, {e.output_tokens:,} out"
        + (f", if {share:.0%} is kept as so far" if state.requests else ", if everything is kept"),
    ]
    if purse.price and e.cost is not None:
        p = purse.price
        lines.append(
            f"estimate: {e.cost:.4f} {p.currency} at the prices of {p.date}; spent so far: {purse.most:.4f}"
            + (f"; budget {purse.budget:.4f}" if purse.budget is not None else "")
        )
        if purse.budget is not None and purse.most + e.cost > purse.budget:
            lines.append("estimate: the budget will not be enough; the run stops before it is crossed")
    else:
        lines.append("estimate: no cost, for no --prices FILE was given")
    return "\n".join(lines)


def _after(pool: Pool, store: Cache, purse: Purse) -> str:
    state, spent = pool.state, store.spent()
    kept = sum(n for (s, _), n in state.outcomes.items() if s != "rejected")
    rejected = {code: n for (s, code), n in state.outcomes.items() if s == "rejected"}
    lines = [f"{state.requests} requests = {kept} kept + {sum(rejected.values())} rejected"]
    if waiting := state.waiting(store.finished()):
        lines.append(waiting)
    for code, n in sorted(rejected.items(), key=lambda item: -item[1]):
        lines.append(f"  rejected {n:>7}  {code}  (first: {state.examples.get(code or '', '')})")
    if purse.price:
        unit = purse.price.currency
        lines.append(f"spent: {spent.provider:.4f} {unit} by provider's counts, {spent.estimate:.4f} by estimate")
        if spent.lost_requests:
            lines.append(f"  and at most {spent.lost:.4f} for {spent.lost_requests} requests that were cut off")
    return "\n".join(lines)


def _first_payload(settings: Settings, seeds: Sequence[Dialogue]) -> dict[str, object]:
    """The first request of a new pool, as the loop would make it."""
    import random
    from collections import Counter

    shelf = Shelf(
        [Exemplar(s.id, s.scenario or "", 0, tuple(t.strategy for t in s.turns if t.strategy)) for s in seeds],
        quota.strategy_deficit(Counter()),
    )
    wanted = quota.scenarios(settings.target, settings.weights)
    rng = random.Random(f"{settings.seed}/0")
    slot: Slot = plan.plan_round(0, True, settings, shelf, wanted, Counter(), Counter(), rng)[0]
    by_id = {s.id: s for s in seeds}
    rung = ladder.RUNGS[0]
    examples = [(by_id[id].scenario or "", prompt.example(by_id[id], rung)) for id in slot.exemplars]
    return {
        "model": settings.model,
        "messages": prompt.messages(slot.scenario, examples, slot.strategies, slot.angles, rung),
        **ladder.response_format(rung),
    }


def preview(folder: Path, settings: Settings, seeds: Sequence[Dialogue], means: Means) -> str:
    """What ``--dry-run`` prints: the estimate, and the first request of a new pool. Sends and writes nothing."""
    price = money.read_price(means.prices, settings.model) if means.prices else None
    if (folder / LOG).is_file():
        with Pool(folder, write=False) as pool:
            purse = _preview_purse(folder, means, price)
            text = _before(pool, settings, seeds, purse, means)
    else:
        missing = settings.target
        size = money.prompt_bytes(_first_payload(settings, seeds))
        e = money.estimate(missing, 1.0, size, min(ANSWER_TOKENS, settings.max_tokens), price, means.batch)
        text = f"estimate: {e.requests} requests, {e.input_tokens:,} tokens in, {e.output_tokens:,} out, if all is kept"
        if price and e.cost is not None:
            text += f"\nestimate: {e.cost:.4f} {price.currency} at the prices of {price.date}"
    payload = _first_payload(settings, seeds)
    messages = payload["messages"]
    assert isinstance(messages, list)
    shown = "\n\n".join(f"--- {m['role']}\n{m['content']}" for m in messages)
    return f"{text}\n\nnothing was sent. The first request would be:\n\n{shown}"


def _preview_purse(folder: Path, means: Means, price: Price | None) -> Purse:
    if price is None or not (folder / cache.CACHE).is_file():
        return Purse(means.budget, price)
    store = Cache(folder, read_only=True)
    spent = store.spent()
    store.close()
    return Purse(means.budget, price, spent.provider + spent.estimate, spent.lost)
