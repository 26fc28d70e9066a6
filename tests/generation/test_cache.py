"""Cache identity: what a request is, what is left out of it, and that both are written down."""

from pathlib import Path

import pytest

from extes.generation import cache
from extes.generation.cache import LEFT_OUT, Cache, Stored, key
from extes.generation.errors import Stop
from extes.generation.money import Tokens

PAYLOAD = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "temperature": 1.0, "max_tokens": 10}


def test_every_part_of_a_request_is_in_its_key():
    base = key("http://x/v1", PAYLOAD, "slot 0/0")
    changes = [
        key("http://y/v1", PAYLOAD, "slot 0/0"),
        key("http://x/v1", PAYLOAD, "slot 0/1"),
        key("http://x/v1", PAYLOAD | {"model": "n"}, "slot 0/0"),
        key("http://x/v1", PAYLOAD | {"temperature": 0.9}, "slot 0/0"),
        key("http://x/v1", PAYLOAD | {"max_tokens": 11}, "slot 0/0"),
        key("http://x/v1", PAYLOAD | {"response_format": {"type": "json_object"}}, "slot 0/0"),
        key("http://x/v1", PAYLOAD | {"messages": [{"role": "user", "content": "hello "}]}, "slot 0/0"),
    ]
    assert len({base, *changes}) == len(changes) + 1
    assert base == key("http://x/v1", dict(reversed(PAYLOAD.items())), "slot 0/0"), "the order of keys is no part"


def test_what_is_left_out_of_the_key_hits(work, serve, prices, monkeypatch):
    """Speed, money, road and key may change between runs; nothing is asked again."""
    server = serve()
    work.generate(server.url)
    (work.pool() / "pool.jsonl").unlink()
    requests = server.requests
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    options = ("--concurrency", "2", "--timeout", "9", "--prices", str(prices), "--budget", "99", "--batch")
    assert work.generate(server.url, *options).status == 0
    assert server.requests == requests and not server.batches


@pytest.mark.parametrize("options", [("--temperature", "0.5"), ("--max-tokens", "999"), ("--exemplars", "2")])
def test_what_changes_the_request_misses(work, serve, options):
    server = serve()
    work.generate(server.url, target=8)
    (work.pool() / "pool.jsonl").unlink()
    requests = server.requests
    work.generate(server.url, *options, target=8)
    assert server.requests == requests + 8


def test_the_readme_holds_the_table_of_what_is_left_out():
    readme = (Path(cache.__file__).parent / "README.md").read_text(encoding="utf-8")
    for name, why in LEFT_OUT.items():
        assert f"| {name} | {why} |" in readme


def test_a_request_in_flight_at_a_kill_counts_as_lost(tmp_path):
    first = Cache(tmp_path)
    done = first.send("a", 100, 10, 0.5)
    first.send("b", 100, 10, 0.25)
    first.put("a", Stored(200, "{}", Tokens(1, 1, 0, "provider")), done, 0.1, "USD")
    second = Cache(tmp_path)
    spent = second.spent()
    assert (spent.provider, spent.lost, spent.lost_requests) == (0.1, 0.25, 1)
    assert second.get("a") == Stored(200, "{}", Tokens(1, 1, 0, "provider")) and second.get("b") is None


def test_a_damaged_cache_is_named(tmp_path):
    (tmp_path / "cache.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(Stop, match=r"cache\.sqlite: file is not a database"):
        Cache(tmp_path)
