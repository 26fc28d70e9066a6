"""Prices, estimates, the budget that is never crossed, and whose count a token is."""

import re
import sqlite3

import pytest

from extes.generation import money
from extes.generation.errors import Stop
from extes.generation.money import Price, Tokens

PRICE = Price(2.0, 1.0, 8.0, 0.5, "USD", "2026-11-01")


def spent(pool):
    with sqlite3.connect(pool / "cache.sqlite") as db:
        (settled,) = db.execute("SELECT total(cost) FROM replies").fetchone()
        (lost,) = db.execute("SELECT total(cost) FROM sent").fetchone()
    return settled + lost


def test_cached_input_and_batches_cost_less():
    assert money.cost(Tokens(1_000_000, 0, 0, "provider"), PRICE) == 2.0
    assert money.cost(Tokens(1_000_000, 0, 400_000, "provider"), PRICE) == pytest.approx(1.6)
    assert money.cost(Tokens(0, 1_000_000, 0, "provider"), PRICE, batch=True) == 4.0


def test_the_providers_count_is_taken_only_where_it_is_one():
    payload = {"messages": [{"role": "user", "content": "x" * 388}]}
    given = {"usage": {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 5}}}
    assert money.counted(given, payload, "abcd") == Tokens(7, 3, 5, "provider")
    for usage in (
        None,
        {},
        {"prompt_tokens": "7", "completion_tokens": 3},
        {"prompt_tokens": -1, "completion_tokens": 0},
    ):
        assert money.counted({"usage": usage}, payload, "abcd" * 8).by == "estimate"


def test_the_bound_of_a_request_is_never_below_its_cost():
    # A token is a byte at least; after the provider has counted, its densest count and a quarter more.
    assert money.most(1000, 100, PRICE, None) >= money.cost(Tokens(1000, 100, 0, "provider"), PRICE)
    assert money.most(1000, 100, PRICE, 0.25) >= money.cost(Tokens(250, 100, 0, "provider"), PRICE)
    assert money.most(1000, 100, PRICE, 0.25) < money.most(1000, 100, PRICE, None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("not toml", "Expected"),
        ('date = "x"\ncurrency = "USD"\nmodel = []', "no price for model 'm'"),
        ('currency = "USD"\n[[model]]\nname = "m"\ninput = -1\noutput = 1', "model.0.input"),
        ('currency = "USD"\n[[model]]\nname = "m"\noutput = 1', "model.0.input: Field required"),
        ('currency = "USD"\n[[model]]\nname = "m"\ninput = 1\noutput = 1\ninpt = 2', "inpt"),
    ],
)
def test_a_prices_file_that_cannot_be_used_says_why(tmp_path, text, says):
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(Stop, match=re.escape(says)):
        money.read_price(path, "m")


@pytest.mark.parametrize("share", [0.02, 0.35, 0.8])
def test_the_budget_is_never_crossed_and_more_budget_goes_on(work, serve, prices, share):
    server = serve(latency=0.01)
    options = ("--prices", str(prices), "--round", "16", "--max-tokens", "1500")
    assert work.generate(server.url, *options, pool="free").status == 0
    whole = spent(work.pool("free"))
    budget = whole * share
    run = work.generate(server.url, *options, "--budget", str(budget), pool="tight")
    assert run.status == 1 and "the budget stops here" in run.err and "the budget will not be enough" in run.err
    assert spent(work.pool("tight")) <= budget
    if share > 0.5:
        assert spent(work.pool("tight")) > budget * 0.6, "the bound must not leave most of the budget unused"
    assert work.generate(server.url, *options, "--budget", str(whole * 3), pool="tight").status == 0
    assert work.log("tight") == work.log("free")
    assert spent(work.pool("tight")) == pytest.approx(whole)


def test_requests_cut_off_count_against_the_budget_at_their_most(work, serve, prices):
    server = serve(fail={5: 0})
    run = work.generate(server.url, "--prices", str(prices))
    assert run.status == 0 and re.search(r"at most 0\.0\d+ for 1 requests that were cut off", run.err)
    stats = work.extes("pool", "stats", str(work.pool())).out
    assert "unanswered after sending: 1 requests" in stats


def test_estimated_and_provider_counts_are_kept_apart(work, serve, prices):
    server = serve(usage=False)
    run = work.generate(server.url, "--prices", str(prices), target=12)
    assert "0.0000 USD by provider's counts" in run.err and "estimated)" in run.err
    server.behaviour.usage = True
    work.generate(server.url, "--prices", str(prices), target=24)
    stats = work.extes("pool", "stats", str(work.pool())).out
    assert "tokens counted by the provider" in stats and "tokens estimated by us" in stats
    by_provider, by_us = map(
        float, re.search(r"cost: (\S+) USD by the provider's counts \+ (\S+) by our", stats).groups()
    )
    assert by_provider > 0 and by_us > 0
    assert by_provider + by_us == pytest.approx(spent(work.pool()), abs=1e-3)


def test_the_estimate_comes_before_the_start_and_is_near_the_truth(work, serve, prices):
    server = serve()
    run = work.generate(server.url, "--prices", str(prices), target=48)
    estimate = float(re.search(r"estimate: ([\d.]+) USD at the prices of 2026-11-01", run.err)[1])
    assert run.err.index("estimate:") < run.err.index("traffic:")
    # The server's dialogues are shorter than real ones and become exemplars: the estimate is above, within a factor.
    assert spent(work.pool()) / 3 < estimate < spent(work.pool()) * 3


def test_a_dry_run_sends_and_writes_nothing(work, serve, prices):
    server = serve()
    run = work.generate(server.url, "--prices", str(prices), "--dry-run")
    assert run.status == 0 and "USD at the prices of" in run.out and "nothing was sent" in run.out
    assert "Write one new dialogue" in run.out
    assert server.requests == 0 and not work.pool().exists()
    work.generate(server.url)
    log = work.log()
    assert "of 24 kept" in work.generate(server.url, "--dry-run").out
    assert work.log() == log


def test_replies_without_a_price_are_priced_by_the_next_run_that_has_one(work, serve, prices):
    server = serve()
    work.generate(server.url)
    assert "without a price: 24 replies" in work.extes("pool", "stats", str(work.pool())).out
    work.generate(server.url, "--prices", str(prices))
    assert "without a price" not in work.extes("pool", "stats", str(work.pool())).out
    assert spent(work.pool()) > 0
