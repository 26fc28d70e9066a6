"""Adaptive concurrency against a simulated server: pure, no clock, no network."""

import heapq
import random

from extes.generation.pressure import STARVED_SECONDS, Pressure

LATENCY = 0.2


def simulate(pressure, requests, slots=10**9, per_second=None, retry_after=1.0, seed=0):
    """A server of ``slots`` at once, or ``per_second`` (a bucket of one second's worth), which refuses the rest.

    Returns (times of answers, times of refusals).
    """
    rng, now, busy, tokens, filled = random.Random(seed), 0.0, 0, per_second or 0.0, 0.0
    events, answers, refusals, waiting = [], [], [], requests
    while len(answers) < requests:
        while waiting and pressure.may_start(now):
            waiting -= 1
            epoch = pressure.start()
            if per_second:
                tokens, filled = min(per_second, tokens + (now - filled) * per_second), now
            if busy >= slots or (per_second and tokens < 1):
                heapq.heappush(events, (now + 0.005, rng.random(), "refused", epoch))
                continue
            tokens -= 1
            busy += 1
            heapq.heappush(events, (now + LATENCY * rng.uniform(0.9, 1.1), rng.random(), "answered", epoch))
        if waiting and now < pressure.hold_until:
            heapq.heappush(events, (pressure.hold_until, rng.random(), "wake", 0))
        now, _, kind, epoch = heapq.heappop(events)
        if kind == "answered":
            busy -= 1
            answers.append(now)
            pressure.answered()
        elif kind == "refused":
            refusals.append(now)
            pressure.refused(epoch, now, retry_after)
            heapq.heappush(events, (now + retry_after, rng.random(), "again", 0))
        elif kind == "again":
            waiting += 1
    return answers, refusals


def test_a_server_of_fixed_slots_is_used_to_95_percent_with_2_percent_refused():
    for slots in (5, 16, 50):
        answers, refusals = simulate(Pressure(most=200), 11_177, slots=slots)
        start = answers[500]
        share = (len(answers) - 500) / (answers[-1] - start) / (slots / LATENCY)
        refused = sum(at > start for at in refusals) / (len(answers) - 500)
        assert share >= 0.95, (slots, share)
        assert refused <= 0.02, (slots, refused)


def test_a_server_of_fixed_rate_is_used_to_95_percent_with_2_percent_refused():
    for rate in (80, 300):
        answers, refusals = simulate(Pressure(most=200), 8000, per_second=rate)
        start = answers[500]
        share = (len(answers) - 500) / (answers[-1] - start) / rate
        refused = sum(at > start for at in refusals) / (len(answers) - 500)
        assert share >= 0.95, (rate, share)
        assert refused <= 0.02, (rate, refused)


def test_the_limit_stays_within_concurrency_and_above_zero():
    pressure = Pressure(most=8)
    simulate(pressure, 500)
    assert pressure.limit == 8
    for now in range(50):
        epoch = pressure.start()
        pressure.refused(epoch, float(now), None)
    assert pressure.limit == 1


def test_a_burst_of_refusals_is_one_event():
    pressure = Pressure(most=100, limit=40)
    epochs = [pressure.start() for _ in range(40)]
    for epoch in epochs:
        pressure.refused(epoch, 0.0, None)
    assert pressure.limit == 30


def test_a_refusal_holds_everyone_back_as_long_as_the_server_asked():
    pressure = Pressure(most=10, limit=10)
    pressure.refused(pressure.start(), 5.0, retry_after=3.0)
    assert not pressure.may_start(7.9)
    assert pressure.may_start(8.0)


def test_a_refused_request_above_the_known_ceiling_holds_nobody_else_back():
    pressure = Pressure(most=100)
    answers, refusals = simulate(pressure, 3000, slots=20)
    assert pressure.ceiling == 21
    late = [at for at in refusals if at > answers[1000]]
    assert late
    for at in late:
        assert sum(at < a < at + 1.0 for a in answers) >= 0.9 * 20 / LATENCY


def test_more_than_half_failing_is_a_storm_and_less_is_not():
    pressure = Pressure(most=10, limit=10)
    for n in range(100):
        epoch = pressure.start()
        pressure.failed(epoch) if n % 3 == 0 else pressure.answered()
    assert pressure.storm(0.0) is None
    for _ in range(21):
        pressure.failed(pressure.start())
    assert "of the last 40 requests failed" in pressure.storm(0.0)


def test_nothing_but_refusals_for_minutes_is_a_storm():
    pressure = Pressure(most=10, limit=10)
    for n in range(30):
        pressure.refused(pressure.start(), float(n * 15), None)
    assert pressure.storm(100.0) is None
    assert "answered none" in pressure.storm(STARVED_SECONDS + 1)
