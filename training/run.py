"""A run folder: what belongs in it, whether it is finished, and whether this is the run that it holds.

    recipe.toml     the resolved recipe          log.jsonl    loss, speed, held-out loss
    run.json        what it is, in one record    curves.png   the same as a picture
    metrics.json    held-out perplexity          README.md    model card
    adapter/ or model/   the weights; there only when the run is finished
    checkpoints/    to resume from; gone when the run is finished

Knows files. Does not know torch.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from extes.errors import Problem
from training import recipe as recipes
from training.recipe import Recipe

PACKAGES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "bitsandbytes", "deepspeed")
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class RunFolder:
    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.toml"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def weights(self) -> Path | None:
        """The folder of the tuned weights; None while the run is not finished."""
        return next((p for name in ("adapter", "model") if (p := self.path / name).is_dir()), None)

    def has(self, name: str) -> bool:
        return (self.path / name).exists()

    def read(self, name: str) -> Any:
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Problem(f"{self.path / name} cannot be read ({error}); is {self.path} a run folder?") from error

    def write(self, name: str, value: Any) -> None:
        """Whole or not at all: a kill leaves the old file or the new one."""
        staged = self.path / f"{name}.tmp"
        staged.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        staged.replace(self.path / name)

    def check(self, recipe: Recipe) -> bool:
        """True if the run is finished. :class:`Problem` if the folder holds something else. Writes nothing."""
        if not self.path.exists():
            return False
        if not self.path.is_dir():
            raise Problem(f"--output {self.path} is a file; name a folder")
        if not self.recipe.exists():
            if {path.name for path in self.path.iterdir()} - {"probe.tmp", "recipe.toml.tmp"}:  # of a run just killed
                raise Problem(f"--output {self.path} holds files and is not a run folder; name an empty or a new one")
            return False
        if changed := recipes.differences(recipes.load(self.recipe, []), recipe):
            listed = "\n  ".join(changed)
            raise Problem(
                f"{self.path} holds a run of another recipe:\n  {listed}\n"
                "Give this one another --output, or remove the folder"
            )
        return self.weights is not None

    def make(self) -> None:
        """Make the folder, still empty. :class:`Problem` where nothing can be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / "probe.tmp"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise Problem(
                f"--output {self.path} cannot be written ({error.strerror}); name a folder that can"
            ) from error

    def begin(self, recipe: Recipe) -> None:
        """Write the recipe: from now on the folder is this run's."""
        staged = self.path / "recipe.toml.tmp"
        staged.write_text(recipes.dump(recipe), encoding="utf-8")
        staged.replace(self.recipe)

    def finish(self, name: str) -> Path:
        """The staged weights get their name, which is what says that the run is finished."""
        final = self.path / name
        (self.path / f"{name}.tmp").rename(final)
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        return final

    def staged(self, name: str) -> Path:
        """An empty folder to save weights into before :meth:`finish`."""
        folder = self.path / f"{name}.tmp"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder


def code_version() -> str:
    """Commit of this checkout, with ``+changes`` where it has uncommitted ones; ``unknown`` outside git."""
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def environment() -> dict[str, str]:
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def command(strategy: str, processes: int) -> str:
    """The one line that makes the run again, from the recipe in its folder ``RUN``."""
    start = "python"
    if processes > 1:
        sharded = {"ACCELERATE_USE_FSDP": "fsdp", "ACCELERATE_USE_DEEPSPEED": "deepspeed_zero3"}
        ways = [
            f"--config_file training/accelerate/{n}.yaml" for key, n in sharded.items() if os.environ.get(key) == "true"
        ]
        # Unless it is told, accelerate starts a single process where it sees no GPU
        start = f"accelerate launch {ways[0] if ways else '--multi_gpu'} --num_processes {processes}"
    return f"{start} training/finetune.py --config RUN/recipe.toml --output {strategy}-again"


def public(recipe: Recipe) -> dict[str, Any]:
    """The recipe for a record that others read: folders of this machine are cut to their last part."""
    table = recipe.model_dump(mode="json", exclude_none=True)
    table["base"] = recipe.base_name or (Path(recipe.base).name if Path(recipe.base).is_dir() else recipe.base)
    table["data"]["train"] = [public_source(source) for source in recipe.data.train]
    table["data"]["held_out"]["sources"] = [public_source(source) for source in recipe.data.held_out.sources]
    return table


def public_source(source: str) -> str:
    kind, colon, where = source.partition(":")
    return source if not colon or kind == "hub" else f"{kind}:{Path(where).name}"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def peak_memory(device: str) -> int:
    """Bytes: on a GPU what tensors took at most; else the most that this process held in memory, libraries included."""
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
