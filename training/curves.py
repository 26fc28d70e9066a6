"""Training and held-out loss of a run as a picture. Knows the log's entries and matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

INK, GRID = "#333333", "#dddddd"
COLOURS = ("#d1495b", "#2e86ab", "#3a7d44", "#8d6a9f", "#b8860b")


def draw(entries: Sequence[dict[str, Any]], path: Path, title: str, before: dict[str, float]) -> None:
    """``before`` holds the untuned model's held-out losses, in nats a token; they stand at step 0."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 4.2), dpi=150, facecolor="white")
    axes.plot([e["step"] for e in entries], [e["loss"] for e in entries], color="#9a9a9a", lw=1.2, label="training")
    for colour, name in zip(COLOURS, before, strict=False):
        scored = [(e["step"], e["held_out"][name]) for e in entries if name in e.get("held_out", {})]
        points = [(0, before[name]), *scored]
        axes.plot(*zip(*points, strict=True), color=colour, lw=1.8, marker="o", ms=3.5, label=f"held out: {name}")
    axes.set_xlabel("optimiser step", color=INK)
    axes.set_ylabel("loss (nats per supporter token)", color=INK)
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    axes.grid(color=GRID, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)
    axes.set_xlim(left=0)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
