"""The log from the Hub's copy: whole, in order and checked, or not at all."""

from __future__ import annotations

from extes.collection import shards
from extes.collection.remote import Dataset, Unreachable
from extes.errors import Problem
from extes.study.chains import Broken, Check, Event, in_order
from extes.study.store import Exists, Store


class NotRestored(Problem):
    """The Hub's copy cannot be made a log. Nothing was written."""


def restore(store: Store, dataset: Dataset) -> int:
    """Bring what the dataset has and ``store`` lacks; returns the number of events that came.

    Raises :class:`extes.collection.remote.Unreachable` or :class:`NotRestored`; then the store is as it was.
    """
    try:
        events = read(dataset)
        check = Check(e for e in events if e.kind == "chain")
        for event in events:
            check.add(event)
        check.finish()
    except Broken as error:
        raise NotRestored(f"{dataset.repo}: its log is not intact: {error}; nothing was restored") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # no JSON, or not what an event looks like
        raise NotRestored(f"{dataset.repo}: its log is damaged ({error}); nothing was restored") from error
    try:
        return store.take_over(events, dataset.repo)
    except Exists as error:
        raise NotRestored(f"{dataset.repo}: its log names two events alike ({error}); nothing was restored") from error


def at_start(store: Store, dataset: Dataset) -> str:
    """What a portal does before its first event; returns a sentence for the operator.

    A disk that holds comparisons goes on with them, also where the Hub is out of reach; where it is an older copy, it
    gets what came after. An empty one gets the dataset's log; if that cannot be read, nothing begins: raises
    :class:`Problem`.
    """
    waiting = f"{store.backlog(dataset.repo)} events wait to be sent."
    here = any(True for _ in store.events(kind="opened"))
    try:
        if dataset.create():
            return "The dataset was made just now."
        if here and not _goes_on(store, dataset):
            return waiting
        n = restore(store, dataset)
    except NotRestored as error:
        if here:
            return f"It has events that this disk lacks, NOT restored: {error}. {waiting}"
        raise
    except Unreachable as error:
        if here:
            return f"It cannot be reached just now ({error}). {waiting}"
        raise Problem(
            f"{error}\nThere are no ratings on this disk ({store.folder}), and whether the dataset has some cannot be "
            "told. Not started, so that no empty log takes the place of a full one: try again when it can be reached."
        ) from error
    if here:
        return f"This disk is an older copy: {n} events came from it."
    return f"{n} events were restored from it." if n else "It holds no ratings yet."


def _goes_on(store: Store, dataset: Dataset) -> bool:
    """Whether the dataset has more of a chain of this disk, or a chain that follows one."""
    if dataset.public:
        return False
    ends = store.ends()
    sha, paths = dataset.listing()
    for path in paths:
        batch = shards.batch_of(path)
        if batch is None or not path.startswith("events/"):
            continue
        if batch.chain in ends:
            if batch.last > ends[batch.chain]:
                return True
        elif batch.first == 1:
            try:
                first = shards.read_events(dataset.read(path, sha))[0]
                if first.kind == "chain" and any(chain in ends for chain in first.body["follows"]):
                    return True
            except (ValueError, KeyError, TypeError, AttributeError, IndexError):
                return True  # what is wrong with it, restoring tells
    return False


def read(dataset: Dataset) -> list[Event]:
    """The events of the dataset in order, each once. Raises :class:`NotRestored` for what is no log."""
    chains: dict[str, dict[int, Event]] = {}
    any_shard = False
    for path, content in dataset.events():
        try:
            for event in shards.read_events(content):
                there = chains.setdefault(event.chain, {}).setdefault(event.place, event)
                if there.hash != event.hash:
                    raise NotRestored(
                        f"{dataset.repo}: {path} has another event {event.place} of chain {event.chain} than an "
                        "earlier shard; look at the dataset's history"
                    )
        except ValueError as error:
            raise NotRestored(f"{dataset.repo}: {path}: {error}") from error
        any_shard = True
    if not any_shard and any(shards.batch_of(p) for p in dataset.listing()[1]):
        raise NotRestored(
            f"{dataset.repo} holds redacted ratings and no log, so nothing can be restored from it: bring back the "
            "folder of the ratings (EXTES_DATA_DIR), or name another dataset to begin anew"
        )
    try:
        return in_order({c: [places[n] for n in sorted(places)] for c, places in chains.items()})
    except Broken as error:
        raise NotRestored(f"{dataset.repo}: {error}") from error
