from collections import Counter

import pytest

from extes.safety.crisis import screen
from extes.seeds import load
from extes.taxonomy import SCENARIOS
from tests.conftest import ROOT


@pytest.mark.parametrize(
    "text",
    [
        "I want to die",
        "i dont want to be here anymore",
        "I\u2019m going to kill myself tonight",
        "I've been thinking about suicide",
        "sometimes i think everyone would be better off without me",
        "I took all my pills an hour ago",
        "I have been cutting myself again",
        "there is no reason to live",
        "he said he is going to kill me",
        "He said he would kill me",
        "I am going to hurt him",
        "I just want it to stop. I wish I was dead.",
        "kms",
        "I could jump off the bridge on my way home",
        "I wish I could go to sleep and not wake up again",
        "i don\u00b4t want to live",
        "I don\u2032t want to live",
        "I don\uff07t want to live",
        "I want to d\u200bie",
        "I want to kill my\u00adself",
        "\uff29 \uff57\uff41\uff4e\uff54 \uff54\uff4f \uff44\uff49\uff45",
    ],
)
def test_a_crisis_is_noticed(text):
    assert screen()(text) == "crisis"


@pytest.mark.parametrize(
    "text",
    [
        "This commute is killing me",
        "I'm dying to see her again, we were killing time at the station",
        "I died laughing",
        "My dog died on Saturday and I miss him",
        "He killed it on stage last night",
        "Taking that job was career suicide",
        "I want to sleep for a week",
        "My father took his own car to the garage",
        "I'm taking all the blame and taking too many classes",
        "I hurt her feelings",
    ],
)
def test_figures_of_speech_do_not_stop_a_conversation(text):
    assert screen()(text) == "none"


@pytest.mark.parametrize("text", ["What's the point of anything", "I feel so hopeless", "I can't do this anymore"])
def test_a_worry_is_noticed_without_stopping(text):
    assert screen()(text) == "concern"


def test_a_harmful_reply_is_noticed_and_a_kind_one_is_not():
    assert screen().harmful("You should just die.")
    assert screen().harmful("Go kill yourself")
    assert screen().harmful("Maybe they would be better off without you. You are worthless.")
    assert not screen().harmful("Are you thinking about wanting to hurt yourself, or of killing yourself tonight?")
    assert not screen().harmful("Please don't hurt yourself. You matter.")
    assert screen().harmful("I'd say, you're not a good person.")  # the starter once said it
    assert not screen().harmful("I don't think you are worthless at all.")
    assert not screen().harmful("It does not mean that you're a bad person. You are a good friend.")
    assert not screen().harmful("You should rest, and you deserve to be heard.")


@pytest.mark.parametrize(
    "text",
    [
        "I won't be around for Christmas anyway",
        "at least then nobody has to worry about the rent",
        "I've been putting my affairs in order",
        "gave my guitar to my cousin today",
        "they'd all be fine without me",
    ],
)
def test_a_hint_shows_help_without_stopping(text):
    assert screen()(text) != "none"


def test_the_figures_that_are_told_of_the_screen_are_those_of_the_seeds():
    """The README and the data file state these; whoever changes a pattern measures again here."""
    rank = ("none", "concern", "crisis")
    found = Counter()
    for dialogue in load()[0]:
        level = max((screen()(t.text) for t in dialogue.turns if t.speaker == "seeker"), key=rank.index)
        found["crisis" in dialogue.provenance["arc"], level] += 1
    assert (found[True, "crisis"], found[True, "concern"], found[True, "none"]) == (0, 8, 4)
    assert (found[False, "crisis"], sum(n for (disclosed, _), n in found.items() if not disclosed)) == (3, 96)
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert "stops none of the 12 dialogues" in readme
    assert "points to help in 8 of them" in readme
    assert "stops 3 of the 96 others" in readme


def test_no_official_situation_is_taken_for_a_crisis():
    assert [s.name for s in SCENARIOS if screen()(s.name) == "crisis"] == []
