"""What of a rating may be published. Pure: takes a row, gives a row with less in it.

A rater who agreed to publication agreed to have the *conversation* published. The comment is not part of it, and is
never published. Without that consent the rater's own words go, and so do the hashes of prompts, from which short words
could be guessed. Times become dates, the receipt's hash goes, the rater gets another pseudonym.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def published(row: Mapping[str, Any], pseudonym: Callable[[str], str]) -> dict[str, Any]:
    """The row of :func:`extes.study.ratings.row` as it may leave the group. ``pseudonym`` renames the rater."""
    consented = row["consent"]["publish_transcript"]
    scenario = row["scenario"]
    if not consented and scenario["source"] == "own":
        scenario = {"source": "own", "text": None}
    less = {
        "rater": pseudonym(row["rater"]),
        "opened_at": row["opened_at"][:10],
        "rated_at": row["rated_at"][:10],
        "scenario": scenario,
        "arms": {s: dict(arm) | ({} if consented else {"prompt_hashes": None}) for s, arm in row["arms"].items()},
        "exchanges": row["exchanges"] if consented else [_without_words(e) for e in row["exchanges"]],
        "comment": None,
        "comment_withheld": None,  # that a rater was in distress is theirs, also without the words
        "receipt_hash": None,
    }
    return dict(row) | less


def _without_words(exchange: Mapping[str, Any]) -> dict[str, Any]:
    details = {s: {k: v for k, v in d.items() if k != "prompt_hash"} for s, d in exchange["details"].items()}
    return {"message": None, "replies": None, "details": details}
