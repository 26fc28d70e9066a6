"""Exemplar policies by their distributions, quotas by their sums, and what a round asks for."""

import random
from collections import Counter

import pytest

from extes import taxonomy
from extes.generation import quota
from extes.generation.errors import Stop
from extes.generation.plan import plan_round
from extes.generation.policy import FLOOR, POLICIES, Exemplar, Shelf
from extes.generation.settings import Settings

NAMES = [s.name for s in taxonomy.SCENARIOS]
DRAWS = 6000


def shelf(deficit=None):
    """30 seeds of three scenarios (very uneven) and 60 machine-written dialogues of one."""
    seeds = [Exemplar(f"s{n}", NAMES[0 if n < 24 else 1 if n < 29 else 2], 0, ("Affirmation",)) for n in range(30)]
    machine = [Exemplar(f"m{n}", NAMES[0], 1, ("Offer Hope",)) for n in range(60)]
    return Shelf(seeds + machine, deficit or {})


def drawn(policy, on, k=4, scenario=NAMES[1]):
    rng = random.Random(1)
    draws = [POLICIES[policy].draw(rng, on, scenario, k) for _ in range(DRAWS)]
    assert all(len({e.id for e in d}) == k for d in draws), "k different exemplars each time"
    return draws


def test_uniform_draws_everyone_alike():
    counts = Counter(e.id for d in drawn("uniform", shelf()) for e in d)
    expected = DRAWS * 4 / 90
    assert len(counts) == 90
    assert max(abs(n - expected) for n in counts.values()) < 5 * expected**0.5


@pytest.mark.parametrize(("k", "human"), [(8, 6 / 8), (4, 3 / 4), (3, 3 / 4)])
def test_mixed_keeps_the_ratio_of_self_instruct(k, human):
    draws = drawn("mixed", shelf(), k)
    assert sum(e.human for d in draws for e in d) / (DRAWS * k) == pytest.approx(human, abs=0.01)


def test_mixed_uses_seeds_where_there_is_nothing_else():
    on = Shelf([e for e in shelf().exemplars if e.human])
    assert all(e.human for d in drawn("mixed", on) for e in d)


def test_balanced_shows_the_wanted_scenario_and_others_alike():
    draws = drawn("balanced", shelf(), k=2)
    for d in draws:
        assert sorted(e.scenario == NAMES[1] for e in d) == [False, True]
    other = Counter(e.scenario for d in draws for e in d if e.scenario != NAMES[1])
    # 84 dialogues of one scenario against one of the other: each is still shown every second time.
    assert other[NAMES[0]] / DRAWS == pytest.approx(0.5, abs=0.03)


def test_deficit_draws_in_proportion_to_what_is_lacking():
    on = shelf({"Offer Hope": 0.098, "Affirmation": 0.0})
    draws = drawn("deficit", on, k=1)
    lacking, rest = 60 * (FLOOR + 0.098), 30 * FLOOR
    share = sum(not e.human for d in draws for e in d) / DRAWS
    assert share == pytest.approx(lacking / (lacking + rest), abs=0.01)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_shelf_smaller_than_asked_for_is_given_whole(policy):
    on = Shelf([Exemplar("s0", NAMES[0], 0, ("Others",)), Exemplar("s1", NAMES[0], 0, ("Others",))])
    assert {e.id for e in POLICIES[policy].draw(random.Random(0), on, NAMES[5], 3)} == {"s0", "s1"}


@pytest.mark.parametrize("target", [1, 35, 100, 1000, 11_177])
def test_quotas_add_up_and_follow_the_paper(target):
    wanted = quota.scenarios(target, quota.weights("paper"))
    assert sum(wanted.values()) == target
    total = sum(s.count for s in taxonomy.SCENARIOS)
    assert all(abs(wanted[s.name] - target * s.count / total) < 1 for s in taxonomy.SCENARIOS)


def test_a_mix_of_ones_own_is_read_and_its_faults_are_named(tmp_path):
    path = tmp_path / "mix.toml"
    path.write_text('"Academic Stress" = 3\n"Caregiver Support" = 1\n')
    wanted = quota.scenarios(8, quota.weights(str(path)))
    assert {k: n for k, n in wanted.items() if n} == {"Academic Stress": 6, "Caregiver Support": 2}
    faults = {
        '"Academic Stres" = 1': "did you mean 'Academic Stress'",
        '"Academic Stress" = -1': "0 or more",
        "x": "paper, even",
    }
    for text, says in faults.items():
        path.write_text(text)
        with pytest.raises(Stop, match=says):
            quota.weights(str(path))


def settings(**changes):
    return Settings(base_url="http://x/v1", model="m", target=100, **changes)


def round_of(settings, kept=None, pending=None, deficit=None, first=False):
    wanted = quota.scenarios(settings.target, settings.weights)
    counts = Counter(kept or {}), Counter(pending or {})
    return plan_round(3, first, settings, shelf(deficit), wanted, *counts, random.Random(0))


def test_a_round_asks_for_what_is_missing_and_no_more():
    wanted = quota.scenarios(100, quota.weights("paper"))
    kept = {name: n // 2 for name, n in wanted.items()}
    pending = {name: n - n // 2 for name, n in wanted.items()} | {NAMES[0]: 0}
    slots = round_of(settings(), kept, pending)
    assert [s.scenario for s in slots] == [NAMES[0]] * (wanted[NAMES[0]] - wanted[NAMES[0]] // 2)
    assert round_of(settings(), wanted) == []


def test_the_first_round_is_a_probe():
    assert len(round_of(settings(), first=True)) == 4
    assert len(round_of(settings(round_size=16))) == 16


def test_strategies_asked_for_are_those_the_pool_lacks():
    slots = round_of(settings(), deficit={"Offer Hope": 0.3, "Clarification": 0.1, "Others": 0.0})
    assert all(set(s.strategies) == {"Offer Hope", "Clarification"} for s in slots)
    assert quota.strategy_deficit(Counter({"Others": 10}))["Others"] == 0
    assert quota.strategy_deficit(Counter({"Others": 10}))["Offer Hope"] > 0
