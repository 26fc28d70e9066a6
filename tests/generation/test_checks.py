"""Every check, by a dialogue that breaks just that rule, and near-duplicates by planted pairs."""

import random
import time
from dataclasses import replace
from pathlib import Path

import pytest

from extes import seeds
from extes.generation import checks, duplicates
from extes.generation.checks import CODES, Checked, Rejection, check
from extes.generation.duplicates import Duplicates, jaccard, shingles
from extes.generation.ladder import Parsed, Said

LABELS = ("Clarification", "Reflective Statements", "Emotional Validation", "Others", "Affirmation")


def plain():
    """A short dialogue that passes."""
    turns = []
    for n, label in enumerate(LABELS):
        turns.append(Said("seeker", f"Number {n}: the bakery closed and I lost the early shift that I had for years."))
        turns.append(
            Said("supporter", f"Answer {n}: that early shift held your whole day together, it sounds like.", label)
        )
    return Parsed("A baker.", tuple(turns))


def changed(number, **changes):
    """The plain dialogue with one turn (from 0) changed."""
    turns = list(plain().turns)
    turns[number] = replace(turns[number], **changes)
    return Parsed("A baker.", tuple(turns))


def code(parsed, exemplars=()):
    result = check(parsed, exemplars)
    return result.code if isinstance(result, Rejection) else None


def test_a_plain_dialogue_passes():
    assert code(plain()) is None


def test_every_seed_passes():
    """The checks must not reject what people wrote with care; patterns that do are too wide."""
    dialogues, _ = seeds.load()
    rejected = {}
    for d in dialogues:
        parsed = Parsed(d.description, tuple(Said(t.speaker, t.text, t.strategy) for t in d.turns))
        if code(parsed):
            rejected[d.id] = check(parsed, ())
    assert not rejected


@pytest.mark.parametrize(
    ("parsed", "expected"),
    [
        (Parsed("", plain().turns[1:]), "role_order"),
        (Parsed("", (*plain().turns, plain().turns[-1])), "role_order"),
        (changed(1, label=None), "missing_strategy"),
        (changed(1, label="Interpretive Dance"), "unknown_strategy"),
        (Parsed("", tuple(replace(t, label="Others") if t.label else t for t in plain().turns)), "few_strategies"),
        (Parsed("", plain().turns[:4]), "too_few_turns"),
        (Parsed("", plain().turns * 5), "too_many_turns"),
        (changed(2, text="word " * 201), "turn_too_long"),
        (Parsed("", tuple(replace(t, text="Yes, so it is.") for t in plain().turns)), "too_short"),
        (changed(2, text=""), "empty_turn"),
        (changed(3, text="As an AI, I can't feel this, but I hear you."), "meta_talk"),
        (changed(3, text="I'm your therapist, so trust me."), "meta_talk"),
        (changed(2, text="My name is [Name] and I am tired."), "placeholder"),
        (changed(2, text="Write to me at jo.smith@mail.com please."), "personal_data"),
        (changed(2, text="My number is +44 20 7946 0958."), "personal_data"),
        (changed(2, text="Call me: 555-123-4567."), "personal_data"),
        (changed(2, text="I live at 12 Old Mill Road."), "personal_data"),
        (changed(2, text="My card is 4111 1111 1111 1111."), "personal_data"),
        (changed(2, text="It was on https://example.org/me yesterday."), "personal_data"),
        (changed(3, text="You could just stop taking your antidepressants for a week."), "unsafe_advice"),
        (changed(3, text="Take 200 mg and sleep."), "unsafe_advice"),
        (changed(3, text="Don't tell anyone about this."), "unsafe_advice"),
        (changed(3, text="You clearly have bipolar, everyone can see it."), "unsafe_advice"),
        (changed(3, text="You don't need a therapist for that."), "unsafe_advice"),
        (changed(4, text="Some nights I think about killing myself."), "crisis_unmet"),
        (changed(6, text="I don't want to be here anymore."), "crisis_unmet"),
    ],
)  # fmt: skip
def test_each_rule_has_its_code(parsed, expected):
    assert code(parsed) == expected
    assert check(parsed, ()).detail


@pytest.mark.parametrize(
    "answer",
    [
        "Are you thinking about killing yourself right now?",
        "Can we call a crisis line together? In many places it is 988.",
        "Is there someone who can stay with you tonight?",
        "I'm worried. Are you safe where you are?",
    ],
)
def test_a_crisis_that_is_met_passes(answer):
    turns = list(changed(4, text="Some nights I think about killing myself.").turns)
    turns[5] = replace(turns[5], text=answer)
    assert code(Parsed("", tuple(turns))) is None


def test_what_sounds_alike_and_is_harmless_passes():
    for text in (
        "I killed it at the interview.",
        "I don't want to die, I want to sleep.",
        "The test said 12 out of 40.",
    ):
        assert code(changed(2, text=text)) is None
    assert code(changed(3, text="The helpline 800-799-7233 is free and open all night.")) is None


def test_near_misses_of_strategies_are_mapped_and_named():
    for label, official in (
        ("Clarifcation", "Clarification"),
        ("EV", "Emotional Validation"),
        ("offer hope", "Offer Hope"),
    ):
        result = check(changed(1, label=label), ())
        assert isinstance(result, Checked)
        assert result.turns[1].strategy == official and result.repairs == ("strategy_mapped",)


def test_twelve_words_of_an_exemplar_are_a_copy_and_eleven_are_not():
    seed = seeds.load()[0][0]
    shown = [(seed.id, checks.stretches(seed.turns))]
    words = next(t.text for t in seed.turns if len(t.text.split()) > 14).split()
    copied = changed(2, text="Well, " + " ".join(words[:12]).upper() + " and so on.")
    assert code(copied, shown) == "copied_from_exemplar"
    assert seed.id in check(copied, shown).detail
    assert code(changed(2, text="Well, " + " ".join(words[:11]) + " and so on."), shown) is None


def test_codes_are_all_explained_in_the_readme():
    readme = (Path(checks.__file__).parent / "README.md").read_text(encoding="utf-8")
    assert [c for c in CODES if f"| `{c}` |" not in readme] == []


def planted(n, pairs, words=310):
    """``n`` texts, and copies of the first ``pairs`` edited down to a Jaccard index between 0.50 and 0.56.

    Any two texts share stock phrases, as what one model writes does: about 3 % of their 3-grams.
    """
    rng = random.Random(4)
    vocabulary = [f"w{i}" for i in range(6000)]
    stock = [rng.choices(vocabulary, k=6) for _ in range(20)]
    texts = []
    for _ in range(n):
        text = rng.choices(vocabulary, k=words - 60)
        for phrase in rng.sample(stock, k=10):
            at = rng.randrange(len(text))
            text[at:at] = phrase
        texts.append(text)
    copies = []
    for original in texts[:pairs]:
        copy, aim = list(original), rng.uniform(0.51, 0.56)
        edits = round(words * (1 - aim) / (1 + aim) / 3)  # each edit, apart from the others, changes three 3-grams
        for at in rng.sample(range(1, words - 2, 3), edits):
            copy[at] = f"new{rng.randrange(10**6)}"
        copies.append(copy)
    return [" ".join(t) for t in texts], [" ".join(c) for c in copies]


def test_near_duplicates_at_full_size_recall_and_time():
    texts, copies = planted(11_177, 800)
    index = Duplicates(bound=0.5)
    began = time.process_time()
    for n, text in enumerate(texts):
        sketch = index.sketch(text)
        assert index.nearest(sketch) is None
        index.add(str(n), sketch)
    true, found = 0, 0
    for n, copy in enumerate(copies):
        sketch = index.sketch(copy)
        near = index.nearest(sketch)
        exact = jaccard(shingles(texts[n]), sketch.shingles)
        assert exact < 0.6
        if exact >= 0.5:
            true += 1
            found += near is not None
            if near:
                assert near.id == str(n) and near.jaccard == pytest.approx(exact)
    each = (time.process_time() - began) / (len(texts) + len(copies))
    print(f"recall {found / true:.4f} of {true} pairs, {each * 1000:.2f} ms a dialogue")
    assert true >= 600
    assert found / true >= 0.99
    assert each <= 0.001


def test_the_nearest_neighbour_is_named():
    index = Duplicates(bound=0.5)
    words = [f"w{i}" for i in range(200)]
    for id, cut in (("far", 120), ("near", 190), ("middle", 160)):
        index.add(id, index.sketch(" ".join(words[:cut] + [f"{id}{i}" for i in range(200 - cut)])))
    assert index.nearest(index.sketch(" ".join(words))).id == "near"
    assert duplicates.shingles("one").size == 1
