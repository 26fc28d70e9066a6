"""A Hub that fails at every step of its protocol: nothing is lost, nothing comes twice, and what stands is told."""

import threading
import time

import pytest

from extes.collection.outbox import Outbox, begin, sync
from extes.collection.remote import Dataset, Unreachable
from extes.errors import Problem
from extes.study.store import Store
from tests.collection.conftest import REPO, Group
from tests.collection.waiting import until
from tests.hub.server import User

pytestmark = pytest.mark.usefixtures("no_waiting")

WRITING = ("preupload", "lfs_batch", "lfs_upload", "lfs_verify", "commit")
HOWS = (401, 409, 429, 500, "cut-before", "cut-after")


def on_the_hub(group: Group) -> list[str]:
    """Hashes of the events that the dataset holds, doubles and all, straight from its files."""
    from extes.collection import shards

    files = group.hub.files(REPO, "dataset")
    return [e.hash for p, c in sorted(files.items()) if p.startswith("events/") for e in shards.read_events(c)]


def rated_there(group: Group) -> list[str]:
    from extes.collection import shards

    files = group.hub.files(REPO, "dataset")
    return [row["comparison"] for p, c in files.items() if p.startswith("ratings/") for row in shards.read(c)]


def until_sent(group: Group, attempts: int = 20) -> int:
    """Sync like the outbox does, again and again; returns the number of failures on the way."""
    for failures in range(attempts):
        try:
            sync(group.store, group.dataset)
            return failures
        except Unreachable:
            continue
    raise AssertionError("it was never sent")


@pytest.mark.parametrize("step", WRITING)
@pytest.mark.parametrize("how", HOWS)
def test_a_step_that_fails_loses_and_doubles_nothing(group, step, how):
    group.rate()
    group.sync()
    group.rate(2)
    group.hub.fail(step, how, times=8, retry_after=0 if how == 429 else None)  # beyond the client's own five retries
    until_sent(group)
    sent = on_the_hub(group)
    assert sorted(sent) == sorted(e.hash for e in group.store.events())
    assert len(rated_there(group)) == len(set(rated_there(group))) == 3
    assert group.store.backlog(REPO) == 0


@pytest.mark.parametrize("how", ["cut-after", 500])
def test_new_ratings_between_an_unknown_outcome_and_the_next_attempt_change_no_shard(group, how):
    group.sync()
    group.rate()
    group.hub.fail("commit", how)
    with pytest.raises(Unreachable):
        sync(group.store, group.dataset)
    group.rate(3)
    until_sent(group)
    assert sorted(on_the_hub(group)) == sorted(e.hash for e in group.store.events())
    assert len(rated_there(group)) == 4


def test_what_was_sent_before_a_kill_is_not_sent_in_other_pieces_after_it(group):
    group.sync()
    group.rate()
    group.hub.fail("commit", "cut-after")
    with pytest.raises(Unreachable):
        sync(group.store, group.dataset)
    group.rate()
    after_the_kill = Store(group.folder / "data")
    sync(after_the_kill, group.dataset)
    assert sorted(on_the_hub(group)) == sorted(e.hash for e in group.store.events())


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (401, "the token was refused"),
        (403, "may not do this"),
        (404, "may not see it"),
        (500, "answered 500"),
        ("cut-before", "no connection"),
    ],
)
def test_what_stands_is_told_and_the_token_is_not(group, how, reason):
    group.sync()
    group.rate()
    group.hub.fail("commit", how, times=None)
    with pytest.raises(Unreachable, match=reason) as told:
        sync(group.store, group.dataset)
    assert REPO in str(told.value) and group.hub.token not in str(told.value)


def test_a_wait_that_the_hub_asks_for_is_kept(group, monkeypatch):
    group.sync()
    group.rate()
    group.hub.fail("commit", 429, retry_after=7, times=None)
    with pytest.raises(Unreachable) as told:
        sync(group.store, group.dataset)
    assert told.value.retry_after == 7
    outbox = Outbox(lambda: group.store, group.dataset, group.study, every=60, first_wait=0.01)
    assert outbox._after(told.value) >= 7


def test_the_outbox_waits_longer_after_each_failure_and_never_beyond_its_bound(group):
    outbox = Outbox(lambda: group.store, group.dataset, group.study, every=60)
    waits = [outbox._after(Unreachable("no")) for _ in range(12)]
    assert waits[0] < 10 and waits[3] > waits[0] and max(waits) <= 600 * 1.2


def test_a_revoked_token_stops_nothing_and_a_new_one_sends_it_all(group):
    outbox = Outbox(lambda: Store(group.folder / "data"), group.dataset, group.study, every=0.05, first_wait=0.05)
    outbox.start()
    group.rate()
    group.hub.revoke(group.hub.token)
    began = time.monotonic()
    group.rate(3)
    assert time.monotonic() - began < 5
    time.sleep(0.3)
    group.hub.allow(group.hub.token, User("extes"))
    assert until(lambda: group.store.backlog(REPO) == 0)
    assert outbox.flush(10)
    assert sorted(on_the_hub(group)) == sorted(e.hash for e in group.store.events())


def test_an_outage_is_waited_out_by_the_outbox(group, caplog):
    outbox = Outbox(lambda: Store(group.folder / "data"), group.dataset, group.study, every=0.05, first_wait=0.05)
    group.hub.stop()
    outbox.start()
    group.rate(2)
    time.sleep(0.3)
    assert group.store.backlog(REPO) == group.store.count()
    group.hub.start()
    assert until(lambda: group.store.backlog(REPO) == 0)
    assert outbox.flush(10)
    assert sum("no connection" in r.message for r in caplog.records) == 1
    assert any("reached again" in r.message for r in caplog.records)


def test_a_flush_ends_in_time_though_the_hub_hangs(group):
    group.sync()
    group.rate()
    group.hub.fail("commit", "slow", seconds=3)
    outbox = Outbox(lambda: Store(group.folder / "data"), group.dataset, group.study, every=60)
    outbox.start()
    began = time.monotonic()
    assert not outbox.flush(0.5)
    assert time.monotonic() - began < 2
    outbox._thread.join(10)  # what it had under way still arrives
    assert group.store.backlog(REPO) == 0


def test_two_portals_on_one_dataset_lose_and_double_nothing(tmp_path, hub):
    first, second = (Group(tmp_path / name, hub) for name in ("one", "two"))
    first.sync()

    def work(group: Group) -> None:
        for _ in range(3):
            group.rate()
            for _ in range(20):
                try:
                    group.sync()
                    break
                except Unreachable:
                    continue

    hub.fail("commit", 409, times=2, after=1)
    hub.fail("commit", "cut-after", times=2, after=2)
    threads = [threading.Thread(target=work, args=(g,)) for g in (first, second)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    everything = [e.hash for g in (first, second) for e in g.store.events()]
    assert sorted(on_the_hub(first)) == sorted(everything)
    assert len(rated_there(first)) == len(set(rated_there(first))) == 6


def test_a_dataset_that_failed_while_it_was_made_is_made_by_the_next_attempt(group):
    for step in ("create", "yaml", "preupload", "commit"):
        group.hub.fail(step, 500, times=6)
        for _ in range(8):
            try:
                begin(group.dataset, group.study)
                break
            except Unreachable:
                continue
    assert "README.md" in group.hub.files(REPO, "dataset")


def test_a_name_that_is_no_dataset_is_told(hub):
    with pytest.raises(Problem, match="owner/name"):
        Dataset("just-a-name", False, hub.token)


def test_a_dataset_that_is_deleted_while_the_portal_runs_is_made_anew_and_gets_everything(group):
    from huggingface_hub import HfApi

    outbox = Outbox(lambda: Store(group.folder / "data"), group.dataset, group.study, every=0.05, first_wait=0.05)
    outbox.start()
    group.rate(2)
    assert until(lambda: group.store.backlog(REPO) == 0)
    HfApi(endpoint=group.hub.url, token=group.hub.token).delete_repo(REPO, repo_type="dataset")
    group.rate()
    assert until(lambda: group.store.backlog(REPO) == 0, 10)
    assert outbox.flush(10)
    assert sorted(on_the_hub(group)) == sorted(e.hash for e in group.store.events())


def test_a_dataset_that_is_made_public_while_the_portal_runs_gets_no_more_words(group, caplog):
    from huggingface_hub import HfApi

    api = HfApi(endpoint=group.hub.url, token=group.hub.token)
    outbox = Outbox(lambda: Store(group.folder / "data"), group.dataset, group.study, every=0.05, first_wait=0.05)
    outbox.start()
    group.rate()
    assert until(lambda: group.store.backlog(REPO) == 0)
    api.update_repo_settings(REPO, repo_type="dataset", private=False)
    group.rate(publish_transcript=False)
    assert until(lambda: any("private datasets only" in r.message for r in caplog.records), 5)
    assert len(rated_there(group)) == 1
    api.update_repo_settings(REPO, repo_type="dataset", private=True)
    assert until(lambda: group.store.backlog(REPO) == 0)
    assert outbox.flush(10)
