"""Pressure and errors over real HTTP: 429 with retry-after, 5xx, slow answers, dropped connections, wrong calls."""

import re
import time

import pytest

from tests.generation.server import write_dialogue


def test_429_with_retry_after_is_honoured_and_nothing_is_lost(work, serve):
    server = serve(slots=3, latency=0.02, retry_after="0.4")
    assert work.generate(server.url, target=60).status == 0
    assert work.outcomes() == {"accepted": 60}
    assert server.statuses[429] >= 1
    assert max(server.paid.values()) == 1
    first = server.refusals[0]
    # What is in flight at a refusal may still be refused; then nothing arrives until the server's time is over.
    held = [a for a in server.arrivals if first + 0.1 < a < first + 0.35]
    assert not held


def test_retry_after_as_a_date_and_in_milliseconds():
    from email.utils import formatdate

    from extes.generation.client import retry_after

    assert retry_after({"retry-after-ms": "250"}) == 0.25
    assert retry_after({"retry-after": "2"}) == 2.0
    assert 3 < retry_after({"retry-after": formatdate(time.time() + 5, usegmt=True)}) <= 5
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({}) is None


def test_500s_and_dropped_connections_are_asked_again(work, serve):
    server = serve(fail={2: 500, 5: 503, 9: 0, 14: 0, 20: 502})
    run = work.generate(server.url)
    assert run.status == 0
    assert work.outcomes() == {"accepted": 24}
    assert "2 connection broken" in run.err and "1 failed (503)" in run.err


def test_a_fifth_of_all_requests_failing_changes_nothing_in_the_pool(work, serve):
    server = serve()
    work.generate(server.url, "--round", "16", pool="calm", target=36)
    server.behaviour.chaos = 0.2
    assert work.generate(server.url, "--round", "16", pool="rough", target=36).status == 0
    assert work.log("calm") == work.log("rough")


def test_a_slow_answer_is_given_up_and_asked_again(work, serve):
    server = serve()
    hang = {"once": True}

    def slow(prompt, rng):
        if hang.pop("once", False):
            time.sleep(1.5)
        return write_dialogue(prompt, rng)

    server.behaviour.write = slow
    run = work.generate(server.url, "--timeout", "1", target=6)
    assert run.status == 0 and "timed out" in run.err
    assert work.outcomes() == {"accepted": 6}


def test_a_wrong_key_stops_at_once_and_says_which_variable(work, serve, monkeypatch):
    server = serve(key="right")
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    run = work.generate(server.url)
    assert run.status == 2 and "OPENAI_API_KEY" in run.err and "Traceback" not in run.err
    assert server.requests == 0 and sum(server.statuses.values()) <= 4
    monkeypatch.setenv("OPENAI_API_KEY", "right")
    assert work.generate(server.url).status == 0
    assert work.outcomes() == {"accepted": 24}


def test_an_unknown_model_stops_at_once_and_names_it(work, serve):
    server = serve(model="another")
    run = work.generate(server.url)
    assert run.status == 2 and "'m'" in run.err and "--model" in run.err
    assert server.requests <= 4


def test_an_account_without_credit_stops_at_once(work, serve):
    server = serve(quota=False)
    run = work.generate(server.url)
    assert run.status == 1 and "credit" in run.err
    assert server.requests <= 4


def test_an_error_storm_stops_with_a_clear_message_and_the_run_goes_on_later(work, serve):
    server = serve(latency=0.01)
    server.behaviour.fail = {n: 500 for n in range(20, 2000)}
    run = work.generate(server.url, target=60)
    assert run.status == 1
    assert "of the last" in run.err and "requests failed" in run.err and "Nothing is lost" in run.err
    assert server.requests < 150
    server.behaviour.fail = {}
    server.requests = 0
    assert work.generate(server.url, target=60).status == 0
    assert work.outcomes() == {"accepted": 60}
    assert max(server.paid.values()) == 1


def test_nothing_listening_is_said_within_seconds(work, unused_port):
    began = time.monotonic()
    run = work.generate(f"http://127.0.0.1:{unused_port}/v1")
    assert run.status == 1 and "none was answered" in run.err
    assert time.monotonic() - began < 20


@pytest.fixture
def unused_port():
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_nonsense_from_a_small_model_is_survived_and_explained(work, serve, prices):
    server = serve(form="prose", say="the cat the cat sat sat sat on on the")
    run = work.generate(server.url, "--give-up", "20", "--prices", str(prices))
    assert run.status == 1
    outcomes = work.outcomes()
    assert set(outcomes) == {"unparsable"}
    waiting = re.search(r"and (\d+) answers wait in the cache", run.err)
    assert sum(outcomes.values()) + int(waiting[1] if waiting else 0) == server.requests
    assert "nothing of the last 20 answers could be kept" in run.err
    assert "rejected" in run.err and "unparsable" in run.err and "spent: 0." in run.err


def test_a_malformed_seed_file_is_named_before_anything_is_sent(work, serve, tmp_path):
    server = serve()
    folder = tmp_path / "own" / "academic-stress"
    folder.mkdir(parents=True)
    (folder / "1.txt").write_text("scenario: Academic Stress\ndescription: x\n\nSeeker hello\n")
    (folder / "2.txt").write_bytes(b"\xff\xfe\x00")
    work.seeds = tmp_path / "own"
    run = work.generate(server.url)
    assert run.status == 2 and "academic-stress/1.txt: line 4" in run.err
    assert server.requests == 0 and not work.pool().exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--target", "0"), "--target 0: give 1 or more"),
        (("--budget", "1"), "--budget needs --prices"),
        (("--base-url", "localhost:8000"), "--base-url localhost:8000: give an address such as"),
        (("--mix", "nowhere.toml"), "--mix nowhere.toml"),
        (("--prices", "nowhere.toml"), "--prices nowhere.toml"),
    ],
)
def test_bad_arguments_are_explained(work, arguments, says):
    run = work.generate("http://127.0.0.1:1/v1", *arguments)
    assert run.status == 2 and says in run.err


def test_a_pool_that_is_a_file_is_explained(work, serve):
    work.pool().write_text("x")
    run = work.generate(serve().url)
    assert run.status == 2 and "is a file" in run.err
