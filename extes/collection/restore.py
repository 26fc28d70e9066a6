"""The log from the Hub's copy: whole, in order and checked, or not at all."""

from __future__ import annotations

from extes.collection import shards
from extes.collection.remote import Dataset, Unreachable
from extes.errors import Problem
from extes.study.chains import Broken, Check, Event, in_order
from extes.study.store import Store


class NotRestored(Problem):
    """The Hub's copy cannot be made a log. Nothing was written."""


def restore(store: Store, dataset: Dataset) -> int:
    """Bring what the dataset has and ``store`` lacks; returns the number of events that came.

    Raises :class:`extes.collection.remote.Unreachable` or :class:`NotRestored`; then the store is as it was.
    """
    events = read(dataset)
    try:
        check = Check(e for e in events if e.kind == "chain")
        for event in events:
            check.add(event)
        check.finish()
    except Broken as error:
        raise NotRestored(f"{dataset.repo}: its log is not intact: {error}; nothing was restored") from error
    return store.take_over(events, dataset.repo)


def at_start(store: Store, dataset: Dataset) -> str:
    """What a portal does before its first event; returns a sentence for the operator.

    A disk that holds events goes on with them, also where the Hub is out of reach. An empty one gets the dataset's log;
    if that cannot be read, nothing begins: raises :class:`Problem`.
    """
    waiting = f"{store.backlog(dataset.repo)} events wait to be sent."
    try:
        if dataset.create():
            return "The dataset was made just now."
        if store.count():
            return waiting
        n = restore(store, dataset)
    except Unreachable as error:
        if store.count():
            return f"It cannot be reached just now ({error}). {waiting}"
        raise Problem(
            f"{error}\nThere are no ratings on this disk ({store.folder}), and whether the dataset has some cannot be "
            "told. Not started, so that no empty log takes the place of a full one: try again when it can be reached."
        ) from error
    return f"{n} events were restored from it." if n else "It holds no ratings yet."


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
