"""Ratings as rows and as counts. Pure: takes comparisons, gives values.

A row holds everything a published number needs to be computed again; the counts are symmetric in the arms.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from extes.study.assignment import SIDES
from extes.study.comparison import Comparison

ROW_SCHEMA_VERSION = 2


def row(comparison: Comparison, config: dict[str, Any]) -> dict[str, Any]:
    """One rating with all that it rests on. ``config`` is the study as it was, from the log."""
    assert comparison.rated is not None and comparison.rated_event is not None
    arms = {arm["name"]: arm for arm in config["arms"]}
    opened = comparison.opened
    return {
        "schema_version": ROW_SCHEMA_VERSION,
        "event": {
            "chain": comparison.rated_event.chain,
            "place": comparison.rated_event.place,
            "schema": comparison.rated_event.schema,
            "hash": comparison.rated_event.hash,
        },
        "comparison": comparison.id,
        "rater": opened["rater"],
        "study": opened["study"],
        "study_name": opened["study_name"],
        "study_version": opened["study_version"],
        "code": opened["code"],
        "opened_at": comparison.opened_at,
        "rated_at": comparison.rated_at,
        "consent": opened["consent"],
        "scenario": opened["scenario"],
        "assignment": {"stream": None} | opened["assignment"],
        "screen": opened["screen"],
        "arms": {
            side: {
                "name": arm,
                "label": arms[arm]["label"],
                "revision": comparison.exchanges[-1].details[side]["revision"],
                "revisions": sorted({e.details[side]["revision"] for e in comparison.exchanges}),
                "system_prompt": arms[arm]["system_prompt"],
                "system_prompt_hash": hashlib.sha256(arms[arm]["system_prompt"].encode()).hexdigest()[:16],
                "prompt_hashes": [e.details[side]["prompt_hash"] for e in comparison.exchanges],
                "seeds": [e.details[side]["seed"] for e in comparison.exchanges],
                "seconds": [e.details[side]["seconds"] for e in comparison.exchanges],
                "tokens": [e.details[side]["tokens"] for e in comparison.exchanges],
                "sampling": arms[arm]["sampling"],
            }
            for side, arm in comparison.sides.items()
        },
        "generation": config["generation"],
        "exchanges": [asdict(e) for e in comparison.exchanges],
        "answers": comparison.rated["answers"],
        "comment": comparison.rated["comment"],
        "comment_withheld": comparison.rated.get("comment_withheld"),
        "receipt_hash": comparison.rated["receipt_hash"],
    }


@dataclass(frozen=True)
class Tally:
    """One criterion, one pair of arms, seen from ``arm``: ``win + tie + loss + other`` ratings."""

    criterion: str
    arm: str
    against: str
    win: int
    tie: int
    loss: int
    other: dict[str, int]


def tally(comparisons: Iterable[Comparison], criteria: Iterable[str]) -> list[Tally]:
    """Counts for each criterion and each unordered pair of arms, the arm first in the alphabet named first."""
    names = list(criteria)
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    for comparison in comparisons:
        if comparison.state != "rated" or comparison.rated is None:
            continue
        arm, against = sorted(comparison.sides.values())
        for name in names:
            answer = comparison.rated["answers"].get(name)
            counter = counts.setdefault((name, arm, against), Counter())
            if answer in SIDES:
                counter["win" if comparison.sides[answer] == arm else "loss"] += 1
            elif answer:
                counter[answer] += 1
    return [
        Tally(name, arm, against, c["win"], c["tie"], c["loss"], {k: c[k] for k in ("both_bad", "cant_judge") if c[k]})
        for (name, arm, against), c in counts.items()
    ]
