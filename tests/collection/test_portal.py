"""The portal itself as a process, with its dataset: signals, lost disks, bounds, and what it keeps of a person."""

import json
import signal
import subprocess
import sys
import time

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from extes.collection import shards
from tests.conftest import CONSENT, RATING, ROOT, STUDY, Portal, write_study

REPO = "extes/ratings"


@pytest.fixture
def served(tmp_path, hub):
    """Portals with this test's Hub as their dataset's; whatever the test does, they end with it."""
    portals: list[Portal] = []

    def make(name: str = "run", hub_table: str = "every_seconds = 600", **env: str) -> Portal:
        study = write_study(tmp_path / "study", f"{STUDY}\n[hub]\n{hub_table}\n")
        env = hub.env(tmp_path / "hf") | {"EXTES_RATINGS_REPO": REPO} | env
        portals.append(Portal(study, tmp_path / name / "data", env=env))
        return portals[-1]

    yield make
    for made in portals:
        if made.process and made.process.poll() is None:
            made.process.kill()
            made.process.wait()


def rated(client: Client, comment: str = "") -> tuple[str, str]:
    token = client.predict(CONSENT, api_name="/start")["comparison"]
    for n in range(3):
        client.predict(token, f"my message {n}", api_name="/say")
    return token, client.predict(token, RATING | {"comment": comment}, api_name="/rate")["receipt"]


def there(hub, config: str) -> list[dict]:
    files = hub.files(REPO, "dataset")
    return [row for path, c in files.items() if path.startswith(f"{config}/") for row in shards.read(c)]


def test_a_stop_signal_sends_what_is_left_and_an_empty_disk_begins_where_it_ended(served, hub):
    receipts = {}
    for number, name in ((signal.SIGTERM, "first"), (signal.SIGINT, "second")):
        running = served(name).start()  # each on an empty disk of its own
        client = Client(running.url, verbose=False)
        for token, receipt in receipts.items():
            assert client.predict(token, RATING, api_name="/rate")["receipt"] == receipt
        hub.fail("commit", 403, times=None)  # so that nothing is sent before the stop
        token, receipt = rated(client)
        receipts[token] = receipt
        assert len(there(hub, "ratings")) < len(receipts)
        hub.heal()
        assert running.stop(number) == 0
        assert f"Everything is in {REPO}" in running.output()
        assert len(there(hub, "ratings")) == len(receipts)
    assert "were restored from it" in running.output()
    command = [sys.executable, "-m", "extes.cli", "ratings", "verify", "--data", str(running.data), "--repo", REPO]
    told = subprocess.run(command, cwd=ROOT, env=running_env(running), capture_output=True, text=True)
    assert told.returncode == 0 and "It says what the log says." in told.stdout


def test_a_hub_that_hangs_does_not_hold_up_the_stop(served, hub):
    running = served().start()
    rated(Client(running.url, verbose=False))
    hub.fail("lfs_upload", "slow", times=None, seconds=55)
    began = time.monotonic()
    assert running.stop() == 0
    assert time.monotonic() - began < 30, running.output()  # a container has about thirty seconds
    assert "the next start sends them" in running.output()
    hub.heal()


def running_env(running: Portal) -> dict[str, str]:
    import os

    return os.environ | running.env


def test_it_does_not_begin_empty_where_the_hub_cannot_be_read(served, hub):
    hub.fail("info", 401, times=None)
    refused = served()
    with pytest.raises(AssertionError, match="did not start"):
        refused.start()
    assert refused.stop() == 2
    assert "token was refused" in refused.output() and "Not started" in refused.output()
    assert "Traceback" not in refused.output()


def test_a_dataset_without_a_token_is_told_at_the_start(served, hub):
    refused = served(HF_TOKEN="")
    with pytest.raises(AssertionError, match="did not start"):
        refused.start()
    assert refused.stop() == 2
    assert "set HF_TOKEN" in refused.output()


def test_a_backlog_beyond_its_bound_is_told_to_raters_and_ends_with_the_outage(served, hub):
    running = served(hub_table="every_seconds = 1\nmax_backlog = 7").start()
    client = Client(running.url, verbose=False)
    hub.stop()
    open_one = client.predict(CONSENT, api_name="/start")["comparison"]
    rated(client)
    time.sleep(1.2)
    with pytest.raises(AppError, match="paused the study"):
        client.predict(CONSENT, api_name="/start")
    for n in range(3):
        client.predict(open_one, f"m{n}", api_name="/say")
    with pytest.raises(AppError, match="paused the study"):
        client.predict(open_one, RATING, api_name="/rate")
    hub.start()
    end = time.monotonic() + 60
    while True:
        try:
            assert client.predict(open_one, RATING, api_name="/rate")["receipt"]
            break
        except AppError:
            assert time.monotonic() < end, running.output()
            time.sleep(0.5)
    assert running.stop() == 0
    assert len(there(hub, "ratings")) == 2
    assert "Traceback" not in running.output()


def test_nothing_of_a_person_or_a_secret_lies_anywhere(served, hub):
    running = served(hub_table="every_seconds = 1").start()
    told = {
        "User-Agent": "TellTale/9.9 (a rare browser)",
        "X-Forwarded-For": "203.0.113.77",
        "X-Real-Ip": "203.0.113.77",
        "Referer": "https://referrer.example/telltale",
        "Accept-Language": "xx-TELLTALE",
        "Cookie": "telltale=cookie",
    }
    rater = "a-rater-word-that-is-secret"
    browser = httpx.Client(headers=told, timeout=60)

    def call(name: str, *data: object) -> dict:
        url = f"{running.url}/gradio_api/call/{name}"
        event = browser.post(url, json={"data": data, "session_hash": "telltalesession"}).json()["event_id"]
        lines = browser.get(f"{url}/{event}").text.splitlines()
        last = json.loads([line for line in lines if line.startswith("data: ")][-1].removeprefix("data: "))
        said: dict = last[0] if isinstance(last, list) else {}  # an error is an object
        return said

    browser.get(running.url)
    opened = call("start", CONSENT | {"rater": rater})
    for n in range(3):
        call("say", opened["comparison"], f"my message {n}")
    receipt = call("rate", opened["comparison"], RATING)["receipt"]
    call("say", "no-such-telltale-token", "hello")
    lost = call("start", CONSENT)["comparison"]
    call("say", lost, "I want to kill myself, my telltale words")
    time.sleep(2)
    assert running.stop() == 0
    at_rest = {str(path): path.read_bytes() for path in running.data.rglob("*") if path.is_file()}
    at_rest["portal.log"] = running.output().encode()
    for path, content in hub.files(REPO, "dataset").items():
        at_rest[path] = content
        if path.endswith(".parquet"):
            at_rest[f"{path} unpacked"] = json.dumps(shards.read(content)).encode()
    everything = b"".join(at_rest.values())
    assert b"my message 1" in everything  # it looks in the right places
    secrets = [rater, opened["comparison"], lost, receipt, "no-such-telltale-token", hub.token, "203.0.113.77"]
    for secret in (*secrets, "TellTale", "telltale", "TELLTALE", "rare browser", "referrer.example"):
        where = [path for path, content in at_rest.items() if secret.encode() in content]
        assert where == [], f"{secret} lies in {where}"


def test_a_receipt_withdraws_through_the_portal(portal):
    client = Client(portal.url, verbose=False)
    token, receipt = rated(client)
    assert client.predict(receipt.lower(), api_name="/withdraw")["withdrawn"] is True
    assert "before" in client.predict(receipt, api_name="/withdraw")["text"]
    with pytest.raises(AppError, match="was withdrawn"):
        client.predict(token, RATING, api_name="/rate")
    with pytest.raises(AppError, match="letter by letter"):
        client.predict("0000-0000-0000-0000", api_name="/withdraw")
