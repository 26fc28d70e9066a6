"""The endpoint over HTTP: one request at a time into a finished one, through the ``openai`` client.

Retries, waiting and money are decided here and in ``gate``; the openai client's own retries are off. Knows HTTP and the
cache; knows nothing of dialogues, rungs or rounds.
"""

from __future__ import annotations

import asyncio
import email.utils
import math
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import openai

from extes.generation import answer
from extes.generation.answer import Answer, NotAReply
from extes.generation.errors import Stop
from extes.generation.gate import Gate, Order
from extes.generation.settler import Outgoing, Settler

ATTEMPTS = 8
BACKOFF_FIRST = 0.5
BACKOFF_MOST = 60.0
# The client's limit is for each wait on the network, and a byte now and then starts it anew; ours is for the whole
# answer, and a little later, so that a connection that cannot be made is told as that.
GRACE_SECONDS = 1.0


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
    try:
        return openai.AsyncOpenAI(base_url=base_url, api_key=api_key or "none", max_retries=0, timeout=timeout)
    except (ImportError, OSError, ValueError) as error:
        raise Stop(
            f"no connection can be made here: {error}. See what HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE "
            "say in the environment."
        ) from error


def api_key(environment: Mapping[str, str]) -> str:
    """``OPENAI_API_KEY`` without blanks around it; raises :class:`Stop`, not showing it, if it cannot be one."""
    key = environment.get("OPENAI_API_KEY", "").strip()
    if not (key.isascii() and key.isprintable()):
        raise Stop(
            "OPENAI_API_KEY holds a character that no key has (a line end, or a typographic quotation mark?). "
            "Set it again and run the same command."
        )
    return key


def hidden(text: str, key: str) -> str:
    """A server's complaint without our key, which some repeat. Short keys are those that local servers take: any."""
    return text.replace(key, "[key]") if len(key) >= 8 else text


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds the server asked us to wait, from ``retry-after-ms``, or ``retry-after`` as seconds or as a date."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * scale
            if math.isfinite(seconds):
                return max(0.0, seconds)
            continue
        except ValueError:
            pass
        try:
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
        except (ValueError, OverflowError):
            continue
    return None


@dataclass(frozen=True)
class _Failed:
    """An attempt that did not finish the request. ``retry_after``: seconds the server asked us to wait."""

    problem: str
    retry_after: float = 0.0


class Online:
    """Asks as requests come, as many at once as the gate lets through."""

    def __init__(
        self,
        client: openai.AsyncOpenAI,
        gate: Gate,
        settler: Settler,
        timeout: float,
        backoff: float = BACKOFF_FIRST,
    ) -> None:
        self._client, self._gate, self._settler, self._backoff = client, gate, settler, backoff
        self._timeout = timeout + GRACE_SECONDS
        self._jitter = random.Random()
        self.traffic: Counter[str] = Counter()

    async def ask(self, order: Order, key: str, payload: dict[str, Any]) -> Answer:
        request = Outgoing.of(key, payload)
        if stored := self._settler.stored(request):
            self.traffic["from cache"] += 1
            return stored
        problem = ""
        for attempt in range(ATTEMPTS):
            outcome = await self._attempt(order, request)
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

    async def _attempt(self, order: Order, request: Outgoing) -> Answer | _Failed:
        most = self._settler.most(request)
        epoch = await self._gate.enter(order, most)
        try:
            outcome = await self._send(epoch, most, request)
            if isinstance(outcome, _Failed):
                self._gate.trouble = outcome.problem
            return outcome
        except Stop as why:
            self._gate.pressure.withdrawn()
            self._settler.purse.release(most)
            self._gate.stop(why)
            raise
        finally:
            self._gate.pump()

    async def _send(self, epoch: int, most: float | None, request: Outgoing) -> Answer | _Failed:
        pressure = self._gate.pressure
        sent = self._settler.send(request, most)
        try:
            async with asyncio.timeout(self._timeout):
                raw = await self._client.chat.completions.with_raw_response.create(
                    model=request.payload["model"],
                    messages=request.payload["messages"],
                    # The same bytes on the wire; as arguments, the client would walk through the schema at 1 ms each.
                    extra_body={k: v for k, v in request.payload.items() if k not in ("model", "messages")},
                )
            status, body, headers = 200, raw.text, raw.headers
        except openai.APIStatusError as error:
            status, body, headers = error.status_code, error.response.text, error.response.headers
            body = hidden(body, self._client.api_key)
        except asyncio.CancelledError:
            pressure.withdrawn()
            self._settler.lost(sent, most)
            raise
        except (openai.APIConnectionError, TimeoutError) as error:
            pressure.failed(epoch)
            cause = error.__cause__ or error
            if type(cause).__name__ in ("ConnectError", "ConnectTimeout"):
                self._settler.unsent(sent, most)
                self.traffic["could not connect"] += 1
                return _Failed(f"cannot connect: {cause}")
            self._settler.lost(sent, most)
            timed_out = isinstance(error, openai.APITimeoutError | TimeoutError)
            self.traffic["timed out" if timed_out else "connection broken"] += 1
            return _Failed("no answer in time" if timed_out else f"connection broken: {cause}")
        if status != 200:
            try:
                answer.fatal(status, body, request.payload["model"])
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
            found = self._settler.settle(request, status, body, sent, most, headers.get("x-request-id"))
        except NotAReply as error:
            self._settler.lost(sent, most)
            self.traffic["not a completion"] += 1
            pressure.failed(epoch)
            return _Failed(hidden(str(error), self._client.api_key))
        self.traffic["answered"] += 1
        pressure.answered()
        return found
