"""The Chat page: streaming, stop, retry, undo, clear. Nothing is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator

import gradio as gr

from extes.portal.api import refusal
from extes.portal.talk import talk
from extes.study.conduct import Conduct
from extes.study.forms import Refused
from extes.texts import texts


def page(conduct: Conduct) -> None:
    words = texts()["chat"]

    async def answer(message: str, history: list) -> AsyncIterator[str]:
        try:
            async for text in talk(conduct, message, history):
                yield text
        except Refused as error:
            raise refusal(error) from None

    gr.Markdown(words["intro"])
    chatbot = gr.Chatbot(
        show_label=False,
        height="clamp(14rem, calc(100dvh - 26rem), 40rem)",
        placeholder=words["placeholder"],
        buttons=["copy"],
        sanitize_html=True,
    )
    gr.ChatInterface(
        answer,
        chatbot=chatbot,
        textbox=gr.Textbox(
            placeholder=words["placeholder"],
            show_label=False,
            label="Your message",
            submit_btn="Send",
            elem_classes="message-box",
            stop_btn="Stop",
            max_length=conduct.study.max_message_chars,
            lines=1,
            max_lines=6,
        ),
        api_visibility="private",
        concurrency_limit=None,
        autofocus=False,
        save_history=False,
        analytics_enabled=False,
        show_progress="hidden",
    )
