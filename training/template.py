"""Chat templates: which one a tokenizer is trained with, and the tokens and labels of messages under it.

Knows templates, tokenizers and roles. Knows nothing of files, splits or lengths.

The loss falls on what stands between the generation markers of the template, to the token: the supporter's words and
the end of turn. A token that lies across a marker cannot be split, so it is an error and not a guess.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2
from transformers.utils.chat_template_utils import render_jinja_template

from extes.errors import Problem

FOLDER = Path(__file__).parent / "chat_templates"
IGNORED = -100
Label = Literal["none", "in_reply", "before"]

_MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")
_CONTROL = re.compile(r"<\|\w+\|>")


@dataclass(frozen=True)
class Message:
    """A turn in chat form. ``trained`` is false for every seeker turn and for supporter turns that carry no loss."""

    role: Literal["system", "user", "assistant"]
    text: str
    strategy: str | None = None
    trained: bool = False


@dataclass(frozen=True)
class Encoded:
    """``labels`` are the ids where there is loss, ``IGNORED`` elsewhere. ``words`` counts those the labels spell."""

    input_ids: list[int]
    labels: list[int]
    words: int
    messages: tuple[dict[str, str], ...]


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.jinja"))


def choose(tokenizer: Any, name: str) -> tuple[str, str]:
    """Name and text of the template: the named one, or with ``""`` the tokenizer's own if it marks the replies.

    Raises :class:`Problem` where there is no such template, or the tokenizer lacks tokens that it is made of.
    """
    if not name:
        own = tokenizer.chat_template
        if isinstance(own, str) and _MARKER.search(own):
            return "the tokenizer's own", own
        lacks = "has no chat template" if not own else "has a chat template without generation markers"
        fitting = [n for n in names() if not _missing(tokenizer, n)]
        raise Problem(
            f"the tokenizer {lacks}, so the supporter's tokens cannot be told from the rest. Name one of this "
            f'project\'s, data.template = "...": its tokens fit {", ".join(fitting)}. See training/chat_templates.'
        )
    if name not in names():
        raise Problem(f'there is no chat template "{name}"; there are {", ".join(names())}')
    if missing := _missing(tokenizer, name):
        raise Problem(
            f'chat template "{name}" is made of tokens that this tokenizer does not have ({", ".join(missing)}); '
            "choose the template of the model's family, or llama1, which needs none."
        )
    return name, (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")


def _missing(tokenizer: Any, name: str) -> list[str]:
    text = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    vocabulary = tokenizer.get_vocab()
    missing = sorted({token for token in _CONTROL.findall(text) if token not in vocabulary})
    missing += [v for v in ("bos_token", "eos_token") if v in text and not getattr(tokenizer, v)]
    return missing


def label_text(strategy: str) -> str:
    """How a strategy is written before a reply, as in the transcripts of the seeds."""
    return f"[{strategy}]"


def encode(tokenizer: Any, template: str, messages: list[Message], label: Label) -> Encoded:
    """Tokens and labels of one conversation, nothing cut. Raises :class:`Problem` if the mask cannot be exact."""
    chat = [{"role": m.role, "content": _content(m, label)} for m in messages]
    try:
        rendered, spans = render_jinja_template(
            [chat], chat_template=template, return_assistant_tokens_mask=True, **tokenizer.special_tokens_map
        )
    except jinja2.TemplateError as error:
        raise Problem(f"the chat template cannot be filled ({error}); choose another with data.template") from error
    text: str = rendered[0]
    replies = [m for m in messages if m.role == "assistant"]
    if len(spans[0]) != len(replies):
        raise Problem(
            f"the chat template marks {len(spans[0])} of {len(replies)} replies; its generation markers must enclose "
            "each reply once. Choose one of this project's with data.template."
        )
    try:
        tokens = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    except NotImplementedError as error:
        raise Problem("the tokenizer has no fast form, which the mask needs; convert it to tokenizer.json") from error
    labels, words = [IGNORED] * len(tokens["input_ids"]), 0
    at = 0
    for message, (start, end) in zip(replies, spans[0], strict=True):
        if not message.trained:
            continue
        words += len(message.text.split())
        if label == "in_reply" and message.strategy:
            words += len(message.strategy.split())
        if label == "before" and message.strategy:
            written = label_text(message.strategy)
            start = text.index(written, start) + len(written)
        at = _mark(labels, tokens, at, start, end, text)
    return Encoded(tokens["input_ids"], labels, words, tuple(chat))


def _content(message: Message, label: Label) -> str:
    if label == "none" or message.role != "assistant" or not message.strategy:
        return message.text
    return f"{label_text(message.strategy)} {message.text}"


def _mark(labels: list[int], tokens: Any, at: int, start: int, end: int, text: str) -> int:
    """Label the tokens of one span; returns where the next span may begin."""
    offsets = tokens["offset_mapping"]
    while at < len(offsets) and offsets[at][1] <= start and offsets[at][0] < start:
        at += 1
    while at < len(offsets) and offsets[at][0] < end:
        first, last = offsets[at]
        if first < start or last > end:
            raise Problem(
                f"a token lies across the edge of a reply ({text[first:last]!r}), so the loss cannot fall on the reply "
                "alone. The template does not suit this tokenizer: choose the one of the model's family with "
                "data.template."
            )
        labels[at] = tokens["input_ids"][at]
        at += 1
    return at
