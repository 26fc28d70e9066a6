"""The endpoint through its Batch API: requests are gathered, uploaded as one file, and collected when it is done.

The same requests with the same keys as online, so the pool ends in the same states. A batch outlives this process: what
was sent is noted before it goes out, and the next run collects it rather than sending it again. Rows come back in any
order, may be missing or failed, and are matched by key; what has no result goes into the next batch.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import openai

from extes.generation import answer
from extes.generation.answer import Answer, NotAReply
from extes.generation.client import hidden
from extes.generation.errors import Stop
from extes.generation.gate import Order
from extes.generation.settler import Outgoing, Settler

ATTEMPTS = 4
RETRIES = 6  # of one call to the files or batches endpoints, by the openai client
GATHER_SECONDS = 0.2  # no new request for so long: the round has been handed over, send it
# OpenAI's limits are 50,000 requests and 200 MB a file.
REQUESTS_MOST = 50_000
BYTES_MOST = 190_000_000
ENDED = ("completed", "expired", "cancelled", "failed")


@dataclass
class _Waiting:
    order: Order
    request: Outgoing
    answer: asyncio.Future[Answer]
    attempts: int = 0
    problem: str = ""


@dataclass
class Batched:
    """``poll``: seconds between looks at a batch."""

    client: openai.AsyncOpenAI
    settler: Settler
    poll: float
    traffic: Counter[str] = field(default_factory=Counter)
    _waiting: dict[str, _Waiting] = field(default_factory=dict)
    _sent: dict[str, tuple[int, float | None]] = field(default_factory=dict)
    _timer: asyncio.TimerHandle | None = None
    _work: asyncio.Task[None] | None = None
    _stopped: Stop | None = None

    def __post_init__(self) -> None:
        self.client = self.client.with_options(max_retries=RETRIES)
        self._sent = self.settler.cache.in_batches()
        for _, most in self._sent.values():
            self.settler.purse.reserve(most)

    async def ask(self, order: Order, key: str, payload: dict[str, Any]) -> Answer:
        request = Outgoing.of(key, payload)
        if stored := self.settler.stored(request):
            self.traffic["from cache"] += 1
            return stored
        if self._stopped:
            raise self._stopped
        waiting = _Waiting(order, request, asyncio.get_running_loop().create_future())
        self._waiting[key] = waiting
        if self._timer:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._begin)
        return await waiting.answer

    def stop(self, why: Stop) -> None:
        self._stopped = self._stopped or why
        for waiting in self._waiting.values():
            if not waiting.answer.done():
                waiting.answer.set_exception(self._stopped)
        self._waiting.clear()

    async def close(self) -> None:
        if self._timer:
            self._timer.cancel()
        if self._work:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
        await self.client.close()

    def _begin(self) -> None:
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._all())

    async def _all(self) -> None:
        """One batch after another while anyone waits; those of an earlier run first."""
        try:
            for name, id, keys in self.settler.cache.batches_open():
                await self._resume(name, id, keys)
            while self._waiting:
                keys = self._fitting()
                name = self._name(keys)
                await self._collect(name, await self._submit(name, keys), keys)
                await asyncio.sleep(GATHER_SECONDS)  # answers lead to new requests, which belong in one batch
        except Stop as why:
            self.stop(why)
        except openai.APIStatusError as error:
            self.stop(self._explained(error))
        except openai.OpenAIError as error:
            cause = error.__cause__ or error
            self.stop(
                Stop(f"the Batch API did not answer ({cause}). What was sent is kept; run the same command again.", 1)
            )
        except Exception as error:
            for waiting in self._waiting.values():
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            raise

    def _fitting(self) -> list[str]:
        """The first of those waiting that the budget and the size of a file allow, in the order of the plan."""
        keys: list[str] = []
        size, total = 0, 0.0
        for key, waiting in sorted(self._waiting.items(), key=lambda item: item[1].order)[:REQUESTS_MOST]:
            size += len(_line(waiting.request))
            most = self.settler.most(waiting.request) or 0.0
            if (keys and size > BYTES_MOST) or not self.settler.purse.allows(total + most):
                break
            total += most
            keys.append(key)
        if not keys:
            raise self.settler.purse.exhausted(most)
        return keys

    def _name(self, keys: list[str]) -> str:
        digest = hashlib.sha256("\n".join(keys).encode()).hexdigest()[:24]
        return f"{digest}-{self.settler.cache.batch_count()}"

    async def _submit(self, name: str, keys: list[str]) -> str:
        lines = b"".join(_line(self._waiting[key].request) for key in keys)
        upload = await self.client.files.create(file=(f"{name}.jsonl", lines), purpose="batch")
        # First the batch, then its requests: those of a batch that a kill kept from being made are released by name.
        self.settler.cache.batch_begin(name, keys)
        for key in keys:
            request = self._waiting[key].request
            most = self.settler.most(request)
            self._sent[key] = (self.settler.send(request, most), most)
            self.settler.purse.reserve(most)
        made = await self.client.batches.create(
            input_file_id=upload.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"extes": name},
        )
        self.settler.cache.batch_made(name, made.id)
        self.traffic["batches"] += 1
        return made.id

    async def _resume(self, name: str, id: str | None, keys: list[str]) -> None:
        """A batch of an earlier run: collect it. One that was cut off while being made is looked for by its name."""
        if id is None:
            async for made in self.client.batches.list(limit=100):
                if (made.metadata or {}).get("extes") == name:
                    id = made.id
                    break
        if id is None:
            for key in keys:
                self._release(key)
            self.settler.cache.batch_done(name)
            return
        self.settler.cache.batch_made(name, id)
        try:
            await self.client.batches.retrieve(id)
        except openai.NotFoundError as error:
            raise Stop(
                f"this endpoint does not know batch {id} of an earlier run. Collect it with the --base-url and key it "
                "was sent with, or go on without --batch: its requests are then asked again."
            ) from error
        await self._collect(name, id, keys)

    async def _collect(self, name: str, id: str, keys: list[str]) -> None:
        while (batch := await self.client.batches.retrieve(id)).status not in ENDED:
            await asyncio.sleep(self.poll)
        for file in (batch.output_file_id, batch.error_file_id):
            if file:
                for row in _rows((await self.client.files.content(file)).text):
                    self._row(row)
        left = [key for key in keys if key in self._sent]
        for key in left:
            self._release(key)
        self.settler.cache.batch_done(name)
        problems = [e.message or e.code or "" for e in (batch.errors.data or [])] if batch.errors else []
        if batch.status == "failed":
            raise Stop(
                f"the provider refused the batch ({'; '.join(problems) or 'no reason given'}). Nothing of it was paid "
                "for. A smaller --round makes smaller batches; without --batch no batch is needed.",
                status=1,
            )
        if batch.status == "cancelled":
            raise Stop("the batch was cancelled at the provider; what it had done is kept. Run again to go on.", 1)
        self.traffic["without a result in a batch"] += len(left)
        for key in left:
            self._missed(key)

    def _row(self, row: dict[str, Any]) -> None:
        """One line of a result file: settled if it is a finished request, else left for the next batch."""
        key, response = row.get("custom_id"), row.get("response")
        if not isinstance(key, str) or key not in self._sent:
            return
        waiting = self._waiting.get(key)
        request = waiting.request if waiting else Outgoing.of(key, {"messages": [], "model": ""})
        response = response if isinstance(response, dict) else {}
        status = response.get("status_code")
        if not isinstance(status, int) or status in (408, 409, 429) or status >= 500:
            if waiting:
                waiting.problem = f"HTTP {status}" if status else json.dumps(row.get("error"))[:120]
            return
        if status != 200 and waiting is None:
            return  # asked under other settings, and refused: nothing to keep
        body = json.dumps(response.get("body"))  # in ASCII: half characters stay escapes, which a database can hold
        if status != 200:
            body = hidden(body, self.client.api_key)
            answer.fatal(status, body, str(request.payload["model"]))
        sent, most = self._sent[key]
        try:
            found = self.settler.settle(request, status, body, sent, most, response.get("request_id"))
        except NotAReply as error:
            if waiting:
                waiting.problem = str(error)
            return
        del self._sent[key]
        self.traffic["answered"] += 1
        if waiting:
            del self._waiting[key]
            waiting.answer.set_result(found)

    def _missed(self, key: str) -> None:
        if waiting := self._waiting.get(key):
            waiting.attempts += 1
            if waiting.attempts >= ATTEMPTS:
                del self._waiting[key]
                detail = f"{ATTEMPTS} batches without a result, the last: {waiting.problem or 'row missing'}"
                waiting.answer.set_result(Answer(code="no_reply", detail=detail))

    def _release(self, key: str) -> None:
        if key in self._sent:
            sent, most = self._sent.pop(key)
            self.settler.unsent(sent, most)

    def _explained(self, error: openai.APIStatusError) -> Stop:
        said = hidden(error.response.text, self.client.api_key)
        if error.status_code in (404, 405, 501):
            return Stop(
                f"this server has no Batch API (HTTP {error.status_code} at {error.request.url}). "
                "Run again without --batch."
            )
        try:
            answer.fatal(error.status_code, said, "")
        except Stop as why:
            return why
        return Stop(f"the Batch API answered HTTP {error.status_code}: {said[:200]}. Run the same command again.", 1)


def _line(request: Outgoing) -> bytes:
    row = {"custom_id": request.key, "method": "POST", "url": "/v1/chat/completions", "body": request.payload}
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _rows(text: str) -> Iterator[dict[str, Any]]:
    for line in text.split("\n"):  # not splitlines: U+2028 and others may stand bare in a string
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue  # a row that cannot be read has no key; its request counts as missing
        if isinstance(row, dict):
            yield row
