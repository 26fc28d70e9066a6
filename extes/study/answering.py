"""Both replies to one message: asked for at once, awaited in full, released on one clock. Stores nothing.

How fast an arm is never shows. One reply that fails makes the exchange fail for both sides.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from extes.arms.arm import Arm, ArmError
from extes.safety.crisis import Screen
from extes.study.assignment import SIDES, Side
from extes.study.comparison import Comparison
from extes.study.config import Study
from extes.study.tidy import tidy


@dataclass(frozen=True)
class Reply:
    """A reply and what it rests on. ``messages_left_out`` did not fit into the arm's context."""

    text: str
    revision: str
    prompt_hash: str
    messages_left_out: int
    seed: int
    tokens: int
    seconds: float
    finish: str | None


class Failed(Exception):
    """An exchange that cannot be completed. ``reason`` is a key of the texts' ``stopped``."""

    def __init__(self, reason: str, side: Side | None, detail: str) -> None:
        detail = detail.encode("utf-8", "replace").decode("utf-8")  # it is kept, and no file holds half a character
        super().__init__(detail)
        self.reason, self.side, self.detail = reason, side, detail


async def both(
    study: Study, arms: Mapping[str, Arm], screen: Screen, comparison: Comparison, text: str, number: int
) -> dict[Side, Reply]:
    """Both replies, or :class:`Failed`. The sides run at once and share one deadline."""
    tasks = {side: asyncio.create_task(_reply(study, arms, screen, comparison, side, text, number)) for side in SIDES}
    try:
        async with asyncio.timeout(study.generation.deadline_seconds):
            await asyncio.gather(*tasks.values())
    except TimeoutError as error:
        late = [side for side in SIDES if not tasks[side].done() or tasks[side].cancelled()]
        raise Failed("deadline", late[0] if len(late) == 1 else None, f"no reply from {late} in time") from error
    finally:
        for task in tasks.values():
            task.cancel()
    return {side: tasks[side].result() for side in SIDES}


async def _reply(
    study: Study,
    arms: Mapping[str, Arm],
    screen: Screen,
    comparison: Comparison,
    side: Side,
    text: str,
    number: int,
) -> Reply:
    arm = arms[comparison.sides[side]]
    digest = hashlib.sha256(f"{study.generation.seed}/{comparison.id}/{number}/{arm.name}".encode()).digest()
    seed = int.from_bytes(digest[:6], "big")
    messages = [*comparison.history(side), {"role": "user", "content": text}]
    prompt = json.dumps([study.arm(arm.name).system_prompt, messages], ensure_ascii=False)
    parts, tokens, left_out, finish, began = [], 0, 0, None, time.monotonic()
    try:
        async for piece in arm.reply(messages, study.generation.max_new_tokens, seed):
            parts.append(piece.text)
            tokens += piece.tokens
            left_out = max(left_out, piece.left_out)
            finish = piece.finish or finish
    except Exception as error:  # whatever an arm raises is that arm's failure, and both sides' end
        detail = str(error) if isinstance(error, ArmError) else f"arm {arm.name}: {type(error).__name__}: {error}"
        raise Failed("arm_failed", side, detail) from error
    # Pieces may cut a character into halves: put them together, for no file holds a half.
    whole = "".join(parts).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    said = tidy(whole, finish)
    if not said:
        raise Failed("arm_failed", side, f"arm {arm.name} said nothing")
    if screen.harmful(said):
        raise Failed("unsafe_reply", side, f"arm {arm.name} said something harmful")
    return Reply(
        text=said,
        revision=arm.revision,
        prompt_hash=hashlib.sha256(prompt.encode()).hexdigest()[:16],
        messages_left_out=left_out,
        seed=seed,
        tokens=tokens,
        seconds=round(time.monotonic() - began, 3),
        finish=finish,
    )


async def release(replies: dict[Side, Reply], pace: float) -> AsyncIterator[dict[str, Any]]:
    """Frames of both replies, one word of each a beat; ``pace`` is words a second, 0 for all at once."""
    if pace:
        words = {side: replies[side].text.split(" ") for side in SIDES}
        for n in itertools.count(1):
            if all(n >= len(words[side]) for side in SIDES):
                break
            yield {side: " ".join(words[side][:n]) for side in SIDES} | {"finished": False}
            await asyncio.sleep(1 / pace)
    yield {side: replies[side].text for side in SIDES} | {"finished": True}
