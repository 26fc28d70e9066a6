"""The Results page: wins, ties and losses per criterion, where the study opens them."""

from __future__ import annotations

import gradio as gr

from extes.portal import html
from extes.study.comparison import fold_all
from extes.study.conduct import Conduct
from extes.study.ratings import tally
from extes.texts import texts


def page(conduct: Conduct, demo: gr.Blocks) -> None:
    study = conduct.study
    if study.results != "open":
        gr.Markdown(texts()["results"]["hidden"])
        return
    shown = gr.HTML(padding=False)

    def on_load() -> str:
        rated = [c for c in fold_all(conduct.store.events()) if c.state == "rated" and c.opened["study"] == study.hash]
        tallies = tally(rated, [c.name for c in study.criteria])
        labels = {arm.name: arm.label for arm in study.arms}
        return html.results(tallies, labels, {c.name: c.label for c in study.criteria}, len(rated))

    demo.load(on_load, None, shown, api_visibility="private", concurrency_limit=None, show_progress="hidden")
