"""One turn of open chat: screened, streamed, stored nowhere. Knows nothing of pages."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from typing import Any

from extes.arms.arm import ArmError
from extes.safety.crisis import screen
from extes.study import forms
from extes.study.conduct import Conduct
from extes.study.forms import Refused
from extes.study.tidy import tidy
from extes.texts import texts

log = logging.getLogger(__name__)


def plain(content: Any) -> str:
    """The text of a chat message, whose content is a string or Gradio's list of blocks."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(str(b.get("text") or "") for b in content if isinstance(b, dict) and b.get("type") == "text")
    return ""


def conversation(history: Any) -> list[dict[str, str]]:
    """A client's history as alternating messages, or :class:`Refused`. The portal's own notes are left out."""
    if not isinstance(history, list):
        raise Refused('history is a list of {"role": "user" or "assistant", "content": TEXT}.')
    words = texts()["chat"]
    notes = {words["crisis"], words["withheld"], words["failed"]}
    worry = f"\n\n*{words['concern']}*"
    messages: list[dict[str, str]] = []
    for item in history:
        if not isinstance(item, dict) or item.get("role") not in ("user", "assistant"):
            raise Refused('history is a list of {"role": "user" or "assistant", "content": TEXT}.')
        text = plain(item.get("content")).strip()
        if item["role"] == "assistant":
            if text in notes:
                del messages[-1:]  # the message that was answered by a note, not by the model
                continue
            text = text.removesuffix(worry)
        if text:
            messages.append({"role": item["role"], "content": text})
    alternating: list[dict[str, str]] = []
    for message in messages:
        if alternating and alternating[-1]["role"] == message["role"]:
            alternating[-1] = message
        else:
            alternating.append(message)
    return alternating[1:] if alternating and alternating[0]["role"] == "assistant" else alternating


async def talk(conduct: Conduct, message: Any, history: Any) -> AsyncIterator[str]:
    """The reply as far as it has come, again and again. Raises :class:`Refused`."""
    words, guard = texts()["chat"], screen("en")
    text = forms.message(plain(message), conduct.study)
    level = guard(text)
    if level == "crisis":  # before all that could stand against help
        yield words["crisis"]
        return
    past = conversation(history)
    if sum(len(m["content"]) for m in past) > 100 * conduct.study.max_message_chars:
        raise Refused("This conversation has become too long. Please clear it and begin again.")
    arm = conduct.arms[conduct.study.chat]
    await conduct.until_ready([arm])
    said, finish, shown = "", None, ""
    generation = conduct.study.generation
    if past and past[-1]["role"] == "user":
        past.pop()
    messages = [*past, {"role": "user", "content": text}]
    try:
        async with asyncio.timeout(generation.deadline_seconds):
            async for piece in arm.reply(messages, generation.max_new_tokens, secrets.randbits(48)):
                said, finish = said + piece.text, piece.finish or finish
                now = tidy(said, None)
                if guard.harmful(now):
                    yield words["withheld"]
                    return
                if now and now != shown:
                    shown = now
                    yield shown
    except (ArmError, TimeoutError) as error:
        log.error("chat: %s", error or "no reply in time")
        yield words["failed"]
        return
    reply = tidy(said, finish) or words["failed"]
    yield f"{reply}\n\n*{words['concern']}*" if level == "concern" else reply
