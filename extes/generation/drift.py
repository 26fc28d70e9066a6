"""Is the pool drifting from its seeds? Measures per generation depth, and the brake's bounds.

Depth 0 are the seeds; a dialogue is one deeper than its deepest exemplar. Recursion narrows text by degrees, so each
depth is held against depth 0: Distinct-n over blocks of equal size (so that few and many dialogues compare), entropy of
strategies in bits, mean words, and mean Jaccard index of word sets with the nearest seed. Knows words and strategies;
knows nothing of files, and does not decide what happens when a bound is crossed.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

_DATA = tomllib.loads((files("extes") / "resources" / "generation" / "drift.toml").read_text(encoding="utf-8"))

VERSION: str = _DATA["version"]
_WORD = re.compile(r"[\w']+")


@dataclass(frozen=True)
class Bounds:
    """Where the brake is pulled; the fields are explained in ``drift.toml``."""

    least: int = _DATA["least"]
    recent: int = _DATA["recent"]
    block: int = _DATA["block"]
    distinct_1_share: float = _DATA["distinct_1_share"]
    distinct_2_share: float = _DATA["distinct_2_share"]
    entropy_share: float = _DATA["entropy_share"]
    words_share_least: float = _DATA["words_share_least"]
    words_share_most: float = _DATA["words_share_most"]
    similarity_most: float = _DATA["similarity_most"]


@dataclass(frozen=True)
class Measures:
    """One depth. ``similarity`` is to the nearest seed; for the seeds themselves, to the nearest other seed."""

    depth: int
    dialogues: int
    distinct_1: float
    distinct_2: float
    entropy: float
    words: float
    similarity: float


def distinct(words: Sequence[str], n: int) -> float:
    """Different n-grams / n-grams."""
    grams = list(zip(*(words[i:] for i in range(n)), strict=False))
    return len(set(grams)) / len(grams) if grams else 0.0


def entropy(labels: Iterable[str]) -> float:
    """Shannon entropy of labels, in bits."""
    counts = Counter(labels)
    total = counts.total()
    return -sum(n / total * math.log2(n / total) for n in counts.values()) if total else 0.0


class _Depth:
    """Running measures of one depth: the newest dialogues, and Distinct-n of the newest whole blocks of words."""

    def __init__(self, bounds: Bounds, recent: int) -> None:
        self.dialogues = 0
        self._bounds = bounds
        self._items: deque[tuple[int, tuple[str, ...], float]] = deque(maxlen=recent)
        self._block: list[str] = []
        self._distinct: deque[tuple[float, float]] = deque(maxlen=max(1, recent // 4))

    def add(self, words: Sequence[str], strategies: tuple[str, ...], similarity: float) -> None:
        self.dialogues += 1
        self._items.append((len(words), strategies, similarity))
        self._block.extend(words)
        size = self._bounds.block
        while len(self._block) >= size:
            block, self._block = self._block[:size], self._block[size:]
            self._distinct.append((distinct(block, 1), distinct(block, 2)))

    def measure(self, depth: int) -> Measures:
        blocks = self._distinct or [(distinct(self._block, 1), distinct(self._block, 2))]
        n = max(1, len(self._items))
        return Measures(
            depth,
            self.dialogues,
            sum(one for one, _ in blocks) / len(blocks),
            sum(two for _, two in blocks) / len(blocks),
            entropy(s for _, strategies, _ in self._items for s in strategies),
            sum(words for words, _, _ in self._items) / n,
            sum(similarity for _, _, similarity in self._items) / n,
        )


class Drift:
    """Collects dialogues as they are kept, and measures them by depth."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.bounds = bounds or Bounds()
        self._depths: dict[int, _Depth] = {}
        self._column: dict[str, int] = {}
        self._seed_words: Any = None  # words x seeds: one where the seed has the word
        self._seed_sizes: Any = None

    def add_seeds(self, seeds: Sequence[tuple[str, tuple[str, ...]]]) -> None:
        """All seeds, (text, strategies) each; called once, before anything is added."""
        texts = [_WORD.findall(text.lower()) for text, _ in seeds]
        self._column = {w: n for n, w in enumerate(dict.fromkeys(w for t in texts for w in t))}
        self._seed_words = np.zeros((len(self._column), len(seeds)), dtype=np.uint8)
        for n, text in enumerate(texts):
            self._seed_words[[self._column[w] for w in set(text)], n] = 1
        self._seed_sizes = self._seed_words.sum(axis=0, dtype=np.int64)
        self._depths[0] = _Depth(self.bounds, max(1, len(seeds)))
        for n, (words, (_, strategies)) in enumerate(zip(texts, seeds, strict=True)):
            self._depths[0].add(words, strategies, self._similarity(words, but=n))

    def add(self, depth: int, text: str, strategies: tuple[str, ...]) -> None:
        words = _WORD.findall(text.lower())
        self._depths.setdefault(depth, _Depth(self.bounds, self.bounds.recent)).add(
            words, strategies, self._similarity(words)
        )

    def _similarity(self, words: Sequence[str], but: int | None = None) -> float:
        own = set(words)
        rows = [self._column[w] for w in own if w in self._column]
        both = self._seed_words[rows].sum(axis=0, dtype=np.int64)
        shares = both / np.maximum(1, len(own) + self._seed_sizes - both)
        if but is not None:
            shares[but] = 0.0
        return float(shares.max(initial=0.0))

    def measures(self) -> list[Measures]:
        """One row a depth, the seeds first."""
        return [self._depths[depth].measure(depth) for depth in sorted(self._depths)]

    def crossed(self) -> list[str]:
        """A line for each bound that a depth has crossed; empty while all is well."""
        rows = self.measures()
        if not rows or rows[0].depth != 0:
            return []
        seeds, bounds, found = rows[0], self.bounds, []
        for row in rows[1:]:
            if row.dialogues < bounds.least:
                continue
            lower = (
                ("Distinct-1", row.distinct_1, bounds.distinct_1_share * seeds.distinct_1),
                ("Distinct-2", row.distinct_2, bounds.distinct_2_share * seeds.distinct_2),
                ("strategy entropy", row.entropy, bounds.entropy_share * seeds.entropy),
                ("words a dialogue", row.words, bounds.words_share_least * seeds.words),
            )
            upper = (
                ("words a dialogue", row.words, bounds.words_share_most * seeds.words),
                ("similarity to the seeds", row.similarity, bounds.similarity_most),
            )
            found += [f"depth {row.depth}: {name} {v:.3g} is below {b:.3g}" for name, v, b in lower if v < b]
            found += [f"depth {row.depth}: {name} {v:.3g} is above {b:.3g}" for name, v, b in upper if v > b]
        return found
