"""Screening a seeker's message for crisis. Pure; the patterns are data (``extes/resources/crisis.en.toml``).

Known limits, also told to the user: English only; says nothing about what is meant between the lines.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

Level = Literal["none", "concern", "crisis"]

# Signs that keyboards give for an apostrophe or a quotation mark, and signs that nobody sees.
_PLAIN = str.maketrans(
    dict.fromkeys("\u2018\u2019\u02bc\u00b4\u2032`", "'")
    | dict.fromkeys("\u201c\u201d", '"')
    | dict.fromkeys(
        map(chr, (0xAD, 0xFEFF, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A))), ""
    )
)


@dataclass(frozen=True)
class Screen:
    """Compiled patterns; ``version`` goes into every record of a stop."""

    version: str
    idioms: re.Pattern[str]
    crisis: re.Pattern[str]
    concern: re.Pattern[str]
    reply: re.Pattern[str]

    def __call__(self, text: str) -> Level:
        """How worrying a message is: ``none``, ``concern`` (show help) or ``crisis`` (show help and stop)."""
        plain = self.idioms.sub(" ", _plain(text))
        if self.crisis.search(plain):
            return "crisis"
        return "concern" if self.concern.search(plain) else "none"

    def harmful(self, reply: str) -> bool:
        """Whether a model's reply must not be shown."""
        return bool(self.reply.search(_plain(reply)))


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text.translate(_PLAIN)).lower().split())


@cache
def screen(language: str = "en") -> Screen:
    """The screen of a language; only ``en`` exists."""
    data = tomllib.loads((files("extes") / "resources" / f"crisis.{language}.toml").read_text(encoding="utf-8"))
    keys = ("idioms", "crisis", "concern", "harmful")
    idioms, crisis, concern, harmful = (re.compile("|".join(f"(?:{p})" for p in data[key])) for key in keys)
    return Screen(f"{language}-{data['version']}", idioms, crisis, concern, harmful)
