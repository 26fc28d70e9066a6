"""Kill it at random moments, fill its disk, break its Hub: what was acknowledged is there, once."""

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time

import pytest

from extes.collection.outbox import begin, sync
from extes.collection.remote import Dataset, Unreachable
from extes.study.comparison import fold_all
from extes.study.config import load
from extes.study.receipts import receipt_hash
from extes.study.store import Store
from tests.collection import worker
from tests.collection.test_faults import HOWS, WRITING
from tests.collection.waiting import until
from tests.conftest import CONSENT, RATING, write_study

KILLS = 50
RATERS = 8


class Raters:
    """Raters who go on through every failure, and remember each receipt that they were given."""

    def __init__(self) -> None:
        self.port = 0
        self.receipts: dict[str, str] = {}
        self.refused: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(RATERS)]

    def start(self) -> None:
        [thread.start() for thread in self._threads]

    def stop(self) -> None:
        self._stop.set()
        [thread.join() for thread in self._threads]

    def call(self, name: str, *given: object) -> tuple[int, object]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("POST", f"/{name}", json.dumps(given))
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def _work(self) -> None:
        while not self._stop.is_set():
            token, said = None, 0
            while not self._stop.is_set() and token not in self.receipts:
                try:
                    if token is None:
                        status, opened = self.call("start", CONSENT)
                        token = opened["comparison"] if status == 200 else None
                    elif said < 3:
                        status, view = self.call("view", token)
                        said = len(view["exchanges"]) if status == 200 else said
                        if status == 200 and said < 3:
                            status, view = self.call("say", token, f"message {said}")
                    else:
                        status, kept = self.call("rate", token, RATING)
                        if status == 200:
                            self.receipts[token] = kept["receipt"]
                    if status != 200:
                        self.refused.append("")
                        time.sleep(0.02)
                except (OSError, http.client.HTTPException, ValueError):
                    time.sleep(0.01)


def proven(store: Store, receipts: dict[str, str]) -> int:
    """Every receipt's rating is there, once, in an unbroken log; returns how many ratings there are."""
    assert store.verify()[0] == store.count()
    rated = [c.rated["receipt_hash"] for c in fold_all(store.events()) if c.state == "rated"]
    assert len(rated) == len(set(rated)) == sum(1 for _ in store.events(kind="rated"))
    assert {receipt_hash(r) for r in receipts.values()} <= set(rated)
    return len(rated)


def test_fifty_kills_at_random_moments_under_load_and_a_failing_hub_lose_nothing(tmp_path, hub, no_waiting):
    dice = random.Random(20261120)
    study = load(write_study(tmp_path / "study"))
    dataset = Dataset("extes/ratings", False, hub.token)
    begin(dataset, study)
    raters = Raters()
    process, raters.port = worker.start(tmp_path, hub.url, hub.token)
    raters.start()
    try:
        for _ in range(KILLS):
            hub.fail(dice.choice(WRITING), dice.choice(HOWS), times=dice.randint(1, 3), retry_after=0)
            time.sleep(dice.uniform(0.05, 0.45))
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            process, raters.port = worker.start(tmp_path, hub.url, hub.token)
    finally:
        raters.stop()
        process.kill()
        process.join()
    store = Store(tmp_path / "data")
    n = proven(store, raters.receipts)
    assert len(raters.receipts) > KILLS
    hub.heal()
    for _ in range(10):
        with contextlib.suppress(Unreachable):
            sync(store, dataset)
            break
    from extes.collection import shards

    files = hub.files("extes/ratings", "dataset")
    there = [r["comparison"] for p, c in files.items() if p.startswith("ratings/") for r in shards.read(c)]
    events = [e.hash for p, c in files.items() if p.startswith("events/") for e in shards.read_events(c)]
    assert len(there) == len(set(there)) == n
    assert sorted(events) == sorted(e.hash for e in store.events())
    print(f"{KILLS} kills, {len(raters.receipts)} receipts, {n} ratings, {len(files)} files")


@pytest.fixture(params=["small disk", "file size limit"])
def full(request, tmp_path):
    """A place that fills up, and the way to make room: a real small disk where that is allowed, else a limit."""
    place = tmp_path / "place"
    place.mkdir()
    write_study(place / "study")
    if request.param == "file size limit":
        yield place, 2_500_000, None
        return
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place / "data")]
    (place / "data").mkdir()
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    room = ["mount", "-o", "remount,size=50m", str(place / "data")]
    yield place, 0, lambda: subprocess.run(room, check=True)
    subprocess.run(["umount", "-l", str(place / "data")], check=True)


def test_a_full_disk_loses_nothing_that_was_acknowledged_and_takes_no_more(full):
    place, limit, make_room = full
    raters = Raters()
    process, raters.port = worker.start(place, max_file=limit)
    raters.start()
    try:
        assert until(lambda: len(raters.refused) > 50), "the disk never filled up"
        kept = len(raters.receipts)
        assert kept > 0
        if make_room:  # and it recovers by itself
            make_room()
            assert until(lambda: len(raters.receipts) > kept + 20)
    finally:
        raters.stop()
        process.kill()
        process.join()
    proven(Store(place / "data"), raters.receipts)
