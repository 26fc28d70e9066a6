"""Whether ratings can be taken just now: free disk and what the Hub has not acknowledged, each against its bound.

Knows the store and the disk; does not know why the Hub does not answer.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from typing import Literal

from extes.study.store import Store, StoreError

FRESH_SECONDS = 1.0
Unfit = Literal["", "disk", "backlog", "store"]


@dataclass(frozen=True)
class Bounds:
    """``backlog``: events that wait for the Hub; ``free_bytes``: what the disk of the log must have left."""

    backlog: int = 5000
    free_bytes: int = 200_000_000


class Health:
    """Looks at most once a second; recovers by itself as soon as the bound is no longer crossed."""

    def __init__(self, store: Store, bounds: Bounds, repo: str = "") -> None:
        self._store, self.bounds, self._repo = store, bounds, repo
        self._looked = float("-inf")
        self._result: Unfit = ""

    def problem(self) -> Unfit:
        """What stands against taking ratings: a key of the texts' ``closed``, or nothing."""
        if time.monotonic() - self._looked > FRESH_SECONDS:
            self._result = self._look()
            self._looked = time.monotonic()
        return self._result

    def _look(self) -> Unfit:
        try:
            if shutil.disk_usage(self._store.folder).free < self.bounds.free_bytes:
                return "disk"
            if self._repo and self._store.backlog(self._repo) > self.bounds.backlog:
                return "backlog"
        except (OSError, StoreError):
            return "store"
        return ""
