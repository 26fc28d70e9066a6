"""An arm that follows a script: for tests, rehearsals and demonstrations of what failure looks like.

The reply is drawn from ``replies`` by seed. A reply may be an instruction instead of words:
``!error`` fails, ``!hang`` never ends, ``!empty`` says nothing, ``!long`` runs into the token cap.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass

from extes.arms.arm import ArmError, Messages, Piece


@dataclass
class ScriptedArm:
    """``delay`` is the seconds between two words."""

    name: str
    replies: tuple[str, ...]
    delay: float = 0.0
    ready: bool = False

    @property
    def revision(self) -> str:
        return "script-" + hashlib.sha256("\n".join(self.replies).encode()).hexdigest()[:12]

    def load(self) -> None:
        self.ready = True

    async def reply(self, messages: Messages, max_new_tokens: int, seed: int) -> AsyncIterator[Piece]:
        line = random.Random(seed).choice(self.replies)
        if line == "!error":
            raise ArmError("scripted failure: secret-provider-name answered 500")
        if line == "!hang":
            await asyncio.sleep(3600)
        words = ["word"] * (max_new_tokens * 2) if line == "!long" else ([] if line == "!empty" else line.split())
        for n, word in enumerate(words):
            if n == max_new_tokens:
                yield Piece("", finish="length")
                return
            await asyncio.sleep(self.delay)
            yield Piece((" " if n else "") + word, tokens=1)
        yield Piece("", finish="stop")
