"""Kills, cuts, full disks and second processes: nothing lost, nothing paid twice, the same pool in the end."""

import json
import resource
import signal
import subprocess
import sys
import time

import pytest

from tests.generation.conftest import ROOT

TARGET = 48


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def test_the_order_of_network_completion_does_not_change_the_pool(work, serve):
    server = serve(jitter=0.03)
    for pool in ("one", "two"):
        assert work.generate(server.url, "--round", "16", pool=pool, target=TARGET).status == 0
    assert work.generate(server.url, "--round", "16", "--concurrency", "1", pool="three", target=TARGET).status == 0
    assert work.log("one") == work.log("two") == work.log("three")


def test_another_seed_makes_another_pool(work, serve):
    server = serve()
    for seed in ("1", "2"):
        work.generate(server.url, "--seed", seed, pool=seed)
    ids = [{e["dialogue"]["id"] for e in work.events(pool, "slot")} for pool in ("1", "2")]
    assert not ids[0] & ids[1]


@pytest.mark.parametrize("answered", [2, 30])
def test_killed_at_any_moment_and_resumed_ends_as_an_unbroken_run(work, serve, answered):
    concurrency = 6
    server = serve(latency=0.03, jitter=0.03)
    options = ("--round", "16", "--concurrency", str(concurrency))
    assert work.generate(server.url, *options, pool="unbroken", target=TARGET).status == 0
    unbroken, server.requests = dict(server.paid), 0
    process = work.start(server.url, *options, pool="killed", target=TARGET)
    wait_until(lambda: server.requests >= answered)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert work.generate(server.url, *options, pool="killed", target=TARGET).status == 0
    assert work.log("killed") == work.log("unbroken")
    # Equal payloads have equal hashes at the server, whichever pool they are for: each was paid once by each run.
    again = {h: n - unbroken[h] - 1 for h, n in server.paid.items() if n - unbroken[h] > 1}
    assert set(server.paid) == set(unbroken)
    assert sum(again.values()) <= concurrency, "only what was in flight at the kill may be sent again"


def test_killed_twice_and_still_the_same(work, serve):
    server = serve(latency=0.03)
    assert work.generate(server.url, "--round", "16", pool="unbroken", target=TARGET).status == 0
    for _ in range(2):
        before = server.requests
        process = work.start(server.url, "--round", "16", "--concurrency", "4", pool="killed", target=TARGET)
        wait_until(lambda before=before: server.requests >= before + 12)
        process.kill()
        process.communicate()
    assert work.generate(server.url, "--round", "16", pool="killed", target=TARGET).status == 0
    assert work.log("killed") == work.log("unbroken")


def test_a_finished_run_run_again_does_nothing(work, serve):
    server = serve()
    work.generate(server.url)
    log, requests = work.log(), server.requests
    assert work.generate(server.url).status == 0
    assert (work.log(), server.requests) == (log, requests)


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_pool_file_cut_in_half_is_made_whole_from_the_cache_without_a_request(work, serve, share):
    server = serve(form="prose")
    assert work.generate(server.url, "--round", "8").status == 0
    whole, requests = work.log(), server.requests
    path = work.pool() / "pool.jsonl"
    path.write_bytes(whole[: int(len(whole) * share)])
    run = work.generate(server.url, "--round", "8")
    assert run.status == 0 and "cut short" in run.err
    assert work.log() == whole and server.requests == requests
    assert (work.pool() / "pool.torn").read_bytes()


def test_the_whole_pool_is_rebuilt_from_the_cache_with_no_server(work, serve):
    from tests.generation.server import Behaviour, running

    with running(Behaviour(form="json_object")) as server:
        assert work.generate(server.url).status == 0
    whole = work.log()
    (work.pool() / "pool.jsonl").unlink()
    assert work.generate(server.url).status == 0
    assert work.log() == whole


def test_a_damaged_line_in_the_middle_is_named_and_nothing_is_overwritten(work, serve):
    server = serve()
    work.generate(server.url)
    path = work.pool() / "pool.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[5] = lines[5][: len(lines[5]) // 2] + b"\n"
    path.write_bytes(b"".join(lines))
    run = work.generate(server.url, target=30)
    assert run.status == 2 and "line 6 is damaged" in run.err and "cache" in run.err
    assert path.read_bytes() == b"".join(lines)


def test_a_second_process_on_the_same_pool_is_turned_away(work, serve):
    server = serve(latency=0.2)
    process = work.start(server.url, target=200)
    try:
        wait_until(lambda: server.requests >= 4)
        run = work.generate(server.url)
        assert run.status == 2
        assert f"another process (number {process.pid})" in run.err
        assert work.extes("pool", "stats", str(work.pool())).status == 0, "reading needs no lock"
    finally:
        process.kill()
        process.communicate()
    assert work.generate(server.url, target=8).status == 0, "the lock ends with its process, also by kill -9"


@pytest.mark.parametrize("bytes_left", [20_000, 120_000])
def test_a_full_disk_stops_with_a_clear_message_and_the_run_goes_on_later(work, serve, bytes_left):
    server = serve()
    assert work.generate(server.url, "--round", "16", pool="unbroken", target=TARGET).status == 0
    first = len(work.log("unbroken").split(b'{"event": "plan"')[0])

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (first + bytes_left, first + bytes_left))

    command = [sys.executable, "-m", "extes.cli"]
    command += work.arguments(server.url, "--round", "16", pool="full", target=TARGET)
    run = subprocess.run(
        command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, preexec_fn=limit, capture_output=True, text=True
    )
    assert run.returncode == 2, run.stderr
    assert "Traceback" not in run.stderr
    assert "run the same command again" in run.stderr
    assert all(json.loads(line) for line in work.log("full").splitlines())
    assert work.generate(server.url, "--round", "16", pool="full", target=TARGET).status == 0
    assert work.log("full") == work.log("unbroken")


def test_ctrl_c_ends_cleanly_and_the_run_goes_on_later(work, serve):
    server = serve(latency=0.05)
    assert work.generate(server.url, "--round", "16", pool="unbroken", target=TARGET).status == 0
    before = server.requests
    process = work.start(server.url, "--round", "16", "--concurrency", "4", pool="stopped", target=TARGET)
    wait_until(lambda: server.requests >= before + 20)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130 and "Run the same command again" in err and "Traceback" not in err
    sent = server.requests
    assert work.generate(server.url, "--round", "16", pool="stopped", target=TARGET).status == 0
    assert work.log("stopped") == work.log("unbroken")
    assert server.requests - before == TARGET, f"{sent} were sent before Ctrl-C: all came back and were kept"


def test_changed_settings_start_a_new_run_in_the_same_pool(work, serve):
    server = serve()
    work.generate(server.url)
    assert work.generate(server.url, "--policy", "uniform", target=30).status == 0
    runs = work.events(kind="run")
    assert [r["settings"]["policy"] for r in runs] == ["balanced", "uniform"]
    assert work.outcomes() == {"accepted": 30}
