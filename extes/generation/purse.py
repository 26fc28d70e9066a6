"""What may still be spent. Counts what is settled, what is in flight at its most, and what may have been lost.

Pure arithmetic, told of every change; the cache keeps the record. Without a price it lets everything pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from extes.generation.errors import Stop
from extes.generation.money import Price


@dataclass
class Purse:
    """``budget`` is for the pool, over all its runs. ``density`` is the most tokens a byte the provider counted."""

    budget: float | None = None
    price: Price | None = None
    settled: float = 0.0
    lost: float = 0.0
    reserved: float = 0.0
    density: float | None = None

    @property
    def most(self) -> float:
        """What has been spent if everything in flight or lost costs what it can at most."""
        return self.settled + self.lost + self.reserved

    def allows(self, most: float | None) -> bool:
        return self.budget is None or most is None or self.most + most <= self.budget

    def exhausted(self, most: float | None) -> Stop:
        """Why nothing more is sent."""
        unit = self.price.currency if self.price else ""
        return Stop(
            f"the budget stops here: {self.most:.4f} of {self.budget or 0:.4f} {unit} is spent, and the next request "
            f"can cost up to {most or 0:.4f}. Run the same command with a greater --budget to go on.",
            status=1,
        )

    def reserve(self, most: float | None) -> None:
        self.reserved += most or 0.0

    def settle(self, most: float | None, cost: float | None) -> None:
        self.reserved -= most or 0.0
        self.settled += cost or 0.0

    def release(self, most: float | None) -> None:
        self.reserved -= most or 0.0

    def lose(self, most: float | None) -> None:
        self.reserved -= most or 0.0
        self.lost += most or 0.0

    def learn(self, bytes_in: int, input_tokens: int) -> None:
        """A provider's count of a prompt; makes later bounds closer."""
        self.density = max(self.density or 0.0, input_tokens / max(1, bytes_in))
