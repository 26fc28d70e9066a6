"""A dialogue is shown with what is trained marked, in colour or without."""

import re

import pytest

from tests.training.families import byte_level
from training.data import Example
from training.mask import render
from training.template import IGNORED, Message, choose, encode

TALK = [
    Message("user", "I lost my job."),
    Message("assistant", "That is heavy.\nTell me.", trained=True),
    Message("user", "She thinks I work."),
    Message("assistant", "What is hardest?", trained=True),
]


@pytest.fixture
def example():
    tokenizer = byte_level("llama3")
    e = encode(tokenizer, choose(tokenizer, "llama3")[1], TALK, "none")
    return Example("d1", "seeds", e.input_ids, e.labels, e.words, e.messages)


def test_without_colour_brackets_enclose_what_is_trained(example):
    shown = render(example, byte_level("llama3"), colour=False)
    assert "\x1b" not in shown
    body = shown.split("\n\n", 1)[1]
    assert re.findall(r"⟦(.*?)⟧", body, re.S) == ["That is heavy.↵\nTell me.<|eot_id|>", "What is hardest?<|eot_id|>"]
    trained = sum(label != IGNORED for label in example.labels)
    assert f"{trained} tokens, 8 words; the rest, {len(example.labels) - trained} tokens" in shown


def test_the_display_is_of_the_labels_and_not_of_the_messages(example):
    example.labels[:] = [IGNORED] * len(example.labels)
    example.labels[1] = example.input_ids[1]
    assert re.findall(r"⟦(.*?)⟧", render(example, byte_level("llama3"), colour=False))[1:] == ["<|start_header_id|>"]


def test_colour_is_for_terminals_that_want_it(example, monkeypatch):
    tokenizer = byte_level("llama3")
    assert "\x1b" not in render(example, tokenizer)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert "\x1b[1;32mWhat is hardest?" in render(example, tokenizer)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in render(example, tokenizer)
