"""What a model learns of a dialogue, made visible: the tokens that carry loss stand out from those that do not.

Knows examples and decoding; nothing of how the labels came about, so that it shows what they are and not what they
should be.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

from training.data import Example
from training.template import IGNORED

TRAINED, CONTEXT, END = "\x1b[1;32m", "\x1b[2m", "\x1b[0m"
OPEN, CLOSE = "⟦", "⟧"


def render(example: Example, tokenizer: Any, colour: bool | None = None) -> str:
    """The example as text, its trained stretches in colour, or in brackets where there is none.

    ``colour`` is decided by the terminal and ``NO_COLOR`` if not given.
    """
    if colour is None:
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    opening, closing = (TRAINED, END) if colour else (OPEN, CLOSE)
    lines = []
    for learnt, said in _stretches(example, tokenizer):
        said = said.replace("\n", "↵\n")  # so that the breaks of the text are told from those of this display
        lines.append(f"{opening}{said}{closing}" if learnt else f"{CONTEXT}{said}{END}" if colour else said)
    text = "\n".join(lines)
    trained, tokens = sum(label != IGNORED for label in example.labels), len(example.labels)
    return (
        f"{example.id} ({example.source})\n"
        f"{opening}trained{closing}: {trained} tokens, {example.words} words; the rest, {tokens - trained} tokens, "
        f"is context\n\n{text}\n"
    )


def _stretches(example: Example, tokenizer: Any) -> Iterator[tuple[bool, str]]:
    """Runs of tokens with and without loss, decoded."""
    start, ids, labels = 0, example.input_ids, example.labels
    for n in range(1, len(ids) + 1):
        if n == len(ids) or (labels[n] == IGNORED) != (labels[start] == IGNORED):
            yield labels[start] != IGNORED, tokenizer.decode(ids[start:n], clean_up_tokenization_spaces=False)
            start = n
