"""Making replies alike in form, so that form does not tell the arms apart. Pure; the same for every arm.

Reasoning blocks go; markdown, links, tables and tags leave their words; spaces and blank lines are made one; and a
reply cut by the token cap ends at its last whole sentence.
"""

from __future__ import annotations

import re

from extes.arms.arm import Finish

_REASONING = re.compile(r"<(think|thinking|reasoning)>.*?(</\1>|$)|^.*</(think|thinking|reasoning)>", re.S | re.I)
_TAGS = re.compile(r"</?[a-zA-Z][^<>]{0,80}>|<\|[^<>|]{0,40}\|>")
_LINKS = re.compile(r"""!?\[([^\[\]]*)\]\((?:[^()\s]|\([^()\s]*\))*(?:\s+(?:"[^"]*"|'[^']*'))?\)""")
_RULES = re.compile(r"(?m)^[ \t]*(?:[-*_=|:][ \t]*){3,}$")
_MARKS = re.compile(
    r"(?m)^[ \t]{0,3}(#{1,6}[ \t]+|>[ \t]?|[-*+\u2022][ \t]+|\d{1,2}[.)][ \t]+)"
    r"|\*{2,3}|__|~~|`{1,3}|\||(?<!\w)[*_](?=\w)|(?<=\w)[*_](?!\w)"
)
_LABEL = re.compile(r"^\s*(?:\[[A-Z][\w &'/-]{2,40}\]\s*|(?:assistant|supporter|ai|user|seeker)\s*:\s*)", re.I)
_SENTENCE_END = re.compile(r"[.!?][\"')\]]*(?=\s|$)")
_LINES = re.compile(r"\n\s*\n")


def tidy(text: str, finish: Finish | None) -> str:
    """The reply as both sides show it; empty if nothing is left."""
    text = _REASONING.sub("", text)
    text = _RULES.sub("", _TAGS.sub("", _LINKS.sub(r"\1", text)))
    text = _LABEL.sub("", _MARKS.sub("", text))
    paragraphs = [" ".join(p.split()) for p in _LINES.split(text.strip())]
    text = "\n\n".join(p for p in paragraphs if p)
    if finish == "length" and text:
        ends = [m.end() for m in _SENTENCE_END.finditer(text)]
        text = text[: ends[-1]] if ends else text + "..."
    return text
