"""What a person sees of a run while it goes on, and the log it leaves. Knows steps and numbers; not what is trained.

In a terminal one line is kept up to date; anywhere else each logged step is a line of its own.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from transformers import TrainerCallback

HeldOut = Callable[[], dict[str, float]]


class Log:
    """``log.jsonl``: one line per logged step. After a resume, lines beyond the checkpoint are taken back."""

    def __init__(self, path: Path):
        self.path = path

    def entries(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if _whole(line)]  # a kill may cut the last one

    def rewind(self, step: int) -> list[dict[str, Any]]:
        kept = [entry for entry in self.entries() if entry["step"] <= step]
        self.path.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")
        return kept

    def add(self, entry: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(entry) + "\n")


def _whole(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def duration(seconds: float) -> str:
    """``42 s``, ``7 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds // 3600:.0f} h {seconds % 3600 / 60:.0f} min"


class Line:
    """Writes either one line over itself, or lines."""

    def __init__(self, stream: TextIO, shown: bool):
        self.stream, self.shown, self.width = stream, shown, 0
        self.over_itself = stream.isatty()

    def update(self, text: str, keep: bool = False) -> None:
        """``keep`` leaves the text standing; in a log, where nothing is overwritten, all of it stands."""
        if not self.shown:
            return
        if not self.over_itself:
            print(text, file=self.stream, flush=True)
            return
        text = text[: shutil.get_terminal_size().columns - 1]  # a line that wraps cannot be written over
        self.stream.write("\r" + text.ljust(self.width) + ("\n" if keep else ""))
        self.stream.flush()
        self.width = 0 if keep else len(text)

    def close(self) -> None:
        if self.width:
            self.update("", keep=False)
            self.stream.write("\r")
            self.stream.flush()


class Progress(TrainerCallback):
    """Logs every ``log_steps``; scores held-out rows every ``eval_steps``; shows both.

    ``tokens`` holds, for each step, how many tokens (padding not counted) all steps up to it read; ``before``, the
    entries of the log that a resumed run starts from. ``log`` is None in all processes but the first, which take part
    in the scoring and keep silent. ``at_start`` runs once the model is wrapped and before the first step.
    """

    def __init__(
        self,
        log: Log | None,
        tokens: Sequence[int],
        held_out: HeldOut,
        eval_steps: int,
        shown: bool,
        before: Sequence[dict[str, Any]] = (),
        peak: Callable[[], int] = lambda: 0,
        at_start: Callable[[], None] = lambda: None,
    ):
        self.log, self.tokens, self.held_out, self.eval_steps = log, tokens, held_out, eval_steps
        self.peak, self.at_start = peak, at_start
        self.seconds: float = before[-1]["seconds"] if before else 0.0
        self.scores: dict[str, float] = next((e["held_out"] for e in reversed(before) if "held_out" in e), {})
        self.line = Line(sys.stdout, shown)
        self.step = -1
        self.loss: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.at_start()
        self.step = self.first = self.logged = state.global_step
        self.clock = self.resumed = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step = state.global_step
        if self.step == state.max_steps:
            control.should_log = True  # the steps since the last log are part of the run, and of its time
        if self.line.over_itself and not control.should_log:
            now = time.monotonic()
            speed = self._tokens(self.logged, self.step) / (now - self.clock)
            self.line.update(self._told(self.step, state.max_steps, speed, now))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        step, steps = state.global_step, state.max_steps
        now = time.monotonic()
        speed = self._tokens(self.logged, step) / (now - self.clock)
        self.seconds += now - self.clock
        entry: dict[str, Any] = {
            "step": step,
            "loss": logs["loss"],
            "lr": logs["learning_rate"],
            "tokens_per_s": round(speed),
            "seconds": round(self.seconds, 3),
        }
        if self.eval_steps and step % self.eval_steps == 0:
            self.scores = entry["held_out"] = self.held_out()
        self.loss = logs["loss"]
        self.line.update(self._told(step, steps, speed, now), keep=step == steps)
        if self.log:
            self.log.add(entry | {"peak_memory_bytes": self.peak()})
        self.logged = step
        # What scoring took belongs to neither the speed nor the time left.
        pause = time.monotonic() - now
        self.clock = now + pause
        self.resumed += pause

    def _told(self, step: int, steps: int, speed: float, now: float) -> str:
        left = (now - self.resumed) / self._tokens(self.first, step) * self._tokens(step, steps)
        parts = [f"step {step}/{steps}"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.3f}")
        if self.scores:
            parts.append("held out: " + ", ".join(f"{name} {value:.3f}" for name, value in self.scores.items()))
        return "  ".join([*parts, f"{speed:,.0f} tokens/s", f"{duration(left)} left"])

    def _tokens(self, start: int, end: int) -> int:
        return self.tokens[end - 1] - (self.tokens[start - 1] if start else 0)
