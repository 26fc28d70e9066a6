"""Who may send next: a queue in the order of the plan, opened by pressure and purse. Knows asyncio, not HTTP."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time

from extes.generation.errors import Stop
from extes.generation.pressure import Pressure
from extes.generation.purse import Purse

Order = tuple[int, ...]


class Gate:
    """Holds requests back until there is room in flight and in the budget; earlier slots of the plan go first."""

    def __init__(self, pressure: Pressure, purse: Purse) -> None:
        self.pressure, self.purse = pressure, purse
        self._waiting: list[tuple[Order, int, float | None, asyncio.Future[int]]] = []
        self._resting: set[asyncio.Future[None]] = set()
        self._tie = itertools.count()
        self._stopped: Stop | None = None
        self.trouble = ""  # what the last request that failed met
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, order: Order, most: float | None) -> int:
        """Wait for a place; returns the pressure's number for it. Raises :class:`Stop` once the run is stopped."""
        if self._stopped:
            raise self._stopped
        place: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (order, next(self._tie), most, place))
        self.pump()
        return await place

    async def rest(self, seconds: float) -> None:
        """Wait before another attempt; ends at once where the run is stopped."""
        if self._stopped:
            raise self._stopped
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = asyncio.get_running_loop().call_later(seconds, _wake_up, sleeper)
        self._resting.add(sleeper)
        try:
            await sleeper
        finally:
            timer.cancel()
            self._resting.discard(sleeper)

    def stop(self, why: Stop) -> None:
        """Nobody else goes in. What is in flight comes back by itself."""
        if self._stopped is None:
            self._stopped = why
        while self._waiting:
            place = heapq.heappop(self._waiting)[3]
            if not place.done():
                place.set_exception(self._stopped)
        for sleeper in self._resting:
            if not sleeper.done():
                sleeper.set_exception(self._stopped)

    @property
    def stopped(self) -> Stop | None:
        return self._stopped

    def pump(self) -> None:
        """Let in whoever may go; called whenever something changed."""
        now = time.monotonic()
        if why := self.pressure.storm(now):
            self.stop(
                Stop(
                    f"{why} (the last: {self.trouble}): the server is not well, or --base-url is wrong. Nothing is "
                    "lost; run the same command again when it answers.",
                    status=1,
                )
            )
        while self._waiting and self.pressure.may_start(now):
            _, _, most, place = self._waiting[0]
            if place.done():
                heapq.heappop(self._waiting)
            elif self.purse.allows(most):
                heapq.heappop(self._waiting)
                self.purse.reserve(most)
                place.set_result(self.pressure.start())
            elif self.pressure.in_flight:
                break  # what is in flight is reserved at its most and will cost less
            else:
                self.stop(self.purse.exhausted(most))
        if self._waiting and now < self.pressure.hold_until and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.pressure.hold_until - now, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self.pump()


def _wake_up(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)
