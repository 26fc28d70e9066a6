"""HTML that the pages show. Pure: values in, escaped markup out; both sides go through the same lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from extes.safety.help import Help
from extes.study.assignment import SIDES
from extes.study.ratings import Tally
from extes.texts import texts


def help_box(help: Help) -> str:
    """Help lines behind one tap, on every page."""
    lines = "".join(
        f'<li><a href="tel:{escape(line.call)}">{escape(line.place)}: <b>{escape(line.name)}</b>'
        f"<br>{escape(line.note or line.call)}</a></li>"
        for line in help.line
    )
    return (
        '<div class="help"><details><summary>Need help now? <span>Talk to a person.</span></summary>'
        f"<p>{escape(help.intro)}</p><p><b>{escape(help.emergency)}</b></p><ul>{lines}"
        f'<li><a href="{escape(help.directory)}" target="_blank" rel="noopener noreferrer">Anywhere else: '
        f"<b>{escape(help.directory.removeprefix('https://'))}</b><br>{escape(help.directory_note)}</a></li></ul>"
        "</details></div>"
    )


def notice(ready: bool) -> str:
    loading = "" if ready else ' <span class="loading" role="status">The models are loading; a few seconds more.</span>'
    return f'<div class="notice">{escape(texts()["notice"])}{loading}</div>'


def situation(name: str, definition: str) -> str:
    body = f"<br>{escape(definition)}" if definition else ""
    task = escape(texts()["compare"]["task"])
    return f'<div class="situation" tabindex="-1"><b>{escape(name)}</b>{body}<br><small>{task}</small></div>'


def thread(exchanges: Sequence[Mapping[str, Any]], now: Mapping[str, Any] | None = None) -> str:
    """The conversation: each message once, both answers under it. ``now`` is the exchange under way."""
    blocks = [_exchange(e["message"], e, finished=True) for e in exchanges]
    if now is not None:
        blocks.append(_exchange(now["message"], now, finished=now["finished"]))
    busy = "false" if now is None or now["finished"] else "true"
    return f'<section class="thread" aria-label="Conversation" aria-busy="{busy}">{"".join(blocks)}</section>'


def _exchange(message: str, replies: Mapping[str, str], finished: bool) -> str:
    sides = "".join(_side(side, replies[side], finished) for side in SIDES)
    return f'<div class="said">{escape(message)}</div><div class="pair">{sides}</div>'


def _side(side: str, text: str, finished: bool) -> str:
    body = escape(text) if text or finished else '<span class="waiting">...</span>'
    return f'<div class="side"><b aria-label="Side {side.upper()}">{side.upper()}</b>{body}</div>'


def stopped(text: str) -> str:
    return f'<div class="stopped" role="alert" tabindex="-1">{escape(text)}</div>'


def receipt(code: str, reveal: Mapping[str, str] | None, help: str | None = None) -> str:
    told = ""
    if reveal:
        rows = "".join(f"<dt>Side {s.upper()}</dt><dd>{escape(reveal[s])}</dd>" for s in SIDES)
        told = f"<dl>{rows}</dl>"
    words = texts()["compare"]
    return (
        (stopped(help) if help else "")
        + f'<div class="receipt" tabindex="-1"><b>{escape(words["receipt"])}</b><code>{escape(code)}</code>'
        f"{escape(words['receipt_note'])}{told}</div>"
    )


def results(tallies: Sequence[Tally], labels: Mapping[str, str], criteria: Mapping[str, str], n: int) -> str:
    """One table for each pair of arms: wins, ties and losses of the first, per criterion."""
    if not n:
        return f"<p>{escape(texts()['results']['none'])}</p>"
    pairs = sorted({(t.arm, t.against) for t in tallies})
    tables = []
    for arm, against in pairs:
        rows = "".join(_row(t, criteria) for t in tallies if (t.arm, t.against) == (arm, against))
        tables.append(
            f"<h3>{escape(labels[arm])} <small>against</small> {escape(labels[against])}</h3><table><thead><tr>"
            "<th>Criterion</th><th>Wins</th><th>Ties</th><th>Losses</th><th>Neither</th><th></th></tr></thead>"
            f"<tbody>{rows}</tbody></table>"
        )
    return f'<div class="results"><p>{n} rating{"s" if n != 1 else ""}, plain counts.</p>{"".join(tables)}</div>'


def _row(t: Tally, criteria: Mapping[str, str]) -> str:
    total = max(1, t.win + t.tie + t.loss)
    parts = (("win", t.win), ("tie", t.tie), ("loss", t.loss))
    bar = "".join(f'<span class="{kind}" style="width:{100 * n / total:.1f}%"></span>' for kind, n in parts)
    cells = "".join(f"<td>{n}</td>" for n in (t.win, t.tie, t.loss, sum(t.other.values())))
    bars = f'<td><div class="bar" aria-hidden="true">{bar}</div></td>'
    return f"<tr><td>{escape(criteria[t.criterion])}</td>{cells}{bars}</tr>"
