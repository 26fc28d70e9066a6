"""The whole portal: three pages under one frame, and how it is launched.

Gradio's traps that are closed here: no run history in the browser, no telemetry, no monitoring page, no API link in the
footer, no tunnel, no files taken, no fonts from elsewhere; page handlers are private and named for what a person does.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from importlib.resources import files
from typing import Any

import gradio as gr
from gradio.components.navbar import Navbar
from starlette.middleware import Middleware

from extes.portal import chat, compare, html, results
from extes.portal.api import add_api
from extes.portal.door import Door
from extes.study.conduct import Conduct
from extes.texts import texts

FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]


def build(conduct: Conduct) -> gr.Blocks:
    """The pages of a study. Compare comes first where the study has no chat."""
    words = texts()
    pages: list[tuple[str, Callable[[gr.Blocks], None]]] = [
        (words["compare"]["title"], lambda demo: compare.page(conduct, demo)),
        (words["results"]["title"], lambda demo: results.page(conduct, demo)),
    ]
    if conduct.study.chat:
        pages.insert(0, (words["chat"]["title"], lambda demo: chat.page(conduct)))

    (first, make_first), *others = pages
    demo: gr.Blocks
    with gr.Blocks(title=f"{conduct.study.title} - ExTES Portal", analytics_enabled=False) as demo:
        _frame(conduct, demo, first)
        make_first(demo)
        add_api(conduct)
    for name, make in others:
        with demo.route(name, f"/{name.lower()}"):
            _frame(conduct, demo, first)
            make(demo)
    demo.queue(default_concurrency_limit=None, api_open=False)
    return demo


def _frame(conduct: Conduct, demo: gr.Blocks, first: str) -> None:
    """What every page begins with: navigation, help, notice."""
    Navbar(main_page_name=first)
    gr.HTML(f"<h1>{escape(conduct.study.title)}</h1>", elem_classes="page-title", padding=False)
    gr.HTML(html.help_box(conduct.study.help_lines), elem_classes="help-frame", padding=False)
    state = gr.HTML(html.notice(conduct.ready), padding=False)
    timer = gr.Timer(2, active=not conduct.ready)

    def on_tick() -> Any:
        return html.notice(conduct.ready), gr.Timer(active=not conduct.ready)

    quiet: dict[str, Any] = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
    timer.tick(on_tick, None, [state, timer], **quiet)
    demo.load(on_tick, None, [state, timer], **quiet)


def _theme() -> gr.themes.Base:
    """Gradio's Soft theme with the fonts of the device, and contrast enough to read (4.5 to 1) and to see a box."""
    return gr.themes.Soft(font=FONTS, font_mono=["ui-monospace", "monospace"]).set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        input_border_color="*neutral_400",
        input_border_color_dark="*neutral_500",
        input_border_width="1px",
        checkbox_border_color="*neutral_500",
        checkbox_border_color_dark="*neutral_300",
        checkbox_border_width="1px",
        checkbox_label_border_width="1px",
        checkbox_label_border_color="*neutral_300",
        checkbox_label_border_color_dark="*neutral_600",
        button_secondary_border_color="*neutral_400",
    )


def launch(demo: gr.Blocks, **options: Any) -> str:
    """Serve the pages from a thread and return their address."""
    _, url, _ = demo.launch(
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        run_history=False,
        enable_monitoring=False,
        footer_links=[],
        pwa=False,
        app_kwargs={"middleware": [Middleware(Door)]},
        ssr_mode=False,
        show_error=False,
        theme=_theme(),
        css=(files("extes") / "portal" / "style.css").read_text(encoding="utf-8"),
        **options,
    )
    return str(url)
