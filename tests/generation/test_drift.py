"""Drift measures against known values, and bounds that are crossed when they should be."""

import random

import pytest

from extes import seeds
from extes.generation.drift import Bounds, Drift, distinct, entropy


def test_distinct_n_and_entropy_of_known_texts():
    assert distinct(["a", "b", "a", "b", "a", "b"], 1) == pytest.approx(2 / 6)
    assert distinct(["a", "b", "a", "b", "a", "b"], 2) == pytest.approx(2 / 5), "the last n-gram counts"
    assert entropy(["x", "y", "x", "y"]) == 1.0
    assert entropy(["x"] * 5) == 0.0


def text(rng, vocabulary, n=300):
    return " ".join(f"w{rng.randrange(vocabulary)}" for _ in range(n))


def with_seeds(**bounds):
    drift, rng = Drift(Bounds(**bounds)), random.Random(0)
    drift.add_seeds([(text(rng, 2000), ("Affirmation", "Clarification", "Others", "Offer Hope")) for _ in range(40)])
    return drift, rng


ALL = ("Affirmation", "Clarification", "Others", "Offer Hope")


@pytest.mark.parametrize(
    ("vocabulary", "words", "strategies", "says"),
    [
        (2000, 300, ALL, None),
        (60, 300, ALL, "Distinct-1"),
        (2000, 300, ("Affirmation",), "strategy entropy"),
        (2000, 40, ALL, "words a dialogue"),
    ],
)
def test_a_depth_past_a_bound_is_named(vocabulary, words, strategies, says):
    drift, rng = with_seeds()
    for _ in range(60):
        drift.add(1, text(rng, vocabulary, words), strategies)
    crossed = drift.crossed()
    assert crossed == [] if says is None else any(line.startswith(f"depth 1: {says}") for line in crossed)


def test_copies_of_the_seeds_are_drift_too():
    drift, _ = with_seeds()
    rng = random.Random(0)
    for _ in range(40):
        drift.add(2, text(rng, 2000), ALL)
    assert any("similarity to the seeds 1 is above" in line for line in drift.crossed())


def test_a_depth_of_few_dialogues_is_not_judged():
    drift, rng = with_seeds(least=30)
    for _ in range(29):
        drift.add(1, text(rng, 20), ("Others",))
    assert drift.crossed() == []


def test_the_size_of_a_depth_does_not_change_its_distinct_n():
    drift, rng = with_seeds()
    for depth, n in ((1, 20), (2, 180)):
        for _ in range(n):
            drift.add(depth, text(rng, 2000), ALL)
    _, few, many = drift.measures()
    assert few.distinct_1 == pytest.approx(many.distinct_1, rel=0.03)
    assert (few.dialogues, many.dialogues) == (20, 180)


def test_the_projects_own_seeds_are_within_their_own_bounds():
    dialogues, _ = seeds.load()
    rows = [(" ".join(t.text for t in d.turns), tuple(t.strategy for t in d.turns if t.strategy)) for d in dialogues]
    drift = Drift()
    drift.add_seeds(rows[::2])
    for words, strategies in rows[1::2]:
        drift.add(1, words, strategies)
    assert drift.crossed() == []
