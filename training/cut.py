"""Cutting a dialogue to length, at turn boundaries only. Knows exchanges and a measure of length, not tokens.

An exchange is what the seeker says, mostly in one turn, with the supporter turn that answers it; a supporter's greeting
is an exchange of one. A dialogue here ends with a supporter turn, so that every exchange holds exactly one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from training.template import Message

Exchange = list[Message]


@dataclass(frozen=True)
class Cut:
    """Pieces to train on, and the supporter turns in none of them: cut off the front, or too long even alone."""

    pieces: list[list[Message]]
    truncated: int = 0
    dropped: int = 0


def exchanges(messages: Sequence[Message]) -> list[Exchange]:
    found: list[Exchange] = []
    for message in messages:
        if not found or found[-1][-1].role == "assistant":
            found.append([message])
        else:
            found[-1].append(message)
    return found


def windows(messages: Sequence[Message], length: Callable[[list[Message]], int], longest: int) -> Cut:
    """Runs of whole exchanges that fit, one after the other: every turn is in one window, once."""
    left, pieces, dropped = exchanges(messages), [], 0
    while left:
        count = _most(left, length, longest)
        if count:
            pieces.append(_flat(left[:count]))
        else:
            dropped += 1
        left = left[max(1, count) :]
    return Cut(pieces, dropped=dropped)


def front(messages: Sequence[Message], length: Callable[[list[Message]], int], longest: int) -> Cut:
    """The end of the dialogue that fits, as one piece; what came before it is truncated."""
    whole = exchanges(messages)
    count = _most(whole, length, longest, from_end=True)
    kept, gone = whole[len(whole) - count :], whole[: len(whole) - count]
    return Cut([_flat(kept)], truncated=len(gone)) if kept else Cut([], dropped=len(gone))


def _most(parts: list[Exchange], length: Callable[[list[Message]], int], longest: int, from_end: bool = False) -> int:
    """How many exchanges fit together, from the beginning or the end. Guesses by characters, then steps.

    Growing piece by piece would encode a dialogue once for each exchange; this does about three times.
    """

    def fits(count: int) -> bool:
        return length(_flat(parts[len(parts) - count :] if from_end else parts[:count])) <= longest

    whole = length(_flat(parts))
    if whole <= longest:
        return len(parts)
    characters = [sum(len(m.text) for m in part) for part in (reversed(parts) if from_end else parts)]
    room, guess = sum(characters) * longest / whole, 0
    while guess < len(parts) - 1 and characters[guess] <= room:
        room -= characters[guess]
        guess += 1
    if guess and not fits(guess):
        return next((n for n in range(guess - 1, 0, -1) if fits(n)), 0)
    return next((n - 1 for n in range(guess + 1, len(parts)) if not fits(n)), len(parts) - 1)


def _flat(parts: Sequence[Exchange]) -> list[Message]:
    return [message for part in parts for message in part]
