"""What servers, keys, files and people do wrong: a clear end or a kept pool, never a traceback, never a secret told."""

import contextlib
import json
import signal
import socket
import threading
import time

import pytest

from extes.generation import answer, ladder
from extes.generation.client import retry_after
from tests.generation.server import write_dialogue
from tests.generation.test_survival import wait_until

PAYLOAD = {"model": "m", "messages": []}


def body(content, **more):
    return json.dumps({"choices": [{"finish_reason": "stop", "message": {"content": content}}], **more})


def changed(server, change):
    """The server's completions, each run through ``change`` before it goes out."""
    original = server.complete
    server.complete = lambda payload: change(original(payload))


@contextlib.contextmanager
def raw_server(talk):
    """A listener that hands each connection, once its request has begun to come, to ``talk(connection, closed)``."""
    closed = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def work():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=serve, args=(connection,), daemon=True).start()

        def serve(connection):
            with contextlib.suppress(OSError), connection:
                connection.recv(65536)
                talk(connection, closed)

        threading.Thread(target=work, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            closed.set()
            listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("form", ["strict", "text"])
@pytest.mark.parametrize("batch", [(), ("--batch", "--poll", "0.02")], ids=["online", "batch"])
def test_half_characters_in_an_answer_are_replaced_and_do_not_end_the_run(work, serve, form, batch):
    def write(prompt, rng):
        dialogue = write_dialogue(prompt, rng)
        dialogue["turns"][1]["text"] += " \ud83d"
        return dialogue

    run = work.generate(serve(form=form, write=write).url, *batch, target=6)
    assert run.status == 0, run.err
    assert work.outcomes()["accepted"] == 6
    assert work.extes("pool", "export", str(work.pool()), "--out", str(work.folder / "x.jsonl")).status == 0


def test_half_characters_in_a_refusal_are_replaced():
    reply = {"choices": [{"finish_reason": "stop", "message": {"content": None, "refusal": "no \ud83d"}}]}
    assert answer.read(200, json.dumps(reply), PAYLOAD).detail.encode()


def test_numbers_of_thousands_of_digits_are_no_reply_and_no_dialogue():
    digits = "9" * 5000
    with pytest.raises(answer.NotAReply):
        answer.read(200, f'{{"x": {digits}}}', PAYLOAD)
    with pytest.raises(ladder.Unparsable):
        ladder.parse(f'{{"x": {digits}}}', "json_schema")


@pytest.mark.parametrize("usage", [(0, 0), (10**30, 5), (500, 0)])
def test_counts_that_cannot_be_true_are_estimated_instead(work, serve, prices, usage):
    server = serve()
    changed(server, lambda reply: reply | {"usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1]}})
    run = work.generate(server.url, "--prices", str(prices), target=4)
    assert run.status == 0, run.err
    tokens = [r["tokens"] for e in work.events(kind="slot") for r in e["requests"]]
    assert all(t["by"] == "estimate" and t["input"] > 100 and t["output"] > 50 for t in tokens)


@pytest.mark.parametrize("key", ["sk-secret-1\rx", "sk-secret-1\nx", "\u201csk-secret-1\u201d"])
def test_a_key_that_no_header_can_hold_is_refused_before_anything_is_sent_and_not_shown(work, serve, monkeypatch, key):
    server = serve()
    monkeypatch.setenv("OPENAI_API_KEY", key)
    run = work.generate(server.url)
    assert run.status == 2 and "OPENAI_API_KEY" in run.err
    assert "sk-secret-1" not in run.err + run.out and server.requests == 0
    stored = b"".join(p.read_bytes() for p in work.pool().glob("*")) if work.pool().exists() else b""
    assert b"sk-secret-1" not in stored


def test_a_line_end_after_the_key_is_not_part_of_it(work, serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-right\r\n")
    assert work.generate(serve(key="sk-right").url, target=4).status == 0


@pytest.mark.parametrize("status", [401, 400, 200])
def test_a_key_that_the_server_repeats_is_neither_shown_nor_stored(work, monkeypatch, status):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-2")

    def talk(connection, _closed):
        said = json.dumps({"error": {"message": "Invalid proxy token passed. Received key sk-secret-2"}}).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nConnection: close\r\n"
        connection.sendall(f"{head}Content-Length: {len(said)}\r\n\r\n".encode() + said)

    with raw_server(talk) as url:
        run = work.generate(url, "--give-up", "4", "--concurrency", "2")
    assert run.status in (1, 2)
    assert "sk-secret-2" not in run.err + run.out
    assert b"sk-secret-2" not in b"".join(p.read_bytes() for p in work.pool().glob("*"))


def test_a_server_that_drips_for_ever_is_given_up_after_the_time_limit(work):
    """Proxies send blanks to keep a connection alive; each one starts a read time-out anew."""

    def talk(connection, closed):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
        while not closed.wait(0.1):
            connection.sendall(b" ")

    with raw_server(talk) as url:
        process = work.start(url, "--timeout", "0.5", "--concurrency", "30")
        try:
            _, err = process.communicate(timeout=25)
        finally:
            process.kill()
    assert process.returncode == 1 and "none was answered" in err and "timed out" in err


def test_a_second_ctrl_c_leaves_what_a_hanging_server_holds_and_counts_it(work, prices):
    with raw_server(lambda connection, closed: closed.wait()) as url:
        process = work.start(url, "--concurrency", "4", "--prices", str(prices))
        try:
            wait_until(lambda: (work.pool() / "cache.sqlite").exists())
            time.sleep(2.0)
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=10)
        finally:
            process.kill()
    assert process.returncode == 130 and "Traceback" not in err, err
    assert "Ctrl-C again" in err and "for 4 requests that were cut off" in err


def test_a_pool_without_its_cache_does_not_report_answers_below_zero(work, serve):
    server = serve()
    assert work.generate(server.url).status == 0
    for path in work.pool().glob("cache.sqlite*"):
        path.unlink()
    assert "-" not in work.generate(server.url).err.split("rejected")[-1]
    assert "answers" not in work.extes("pool", "stats", str(work.pool())).out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--temperature", "nan"), "--temperature nan"),
        (("--temperature", "-1"), "--temperature -1"),
        (("--timeout", "0"), "--timeout 0"),
        (("--timeout", "nan"), "--timeout nan"),
        (("--poll", "-1"), "--poll -1"),
        (("--budget", "nan", "--prices", "PRICES"), "--budget nan"),
        (("--budget", "-1", "--prices", "PRICES"), "--budget -1"),
        (("--base-url", "http://[::1/v1"), "--base-url http://[::1/v1"),
        (("--base-url", "http://localhost:99999/v1"), "--base-url http://localhost:99999/v1"),
        (("--mix", "MIX"), "the weight of 'Academic Stress'"),
    ],
)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["run", "dry"])
def test_numbers_and_addresses_that_mean_nothing_are_refused_before_a_pool_is_made(work, prices, arguments, says, dry):
    mix = work.folder / "mix.toml"
    mix.write_text('"Academic Stress" = nan\n')
    given = [{"PRICES": str(prices), "MIX": str(mix)}.get(a, a) for a in arguments]
    run = work.generate("http://127.0.0.1:1/v1", *given, *dry)
    assert run.status == 2 and says in run.err
    assert not work.pool().exists()


def test_files_that_begin_with_a_byte_order_mark_are_read(work, prices):
    prices.write_bytes(b"\xef\xbb\xbf" + prices.read_bytes().replace(b"\n", b"\r\n"))
    mix = work.folder / "mix.toml"
    mix.write_bytes(b'\xef\xbb\xbf"Academic Stress" = 1\r\n')
    run = work.generate("http://127.0.0.1:1/v1", "--prices", str(prices), "--mix", str(mix), "--dry-run")
    assert run.status == 0, run.err


def test_waits_without_end_are_not_taken_from_the_server():
    for value in ("inf", "nan", "1e400", "-inf"):
        assert retry_after({"retry-after": value}) in (None, 0.0), value
    assert retry_after({"retry-after": "Mon, 01 Jan 0001 00:00:00 -0000"}) in (None, 0.0)


def test_a_line_of_the_log_that_has_the_wrong_shape_is_named(work, serve):
    server = serve()
    work.generate(server.url)
    path = work.pool() / "pool.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    event = json.loads(lines[3])
    event["dialogue"]["turns"] = ["hello"]
    lines[3] = json.dumps(event).encode() + b"\n"
    path.write_bytes(b"".join(lines))
    for run in (work.generate(server.url), work.extes("pool", "stats", str(work.pool()))):
        assert run.status == 2 and "line 4 is damaged" in run.err


def test_answers_of_slots_that_were_given_up_are_not_promised_to_the_next_run(work, serve):
    server = serve(latency=0.05)
    process = work.start(server.url, "--concurrency", "8", target=40)
    wait_until(lambda: server.requests >= 20)
    process.kill()
    process.communicate()
    run = work.generate(server.url, "--policy", "uniform", target=12)
    assert run.status == 0
    for text in (run.err, work.extes("pool", "stats", str(work.pool())).out):
        assert "the next run takes" not in text and "of slots that were given up" in text, text
        assert "at most 0.0000" not in text, "eight requests were cut off, and nobody knows what they cost"


def test_line_separators_inside_a_batch_row_do_not_cut_it(work, serve, monkeypatch):
    """JSON allows U+2028 and U+0085 bare in a string; they end no line of JSON lines."""
    server = serve()

    def write(prompt, rng):
        dialogue = write_dialogue(prompt, rng)
        dialogue["turns"][1]["text"] += " so\u2028yes\u0085well"
        return dialogue

    server.behaviour.write = write
    real = server._poll

    def poll(batch):
        found = real(batch)
        for id, content in server.files.items():
            if b'"custom_id"' in content and b'"response"' in content:
                rows = [json.loads(line) for line in content.decode().split("\n")]
                server.files[id] = "\n".join(
                    json.dumps(r, ensure_ascii=False).replace("\\\\u2028", "\u2028").replace("\\\\u0085", "\u0085")
                    for r in rows
                ).encode()
        return found

    server._poll = poll
    assert work.generate(server.url, "--batch", "--poll", "0.02", target=6).status == 0
    assert max(server.paid.values()) == 1


def test_killed_while_a_batch_is_noted_leaves_no_money_reserved_for_ever(work, serve, prices, monkeypatch):
    from extes.generation.cache import Cache

    server = serve()

    options = ("--batch", "--poll", "0.02", "--prices", str(prices))
    with monkeypatch.context() as patch:
        calls, real = [], Cache.send

        def send(self, *arguments):
            if len(calls) == 2:
                raise KeyboardInterrupt
            calls.append(1)
            return real(self, *arguments)

        patch.setattr(Cache, "send", send)
        with contextlib.suppress(BaseException):
            work.generate(server.url, *options, target=8)
    assert work.generate(server.url, *options, target=8).status == 0
    store = Cache(work.pool())
    assert store.in_batches() == {}
    assert store.spent().lost_requests == 0
    store.close()


def test_a_batch_that_is_still_out_counts_against_the_budget_of_an_online_run(work, serve, prices):
    server = serve(batch_polls=10_000)
    process = work.start(server.url, "--batch", "--poll", "0.02", "--prices", str(prices))
    wait_until(lambda: server.batches)
    time.sleep(0.3)
    process.kill()
    process.communicate()
    # Four requests at up to 0.0371 each are out; a fifth does not fit beside them.
    run = work.generate(server.url, "--prices", str(prices), "--budget", "0.16")
    assert run.status == 1 and "the budget stops here" in run.err
    assert "4 requests lie in a batch of an earlier run" in run.err
    assert server.requests == 0


def test_an_export_is_named_for_what_it_is(work, serve):
    work.generate(serve().url, target=4)
    out = work.folder / "x.json"
    run = work.extes("pool", "export", str(work.pool()), "--out", str(out))
    assert run.status == 2 and ".jsonl" in run.err and not out.exists()


def test_an_address_with_a_query_is_refused_since_it_would_be_sent_wrongly_and_stored_with_its_secret(work):
    run = work.generate("http://127.0.0.1:1/v1?api-key=sk-secret-3")
    assert run.status == 2 and "--base-url" in run.err and "sk-secret-3" not in run.err
    assert not work.pool().exists()


def test_a_storm_tells_what_the_last_request_met(work, monkeypatch):
    with raw_server(lambda connection, closed: connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")) as url:
        run = work.generate(url, "--concurrency", "30")
    assert run.status == 1 and "the last: connection broken" in run.err


@pytest.mark.parametrize(
    ("name", "value"), [("ALL_PROXY", "socks5://127.0.0.1:9"), ("SSL_CERT_FILE", "/nowhere/ca.pem")]
)
def test_a_surrounding_that_no_connection_can_be_made_in_is_explained(work, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    run = work.generate("https://localhost:1/v1")
    assert run.status == 2 and name in run.err


def test_a_batch_of_another_endpoint_is_told_as_that(work, serve):
    server = serve(batch_polls=10_000)
    process = work.start(server.url, "--batch", "--poll", "0.02")
    wait_until(lambda: server.batches)
    time.sleep(0.3)
    process.kill()
    process.communicate()
    run = work.generate(serve().url, "--batch", "--poll", "0.02")
    assert run.status == 2 and "batch-0 of an earlier run" in run.err and "without --batch" in run.err
    assert work.generate(serve().url, target=4).status == 0


@pytest.mark.parametrize("form", ["strict", "text"])
def test_control_characters_do_not_enter_the_pool(work, serve, form):
    def write(prompt, rng):
        dialogue = write_dialogue(prompt, rng)
        dialogue["turns"][0]["text"] += " \x00and\x1b[31m\x07\ufeff"
        return dialogue

    assert work.generate(serve(form=form, write=write).url, target=4).status == 0
    for event in work.events(kind="slot"):
        if event["dialogue"]:
            assert event["dialogue"]["turns"][0]["text"].endswith(" and [31m")
