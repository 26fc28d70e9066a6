"""How many requests to have in flight: additive increase, multiplicative decrease, and a memory of the ceiling.

Pure: told what happened and when. Knows nothing of HTTP or asyncio.

Plain AIMD saws between three quarters of a server's capacity and all of it. So the count at which the server refused is
remembered: the limit climbs to one below it and stays there, and only now and then, ever more rarely, one request above
it asks whether there is room. A refusal of that one request changes nothing for the others; a refusal at or below the
known good count cuts the limit and, with ``retry-after``, holds everything back until then.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

DECREASE = 0.75
START = 4
PATIENCE = 100  # requests answered at the ceiling before one more is tried; doubled each time that is refused
PATIENCE_MOST = 3200
STEADY = 2  # answers a place in flight after which a count has proved itself
STORM_WINDOW = 40
STORM_LEAST = 20
STORM_SHARE = 0.5
STORM_AT_START = 12  # failures without a single answer: the address is wrong, or nothing runs there
STARVED_SECONDS = 300.0


@dataclass
class Pressure:
    """``most`` bounds the limit whatever the server allows (``--concurrency``)."""

    most: int
    limit: int = 0
    hold_until: float = 0.0
    in_flight: int = 0
    ceiling: int | None = None
    _starting: bool = True
    _calm: int = 0
    _patience: int = PATIENCE
    _epoch: int = 0
    _outcomes: deque[bool] = field(default_factory=lambda: deque(maxlen=STORM_WINDOW))
    _ever: bool = False
    _refused_since: float | None = None
    _refused: int = 0

    def __post_init__(self) -> None:
        self.limit = min(self.limit or START, self.most)

    def may_start(self, now: float) -> bool:
        return self.in_flight < self.limit and now >= self.hold_until

    def start(self) -> int:
        """A request goes out; the number returned is handed back with its outcome."""
        self.in_flight += 1
        return self._epoch

    def answered(self) -> None:
        full = self.in_flight >= self.limit
        self.in_flight -= 1
        self._outcomes.append(True)
        self._ever = True
        self._refused_since, self._refused = None, 0
        if self.limit >= self.most or not full:
            return
        self._calm += 1
        if self._starting:
            self.limit += 1
            return
        below = self.ceiling is None or self.limit + 1 < self.ceiling
        if self._calm >= (self.limit if below else self._patience):
            self.limit, self._calm = self.limit + 1, 0

    def refused(self, epoch: int, now: float, retry_after: float | None) -> None:
        """429: the server has no room. ``retry_after`` in seconds, where it said so."""
        if self._refused_since is None:
            self._refused_since = now
        self._refused += 1
        if self._cut(epoch) and retry_after:
            self.hold_until = max(self.hold_until, now + retry_after)

    def failed(self, epoch: int) -> None:
        """5xx, a dropped connection, a time-out: counted towards an error storm, and a sign of pressure too."""
        self._outcomes.append(False)
        self._cut(epoch)

    def withdrawn(self) -> None:
        """Ended without saying anything about the server: cancelled, or an answer that says the call is wrong."""
        self.in_flight -= 1

    def _cut(self, epoch: int) -> bool:
        """Lower the limit, once for a burst; True where others should be held back too."""
        seen = self.in_flight
        self.in_flight -= 1
        if epoch < self._epoch:
            return False
        self._epoch += 1
        calm, self._calm = self._calm, 0
        self._starting = False
        if self.ceiling is not None and self.limit >= self.ceiling:  # this was the one request above
            self.limit = max(1, self.ceiling - 1)
            self._patience = min(2 * self._patience, PATIENCE_MOST)
            return False
        if calm >= STEADY * self.limit:  # this count was fine for long: one too many, not a quarter too many
            self.ceiling = max(2, self.limit)
            self.limit = max(1, self.limit - 1)
            return True
        self.ceiling = max(2, seen)
        self.limit = max(1, int(min(self.limit, seen) * DECREASE))
        self._patience = PATIENCE
        return True

    def storm(self, now: float) -> str | None:
        """Why to stop: more than half of the latest requests failed, or nothing but refusals for minutes."""
        failed = self._outcomes.count(False)
        if failed >= STORM_AT_START and not self._ever:
            return f"{failed} requests failed and none was answered"
        if failed >= STORM_LEAST and failed > STORM_SHARE * len(self._outcomes):
            return f"{failed} of the last {len(self._outcomes)} requests failed"
        if self._refused_since is not None and self._refused >= STORM_LEAST:
            waited = now - self._refused_since
            if waited > STARVED_SECONDS:
                return f"the server refused {self._refused} requests (429) and answered none for {waited:.0f} s"
        return None
