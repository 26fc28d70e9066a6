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
    table = gr.HTML(padding=False)

    last = (-1, "")  # the table for a number of events: counted once, shown to everyone

    def on_load() -> str:
        nonlocal last
        events = conduct.store.count()
        if last[0] != events:
            log = conduct.store.events(kind=("opened", "rated", "voided", "withdrawn"))
            rated = [c for c in fold_all(log) if c.state == "rated" and c.opened["study"] == study.hash]
            tallies = tally(rated, [c.name for c in study.criteria])
            labels = {arm.name: arm.label for arm in study.arms}
            last = (events, html.results(tallies, labels, {c.name: c.label for c in study.criteria}, len(rated)))
        return last[1]

    demo.load(on_load, None, table, api_visibility="private", concurrency_limit=None, show_progress="hidden")
