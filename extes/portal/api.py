"""The contract: ``/start``, ``/say``, ``/rate``, ``/leave``, ``/withdraw``, ``/chat``; for scripts, simulated raters.

The pages call the same :class:`Conduct`; this module only turns a refusal into an error that a client can read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import gradio as gr
from gradio.events import api

from extes.portal.talk import talk
from extes.study.conduct import Conduct
from extes.study.forms import Distress, Refused


def refusal(error: Refused) -> gr.Error:
    stays = isinstance(error, Distress)
    return gr.Error(str(error), duration=None if stays else 10, print_exception=False, title="")


def add_api(conduct: Conduct) -> None:
    """Add the endpoints to the Blocks being built."""

    async def start(consent: dict) -> dict:
        """Open a comparison: {"agreed": true, "of_age": true, "publish_transcript": false, "scenario": null}."""
        try:
            return await conduct.start(consent)
        except Refused as error:
            raise refusal(error) from None

    async def say(comparison: str, message: str) -> AsyncIterator[dict]:
        """Send one message to both sides; streams {"a", "b", "finished"}."""
        try:
            async for frame in conduct.say(comparison, message):
                yield frame
        except Refused as error:
            raise refusal(error) from None

    async def rate(comparison: str, rating: dict) -> dict:
        """Keep a rating: {"answers": {criterion: answer}, "comment": ""}; gives the receipt."""
        try:
            return await conduct.rate(comparison, rating)
        except Refused as error:
            raise refusal(error) from None

    async def leave(comparison: str) -> dict:
        """End an open comparison without a rating; gives {"stopped": {"reason", "text"}}."""
        try:
            return await conduct.leave(comparison)
        except Refused as error:
            raise refusal(error) from None

    async def withdraw(receipt: str) -> dict:
        """Withdraw the rating that has this receipt."""
        try:
            return await conduct.withdraw(receipt)
        except Refused as error:
            raise refusal(error) from None

    async def chat(message: str, history: list[dict]) -> AsyncIterator[str]:
        """Chat with the study's chat arm; nothing is stored. Streams the reply as far as it has come."""
        try:
            async for text in talk(conduct, message, history):
                yield text
        except Refused as error:
            raise refusal(error) from None

    api(start, api_name="start", concurrency_limit=None)
    api(say, api_name="say", concurrency_limit=None)
    api(rate, api_name="rate", concurrency_limit=None)
    api(leave, api_name="leave", concurrency_limit=None)
    api(withdraw, api_name="withdraw", concurrency_limit=None)
    if conduct.study.chat:
        api(chat, api_name="chat", concurrency_limit=None)
