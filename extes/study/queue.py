"""Many writers, one write: whoever is first in the queue works for all in it, then the next in the queue does.

So many at once wait for one or two writes, not for each other's. Knows slips of paper, not what is on them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from extes.study.chains import Event


@dataclass
class Slip:
    """An event that waits to be written, and what became of it: ``event`` or ``error``."""

    kind: str
    text: str
    comparison: str | None = None
    number: int | None = None
    event: Event | None = None
    error: Exception | None = None
    done: bool = False
    turn: threading.Event = field(default_factory=threading.Event)


class Queue:
    """``work`` takes slips and marks each as done, whatever happens."""

    def __init__(self, work: Callable[[list[Slip]], None]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._slips: list[Slip] = []

    def pass_through(self, slip: Slip) -> None:
        """Return when the work for ``slip`` is done."""
        with self._lock:
            self._slips.append(slip)
            first = len(self._slips) == 1
        if not first:
            slip.turn.wait()
        if slip.done:
            return
        with self._lock:
            slips = list(self._slips)
        try:
            self._work(slips)
        finally:
            with self._lock:
                del self._slips[: len(slips)]
                heirs = [*slips, *self._slips[:1]]
            for other in heirs:
                other.turn.set()
