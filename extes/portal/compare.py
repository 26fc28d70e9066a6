"""The Compare page: consent, conversation with both sides, rating, receipt; and the way out of it.

Holds no truth: the token names the comparison, and every step asks :class:`Conduct`. What the browser keeps between
visits is that token alone, and only after consent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from extes import taxonomy
from extes.portal import aside, html
from extes.portal.api import refusal
from extes.study.conduct import Conduct
from extes.study.forms import MAX_SITUATION_CHARS, Distress, Refused
from extes.texts import texts

log = logging.getLogger(__name__)

ANSWERS = {"a": "A", "tie": "No difference", "b": "B", "both_bad": "Both are bad", "cant_judge": "I can't judge"}
DRAWN, CHOSEN, OWN = "Give me one", "Let me choose", "My own"


def remembered(kept: Any) -> str | None:
    """The token that the browser kept, for a page whose session on the server is gone."""
    return kept.get("comparison") if isinstance(kept, dict) else None


def forgotten(kept: Any) -> dict[str, Any] | None:
    """What the browser keeps once its comparison is over: the rater, who may start another."""
    return {"rater": kept["rater"]} if isinstance(kept, dict) and "rater" in kept else None


def arrive(selector: str) -> str:
    """Script for keyboards and screen readers: focus what appeared if the focus was lost, announce progress."""
    return f"""() => setTimeout(() => {{
        document.querySelectorAll('.block.announced').forEach(e => e.setAttribute('aria-live', 'polite'));
        if (document.activeElement === document.body) document.querySelector('{selector}')?.focus();
    }}, 300)"""


def page(conduct: Conduct, demo: gr.Blocks) -> None:
    study, words = conduct.study, texts()["compare"]

    saved = gr.BrowserState(None, storage_key="extes", secret="extes")
    token = gr.State(None)
    said = gr.State([])

    paused = aside.paused()
    with gr.Column() as consent_part:
        gr.Markdown(words["intro"])
        gr.Markdown(study.consent)
        way = gr.Radio([DRAWN, CHOSEN, OWN], value=DRAWN, label="Which situation do you want to write about?")
        chosen = gr.Dropdown(
            [s.name for s in taxonomy.SCENARIOS], value=None, label="Situation", visible=False, filterable=False
        )
        own = gr.Textbox(label="Your situation, in a few words", max_length=MAX_SITUATION_CHARS, visible=False)
        agreed = gr.Checkbox(label="I have read this and I agree to take part.")
        of_age = gr.Checkbox(label="I am 18 or older.")
        publish = gr.Checkbox(label="My conversation may be published with the ratings (you can leave this out).")
        begin = gr.Button("Begin", variant="primary", size="lg")
    aside.watch(conduct, demo, paused, begin)

    with gr.Column(visible=False) as talk_part:
        situation = gr.HTML(padding=False)
        thread = gr.HTML(padding=False)
        message = gr.Textbox(
            placeholder=words["placeholder"],
            show_label=False,
            label="Your message",
            submit_btn="Send",
            elem_classes="message-box",
            max_length=study.max_message_chars,
            lines=1,
            max_lines=6,
        )
        progress = gr.Markdown(elem_classes=["progress", "announced"])

    with gr.Column(visible=False) as rating_part:
        gr.Markdown("### Your rating")
        answers = [
            gr.Radio([(ANSWERS[a], a) for a in c.answers], label=c.label, info=c.definition) for c in study.criteria
        ]
        comment = gr.Textbox(
            label="Anything else? (you can leave this out)", lines=2, max_length=study.max_comment_chars
        )
        send = gr.Button("Send my rating", variant="primary", size="lg")

    stop = gr.Button(words["leave"], visible=False, size="sm", elem_classes="leave")
    end = gr.HTML(visible=False, padding=False)
    again = gr.Button("Start another", visible=False)
    aside.withdrawal(conduct)

    parts = [consent_part, talk_part, rating_part, end, again, stop]

    def show(*visible: Any, note: str | None = None) -> list[Any]:
        shown = [gr.update(visible=part in visible) for part in parts]
        if note is not None:
            shown[3] = gr.update(value=note, visible=True)
        return shown

    def talking(view: dict[str, Any], exchanges: list[dict[str, Any]], note: str = "") -> list[Any]:
        """Updates of situation, thread, message, progress and parts for an open comparison."""
        left = view["minimum_exchanges"] - len(exchanges)
        full = len(exchanges) >= view["maximum_exchanges"]
        step = words["more"].format(left) if left > 0 else words["last"] if full else words["enough"]
        visible = (talk_part, rating_part, stop) if left <= 0 else (talk_part, stop)
        return [
            html.situation(view["scenario"], view["scenario_definition"]),
            html.thread(exchanges),
            gr.update(interactive=not full),
            f"{note} {step}".strip(),
            *show(*visible),
        ]

    spoken = [situation, thread, message, progress, *parts]

    async def on_begin(
        way: str, chosen: str | None, own: str, agreed: bool, of_age: bool, publish: bool, kept: Any
    ) -> Any:
        wanted = {DRAWN: None, CHOSEN: chosen, OWN: own}[way]
        if way != DRAWN and not (wanted or "").strip():
            raise gr.Error("Please name the situation, or let us give you one.", print_exception=False, title="")
        rater = kept.get("rater") if isinstance(kept, dict) else None
        form = {"agreed": agreed, "of_age": of_age, "publish_transcript": publish, "scenario": wanted, "rater": rater}
        try:
            opened = await conduct.start(form)
        except Distress as error:  # stays on the page, where a toast would go
            note = html.stopped(str(error))
            return [*[gr.skip()] * 7, *show(end, again, note=note), *[gr.skip()] * (len(answers) + 1)]
        except Refused as error:
            raise refusal(error) from None
        keep = {"comparison": opened["comparison"], "rater": opened["rater"]}
        return [keep, opened["comparison"], [], *talking(opened, []), *([gr.update(value=None)] * len(answers)), ""]

    async def on_message(
        token: str | None, kept: Any, text: str, said: list[dict[str, Any]]
    ) -> AsyncIterator[list[Any]]:
        token = token or remembered(kept)
        unchanged = [gr.skip()] * len(spoken)
        if not text or not text.strip():  # Send was tapped twice, and the first has taken the message
            yield [said, *unchanged]
            return
        sent = False
        try:
            async for frame in conduct.say(token, text):
                if "stopped" in frame:
                    note = html.stopped(frame["stopped"]["text"])
                    yield [said, *unchanged[:2], gr.update(value=""), "", *show(end, again, note=note)]
                    return
                if not frame["finished"]:
                    shown = html.thread(said, {"message": text.strip(), **frame})
                    box = gr.skip() if sent else gr.update(value="")
                    waiting = gr.skip() if frame["a"] or frame["b"] else words["thinking"]
                    yield [said, gr.skip(), shown, box, waiting, *unchanged[4:]]
                    sent = True
                    continue
                view = await conduct.view(token)
                if view["state"] != "open":  # rated meanwhile: the receipt stays
                    return
                note = words["concern"] if frame.get("concern") else words["answered"]
                yield [view["exchanges"], *talking(view, view["exchanges"], note)]
        except Exception as error:
            if sent:  # give back what was taken out of the box
                yield [said, gr.skip(), html.thread(said), gr.update(value=text), "", *unchanged[4:]]
            if not isinstance(error, Refused):
                log.exception("a message could not be answered")
                error = Refused(texts()["problem"]["unexpected"])
            raise refusal(error) from None

    async def on_rate(token: str | None, saved: Any, comment: str, *given: str | None) -> Any:
        token = token or remembered(saved)
        form = {
            "answers": {c.name: g for c, g in zip(study.criteria, given, strict=True) if g is not None},
            "comment": comment,
        }
        try:
            kept = await conduct.rate(token, form)
        except Refused as error:
            raise refusal(error) from None
        return show(end, again, note=html.receipt(kept["receipt"], kept["reveal"], kept.get("help")))

    async def on_leave(token: str | None, kept: Any) -> Any:
        try:
            left = await conduct.leave(token or remembered(kept))
        except Refused as error:
            raise refusal(error) from None
        note = html.stopped(left["stopped"]["text"])
        return [forgotten(kept), None, [], "", *show(end, again, note=note)]

    async def on_load(kept: Any) -> AsyncIterator[list[Any]]:
        """Go on with a comparison that a reload or a restart interrupted."""
        token, waited, nothing = remembered(kept), False, [gr.skip()] * (2 + len(spoken))
        yield nothing  # a generator that ends before its first word empties everything
        if not token:
            return
        try:
            view = await conduct.view(token)
            while view["under_way"]:  # the page that asked is gone; the answer is not
                now = {"message": view["under_way"], "a": "", "b": "", "finished": False}
                updates = talking(view, view["exchanges"])
                updates[1], updates[3] = html.thread(view["exchanges"], now), words["thinking"]
                yield nothing if waited else [token, view["exchanges"], *updates]
                waited = True
                await asyncio.sleep(0.5)
                view = await conduct.view(token)
        except Refused:
            return
        ended = [token, [], *[gr.skip()] * 4]
        try:
            if view["state"] == "rated":
                done = await conduct.rate(token, None)
                note = html.receipt(done["receipt"], done["reveal"], done.get("help"))
                yield [*ended, *show(end, again, note=note)]
            elif view["state"] == "open":
                note = words["answered"] if waited else words["resumed"]
                yield [token, view["exchanges"], *talking(view, view["exchanges"], note)]
            elif waited:
                left = await conduct.leave(token)
                yield [*ended, *show(end, again, note=html.stopped(left["stopped"]["text"]))]
        except Refused as error:  # withdrawn beside this, or a receipt whose key is gone
            raise refusal(error) from None

    def on_again(kept: Any) -> Any:
        return [forgotten(kept), None, [], "", *show(consent_part)]

    def on_way(way: str) -> Any:
        return gr.update(visible=way == CHOSEN), gr.update(visible=way == OWN)

    quiet: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": None, "show_progress": "hidden"}
    way.change(on_way, way, [chosen, own], queue=False, **quiet)
    beginning = begin.click(
        on_begin,
        [way, chosen, own, agreed, of_age, publish, saved],
        [saved, token, said, *spoken, *answers, comment],
        **quiet,
    )
    beginning.success(None, js=arrive(".situation, .stopped"))
    answering = message.submit(
        on_message, [token, saved, message, said], [said, *spoken], trigger_mode="always_last", **quiet
    )
    sending = send.click(on_rate, [token, saved, comment, *answers], parts, trigger_mode="once", **quiet)
    loading = demo.load(on_load, saved, [token, said, *spoken], **quiet)
    # An answer under way is dropped, or it would come back over whatever the page shows by then.
    leaving = stop.click(
        on_leave,
        [token, saved],
        [saved, token, said, message, *parts],
        trigger_mode="once",
        cancels=[answering, loading],
        **quiet,
    )
    leaving.success(None, js=arrive(".stopped"))
    again.click(on_again, saved, [saved, token, said, message, *parts], **quiet)
    sending.success(None, js=arrive(".receipt"))
    loading.success(None, js=arrive(".situation, .receipt"))
