"""Exchanges are told in variants that fit, meet their bar, and stay together on one side of every split."""

import itertools
import re

import pytest

from extes import seeds, taxonomy
from extes.errors import Problem
from training import corpora, exchanges, sources, split
from training.exchanges import ExchangeError, parse

WRITTEN = """
Seeker: my {who=dog|aunt} ate the {what=cake|soap}
Supporter [RS]: ^{what}. And {who:it|she} is well now? You were frightened for your {who}.
"""


@pytest.fixture(scope="module")
def shipped():
    return exchanges.load()


def test_a_slot_is_told_again_in_its_form_and_with_its_capital():
    told = [[t.text for t in d.turns] for d in parse(WRITTEN, "exchange/made/1", None).variants(9)]
    assert sorted(told) == [
        ["my aunt ate the cake", "Cake. And she is well now? You were frightened for your aunt."],
        ["my aunt ate the soap", "Soap. And she is well now? You were frightened for your aunt."],
        ["my dog ate the cake", "Cake. And it is well now? You were frightened for your dog."],
        ["my dog ate the soap", "Soap. And it is well now? You were frightened for your dog."],
    ]


def test_variants_are_distinct_and_the_same_in_every_run():
    many = parse(WRITTEN.replace("cake|soap", "|".join("abcdefghij")), "exchange/made/2", None)
    first, again = many.variants(6), many.variants(6)
    assert first == again
    assert len({d.turns for d in first}) == 6


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("{who:it|she}", "{who:it|she|they}", "slot who has 2 alternatives, here 3"),
        ("{what}. And", "{that}. And", "slot that is used before it is defined"),
        ("your {who}", "your {who=cat|dog}", "slot who is defined twice"),
        (" [RS]", "", "one of the 16 strategies"),
        (" [RS]", " [XYZ]", "one of the 16 strategies"),
        ("Supporter", "Helper", 'not "Seeker: ..."'),
        ("\nSupporter", "\nSeeker: well\nSupporter", "one to four exchanges"),
    ],
)
def test_what_cannot_be_told_is_named(before, after, message):
    with pytest.raises(ExchangeError, match=re.escape(message)):
        parse(WRITTEN.replace(before, after), "exchange/made/1", None)


def test_a_file_says_which_of_its_exchanges_is_wrong(tmp_path):
    path = tmp_path / "made.txt"
    path.write_text(f"{WRITTEN.strip()}\n\n{WRITTEN.strip()}\nwell\n", encoding="utf-8")
    one, wrong = exchanges.read(path)
    assert one.id == "exchange/made/1"
    assert wrong.startswith("made.txt, exchange 2: not ")
    with pytest.raises(Problem, match=r"made\.txt, exchange 2"):
        exchanges.load(tmp_path)


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ("Soap.", "words, here 1"),
        ("I have been there. It was hard.", "no life of its own"),
        ("well, that is a lot of soap.", "begins with a capital"),
        ("Soap \u2026 and you?", "plain characters only"),
        ("Soap} and you?", "plain characters only"),
    ],
)
def test_a_reply_below_the_bar_is_named(reply, problem):
    one = parse(f"Seeker: it ate soap\nSupporter [RS]: {reply}", "exchange/made/1", None)
    assert any(problem in found for found in exchanges.problems(one))


def test_the_shipped_exchanges_meet_what_a_machine_can_see_of_their_bar(shipped):
    assert [p for one in shipped for p in exchanges.problems(one)] == []
    assert {path.stem for path in exchanges.FOLDER.glob("by-scenario/*")} == {s.slug for s in taxonomy.SCENARIOS}
    assert set(exchanges.files()) == {*exchanges.FOLDER.glob("by-scenario/*"), *exchanges.FOLDER.glob("by-kind/*")}


def test_no_shipped_exchange_shares_a_stretch_of_twelve_words_with_another_or_a_seed(shipped):
    hand_written, _ = seeds.load()
    found = seeds.overlaps([*hand_written, *(one.variants(1)[0] for one in shipped)])
    help_is_named_alike = re.compile(r"emergency|crisis line|helpline|hotline")
    assert [stretch for stretch in found if not help_is_named_alike.search(stretch)] == []


def test_all_that_is_told_of_one_exchange_stays_on_one_side_here_and_in_pre_training(tmp_path, shipped):
    told = sources.read("exchanges:3").dialogues[:600]
    candidates = [split.Candidate("exchanges", d) for d in told]
    sides = split.split(candidates, frozenset(), corpora.EXCHANGES_PER_MILLE, split.sketched(told), lineage=True)
    assert {"train", "held_out"} <= set(sides)
    by_family = itertools.groupby(zip(told, sides, strict=True), key=lambda pair: pair[0].id.rpartition("/")[0])
    families = {family: {side for _, side in pairs} for family, pairs in by_family}
    assert all(len(found) == 1 for found in families.values())
    away = {d.key for name in corpora.EXCHANGES for d in corpora.read(tmp_path, name) if corpora.held_out(d)}
    assert {family for family, side in families.items() if side == {"held_out"}} <= away
