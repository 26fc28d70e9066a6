"""What comes in from outside, checked: consent, message, rating. Pure.

Everything a client sends passes here before anything happens; a :class:`Refused` says what is wrong and stores nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from extes.study.config import Study


class Refused(Exception):
    """A request that cannot be honoured. The text is for the person who made it."""


class Distress(Refused):
    """What somebody wrote speaks of danger. The text points to help, and is to stay in sight."""


MAX_SITUATION_CHARS = 300


@dataclass(frozen=True)
class Consent:
    """Affirmed before anything is stored. ``situation`` is official, the rater's own words, or ``None``: draw one."""

    publish_transcript: bool
    situation: str | None
    rater: str | None


def consent(data: Any) -> Consent:
    if not isinstance(data, dict):
        raise Refused('Consent is an object like {"agreed": true, "of_age": true}.')
    if data.get("agreed") is not True:
        raise Refused("Nothing begins without your consent: please read the text and agree to it.")
    if data.get("of_age") is not True:
        raise Refused("This study is for adults: please confirm that you are 18 or older.")
    publish = data.get("publish_transcript", False)
    if not isinstance(publish, bool):
        raise Refused("publish_transcript is true or false.")
    situation, rater = data.get("scenario"), data.get("rater")
    if situation is not None and not isinstance(situation, str):
        raise Refused("scenario is the name of a situation, your own words, or null to have one drawn.")
    if situation is not None and len(situation) > MAX_SITUATION_CHARS:
        raise Refused(f"Please describe your situation in at most {MAX_SITUATION_CHARS} characters.")
    if rater is not None and (not isinstance(rater, str) or not 16 <= len(rater) <= 100 or not rater.isascii()):
        raise Refused("rater is the word that an earlier start gave back, or is left out.")
    situation = _storable(situation.strip()) if situation else None
    return Consent(publish, situation or None, rater)


def _storable(text: str) -> str:
    """Text without half characters, which no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def message(text: Any, study: Study) -> str:
    if not isinstance(text, str) or not text.strip():
        raise Refused("The message is empty: write something first.")
    if len(text) > study.max_message_chars:
        raise Refused(
            f"The message has {len(text):,} characters; at most {study.max_message_chars:,} fit. Please shorten it."
        )
    return _storable(text.strip())


@dataclass(frozen=True)
class Rating:
    answers: dict[str, str]
    comment: str


def rating(data: Any, study: Study) -> Rating:
    if not isinstance(data, dict) or not isinstance(data.get("answers"), dict):
        raise Refused('A rating is an object like {"answers": {...}, "comment": ""}.')
    answers, comment = data["answers"], data.get("comment") or ""
    missing = [c.label for c in study.criteria if c.name not in answers]
    if missing:
        raise Refused(f"Please answer every question; still open: {', '.join(missing)}.")
    for name in answers:
        if name not in {c.name for c in study.criteria}:
            raise Refused(f"There is no criterion called {name!r}.")
    for criterion in study.criteria:
        if answers[criterion.name] not in criterion.answers:
            raise Refused(f"{criterion.label}: the answer is one of {', '.join(criterion.answers)}.")
    if not isinstance(comment, str) or len(comment) > study.max_comment_chars:
        raise Refused(f"The comment is a text of at most {study.max_comment_chars:,} characters.")
    return Rating({c.name: answers[c.name] for c in study.criteria}, _storable(comment.strip()))
