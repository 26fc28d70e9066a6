"""Taking the rows of withdrawn ratings out of the dataset's files: the one time that a shard is written again.

The row in ``withdrawals`` stays, and so does the log in ``events``, whose hashes would break. A dataset's history keeps
what its earlier commits held; squashing it is the owner's to do.
"""

from __future__ import annotations

from typing import Any

from extes.collection import shards
from extes.collection.remote import Dataset
from extes.errors import Problem
from extes.study.store import Store


def purge(store: Store, dataset: Dataset) -> tuple[int, int]:
    """Rows taken out, and files written again. Raises :class:`extes.collection.remote.Unreachable`.

    What is withdrawn is what this log says and what the dataset itself says, so that other portals' shards are met too.
    """
    files = dataset.shards()
    withdrawn = {event.comparison for event in store.events(kind="withdrawn")}
    for path, content in files.items():
        if path.startswith("withdrawals/"):
            withdrawn |= {row["comparison"] for row in _rows(path, content)}
    withdrawn.discard(None)
    rows, anew = 0, {}
    for path, content in files.items():
        config = path.split("/")[0]
        if config not in ("ratings", "conversations"):
            continue
        before = _rows(path, content)
        after = [row for row in before if row["comparison"] not in withdrawn]
        if len(after) < len(before):
            rows += len(before) - len(after)
            anew[path] = shards.parquet(config, after)
    if anew:
        dataset.commit(anew, f"{rows} rows of withdrawn ratings taken out")
    return rows, len(anew)


def _rows(path: str, content: bytes) -> list[dict[str, Any]]:
    """The rows of a shard. Raises :class:`Problem` for a file that is none: nothing was changed then."""
    try:
        rows = shards.read(content)
    except ValueError as error:
        raise Problem(f"{path}: {error}; nothing was changed") from error
    if not all("comparison" in row for row in rows):
        raise Problem(f"{path} has no column `comparison`; nothing was changed")
    return rows
