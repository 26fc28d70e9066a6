"""A recipe: one readable TOML file that says how a model is tuned. Read, validated, written back in full.

Knows keys, types and defaults, and how to tell a person what is wrong with a file. Does not know torch, peft or data:
what the ``[adapter]`` table may hold is asked of peft where the adapter is built (``training/strategies.py``).
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from extes.errors import Problem
from training.data import DataConfig

SPEED_ONLY = frozenset({"micro_batch", "gradient_checkpointing"})
"""Keys that a resumed run may change: they move the limits of memory, not what is learnt (but for rounding)."""


class Recipe(BaseModel):
    """Everything a run depends on. Lengths and counts are in optimiser steps and rows (a row is one dialogue or a
    window of one); ``batch`` is counted over all processes, so that a recipe means the same on one GPU and on many."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    strategy: str = Field(min_length=1, description="what the run is called in tables")
    base: str = Field("", description="folder or Hub repository of the model to tune")
    base_revision: str = Field("", description="a commit, tag or branch of that repository")
    base_name: str = Field("", description="what the adapter calls its base, where that is not `base`")
    licence: str = Field("other", description="of the tuned weights, for the card; a Hub licence id")
    seed: int = Field(20261120, ge=0)

    epochs: float = Field(3, gt=0)
    max_steps: int = Field(0, ge=0, description="0: as many as the epochs need; else exactly so many")
    batch: int = Field(16, ge=1, description="rows an optimiser step, over all processes")
    micro_batch: int = Field(0, ge=0, description="rows a process holds at once; 0: its whole share of the batch")
    learning_rate: float = Field(gt=0)
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    warmup_steps: int = Field(20, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    optimiser: Literal["adamw_torch_fused", "adamw_torch", "adamw_bnb_8bit", "paged_adamw_8bit", "adafactor"] = (
        "adamw_torch_fused"
    )
    precision: Literal["bf16", "fp32"] = Field("bf16", description="of the arithmetic; weights that learn stay fp32")
    base_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the base's weights; auto: bfloat16 for a frozen base on a GPU, else float32"
    )
    gradient_checkpointing: bool = Field(False, description="a third more time for much less memory")

    log_steps: int = Field(10, ge=1)
    eval_steps: int = Field(100, ge=0, description="held-out loss during training; 0: only before and after")
    eval_rows: int = Field(64, ge=1, description="rows of each held-out set scored during training; all of them after")
    save_steps: int = Field(100, ge=0, description="checkpoints to resume from; 0: none")

    adapter: dict[str, Any] | None = Field(None, description="peft's config class (`config`) and its arguments")
    quantization: dict[str, Any] | None = Field(None, description="arguments of transformers.BitsAndBytesConfig")
    data: DataConfig = DataConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if self.adapter is not None and not isinstance(self.adapter.get("config"), str):
            raise ValueError('[adapter] needs config = "…", the name of a peft config class such as "LoraConfig"')
        if self.quantization is not None and self.adapter is None:
            raise ValueError("[quantization] freezes the base, so there must be an [adapter] to train")
        # A logged loss is a mean over log_steps; a checkpoint between two logs would make the next mean another one.
        for key in ("eval_steps", "save_steps"):
            if getattr(self, key) % self.log_steps:
                raise ValueError(f"{key} ({getattr(self, key)}) must be a multiple of log_steps ({self.log_steps})")
        return self


def load(path: Path, overrides: list[str]) -> Recipe:
    """Read a recipe and apply ``key=value`` overrides (``adapter.r=8``; a value is TOML, or else a plain string).

    Raises :class:`Problem` with file, line and the allowed names for anything that cannot be used.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"{path}: cannot read the recipe ({error}); --config names it") from error
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Problem(f"{path}: not valid TOML: {error}") from error
    from_override = {}
    for override in overrides:
        keys = _apply(table, override)
        from_override[keys] = override
    try:
        return Recipe.model_validate(table)
    except ValidationError as error:
        told = [_explain(path, text, from_override, problem) for problem in error.errors()]
        raise Problem("\n".join(told)) from error


def dump(recipe: Recipe) -> str:
    """The recipe in full, as TOML that :func:`load` reads back to an equal value."""
    return "\n".join(_toml(recipe.model_dump(mode="json", exclude_none=True), ())) + "\n"


def differences(old: Recipe, new: Recipe) -> list[str]:
    """One line for each key that differs and matters for what is learnt."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    keys = [k for k in {**before, **after} if k.split(".")[0] not in SPEED_ONLY and before.get(k) != after.get(k)]
    return [f"{key}: {before.get(key)!r} there, {after.get(key)!r} now" for key in keys]


def _apply(table: dict[str, Any], override: str) -> tuple[str, ...]:
    name, equals, raw = override.partition("=")
    keys = tuple(name.strip().split("."))
    if not equals or not all(keys):
        raise Problem(f"--set {override}: write it as key=value, for example learning_rate=1e-4 or adapter.r=8")
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw
    target = table
    for key in keys[:-1]:
        inner = target.setdefault(key, {})
        if not isinstance(inner, dict):
            raise Problem(f"--set {override}: {key} is a value, not a table")
        target = inner
    target[keys[-1]] = value
    return keys


def _explain(path: Path, text: str, overrides: dict[tuple[str, ...], str], problem: Any) -> str:
    keys = tuple(str(k) for k in problem["loc"])
    dotted = ".".join(keys) or "the recipe"
    given = overrides.get(keys) or next((o for k, o in overrides.items() if keys[: len(k)] == k), None)
    where = f"--set {given}" if given else f"{path}, line {_line(text, keys)}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        allowed = _allowed(keys[:-1])
        close = difflib.get_close_matches(keys[-1], allowed, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{where}: there is no key {dotted!r}; {hint}There are: {', '.join(allowed)}"
    if problem["type"] == "missing":
        return f"{where}: {dotted} is missing; every recipe needs it"
    value = problem.get("input")
    if problem["type"] == "tuple_type":
        message = f'write a list, such as ["{value}"]'
    shown = f" (got {value!r})" if isinstance(value, str | int | float | bool) else ""
    return f"{where}: {dotted}: {message}{shown}"


def _allowed(table: tuple[str, ...]) -> list[str]:
    """The keys of a table of the recipe, such as ``("data", "held_out")``; of the recipe itself for ``()``."""
    model: type[BaseModel] = Recipe
    for key in table:
        inner = model.model_fields[key].annotation
        assert isinstance(inner, type) and issubclass(inner, BaseModel)
        model = inner
    return list(model.model_fields)


def _line(text: str, keys: tuple[str, ...]) -> int:
    """The line of ``keys``; the closest enclosing table's, or 1, where it is not there."""
    table: tuple[str, ...] = ()
    best, depth = 1, 0
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.match(r"\s*\[\s*([\w.]+)\s*\]", line):
            here = table = tuple(match[1].split("."))
        elif match := re.match(r"\s*([\w.]+)\s*=", line):
            here = (*table, *match[1].split("."))
        else:
            continue
        if here == keys[: len(here)] and len(here) > depth:
            best, depth = number, len(here)
    return best


def _toml(table: dict[str, Any], path: tuple[str, ...]) -> list[str]:
    # JSON's strings, numbers, booleans and arrays of them are TOML's too.
    lines = [f"{_key(k)} = {json.dumps(v, ensure_ascii=False)}" for k, v in table.items() if not isinstance(v, dict)]
    for key, value in table.items():
        if isinstance(value, dict):
            name = (*path, _key(key))
            lines += ["", f"[{'.'.join(name)}]", *_toml(value, name)]
    return lines


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {path: value}
    return {k: v for key, inner in value.items() for k, v in _flat(inner, f"{path}.{key}" if path else key).items()}
