"""What a pool holds, as text: states, reasons, counts, cost, drift, and the lineage of a dialogue. Reads only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from extes import taxonomy
from extes.generation import quota
from extes.generation.cache import Cache
from extes.generation.drift import Drift
from extes.generation.errors import Stop
from extes.generation.loop import text_of
from extes.generation.pool import Pool
from extes.generation.state import State


def drift_of(pool: Pool) -> Drift:
    """The drift of a whole pool, measured anew."""
    drift = Drift()
    drift.add_seeds([(text_of(d), e.exemplar.strategies) for e, d in pool.dialogues("seed")])
    for entry, dialogue in pool.dialogues():
        if entry.exemplar.depth:
            drift.add(entry.exemplar.depth, text_of(dialogue), entry.exemplar.strategies)
    return drift


def report(pool: Pool, paid: Cache | None) -> str:
    """Everything `extes pool stats` prints. ``paid`` is missing where a pool was copied without its cache."""
    return "\n".join(
        [
            *_states(pool),
            *_requests(pool.state, paid),
            *_money(pool.state, paid),
            *_drift(pool),
            *_mix(pool.state),
        ]
    )


def _states(pool: Pool) -> Iterator[str]:
    state = pool.state
    counts = Counter(e.state for e in state.entries.values())
    named = ("seed", "candidate", "accepted", "rejected") + ("retired",) * bool(counts["retired"])
    yield f"{pool.folder}: " + ", ".join(f"{counts[s]} {s}" for s in named)
    if pool.torn:
        yield f"the last line is cut short ({pool.torn} bytes); the next run sets it aside and makes that slot again"
    if state.settings:
        s = state.settings
        yield f"run {state.runs}: {s['model']} at {s['base_url']}, seed {s['seed']}, policy {s['policy']}"
        kept, target = state.kept.total(), s["target"]
        missing = f"{target - kept} missing" if kept < target else "met"
        yield f"target: {kept} of {target} kept, {missing}; {state.pending.total()} slots planned and not finished"


def _requests(state: State, paid: Cache | None) -> Iterator[str]:
    kept = {k: n for k, n in state.outcomes.items() if k[0] != "rejected"}
    rejected = {k[1]: n for k, n in state.outcomes.items() if k[0] == "rejected"}
    parts = [f"{n} {k[0]}" for k, n in kept.items()] + [f"{sum(rejected.values())} rejected"]
    yield f"\n{state.requests} requests = {' + '.join(parts)}"
    if paid and (waiting := state.waiting(paid.finished())):
        yield f"  {waiting}"
    for code, n in sorted(rejected.items(), key=lambda item: -item[1]):
        yield f"  rejected {n:>7}  {code}  (first: {state.examples.get(code or '', '')})"
    for repair, n in state.repairs.most_common():
        yield f"  repaired {n:>7}  {repair}"
    if state.rungs:
        yield "  kept on rung: " + ", ".join(f"{n} {rung}" for rung, n in state.rungs.most_common())
    if state.given_up:
        yield f"  {state.given_up} planned slots were given up when settings changed"


def _money(state: State, paid: Cache | None) -> Iterator[str]:
    yield ""
    for by, name in (("provider", "counted by the provider"), ("estimate", "estimated by us")):
        t = state.tokens[by]
        if t.total():
            cached = f" ({t['cached']:,} of it cached)" if t["cached"] else ""
            yield f"tokens {name}: {t['input']:,} in{cached}, {t['output']:,} out"
    if paid is None:
        return
    spent, currencies = paid.spent(), paid.currencies()
    unit = "/".join(currencies) or "no currency"
    if currencies:
        yield f"cost: {spent.provider:.4f} {unit} by the provider's counts + {spent.estimate:.4f} by our estimates"
        kept = state.kept.total()
        if kept:
            yield f"cost a kept dialogue: {(spent.provider + spent.estimate) / kept:.6f} {unit}"
    if spent.lost_requests:
        most = f"at most {spent.lost:.4f} {unit}" if spent.lost else "which may have been billed"
        yield f"unanswered after sending: {spent.lost_requests} requests, {most}"
    if spent.unpriced:
        yield f"without a price: {spent.unpriced} replies; give --prices FILE to the next run to price them"


def _drift(pool: Pool) -> Iterator[str]:
    drift = drift_of(pool)
    yield "\ndepth  dialogues  Distinct-1  Distinct-2  entropy  words  similarity to the seeds"
    for m in drift.measures():
        yield (
            f"{m.depth:5}  {m.dialogues:9}  {m.distinct_1:10.3f}  {m.distinct_2:10.3f}  {m.entropy:7.2f}  "
            f"{m.words:5.0f}  {m.similarity:10.3f}"
        )
    for line in drift.crossed():
        yield f"past a bound: {line}"
    if pool.state.braked:
        yield f"brake: seeds only, since {'; '.join(pool.state.braked)}"


def _mix(state: State) -> Iterator[str]:
    wanted: dict[str, int] = {}
    if state.settings:
        wanted = quota.scenarios(state.settings["target"], state.settings["weights"])
    yield "\n kept   quota  scenario"
    for scenario in taxonomy.SCENARIOS:
        yield f"{state.kept[scenario.name]:5}  {wanted.get(scenario.name, 0):6}  {scenario.name}"
    total = state.strategies.total()
    yield "\nturns  share  wanted  strategy"
    for strategy in taxonomy.STRATEGIES:
        n = state.strategies[strategy.name]
        share = n / total if total else 0.0
        yield f"{n:5}  {share:5.1%}  {quota.STRATEGY_SHARE[strategy.name]:6.1%}  {strategy.name}"


def lineage(state: State, id: str) -> str:
    """The exemplars of a dialogue, and theirs, down to the seeds. What was shown already is not spelled out again."""
    if id not in state.entries:
        near = [i for i in state.entries if id in i]
        hint = f"; there is {', '.join(near[:3])}" if near else ""
        raise Stop(f"the pool has no dialogue {id!r}{hint}")
    lines: list[str] = []
    shown: set[str] = set()

    def walk(id: str, indent: int) -> None:
        entry = state.entries[id]
        again = id in shown and bool(entry.parents)
        lines.append(f"{'  ' * indent}{id}  ({entry.state}, {entry.exemplar.scenario}){' as above' * again}")
        shown.add(id)
        for parent in () if again else entry.parents:
            walk(parent, indent + 1)

    walk(id, 0)
    return "\n".join(lines)
