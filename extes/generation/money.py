"""Tokens and money: prices from a user's file, counts with their source, what a request may cost at most. Pure.

No prices are bundled: they go stale. Counts that the provider gave and counts that we estimated are never added up
under one name. Knows nothing of HTTP or of where spending is recorded.

Prices file (amounts for a million tokens)::

    date = "2026-11-01"
    currency = "USD"

    [[model]]
    name = "some-model"
    input = 0.15
    cached_input = 0.075   # optional: else as input
    output = 0.60
    batch = 0.5            # optional: what the Batch API costs, as a share; else 1
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from extes.generation.errors import Stop

# Rough for English; only where the provider counts nothing, and always shown as an estimate.
BYTES_A_TOKEN = 4.0
# A token is at least one byte: the bound used until the provider has counted once. Then its densest count, plus this.
SAFETY = 1.25
MESSAGE_TOKENS = 8
# No request has more; a count above it is nonsense.
TOKENS_MOST = 10**9


@dataclass(frozen=True)
class Price:
    """Of one model, for a million tokens. ``batch`` is the share of it that the Batch API costs."""

    input: float
    cached_input: float
    output: float
    batch: float
    currency: str
    date: str


@dataclass(frozen=True)
class Tokens:
    """``cached`` is the part of ``input`` the provider had cached. ``by`` is ``provider`` or ``estimate``."""

    input: int
    output: int
    cached: int
    by: str


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    input: float = Field(ge=0)
    cached_input: float | None = Field(default=None, ge=0)
    output: float = Field(ge=0)
    batch: float = Field(default=1.0, ge=0, le=1)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    date: str
    currency: str
    model: list[_Model]


def read_price(path: Path, model: str) -> Price:
    """The price of a model; raises :class:`Stop` naming what is wrong with the file."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        # An unquoted TOML date is a date, not a string.
        prices = _File.model_validate({**table, "date": str(table.get("date", ""))})
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Stop(f"--prices {path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise Stop(f"--prices {path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    for entry in prices.model:
        if entry.name == model:
            cached = entry.input if entry.cached_input is None else entry.cached_input
            return Price(entry.input, cached, entry.output, entry.batch, prices.currency, prices.date)
    named = ", ".join(e.name for e in prices.model) or "none"
    raise Stop(f"--prices {path}: no price for model {model!r} (it has: {named}); add a [[model]] for it")


def cost(tokens: Tokens, price: Price, batch: bool = False) -> float:
    """What tokens cost, in the price's currency."""
    fresh = tokens.input - tokens.cached
    amount = fresh * price.input + tokens.cached * price.cached_input + tokens.output * price.output
    return amount / 1e6 * (price.batch if batch else 1.0)


def prompt_bytes(payload: Mapping[str, Any]) -> int:
    return len(json.dumps([payload["messages"], payload.get("response_format")], ensure_ascii=False).encode())


def estimated(payload: Mapping[str, Any], content: str) -> Tokens:
    """Counts where the provider gives none."""
    return Tokens(
        round(prompt_bytes(payload) / BYTES_A_TOKEN), round(len(content.encode()) / BYTES_A_TOKEN), 0, "estimate"
    )


def counted(body: Mapping[str, Any], payload: Mapping[str, Any], content: str) -> Tokens:
    """The provider's counts where the reply has them, else ours."""
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return estimated(payload, content)
    given, made = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    # Some servers send zeros for what they do not count: a prompt is never empty, nor is an answer with text.
    if not given or made is None or (content and not made):
        return estimated(payload, content)
    details = usage.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    return Tokens(given, made, min(cached or 0, given), "provider")


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= TOKENS_MOST else None


def most(bytes_in: int, limit: int, price: Price, density: float | None, batch: bool = False) -> float:
    """The most a request can cost. ``density``: highest tokens a byte the provider has counted, if it has."""
    per_byte = 1.0 if density is None else min(1.0, density * SAFETY)
    return cost(Tokens(int(bytes_in * per_byte) + 2 * MESSAGE_TOKENS, limit, 0, "estimate"), price, batch)


@dataclass(frozen=True)
class Estimate:
    """What is still to come, before it is asked for."""

    requests: int
    input_tokens: int
    output_tokens: int
    cost: float | None


def estimate(
    dialogues: int, kept_share: float, bytes_in: float, output_tokens: float, price: Price | None, batch: bool
) -> Estimate:
    """Requests and tokens for so many more dialogues, at a share kept and mean sizes of prompt and answer."""
    requests = round(dialogues / min(1.0, max(kept_share, 0.01)))
    tokens = Tokens(round(requests * bytes_in / BYTES_A_TOKEN), round(requests * output_tokens), 0, "estimate")
    return Estimate(requests, tokens.input, tokens.output, cost(tokens, price, batch) if price else None)
