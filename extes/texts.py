"""What the portal says to people: ``extes/resources/texts.en.toml``, read once."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def texts(language: str = "en") -> dict[str, Any]:
    """The texts of a language by section and name; only ``en`` exists."""
    return tomllib.loads((files("extes") / "resources" / f"texts.{language}.toml").read_text(encoding="utf-8"))
