"""A run folder as the publisher reads it: which weights, on which base, made from what.

Knows the layout that ``training/finetune.py`` leaves (run.json, metrics.json, recipe.toml, README.md, adapter/ or
model/). Does not know how to train, and loads no weights.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from extes.errors import Problem

WEIGHTS = {
    "adapter": ("adapter_config.json", "adapter_model.safetensors"),
    "model": ("config.json",),
}
"""The two kinds of weights a run leaves, and what must be in each's folder."""


class Record(BaseModel):
    """What the publisher needs of run.json; there is more in it. ``cannot_merge``: why not; "" it can; None unknown."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    strategy: str
    base: str
    base_revision: str | None = None
    sources: tuple[str, ...] = ()
    data_sha256: dict[str, str] = {}
    code_version: str = "unknown"
    command: str = ""
    cannot_merge: str | None = None


class Metric(BaseModel):
    """One line of metrics.json. ``of`` says whose it is: the tuned model's or the base's."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    dataset: str
    value: float
    of: str = "tuned"
    signature: str = ""


@dataclass(frozen=True)
class Run:
    """A finished run. ``kind`` is adapter or model; ``recipe`` is the resolved recipe as a table."""

    path: Path
    kind: str
    record: Record
    metrics: tuple[Metric, ...]
    recipe: dict[str, Any]

    @property
    def weights(self) -> Path:
        return self.path / self.kind

    @property
    def local_names(self) -> dict[str, str]:
        """Every folder or file of this machine that the recipe names, and its last part, which is all others need."""
        found = {str(self.path.resolve()): self.path.name, str(Path.home()): "~"}
        found.pop("/", None)  # some containers give their user no other home
        for value in _strings(self.recipe):
            kind, colon, where = value.partition(":")
            where = where if colon and kind.isalpha() else value
            if kind != "hub" and "/" in where and is_local(where) and Path(where).name:
                found[where] = Path(where).name
        return dict(sorted(found.items(), key=lambda pair: -len(pair[0])))


def is_local(name: str) -> bool:
    """Whether a model's or file's name means something on this machine rather than OWNER/NAME on the Hub."""
    if name.startswith(("/", "~", ".", "models/")) or name[1:2] == ":" or "\\" in name:
        return True
    return name.count("/") > 1 or Path(name).exists()


def read_run(path: Path) -> Run:
    """The run in ``path``. Raises :class:`Problem` where there is none, or where it is not finished or not whole."""
    if not (path / "recipe.toml").is_file():
        raise Problem(f"{path} is no run folder: it has no recipe.toml. Name the --output of training/finetune.py")
    kind = next((kind for kind in WEIGHTS if (path / kind).is_dir()), None)
    if kind is None:
        raise Problem(
            f"the run in {path} is not finished: it has neither adapter/ nor model/. Finish it with\n"
            f"  python training/finetune.py --config {path}/recipe.toml --output {path}"
        )
    weights = path / kind
    missing = [name for name in WEIGHTS[kind] if not (weights / name).is_file()]
    if kind == "model":
        missing += _missing_shards(weights)
    if not any((weights / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        missing.append("tokenizer.json")
    if not _has_template(weights):
        missing.append("chat_template.jinja")
    if missing:
        raise Problem(f"{weights} lacks {', '.join(missing)}; copy them there, or make the run again in a new folder")
    try:
        recipe = tomllib.loads((path / "recipe.toml").read_text(encoding="utf-8"))
        record = Record.model_validate_json((path / "run.json").read_bytes())
        metrics = TypeAdapter(tuple[Metric, ...]).validate_json((path / "metrics.json").read_bytes())
    except FileNotFoundError as error:
        raise Problem(f"{error.filename} is missing: the run is not whole. Make it again in a new folder") from error
    except (ValidationError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Problem(f"{path}: its recipe.toml, run.json or metrics.json cannot be read: {error}") from error
    return Run(path, kind, record, metrics, recipe)


def _missing_shards(weights: Path) -> list[str]:
    index = weights / "model.safetensors.index.json"
    if not index.is_file():
        return [] if (weights / "model.safetensors").is_file() else ["model.safetensors"]
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError):
        return [index.name]
    return sorted(name for name in shards if not (weights / name).is_file())


def _has_template(weights: Path) -> bool:
    if (weights / "chat_template.jinja").is_file():
        return True
    config = weights / "tokenizer_config.json"
    return config.is_file() and '"chat_template"' in config.read_text(encoding="utf-8")


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in inner for text in _strings(part)]
