"""What training sees: cleaned text, honest splits, windows that lose nothing."""

import gzip
import itertools
import json

import pytest

from training import corpora
from training.data import from_seed, seed_split, windows


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("i\u2019m ok .  and i think so", "I'm ok. And I think so."),
        ("what??!!  really", "What??!! Really."),
        ("noooo!!!!!!", "Noooo!!!"),
        ("  ", ""),
    ],
)
def test_text_of_different_corpora_is_made_alike(raw, cleaned):
    assert corpora.clean(raw) == cleaned


def test_turns_of_one_speaker_are_joined_and_doubles_dropped():
    turns = [("seeker", "hi"), ("supporter", "hello"), ("supporter", "hello"), ("supporter", "how are you?")]
    assert corpora.exchanged("x", turns).turns == (("user", "Hi."), ("assistant", "Hello. How are you?"))


def test_two_answers_to_one_question_stay_on_one_side_of_the_split():
    for n in range(200):
        one = corpora.Exchanged("a", (("user", f"Question {n}?"), ("assistant", "One.")))
        two = corpora.Exchanged("b", (("user", f"Question {n}?"), ("assistant", "Two.")))
        assert corpora.held_out(one) == corpora.held_out(two)


def test_held_out_seeds_are_none_of_the_training_seeds():
    kept, away = seed_split(20)
    assert len(away) == 20 and not {d.id for d in kept} & {d.id for d in away}
    assert seed_split(20)[1] == away


@pytest.mark.parametrize("longest", [120, 60, 10_000])
def test_windows_cover_every_turn_once_in_order(longest):
    def length(messages):
        return sum(len(m["content"].split()) for m in messages)

    for dialogue in map(from_seed, seed_split(20)[0][:30]):
        found, lost = windows(dialogue, length, longest)
        assert all(length(w) <= longest for w in found)
        covered = [(m["role"], m["content"]) for w in found for m in w]
        if not lost:
            answered = list(dialogue.turns)
            while answered and answered[-1][0] == "user":
                answered.pop()
            assert covered[: len(answered)] == answered
        spoken = sum(role == "assistant" for role, _ in dialogue.turns)
        assert sum(role == "assistant" for role, _ in covered) + lost == spoken
        for window in found:
            assert all(a["role"] != b["role"] for a, b in itertools.pairwise(window))


def test_a_situation_told_anew_stays_on_the_side_of_its_dialogue(tmp_path):
    with gzip.open(tmp_path / "empathetic-dialogues.jsonl.gz", "wt", encoding="utf-8") as out:
        for n in range(300):
            turns = [{"speaker": "seeker", "text": f"Message {n}"}, {"speaker": "supporter", "text": "Oh no"}]
            situation = f"what happened to me on day {n}" if n % 3 else "a note"
            out.write(json.dumps({"id": f"ed-{n}", "situation": situation, "turns": turns}) + "\n")
    away = {d.id for d in corpora.read(tmp_path, "empathetic-dialogues") if corpora.held_out(d)}
    told = list(corpora.read(tmp_path, corpora.SITUATIONS))
    assert len(told) == 200 and away
    assert told[0].turns == (("user", "What happened to me on day 1."), ("assistant", "Oh no."))
    for dialogue in told:
        assert corpora.held_out(dialogue) == (dialogue.id.removesuffix("-situation") in away)
