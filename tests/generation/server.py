"""A small OpenAI-compatible server over real HTTP, with the behaviours that exist in the wild. Standard library only.

Used by the tests (in a thread of theirs) and by the benchmark (as a process of its own). What it says is made up from
the request alone: the same request always gets the same dialogue, so runs can be compared.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

STRATEGIES = (
    "Reflective Statements", "Clarification", "Emotional Validation", "Empathetic Statements", "Affirmation",
    "Offer Hope", "Avoid Judgment And Criticism", "Suggest Options", "Collaborative Planning",
    "Provide Different Perspectives", "Reframe Negative Thoughts", "Share Information", "Normalize Experiences",
    "Promote Self-Care Practices", "Stress Management", "Others",
)  # fmt: skip
FORMS = ("strict", "json_object", "text", "prose")


@dataclass
class Behaviour:
    """How the server answers.

    ``form``: strict (honours json_schema), json_object (refuses schemas), text (refuses any response_format), prose
    (accepts every response_format and answers in text all the same). ``slots`` is how many requests it works on at
    once; one more is refused with 429. ``fail`` maps the n-th request (from 1) to a status, or to 0 for a dropped
    connection. ``chaos`` is the share of requests that fail at random, with 500 or a dropped connection.
    """

    form: str = "strict"
    latency: float = 0.0
    slots: int = 10_000
    per_second: float = 0.0
    retry_after: str = "1"
    fail: dict[int, int] = field(default_factory=dict)
    chaos: float = 0.0
    truncate_at: int = 0
    usage: bool = True
    key: str = ""
    model: str = ""
    quota: bool = True
    jitter: float = 0.0
    write: Callable[[str, random.Random], dict[str, Any]] | None = None
    say: str | None = None
    batch_rows: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] | None = None
    batch_polls: int = 2


_ONSETS = ("b", "br", "c", "d", "dr", "f", "g", "gl", "h", "k", "l", "m", "n", "p", "pr", "r", "s", "st", "t", "v", "w")
_SYLLABLES = [onset + vowel for onset in _ONSETS for vowel in ("a", "ai", "e", "ea", "i", "o", "oo", "u")]


def _sentence(rng: random.Random, words: int) -> str:
    made = []
    for _ in range(words):
        if rng.random() < 0.45:
            made.append(
                rng.choice(("I", "you", "and", "the", "to", "it", "was", "my", "that", "not", "of", "when", "so"))
            )
        else:
            made.append("".join(rng.choice(_SYLLABLES) for _ in range(rng.choice((1, 2, 2, 3)))))
    return " ".join(made).capitalize() + rng.choice((".", ".", "?"))


def write_dialogue(prompt: str, rng: random.Random) -> dict[str, Any]:
    """A dialogue of nonsense words that passes every check, with the strategies that were asked for."""
    asked = re.search(r"Use these strategies among others, where they fit: ([^\n]*)\.", prompt)
    names = [n for n in (asked[1].split(", ") if asked else []) if n in STRATEGIES]
    labels = names + rng.choices(STRATEGIES, k=9 - len(names))
    rng.shuffle(labels)
    turns = []
    for label in labels:
        turns.append({"speaker": "seeker", "strategy": None, "text": _sentence(rng, rng.randint(8, 24))})
        turns.append({"speaker": "supporter", "strategy": label, "text": _sentence(rng, rng.randint(8, 24))})
    return {"description": _sentence(rng, 15), "turns": turns}


def as_text(dialogue: dict[str, Any]) -> str:
    lines = [f"description: {dialogue['description']}"]
    for t in dialogue["turns"]:
        lines.append(
            f"Seeker: {t['text']}" if t["speaker"] == "seeker" else f"Supporter [{t['strategy']}]: {t['text']}"
        )
    return "\n".join(lines)


class _Drop(Exception):
    """The connection is closed without an answer."""


class _Refuse(Exception):
    def __init__(self, status: int, error: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        super().__init__(status)
        self.status, self.error, self.headers = status, error, headers or {}


class Server:
    """Counts what it was asked: ``paid`` by the request's text, ``statuses``, and times of refusals."""

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        self.behaviour = behaviour or Behaviour()
        self.paid: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.payloads: list[dict[str, Any]] = []
        self.keep_payloads = True
        self.requests = 0
        self.busy = 0
        self.busy_most = 0
        self.worked: list[tuple[float, float]] = []
        self.refusals: list[float] = []
        self.arrivals: list[float] = []
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.url = ""
        self._bucket = 1.0
        self._bucket_at = 0.0
        self._chaos = random.Random(11)

    # -- HTTP

    async def serve(self, port: int = 0) -> asyncio.Server:
        server = await asyncio.start_server(self._connection, "127.0.0.1", port, limit=1 << 24)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        return server

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                method, path = head.split(" ", 2)[:2]
                headers = {
                    k.strip().lower(): v.strip() for k, _, v in (x.partition(":") for x in head.split("\r\n")[1:])
                }
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                await self._answer(writer, method, path, headers, body)
        except (asyncio.IncompleteReadError, ConnectionError, _Drop):
            pass
        finally:
            writer.close()

    async def _answer(self, writer: Any, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        extra: dict[str, str] = {}
        kind = "application/json"
        try:
            status, value = 200, await self._route(method, path, headers, body)
        except _Refuse as refusal:
            status, value, extra = refusal.status, {"error": refusal.error}, refusal.headers
        if isinstance(value, bytes):
            data, kind = value, "application/octet-stream"
        else:
            data = json.dumps(value).encode()
        if path.endswith("/chat/completions"):
            self.statuses[status] += 1
        lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", f"Content-Length: {len(data)}"]
        lines += [f"{k}: {v}" for k, v in extra.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + data)
        await writer.drain()

    async def _route(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Any:
        if self.behaviour.key and headers.get("authorization") != f"Bearer {self.behaviour.key}":
            raise _Refuse(401, {"message": "Incorrect API key provided", "code": "invalid_api_key"})
        path = path.split("?")[0].removeprefix("/v1")
        if path == "/chat/completions":
            return await self._chat(json.loads(body))
        if path == "/files" and method == "POST":
            return self._upload(body, headers)
        if found := re.fullmatch(r"/files/([\w-]+)/content", path):
            return self.files[found[1]]
        if path == "/batches" and method == "POST":
            return self._batch(json.loads(body))
        if path == "/batches":
            return {"object": "list", "data": [self._public(b) for b in self.batches.values()], "has_more": False}
        found = re.fullmatch(r"/batches/([\w-]+)", path)
        if found and found[1] in self.batches:
            return self._poll(self.batches[found[1]])
        raise _Refuse(404, {"message": f"no such path {path}"})

    # -- chat completions

    async def _chat(self, payload: dict[str, Any]) -> dict[str, Any]:
        b = self.behaviour
        self.requests += 1
        self.arrivals.append(time.monotonic())
        number = self.requests
        if b.per_second:
            now = time.monotonic()
            self._bucket = min(5.0, self._bucket + (now - self._bucket_at) * b.per_second)
            self._bucket_at = now
            if self._bucket < 1:
                self._refuse_429()
            self._bucket -= 1
        if self.busy >= b.slots:
            self._refuse_429()
        self.busy += 1
        self.busy_most = max(self.busy_most, self.busy)
        begun = time.monotonic()
        try:
            # What is said is made up first, so that an answer takes the latency and not a moment more.
            body = self.complete(payload) if b.latency and not b.fail and not b.chaos else None
            if b.latency or b.jitter:
                until = begun + b.latency + random.random() * b.jitter
                await asyncio.sleep(max(0.0, until - time.monotonic()))
            status = b.fail.get(number)
            if b.chaos and self._chaos.random() < b.chaos:
                status = self._chaos.choice((500, 503, 0))
            if status == 0:
                raise _Drop
            if status:
                raise _Refuse(status, {"message": "the server had an error"})
            return body or self.complete(payload)
        finally:
            self.busy -= 1
            self.worked.append((begun, time.monotonic()))

    def _refuse_429(self) -> None:
        self.refusals.append(time.monotonic())
        raise _Refuse(429, {"message": "Rate limit reached"}, {"Retry-After": self.behaviour.retry_after})

    def complete(self, payload: dict[str, Any]) -> dict[str, Any]:
        b = self.behaviour
        if not b.quota:
            raise _Refuse(429, {"message": "You exceeded your current quota", "code": "insufficient_quota"})
        if b.model and payload["model"] != b.model:
            raise _Refuse(404, {"message": f"The model `{payload['model']}` does not exist", "code": "model_not_found"})
        wanted = payload.get("response_format", {}).get("type", "text")
        if (b.form == "json_object" and wanted == "json_schema") or (b.form == "text" and wanted != "text"):
            raise _Refuse(400, {"message": f"response_format of type {wanted!r} is not supported"})
        prompt = payload["messages"][-1]["content"]
        self.paid[hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()] += 1
        if self.keep_payloads:
            self.payloads.append(payload)
        seed = hashlib.sha256(prompt.split("Write one new dialogue")[0][-2000:].encode() + prompt[-900:].encode())
        content = self._content(prompt, random.Random(seed.digest()), wanted)
        finish = "stop"
        if b.truncate_at and len(content) > b.truncate_at:
            content, finish = content[: b.truncate_at], "length"
        usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": len(content) // 4}
        return {
            "id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": payload["model"],
            "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content}}],
        } | ({"usage": usage | {"total_tokens": sum(usage.values())}} if b.usage else {})  # fmt: skip

    def _content(self, prompt: str, rng: random.Random, wanted: str) -> str:
        if self.behaviour.say is not None:
            return self.behaviour.say
        dialogue = (self.behaviour.write or write_dialogue)(prompt, rng)
        if self.behaviour.form == "prose":
            return f"Sure! Here is a dialogue.\n\n{as_text(dialogue)}\n\nI hope this helps."
        return as_text(dialogue) if wanted == "text" else json.dumps(dialogue)

    # -- files and batches

    def _upload(self, body: bytes, headers: dict[str, str]) -> dict[str, Any]:
        boundary = headers["content-type"].partition("boundary=")[2].strip('"').encode()
        for part in body.split(b"--" + boundary):
            if b"filename=" in part:
                content = part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
                id = f"file-{len(self.files)}"
                self.files[id] = content
                return {
                    "id": id,
                    "object": "file",
                    "bytes": len(content),
                    "created_at": 0,
                    "filename": "x",
                    "purpose": "batch",
                    "status": "processed",
                }
        raise _Refuse(400, {"message": "no file"})

    def _batch(self, body: dict[str, Any]) -> dict[str, Any]:
        id = f"batch-{len(self.batches)}"
        self.batches[id] = {"id": id, "polls": 0, **body}
        return self._public(self.batches[id])

    def _public(self, batch: dict[str, Any]) -> dict[str, Any]:
        done = batch["polls"] >= self.behaviour.batch_polls
        return {
            "id": batch["id"], "object": "batch", "endpoint": batch["endpoint"],
            "input_file_id": batch["input_file_id"],
            "completion_window": "24h", "created_at": 0, "metadata": batch.get("metadata"),
            "status": batch.get("status", "completed") if done else "in_progress",
            "output_file_id": batch.get("output") if done else None,
            "error_file_id": batch.get("errors") if done else None,
        }  # fmt: skip

    def _poll(self, batch: dict[str, Any]) -> dict[str, Any]:
        batch["polls"] += 1
        if batch["polls"] == self.behaviour.batch_polls:
            rows = []
            for line in self.files[batch["input_file_id"]].decode().splitlines():
                item = json.loads(line)
                try:
                    response = {"status_code": 200, "request_id": "r", "body": self.complete(item["body"])}
                except _Refuse as refusal:
                    response = {"status_code": refusal.status, "request_id": "r", "body": {"error": refusal.error}}
                rows.append({"id": "b", "custom_id": item["custom_id"], "response": response, "error": None})
            if self.behaviour.batch_rows:
                rows = self.behaviour.batch_rows(rows)
            good = [r for r in rows if r["response"] and r["response"]["status_code"] == 200]
            bad = [r for r in rows if r not in good]
            for name, part in (("output", good), ("errors", bad)):
                if part:
                    batch[name] = f"file-{len(self.files)}"
                    self.files[batch[name]] = "\n".join(json.dumps(r) for r in part).encode()
        return self._public(batch)


@contextlib.contextmanager
def running(behaviour: Behaviour | None = None) -> Iterator[Server]:
    """A server in a thread of this process; its counters can be read directly."""
    server, loop = Server(behaviour), asyncio.new_event_loop()
    ready = threading.Event()

    def work() -> None:
        asyncio.set_event_loop(loop)
        listening = loop.run_until_complete(server.serve())
        ready.set()
        loop.run_forever()
        listening.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    ready.wait()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)


def main() -> None:
    """A process of its own: prints its address, and its counters as JSON when its standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--slots", type=int, default=10_000)
    parser.add_argument("--form", choices=FORMS, default="strict")
    args = parser.parse_args()
    behaviour = Behaviour(form=args.form, latency=args.latency, slots=args.slots)

    async def serve() -> None:
        server = Server(behaviour)
        server.keep_payloads = False
        await server.serve()
        print(server.url, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, input_end)
        print(
            json.dumps(
                {
                    "requests": server.requests,
                    "worked": server.worked,
                    "busy_most": server.busy_most,
                    "arrivals": server.arrivals,
                    "refusals": server.refusals,
                    "sent_twice": sum(n - 1 for n in server.paid.values()),
                }
            )
        )

    def input_end() -> None:
        import sys

        sys.stdin.read()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
