"""Near-duplicates: which kept dialogue a new one repeats, and how closely.

MinHash-LSH (datasketch) proposes neighbours, the exact Jaccard index of word 3-grams decides. The LSH is tuned to miss
little; what it proposes wrongly costs a comparison of two sketches, and rarely one of two sets.
Knows texts by id; knows nothing of dialogues, scenarios or files.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from datasketch import MinHash, MinHashLSH

PERMUTATIONS = 128
# 42 bands of 3 rows find a pair of Jaccard 0.5 with probability 1 - (1 - 0.5**3)**42 = 0.996. The 32 bands of 4 that
# datasketch chooses for weights (0.1, 0.9) find it with 0.87: good on average above 0.5, not at 0.5.
BANDS, ROWS = 42, 3
# An estimate from 128 permutations is within 0.045 of the truth two times in three; 0.3 is far below 0.5.
PLAUSIBLE = 0.6
SHINGLE_WORDS = 3

_WORD = re.compile(r"[\w']+")
Shingles = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Neighbour:
    id: str
    jaccard: float


def shingles(text: str) -> Shingles:
    """Sorted 32-bit hashes of the word 3-grams of a text (CRC32: the same in every process)."""
    words = _WORD.findall(text.lower())
    grams = (" ".join(words[i : i + SHINGLE_WORDS]).encode() for i in range(max(1, len(words) - SHINGLE_WORDS + 1)))
    return np.unique(np.fromiter((zlib.crc32(g) for g in grams), dtype=np.uint32))


def jaccard(one: Shingles, two: Shingles) -> float:
    both = len(np.intersect1d(one, two, assume_unique=True))
    return both / (len(one) + len(two) - both) if len(one) or len(two) else 0.0


@dataclass(frozen=True)
class Sketch:
    """What is kept and compared of a text: its 3-grams, and their MinHash."""

    shingles: Shingles
    minhash: MinHash


def _identity(value: int) -> int:
    return value


class Duplicates:
    """An index that grows with the pool. ``bound`` is the Jaccard index from which a text is a near-duplicate."""

    def __init__(self, bound: float) -> None:
        self._bound = bound
        self._lsh = MinHashLSH(num_perm=PERMUTATIONS, params=(BANDS, ROWS))
        self._empty = MinHash(num_perm=PERMUTATIONS, hashfunc=_identity)
        self._sketches: dict[str, Sketch] = {}

    def __len__(self) -> int:
        return len(self._sketches)

    def sketch(self, text: str) -> Sketch:
        """Most of the cost of a look-up; made once for :meth:`nearest` and :meth:`add`."""
        own, minhash = shingles(text), self._empty.copy()
        minhash.update_batch(own.tolist())
        return Sketch(own, minhash)

    def nearest(self, sketch: Sketch) -> Neighbour | None:
        """The closest text of the index if it is at or above the bound."""
        return max(self.near(sketch), key=lambda n: (n.jaccard, n.id), default=None)

    def near(self, sketch: Sketch) -> list[Neighbour]:
        """Every text of the index at or above the bound."""
        proposed = ((id, self._sketches[id]) for id in self._lsh.query(sketch.minhash))
        found = (
            Neighbour(id, jaccard(sketch.shingles, other.shingles))
            for id, other in proposed
            if sketch.minhash.jaccard(other.minhash) >= PLAUSIBLE * self._bound
        )
        return [neighbour for neighbour in found if neighbour.jaccard >= self._bound]

    def add(self, id: str, sketch: Sketch) -> None:
        self._lsh.insert(id, sketch.minhash, check_duplication=False)
        self._sketches[id] = sketch
