"""The help lines a page shows: read from a data file that a study may replace."""

from __future__ import annotations

import tomllib

from pydantic import BaseModel, ConfigDict, Field


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Line(_Strict):
    """One line that a person answers. ``call`` is what a phone dials."""

    place: str
    name: str
    call: str = Field(pattern=r"^\+?[0-9]+$")
    note: str = ""


class Help(_Strict):
    version: str
    checked: str = Field(description="the day on which somebody last made sure of the numbers")
    intro: str
    emergency: str
    directory: str = Field(pattern=r"^https://")
    directory_note: str
    line: tuple[Line, ...] = Field(min_length=1, strict=False)


def parse(text: str) -> Help:
    """Raises ``ValueError`` (which TOML and pydantic errors are) where the form is not met."""
    return Help.model_validate(tomllib.loads(text))
