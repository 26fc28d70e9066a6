from collections import Counter

import pytest

from extes.study.assignment import REPEATS, assign

SCENARIOS = [f"s{n}" for n in range(36)]


@pytest.mark.parametrize("arms", [("x", "y"), ("x", "y", "z"), ("w", "x", "y", "z")])
def test_every_block_shows_every_ordered_pair_equally_often(arms):
    cells = len(arms) * (len(arms) - 1)
    size = cells * REPEATS
    for block in range(20):
        seen = Counter(tuple(assign(1, block * size + n, arms, SCENARIOS).arms.values()) for n in range(size))
        assert len(seen) == cells and set(seen.values()) == {REPEATS}


def test_the_stream_is_the_same_after_a_restart_and_another_for_another_seed():
    stream = [assign(5, n, ("x", "y"), SCENARIOS) for n in range(40)]
    assert stream == [assign(5, n, ("x", "y"), SCENARIOS) for n in range(40)]
    assert [a.arms for a in stream] != [assign(6, n, ("x", "y"), SCENARIOS).arms for n in range(40)]


def test_the_logged_probability_is_how_often_it_happens():
    arms = ("x", "y", "z")
    drawn = [assign(seed, 3, arms, SCENARIOS) for seed in range(3000)]
    share = sum(a.arms == {"a": "y", "b": "z"} for a in drawn) / len(drawn)
    assert abs(share - drawn[0].probability) < 0.03


def test_all_scenarios_come_round_before_one_comes_twice():
    for turn in range(3):
        assert {assign(1, turn * 36 + n, ("x", "y"), SCENARIOS).scenario for n in range(36)} == set(SCENARIOS)


def test_knowing_the_first_of_a_block_does_not_give_away_the_second():
    second = Counter()
    for seed in range(2000):
        first, then = (assign(seed, n, ("x", "y"), SCENARIOS).arms["a"] for n in (0, 1))
        second[first == then] += 1
    assert second[True] > 0.25 * 2000
