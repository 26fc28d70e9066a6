"""From a request that goes out to a stored and paid reply; the same for online and batch.

Keeps the cache (what is on record) and the purse (what may still be spent) in step. Knows nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from extes.generation import answer, money
from extes.generation.answer import Answer
from extes.generation.cache import Cache, Stored
from extes.generation.purse import Purse


@dataclass(frozen=True)
class Outgoing:
    """A request: its key, what is sent, the bytes of its prompt and the limit of its answer in tokens."""

    key: str
    payload: Mapping[str, Any]
    prompt_bytes: int
    limit: int

    @staticmethod
    def of(key: str, payload: Mapping[str, Any]) -> Outgoing:
        limit = payload.get("max_tokens") or payload.get("max_completion_tokens") or 0
        return Outgoing(key, payload, money.prompt_bytes(payload), int(limit))


class Settler:
    def __init__(self, cache: Cache, purse: Purse, batch: bool) -> None:
        self.cache, self.purse, self.batch = cache, purse, batch

    def stored(self, request: Outgoing) -> Answer | None:
        """The answer, if the request was finished before."""
        found = self.cache.get(request.key)
        return answer.read(found.status, found.body, request.payload) if found else None

    def most(self, request: Outgoing) -> float | None:
        """The most it can cost; ``None`` without a price."""
        if self.purse.price is None:
            return None
        return money.most(request.prompt_bytes, request.limit, self.purse.price, self.purse.density, self.batch)

    def send(self, request: Outgoing, most: float | None) -> int:
        """Note that it goes out."""
        return self.cache.send(request.key, request.prompt_bytes, request.limit, most, self.batch)

    def unsent(self, sent: int, most: float | None) -> None:
        """The server did not take it up: it cost nothing."""
        self.cache.drop(sent)
        self.purse.release(most)

    def lost(self, sent: int, most: float | None) -> None:
        """It was sent and no answer came: it may have been billed."""
        self.cache.lose(sent)
        self.purse.lose(most)

    def settle(
        self, request: Outgoing, status: int, body: str, sent: int, most: float | None, provider_request: str | None
    ) -> Answer:
        """Store and pay a finished request; raises :class:`NotAReply` where it is none, and changes nothing then."""
        found = answer.read(status, body, request.payload)
        paid, price = found.tokens, self.purse.price
        cost = money.cost(paid, price, self.batch) if paid and price else None
        currency = price.currency if price else None
        self.cache.put(request.key, Stored(status, body, paid), sent, cost, currency, self.batch, provider_request)
        self.purse.settle(most, cost)
        if paid and paid.by == "provider":
            self.purse.learn(request.prompt_bytes, paid.input)
        return found
