"""Whether the dataset on the Hub says what the log says. Reads both; changes neither.

Every shard there is computed again from the log here and compared row by row; no piece may be there twice, nor rows in
files that are no shard; and everything that the dataset has acknowledged must be in one of its shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from extes.collection import shards
from extes.collection.remote import Dataset
from extes.study.chains import Batch
from extes.study.comparison import Comparison, fold
from extes.study.store import Store, StoreError


@dataclass
class Report:
    """``problems`` in the order in which they were met; empty: the copy is complete and unaltered."""

    shards: int = 0
    rows: int = 0
    elsewhere: int = 0
    waiting: int = 0
    problems: list[str] = field(default_factory=list)


def check(store: Store, dataset: Dataset) -> Report:
    """Compare. Raises :class:`extes.collection.remote.Unreachable` where the dataset cannot be read."""
    # A portal may be sending: what had arrived before we looked must be there, what is there by then may be ours.
    delivered = store.delivered(dataset.repo)
    files = dataset.shards()
    report = Report(waiting=store.backlog(dataset.repo))
    configs = {e.body["hash"]: e.body["config"] for e in store.events(kind="study")}
    known = store.ends()
    covered: dict[str, list[Batch]] = {config: [] for config in shards.PRIVATE}
    for path, content in files.items():
        config, batch = path.split("/")[0], shards.batch_of(path)
        if config not in covered:
            continue
        if batch is None or path != shards.path(config, batch):
            report.problems += _strange(path, config, content)
            continue
        if batch.chain not in known:
            report.elsewhere += 1
            continue
        report.shards += 1
        covered[config].append(batch)
        if batch.last > known[batch.chain]:
            report.problems.append(f"{path}: holds events that this log lacks; is it an older copy?")
            continue
        rename = _rename(store) if dataset.public else None
        expected = shards.rows(store.batch(batch), lambda c: _as_rated(store, c), configs, rename).get(config, [])
        try:
            found = shards.read(content)
        except ValueError as error:
            report.problems.append(f"{path}: {error}")
            continue
        report.rows += len(found)
        report.problems += _differences(path, expected, found, lambda c: _withdrawn(store, c))
    report.problems += _twice(covered)
    report.problems += _missing(store, dataset, delivered, covered)
    return report


def _strange(path: str, config: str, content: bytes) -> Iterator[str]:
    """A file that is no shard, but that readers of the config meet: only the first one, without rows, belongs there."""
    try:
        found = shards.read(content)
    except ValueError as error:
        yield f"{path}: {error}"
        return
    if config == "withdrawals":  # it begins with a row that names no comparison
        found = [row for row in found if row.get("comparison") is not None]
    if found or path != f"{config}/first.parquet":
        yield f"{path}: is no piece of a log, and has {len(found)} rows that readers of {config} count"


def _twice(covered: dict[str, list[Batch]]) -> Iterator[str]:
    """Pieces that overlap: readers of the config count what is in both twice."""
    for config, batches in covered.items():
        last: dict[str, Batch] = {}
        for batch in sorted(batches, key=lambda b: (b.chain, b.first, b.last)):
            before = last.get(batch.chain)
            if before and batch.first <= before.last:
                yield f"{shards.path(config, batch)}: holds again what {shards.path(config, before)} holds"
            if before is None or batch.last > before.last:
                last[batch.chain] = batch


def _differences(
    path: str, expected: list[dict[str, Any]], found: list[dict[str, Any]], withdrawn: Callable[[str], bool]
) -> Iterator[str]:
    """What is wrong with a shard's rows. That a rating withdrawn before it was sent has none is not."""
    if not path.startswith(("events/", "withdrawals/")):
        there = {row.get("comparison") for row in found}
        expected = [r for r in expected if r["comparison"] in there or not withdrawn(r["comparison"])]
    nameless = any(row.get("rater") == "" for row in expected)
    columns = set(expected[0] if expected else found[0] if found else ()) - {"schema_version"}
    version = found[0].get("schema_version") if found and not path.startswith("events/") else shards.SCHEMA_VERSION
    if not isinstance(version, int):
        yield f"{path}: its schema_version is {version!r}, which is no number"
        return
    if version < shards.SCHEMA_VERSION:
        columns &= set(found[0])  # an older schema lacks some
    columns -= {"rater"} if nameless else set()  # without the key, a pseudonym cannot be computed again
    wanted = [{k: v for k, v in row.items() if k in columns} for row in expected]
    given = [{k: v for k, v in row.items() if k in columns} for row in found]
    if wanted == given:
        return
    if sorted(map(repr, wanted)) == sorted(map(repr, given)):
        yield f"{path}: its rows are out of order"
        return
    for n, (want, have) in enumerate(zip(wanted, given, strict=False), 1):
        if want != have:
            where = ", ".join(k for k in want if want[k] != have.get(k))
            yield f"{path}: row {n} ({_name(want)}) is not what the log says, in: {where}"
            return
    if len(given) < len(wanted):
        yield f"{path}: {_name(wanted[len(given)])} is missing, and {len(wanted) - len(given) - 1} rows after it"
    else:
        yield f"{path}: row {len(wanted) + 1} ({_name(given[len(wanted)])}) is not in the log"


def _missing(store: Store, dataset: Dataset, delivered: list[Batch], covered: dict[str, list[Batch]]) -> Iterator[str]:
    """Events that the dataset acknowledged and that no shard of it covers."""
    for batch in delivered:
        for event in store.batch(batch):
            needed = [] if dataset.public else ["events"]
            if event.kind == "withdrawn":
                needed.append("withdrawals")
            elif event.kind == "rated":
                comparison = fold(store.events(comparison=event.comparison))
                if comparison and comparison.state == "rated" and comparison.rated_event == event:
                    needed.append("ratings")
                    if not dataset.public or comparison.opened["consent"]["publish_transcript"]:
                        needed.append("conversations")
            for config in needed:
                if not any(c.chain == event.chain and c.first <= event.place <= c.last for c in covered[config]):
                    yield (
                        f"{config}: no shard holds event {event.place} of chain {event.chain} ({event.kind}, "
                        f"{event.at}), which the dataset had acknowledged"
                    )
                    return


def _name(row: dict[str, Any]) -> str:
    if "kind" in row:
        return f"event {row['place']} of chain {row['chain']}"
    return f"comparison {row.get('comparison')}" + (f", exchange {row['number']}" if "number" in row else "")


def _as_rated(store: Store, comparison: str) -> Comparison | None:
    """The comparison as it was when its rating was sent: a later withdrawal does not change a shard."""
    return fold(e for e in store.events(comparison=comparison) if e.kind != "withdrawn")


def _withdrawn(store: Store, comparison: str) -> bool:
    return any(True for _ in store.events(comparison=comparison, kind="withdrawn"))


def _rename(store: Store) -> Callable[[str], str]:
    def rename(rater: str) -> str:
        try:
            return store.pseudonym("public", rater)
        except StoreError:
            return ""

    return rename
