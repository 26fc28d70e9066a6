"""One comparison as its events tell it. Pure: folds events, decides nothing, stores nothing.

opened ──▶ exchanged* ──▶ rated ──▶ withdrawn
   └──────────┴──▶ voided (with a reason; never a rating)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from extes.study.assignment import SIDES, Side
from extes.study.chains import Event

State = Literal["open", "voided", "rated", "withdrawn"]


@dataclass(frozen=True)
class Exchange:
    """A seeker's message and both replies. ``details`` holds, by side, arm, revision, seed, tokens and seconds."""

    message: str
    replies: dict[Side, str]
    details: dict[Side, dict[str, Any]]


@dataclass(frozen=True)
class Comparison:
    id: str
    opened_at: str
    opened: dict[str, Any]
    exchanges: tuple[Exchange, ...] = ()
    state: State = "open"
    void_reason: str | None = None
    rated: dict[str, Any] | None = None
    rated_at: str | None = None
    rated_event: Event | None = None

    @property
    def sides(self) -> dict[Side, str]:
        """Which arm is which: never leaves the server before a rating."""
        return {side: self.opened["assignment"]["sides"][side] for side in SIDES}

    def history(self, side: Side) -> list[dict[str, str]]:
        """The conversation as one side's arm has seen it."""
        messages = []
        for exchange in self.exchanges:
            messages.append({"role": "user", "content": exchange.message})
            messages.append({"role": "assistant", "content": exchange.replies[side]})
        return messages


def fold(events: Iterable[Event]) -> Comparison | None:
    """The comparison that events of one comparison add up to; ``None`` if it was never opened."""
    comparison: Comparison | None = None
    withdrawn = False
    for event in events:
        withdrawn = withdrawn or event.kind == "withdrawn"  # wherever it stands: two machines' clocks may differ
        if event.kind == "opened":
            comparison = Comparison(event.comparison or "", event.at, event.body)
        elif comparison is None or comparison.state in ("rated", "voided"):
            continue  # two portals may each have ended it; the first ending is the one
        elif event.kind == "exchanged":
            body = event.body
            exchange = Exchange(body["message"], body["replies"], body["details"])
            comparison = replace(comparison, exchanges=(*comparison.exchanges, exchange))
        elif event.kind == "voided":
            comparison = replace(comparison, state="voided", void_reason=event.body["reason"])
        elif event.kind == "rated":
            comparison = replace(comparison, state="rated", rated=event.body, rated_at=event.at, rated_event=event)
    return replace(comparison, state="withdrawn") if comparison and withdrawn else comparison


def fold_all(events: Iterable[Event]) -> list[Comparison]:
    """All comparisons of a log, in the order in which they were opened."""
    by_id: dict[str, list[Event]] = {}
    for event in events:
        if event.comparison is not None:
            by_id.setdefault(event.comparison, []).append(event)
    folded = (fold(events) for events in by_id.values())
    return [comparison for comparison in folded if comparison is not None]
