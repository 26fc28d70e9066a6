"""What became of every dialogue and every supporter turn on the way to training: counts that add up.

Plain values; ``dataclasses.asdict`` gives what a run record holds. Knows nothing of how they came about.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class SourceCounts:
    """Dialogues of one source. ``read == clean + repaired + rejected``, by what reading did;
    ``clean + repaired == train + held_out + set_aside + unusable``, by where they went.

    ``repairs``, ``rejections`` and ``unusables`` count by code. ``leaks`` are held-out dialogues with a near-duplicate
    among those that train.
    """

    source: str
    read: int
    clean: int
    repaired: int
    rejected: int
    repairs: Mapping[str, int]
    rejections: Mapping[str, int]
    train: int
    held_out: int
    set_aside: int
    unusable: int
    unusables: Mapping[str, int]
    leaks: int

    def __post_init__(self) -> None:
        assert self.read == self.clean + self.repaired + self.rejected
        assert self.clean + self.repaired == self.train + self.held_out + self.set_aside + self.unusable


@dataclass(frozen=True)
class Spoken:
    """Supporter turns of one side of the split: ``turns == trained + excluded + truncated + dropped``.

    Excluded ones carry no loss by choice; truncated ones were cut off the front of a long dialogue; dropped ones are
    too long even with their seeker turn alone. ``pieces`` are what dialogues were cut into; ``tokens`` all of theirs.
    """

    dialogues: int = 0
    pieces: int = 0
    turns: int = 0
    trained: int = 0
    excluded: int = 0
    truncated: int = 0
    dropped: int = 0
    tokens: int = 0
    trained_tokens: int = 0

    def __post_init__(self) -> None:
        assert self.turns == self.trained + self.excluded + self.truncated + self.dropped

    def __add__(self, other: Spoken) -> Spoken:
        return Spoken(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def lost(self) -> int:
        return self.truncated + self.dropped


@dataclass(frozen=True)
class Counts:
    sources: tuple[SourceCounts, ...] = ()
    train: Spoken = field(default_factory=Spoken)
    held_out: Spoken = field(default_factory=Spoken)

    @property
    def lost_share(self) -> float:
        """Of all supporter turns, those truncated or dropped."""
        both = self.train + self.held_out
        return both.lost / both.turns if both.turns else 0.0

    def __str__(self) -> str:
        names = [s.source for s in self.sources]
        width = max(12, *map(len, names)) if names else 12
        heads = ["read", "clean", "repaired", "rejected", "train", "held out", "set aside", "unusable", "leaks"]
        lines = [f"{'dialogues':{width}}" + "".join(f"{head:>10}" for head in heads)]
        for s in self.sources:
            figures = [s.read, s.clean, s.repaired, s.rejected, s.train, s.held_out, s.set_aside, s.unusable, s.leaks]
            lines.append(f"{s.source:{width}}" + "".join(f"{figure:10,}" for figure in figures))
        heads = ["turns", "trained", "excluded", "truncated", "dropped", "pieces", "tokens", "with loss"]
        lines += ["", f"{'supporter':{width}}" + "".join(f"{head:>10}" for head in heads)]
        for name, p in (("train", self.train), ("held out", self.held_out)):
            figures = [p.turns, p.trained, p.excluded, p.truncated, p.dropped, p.pieces, p.tokens, p.trained_tokens]
            lines.append(f"{name:{width}}" + "".join(f"{figure:10,}" for figure in figures))
        if any(s.set_aside for s in self.sources):
            lines.append(
                "set aside: near both sides of the split, or descended from both; fewer with a smaller "
                "data.held_out.seeds,\n  none by descent with data.held_out.lineage = false"
            )
        for s in self.sources:
            for title, codes in (("repaired", s.repairs), ("rejected", s.rejections), ("unusable", s.unusables)):
                if codes:
                    told = ", ".join(f"{code} {n:,}" for code, n in sorted(codes.items(), key=lambda c: (-c[1], c[0])))
                    lines.append(f"{s.source}, {title}: {told}")
        return "\n".join(lines)
