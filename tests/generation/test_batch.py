"""The Batch API over real HTTP: the same pool as online, whatever becomes of the rows."""

import random
import signal
import time

import pytest

POLL = ("--batch", "--poll", "0.02")


@pytest.mark.parametrize("form", ["strict", "text", "prose"])
def test_a_batch_run_ends_in_the_same_pool_as_an_online_run(work, serve, form):
    server = serve(form=form)
    assert work.generate(server.url, pool="online").status == 0
    online, server.paid = dict(server.paid), type(server.paid)()
    assert work.generate(server.url, *POLL, pool="batch").status == 0
    assert work.log("batch") == work.log("online")
    assert server.paid == online


def shuffled(rows):
    random.Random(3).shuffle(rows)
    return rows


def missing(rows):
    return rows[len(rows) // 3 :] if len(rows) > 2 else rows


class Failing:
    """Of every first batch of rows, some fail; asked again they work."""

    def __init__(self):
        self.seen = set()

    def __call__(self, rows):
        for n, row in enumerate(rows):
            if n % 3 == 0 and row["custom_id"] not in self.seen:
                row["response"] = None if n % 2 else {"status_code": 500, "request_id": "r", "body": {"error": {}}}
                row["error"] = {"code": "batch_expired", "message": "not executed in 24h"}
            self.seen.add(row["custom_id"])
        return rows


@pytest.mark.parametrize("rows", [shuffled, missing, Failing()], ids=["shuffled", "missing", "failed"])
def test_rows_shuffled_missing_or_failed_change_nothing(work, serve, rows):
    server = serve()
    assert work.generate(server.url, pool="online").status == 0
    server.behaviour.batch_rows = rows
    run = work.generate(server.url, *POLL, pool="batch")
    assert run.status == 0
    assert work.log("batch") == work.log("online")


def test_rows_that_never_come_end_with_a_code(work, serve):
    server = serve(batch_rows=lambda rows: [])
    run = work.generate(server.url, *POLL, "--give-up", "4")
    assert run.status == 1
    assert work.outcomes() == {"no_reply": 4}


def test_batches_are_priced_at_the_batch_price(work, serve, prices):
    from tests.generation.test_money import spent

    server = serve()
    work.generate(server.url, "--prices", str(prices), pool="online")
    work.generate(server.url, "--prices", str(prices), *POLL, pool="batch")
    assert spent(work.pool("batch")) == pytest.approx(spent(work.pool("online")) / 2)


def test_the_budget_holds_for_batches_too(work, serve, prices):
    from tests.generation.test_money import spent

    server = serve()
    options = ("--prices", str(prices), "--max-tokens", "1500", *POLL)
    work.generate(server.url, *options, pool="free")
    budget = spent(work.pool("free")) * 0.6
    run = work.generate(server.url, *options, "--budget", str(budget), pool="tight")
    assert run.status == 1 and "the budget stops here" in run.err
    assert 0 < spent(work.pool("tight")) <= budget
    assert work.generate(server.url, *options, pool="tight").status == 0
    assert work.log("tight") == work.log("free")


def test_a_batch_that_outlives_its_process_is_collected_and_not_sent_again(work, serve):
    server = serve(batch_polls=10**9)
    process = work.start(server.url, *POLL, pool="killed")
    end = time.monotonic() + 20
    while not server.batches and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(server.batches) == 1
    server.behaviour.batch_polls = 2
    for batch in server.batches.values():
        batch["polls"] = 0
    assert work.generate(server.url, *POLL, pool="killed").status == 0
    assert max(server.paid.values()) == 1
    assert work.outcomes("killed") == {"accepted": 24}


def test_a_batch_cut_off_while_being_made_is_found_by_its_name(work, serve):
    import sqlite3

    server = serve(batch_polls=10**9)
    process = work.start(server.url, *POLL, pool="killed")
    end = time.monotonic() + 20
    while not server.batches and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.3)
    process.kill()
    process.communicate()
    with sqlite3.connect(work.pool("killed") / "cache.sqlite") as db:
        db.execute("UPDATE batches SET id = NULL, state = 'new'")
    server.behaviour.batch_polls = 2
    for batch in server.batches.values():
        batch["polls"] = 0
    assert work.generate(server.url, *POLL, pool="killed").status == 0
    assert max(server.paid.values()) == 1


def test_a_server_without_a_batch_api_is_said_to_have_none(work, serve, monkeypatch):
    from tests.generation.server import Server, _Refuse

    def none(self, body, headers):
        raise _Refuse(404, {"message": "Not Found"})

    monkeypatch.setattr(Server, "_upload", none)
    run = work.generate(serve().url, *POLL)
    assert run.status == 2 and "no Batch API" in run.err and "without --batch" in run.err


def test_a_batch_the_provider_refuses_stops_with_its_reason(work, serve, monkeypatch):
    from tests.generation.server import Server

    public = Server._public

    def failed(self, batch):
        problem = {"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}
        return public(self, batch) | {"status": "failed", "errors": {"object": "list", "data": [problem]}}

    monkeypatch.setattr(Server, "_public", failed)
    run = work.generate(serve().url, *POLL)
    assert run.status == 1 and "Enqueued token limit reached" in run.err and "--round" in run.err
