"""What a run shows while it works: a live table on a terminal, else a line now and then. Only looks on."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from extes.generation.pressure import Pressure
from extes.generation.purse import Purse
from extes.generation.settings import Settings
from extes.generation.state import State

if TYPE_CHECKING:
    from rich.table import Table

LIVE_SECONDS = 0.5
LINE_SECONDS = 15.0


@dataclass(frozen=True)
class Progress:
    """One look at a run. ``rate`` is kept dialogues a second since this process started; ``left`` in seconds."""

    kept: int
    target: int
    requests: int
    outcomes: Mapping[str, int]
    traffic: Mapping[str, int]
    tokens: int
    estimated: int
    spent: float | None
    currency: str
    in_flight: int
    limit: int
    rate: float
    left: float | None

    def line(self) -> str:
        parts = [f"{self.kept}/{self.target} kept", f"{self.requests} requests"]
        if rejected := {k: n for k, n in self.outcomes.items() if k not in ("accepted", "candidate")}:
            parts.append("rejected: " + ", ".join(f"{n} {k}" for k, n in rejected.items()))
        parts.append(f"{self.tokens:,} tokens" + (f" ({self.estimated:,} estimated)" if self.estimated else ""))
        if self.spent is not None:
            parts.append(f"{self.spent:.4f} {self.currency}")
        parts.append(f"{self.rate * 60:.1f} kept a minute, {self.in_flight} in flight")
        if self.left is not None:
            parts.append(f"{clock(self.left)} left")
        return " | ".join(parts)


def clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def progress(
    state: State,
    settings: Settings,
    purse: Purse,
    pressure: Pressure,
    traffic: Mapping[str, int],
    kept_before: int,
    seconds: float,
) -> Progress:
    kept = state.kept.total()
    rate = (kept - kept_before) / seconds if seconds > 0 else 0.0
    outcomes: Counter[str] = Counter()
    for (outcome, code), n in state.outcomes.items():
        outcomes[code or outcome] += n
    return Progress(
        kept,
        settings.target,
        state.requests,
        dict(outcomes.most_common()),
        dict(traffic),
        sum(t["input"] + t["output"] for t in state.tokens.values()),
        state.tokens["estimate"]["input"] + state.tokens["estimate"]["output"],
        purse.settled + purse.lost if purse.price else None,
        purse.price.currency if purse.price else "",
        pressure.in_flight,
        pressure.limit,
        rate,
        (settings.target - kept) / rate if rate > 0 else None,
    )


async def show(look: Callable[[], Progress], out: TextIO = sys.stderr, every: float = LINE_SECONDS) -> None:
    """Until cancelled: live where ``out`` is a terminal, lines where it is not; a last look at the end."""
    if out.isatty():
        await _live(look, out)
        return
    shown = time.monotonic()
    while True:
        await asyncio.sleep(min(every, 1.0))
        if time.monotonic() - shown >= every:
            shown = time.monotonic()
            print(look().line(), file=out, flush=True)


async def _live(look: Callable[[], Progress], out: TextIO) -> None:
    from rich.console import Console
    from rich.live import Live

    with Live(_table(look()), console=Console(file=out), refresh_per_second=4) as live:
        try:
            while True:
                await asyncio.sleep(LIVE_SECONDS)
                live.update(_table(look()))
        finally:
            live.update(_table(look()))


def _table(p: Progress) -> Table:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_row("kept", ProgressBar(total=max(1, p.target), completed=p.kept, width=40), f"{p.kept} of {p.target}")
    for name, n in p.outcomes.items():
        table.add_row("" if name in ("accepted", "candidate") else "rejected", name, str(n))
    table.add_row("requests", ", ".join(f"{n} {name}" for name, n in p.traffic.items()), str(p.requests))
    table.add_row("tokens", f"{p.estimated:,} of them estimated" if p.estimated else "", f"{p.tokens:,}")
    if p.spent is not None:
        table.add_row("spent", "", f"{p.spent:.4f} {p.currency}")
    table.add_row("in flight", f"up to {p.limit}", str(p.in_flight))
    table.add_row("rate", f"{p.rate * 60:.1f} kept a minute", f"{clock(p.left)} left" if p.left is not None else "")
    return table
