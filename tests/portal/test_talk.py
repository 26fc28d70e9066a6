"""One turn of open chat, without a page."""

import asyncio

import pytest

from extes.portal.talk import talk
from extes.study.conduct import Conduct
from extes.study.config import load
from extes.study.roster import build
from extes.study.store import Store
from tests.conftest import STUDY, write_study


def chat(folder, message, history=(), reply="That was a long day to carry alone. What was the worst hour of it?"):
    """All that the page is given, one after the other."""
    study = load(write_study(folder / "study", STUDY.replace("That was a long day", reply, 1)))
    arms = build(study)
    for arm in arms.values():
        arm.load()

    async def go():
        return [text async for text in talk(Conduct(study, Store(folder / "data"), arms), message, list(history))]

    return asyncio.run(go())


def test_a_crisis_is_met_with_help_also_where_the_conversation_is_too_long(tmp_path):
    history = [{"role": ("user", "assistant")[n % 2], "content": "x" * 2000} for n in range(102)]
    (shown,) = chat(tmp_path, "I want to die", history)
    assert "help lines" in shown


@pytest.mark.parametrize("reply", ["Go **kill** yourself.", "Go <b>kill</b> yourself."])
def test_a_harmful_reply_is_withheld_however_it_is_marked_up(tmp_path, reply):
    *_, shown = chat(tmp_path, "hello", reply=reply)
    assert "not shown" in shown


def test_what_a_model_only_thinks_withholds_nothing(tmp_path):
    *_, shown = chat(tmp_path, "hello", reply="<think>They may feel hated. You are worthless.</think>I hear you.")
    assert shown.startswith("I hear you.")
