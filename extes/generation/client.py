"""The endpoint over HTTP: one request at a time into a finished one, through the ``openai`` client.

Retries, waiting and money are decided here and in ``gate``; the openai client's own retries are off. Knows HTTP and the
cache; knows nothing of dialogues, rungs or rounds.
"""

from __future__ import annotations

import email.utils
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import openai

from extes.generation import answer, money
from extes.generation.answer import Answer, NotAReply
from extes.generation.cache import Cache, Stored
from extes.generation.errors import Stop
from extes.generation.gate import Gate, Order
from extes.generation.purse import Purse

ATTEMPTS = 8
BACKOFF_FIRST = 0.5
BACKOFF_MOST = 60.0


class Source(Protocol):
    """Where answers come from."""

    traffic: Counter[str]

    async def ask(self, order: Order, key: str, payload: dict[str, Any]) -> Answer:
        """The answer to a request, from the cache if it was finished before. Raises :class:`Stop`."""

    def stop(self, why: Stop) -> None:
        """Send nothing more; what is in flight still comes back."""

    async def close(self) -> None: ...


def connect(base_url: str, api_key: str, timeout: float) -> openai.AsyncOpenAI:
    """The client both roads use. A key is demanded by the library; servers of one's own take any."""
    return openai.AsyncOpenAI(base_url=base_url, api_key=api_key or "none", max_retries=0, timeout=timeout)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds the server asked us to wait, from ``retry-after-ms``, or ``retry-after`` as seconds or as a date."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            return max(0.0, float(value) * scale)
        except ValueError:
            pass
        try:
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
        except ValueError:
            continue
    return None


class Settler:
    """Turns a finished request into a stored and paid one; the same for online and batch."""

    def __init__(self, cache: Cache, purse: Purse, batch: bool) -> None:
        self.cache, self.purse, self.batch = cache, purse, batch

    def most(self, payload: Mapping[str, Any]) -> float | None:
        if self.purse.price is None:
            return None
        limit = int(payload.get("max_tokens") or payload.get("max_completion_tokens") or 0)
        return money.most(money.prompt_bytes(payload), limit, self.purse.price, self.purse.density, self.batch)

    def send(self, key: str, payload: Mapping[str, Any], most: float | None) -> int:
        limit = int(payload.get("max_tokens") or payload.get("max_completion_tokens") or 0)
        return self.cache.send(key, money.prompt_bytes(payload), limit, most, self.batch)

    def unsent(self, sent: int, most: float | None) -> None:
        """The server did not take it up: it cost nothing."""
        self.cache.drop(sent)
        self.purse.release(most)

    def lost(self, sent: int, most: float | None) -> None:
        """It was sent and no answer came: it may have been billed."""
        self.cache.lose(sent)
        self.purse.lose(most)

    def settle(
        self,
        key: str,
        payload: Mapping[str, Any],
        status: int,
        body: str,
        sent: int | None,
        most: float | None,
        id: str | None,
    ) -> None:
        """Store a finished request; raises :class:`NotAReply` where it is none."""
        paid = answer.tokens(status, body, payload)
        price = self.purse.price
        cost = money.cost(paid, price, self.batch) if paid and price else None
        self.cache.put(key, Stored(status, body, paid), sent, cost, price.currency if price else None, self.batch, id)
        self.purse.settle(most, cost)
        if paid and paid.by == "provider":
            self.purse.learn(money.prompt_bytes(payload), paid.input)


@dataclass(frozen=True)
class _Failed:
    """An attempt that did not finish the request. ``retry_after``: seconds the server asked us to wait."""

    problem: str
    retry_after: float = 0.0


class Online:
    """Asks as requests come, as many at once as the gate lets through."""

    def __init__(
        self, client: openai.AsyncOpenAI, gate: Gate, settler: Settler, backoff: float = BACKOFF_FIRST
    ) -> None:
        self._client, self._gate, self._settler, self._backoff = client, gate, settler, backoff
        self._jitter = random.Random()
        self.traffic: Counter[str] = Counter()

    async def ask(self, order: Order, key: str, payload: dict[str, Any]) -> Answer:
        if stored := self._settler.cache.get(key):
            self.traffic["from cache"] += 1
            return answer.read(stored.status, stored.body, payload)
        problem = ""
        for attempt in range(ATTEMPTS):
            outcome = await self._attempt(order, key, payload)
            if isinstance(outcome, Answer):
                return outcome
            problem = outcome.problem
            backoff = min(BACKOFF_MOST, self._backoff * 2**attempt) * self._jitter.uniform(0.7, 1.3)
            await self._gate.rest(max(backoff, outcome.retry_after))
        return Answer(code="no_reply", detail=f"{ATTEMPTS} attempts, the last: {problem}")

    def stop(self, why: Stop) -> None:
        self._gate.stop(why)

    async def close(self) -> None:
        await self._client.close()

    async def _attempt(self, order: Order, key: str, payload: dict[str, Any]) -> Answer | _Failed:
        most = self._settler.most(payload)
        epoch = await self._gate.enter(order, most)
        try:
            return await self._send(epoch, most, key, payload)
        except Stop as why:
            self._gate.pressure.withdrawn()
            self._settler.purse.release(most)
            self._gate.stop(why)
            raise
        finally:
            self._gate.pump()

    async def _send(self, epoch: int, most: float | None, key: str, payload: dict[str, Any]) -> Answer | _Failed:
        pressure = self._gate.pressure
        sent = self._settler.send(key, payload, most)
        try:
            raw = await self._client.chat.completions.with_raw_response.create(**payload)
            status, body, headers = 200, raw.text, raw.headers
        except openai.APIStatusError as error:
            status, body, headers = error.status_code, error.response.text, error.response.headers
        except openai.APIConnectionError as error:
            pressure.failed(epoch)
            cause = error.__cause__ or error
            if type(cause).__name__ in ("ConnectError", "ConnectTimeout"):
                self._settler.unsent(sent, most)
                self.traffic["could not connect"] += 1
                return _Failed(f"cannot connect: {cause}")
            self._settler.lost(sent, most)
            timed_out = isinstance(error, openai.APITimeoutError)
            self.traffic["timed out" if timed_out else "connection broken"] += 1
            return _Failed("no answer in time" if timed_out else f"connection broken: {cause}")
        if status != 200:
            try:
                answer.fatal(status, body, payload["model"])
            except Stop:
                self._settler.cache.drop(sent)
                raise
        if status in (408, 409, 429) or status >= 500:
            self._settler.unsent(sent, most)
            wait = retry_after(headers) or 0.0
            if status == 429:
                self.traffic["refused (429)"] += 1
                pressure.refused(epoch, time.monotonic(), wait)
            else:
                self.traffic[f"failed ({status})"] += 1
                pressure.failed(epoch)
            return _Failed(f"HTTP {status}", wait)
        try:
            self._settler.settle(key, payload, status, body, sent, most, headers.get("x-request-id"))
        except NotAReply as error:
            self._settler.lost(sent, most)
            self.traffic["not a completion"] += 1
            pressure.failed(epoch)
            return _Failed(str(error))
        self.traffic["answered"] += 1
        pressure.answered()
        return answer.read(status, body, payload)
