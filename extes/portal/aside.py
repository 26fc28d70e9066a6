"""Beside the comparison on its page: the word that the study is paused, and the way to withdraw a rating."""

from __future__ import annotations

from typing import Any

import gradio as gr

from extes.portal import html
from extes.portal.api import refusal
from extes.study.conduct import Conduct
from extes.study.forms import Refused
from extes.texts import texts

LOOK_AGAIN_SECONDS = 10


def paused() -> gr.HTML:
    """The place for the word that the study is paused; :func:`watch` fills it."""
    return gr.HTML(visible=False, padding=False)


def watch(conduct: Conduct, demo: gr.Blocks, word: gr.HTML, begin: gr.Button) -> None:
    """Show the word and shut ``begin`` while no ratings are taken.

    Looks when the page opens, and while the study is paused again and again, so that it recovers by itself.
    """
    timer = gr.Timer(LOOK_AGAIN_SECONDS, active=False)

    async def on_look() -> Any:
        why = await conduct.closed()
        shown = gr.update(value=html.stopped(why) if why else "", visible=bool(why))
        return shown, gr.Timer(active=bool(why)), gr.update(interactive=not why)

    quiet: dict[str, Any] = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
    demo.load(on_look, None, [word, timer, begin], **quiet)
    timer.tick(on_look, None, [word, timer, begin], **quiet)


def withdrawal(conduct: Conduct) -> None:
    """A folded part of the page, in which a receipt withdraws its rating."""
    words = texts()["withdraw"]
    with gr.Accordion(words["title"], open=False, elem_classes="withdraw"):
        gr.Markdown(words["note"])
        receipt = gr.Textbox(label=words["label"], placeholder="1A2B-3C4D-5E6F-7A8B", max_length=40, lines=1)
        button = gr.Button(words["button"])
        told = gr.Markdown(elem_classes=["announced"])

    async def on_withdraw(receipt: str) -> str:
        try:
            return str((await conduct.withdraw(receipt))["text"])
        except Refused as error:
            raise refusal(error) from None

    quiet: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": None, "show_progress": "hidden"}
    button.click(on_withdraw, receipt, told, **quiet)
    receipt.submit(on_withdraw, receipt, told, **quiet)
