"""The door of the portal: what a request may carry. Knows HTTP; knows no page and no study.

Pages and scripts send words, as JSON. Gradio would take more: uploads of any size, and files that a client names by
their address, which it then fetches, keeps and serves to everyone. So a body that is large, is no JSON or names a file
goes no further.
"""

from __future__ import annotations

import json

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BYTES = 4_000_000  # a chat of 200,000 characters, each written with an escape, is 1,200,000


class Door:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        body, more = bytearray(), True
        while more and len(body) <= MAX_BYTES:
            part = await receive()
            body += part.get("body", b"")
            more = part.get("more_body", False)
        if len(body) > MAX_BYTES:
            await PlainTextResponse("The request is too large.", 413)(scope, receive, send)
            return
        if not _words_alone(bytes(body)):
            await PlainTextResponse("The request is no JSON, or names a file.", 400)(scope, receive, send)
            return
        unread = True

        async def again() -> Message:
            nonlocal unread
            if unread:
                unread = False
                return {"type": "http.request", "body": bytes(body), "more_body": False}
            return await receive()

        await self._app(scope, again, send)


def _words_alone(body: bytes) -> bool:
    try:
        return not body or '"_type": "gradio.FileData"' not in json.dumps(json.loads(body))
    except (ValueError, RecursionError):
        return False
