"""The help lines a page shows: read from a data file that a study may replace."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """One line that a person answers. ``call`` is what a phone dials."""

    place: str
    name: str
    call: str
    note: str = ""


@dataclass(frozen=True)
class Help:
    version: str
    intro: str
    emergency: str
    directory: str
    directory_note: str
    lines: tuple[Line, ...]


def parse(text: str) -> Help:
    """Raises ``ValueError`` (a TOML error included) or ``KeyError``/``TypeError`` where the form is not met."""
    data = tomllib.loads(text)
    return Help(
        version=data["version"],
        intro=data["intro"],
        emergency=data["emergency"],
        directory=data["directory"],
        directory_note=data["directory_note"],
        lines=tuple(Line(**line) for line in data["line"]),
    )
