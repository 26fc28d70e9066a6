"""Which replies take up a particular of the message before them: those that share a word with it that few turns hold.

A coarse sign, from counts alone: a shared "dog" says more than a shared "feel". It sees no meaning: a reply may repeat
a word and be beside the point, or be to the point in other words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

RARE = 0.01  # a word that at most one turn in a hundred holds says what the turn is about

_WORD = re.compile(r"[a-z]{3,}")


def words(text: str) -> set[str]:
    """The words of a text, lower case, of three letters or more, without a plural's s."""
    return {word.rstrip("s") for word in _WORD.findall(text.lower())}


def common_words(turns: Iterable[str], rare: float = RARE) -> frozenset[str]:
    """The words that are in more than a share ``rare`` of the turns."""
    counts: Counter[str] = Counter()
    n = 0
    for turn in turns:
        counts.update(words(turn))
        n += 1
    return frozenset(word for word, count in counts.items() if count > rare * n)


def takes_up(reply: str, message: str, common: frozenset[str]) -> bool:
    return not (words(reply) & words(message)) <= common
