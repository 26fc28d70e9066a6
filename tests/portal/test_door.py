"""What a request may carry, without a server."""

import asyncio
import json

import pytest

from extes.portal.door import MAX_BYTES, Door

FILE = {"path": "https://example.org/a", "meta": {"_type": "gradio.FileData"}}


def through(*parts, method="POST"):
    """The body that arrives behind the door, or the status of the refusal."""
    arrived, answers = bytearray(), []
    messages = [{"type": "http.request", "body": p, "more_body": n < len(parts)} for n, p in enumerate(parts, 1)]

    async def app(scope, receive, send):
        more = True
        while more:
            message = await receive()
            arrived.extend(message["body"])
            more = message["more_body"]

    async def receive():
        return messages.pop(0)

    async def send(message):
        answers.append(message.get("status"))

    asyncio.run(Door(app)({"type": "http", "method": method}, receive, send))
    return answers[0] if answers else bytes(arrived)


def test_words_pass_as_they_are_whole_or_in_parts():
    body = json.dumps({"data": ['a "_type": "gradio.FileData" in words', {"a": None}]}).encode()
    assert through(body) == body
    assert through(body[:9], body[9:], b"") == body
    assert through(b"") == b""


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"data": [FILE]}).encode(),
        json.dumps({"data": [[{"role": "user", "content": [{"type": "file", "file": FILE}]}]]}).encode(),
        json.dumps({"data": [FILE]}).replace(".File", "\\u002eFile").encode(),
        b'{"data": [' + b"9" * 5000 + b", " + json.dumps(FILE).encode() + b"]}",
        b"[" * 100_000,
        b"--boundary\r\n",
    ],
)
def test_a_file_or_what_is_no_json_stays_outside(body):
    assert through(body) == 400


def test_what_is_too_large_stays_outside():
    assert through(*[b"x" * 1_000_000] * 5) == 413
    assert MAX_BYTES < 5_000_000
