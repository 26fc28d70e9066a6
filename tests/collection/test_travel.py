"""A rating's way to the Hub and back, with the real clients over HTTP."""

import asyncio
import json
import shutil

import pytest

from extes.collection import shards
from extes.collection.outbox import begin
from extes.collection.remote import Dataset
from extes.collection.restore import NotRestored, at_start, restore
from extes.errors import Problem
from extes.study.comparison import fold_all
from extes.study.conduct import Conduct
from extes.study.ratings import tally
from extes.study.store import Store
from tests.collection.conftest import REPO, Group
from tests.conftest import RATING
from tests.hub.server import User

pytestmark = pytest.mark.usefixtures("no_waiting")


def test_a_dataset_opens_before_the_first_rating_and_with_ratings(group):
    group.sync()
    assert [row["comparison"] for row in group.loaded("withdrawals")] == [None]
    group.rate(2)
    group.sync()
    rows = group.loaded("ratings")
    assert len(rows) == 2
    assert rows[0]["answers"] == [
        {"criterion": "fluency", "answer": "a"},
        {"criterion": "overall", "answer": "both_bad"},
    ]
    assert [r["message"] for r in group.loaded("conversations")] == [f"my message {n}" for n in (0, 1, 2)] * 2
    assert len(group.loaded("events")) == group.store.count()


def test_a_row_holds_all_that_a_number_rests_on(group):
    group.rate()
    group.sync()
    (row,) = group.loaded("ratings")
    assert row["study"] == group.study.hash and row["schema_version"] == shards.SCHEMA_VERSION
    assert row["probability"] == 0.5 and row["position"] == 0 and len(row["stream"]) == 16
    for side in "ab":
        arm = row[side]
        assert arm["revision"].startswith("script-")
        assert json.loads(arm["sampling"])["temperature"] == 0.7
        assert len(set(arm["prompt_hashes"])) == len(set(arm["seeds"])) == len(arm["seconds"]) == 3
    assert {row["a"]["arm"], row["b"]["arm"]} == {"warm_7b_arm", "cold_13b_arm"}
    assert row["opened_at"] < row["rated_at"]


def test_a_published_count_can_be_computed_again_from_the_events_alone(group, tmp_path):
    group.rate(4)
    group.sync()
    anew = Store(tmp_path / "anew", pseudonyms=False)
    restore(anew, group.dataset)
    names = ["fluency", "overall"]
    assert tally(fold_all(anew.events()), names) == tally(fold_all(group.store.events()), names)


def test_an_empty_disk_gets_the_whole_log_back_and_goes_on(group, tmp_path):
    tokens = group.rate(3)
    open_one = asyncio.run(group.conduct.start({"agreed": True, "of_age": True}))["comparison"]
    group.sync()
    again = Store(tmp_path / "new" / "data")
    assert "15 events" not in at_start(again, group.dataset)
    assert [(e.chain, e.place, e.hash, e.text) for e in again.events()] == [
        (e.chain, e.place, e.hash, e.text) for e in group.store.events()
    ]
    assert again.verify() == group.store.verify()
    assert again.backlog(REPO) == 0

    conduct = Conduct(group.study, again, group.arms)
    kept = asyncio.run(conduct.rate(tokens[0], RATING))
    assert kept["receipt"] == group.receipts[tokens[0]]  # though the pseudonyms' key went with the disk
    assert asyncio.run(conduct.view(open_one))["state"] == "open"
    asyncio.run(conduct.start({"agreed": True, "of_age": True}))
    positions = [e.number for e in again.events(kind="opened")]
    assert positions == [0, 1, 2, 3, 4]
    assert again.verify()[0] == again.count()


def test_a_receipt_from_before_the_disk_was_lost_withdraws_everywhere(group, tmp_path):
    tokens = group.rate(2)
    group.sync()
    again = Group(tmp_path / "again", group.hub)
    again.store.close()
    shutil.rmtree(again.folder / "data")
    again.store = Store(again.folder / "data")
    at_start(again.store, again.dataset)
    again.conduct = Conduct(again.study, again.store, again.arms)
    asyncio.run(again.conduct.withdraw(group.receipts[tokens[0]].lower().replace("-", " ")))
    again.sync()
    withdrawn = {row["comparison"] for row in again.loaded("withdrawals")} - {None}
    (left,) = [row for row in again.loaded("ratings") if row["comparison"] not in withdrawn]
    states = {c.id: c.state for c in fold_all(again.store.events())}
    assert states[left["comparison"]] == "rated" and sorted(states.values()) == ["rated", "withdrawn"]


def test_a_given_key_makes_the_same_raters_and_the_same_stream_after_the_disk_is_lost(tmp_path, hub, monkeypatch):
    monkeypatch.setenv("EXTES_PSEUDONYM_KEY", "ab" * 32)
    one, two = Group(tmp_path / "one", hub), Group(tmp_path / "two", hub)
    one.rate(rater="w" * 32)
    two.rate(rater="w" * 32)
    (a,), (b,) = (list(g.store.events(kind="opened")) for g in (one, two))
    assert a.body["rater"] == b.body["rater"]
    assert a.body["assignment"]["stream"] == b.body["assignment"]["stream"]
    assert not (tmp_path / "one" / "data" / "pseudonym.key").exists()


@pytest.mark.parametrize(
    ("step", "how"), [("info", 500), ("info", 401), ("info", "cut-before"), ("tree", 500), ("resolve", "cut-after")]
)
def test_it_refuses_to_begin_empty_where_the_remote_cannot_be_read(group, tmp_path, step, how):
    group.rate(2)
    group.sync()
    group.hub.fail(step, how, times=None)
    store = Store(tmp_path / "new" / "data")
    with pytest.raises(Problem, match="Not started"):
        at_start(store, group.dataset)
    assert store.count() == 0
    group.hub.heal()
    at_start(store, group.dataset)
    assert store.verify() == group.store.verify()


def test_a_private_dataset_that_the_token_may_not_see_is_not_taken_for_a_new_one(group, tmp_path):
    group.rate()
    group.sync()
    group.hub.allow("hf_other", User("ben"))
    with pytest.raises(Problem, match=r"(may not see it|may not do this)[\s\S]*Not started"):
        at_start(Store(tmp_path / "new" / "data"), Dataset(REPO, False, "hf_other"))


def test_a_disk_with_ratings_starts_though_the_hub_is_out_of_reach(group):
    group.rate()
    group.hub.stop()
    assert "events wait" in at_start(group.store, group.dataset)


def altered(group: Group, change) -> None:
    """Put an altered shard of events on the Hub."""
    files = group.hub.files(REPO, "dataset")
    first = next(group.store.events()).chain
    path = next(p for p in sorted(files) if p.startswith(f"events/{first}"))
    rows = shards.read(files[path])
    change(rows)
    group.dataset.commit({path: shards.parquet("events", rows)}, "altered")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows[3].update(body=rows[3]["body"].replace("message", "massage")), "was altered"),
        (lambda rows: rows.pop(3), "missing or out of order"),
        (lambda rows: rows[3].update(at="2020-01-01T00:00:00.000+00:00"), "was altered"),
    ],
)
def test_a_copy_that_was_tampered_with_is_not_restored(group, tmp_path, change, reason):
    group.rate()
    group.sync()
    altered(group, change)
    store = Store(tmp_path / "new" / "data")
    with pytest.raises(NotRestored, match=reason):
        restore(store, group.dataset)
    assert store.count() == 0


def test_a_log_that_was_cut_at_its_end_is_not_restored_if_another_follows_it(group, tmp_path):
    group.rate()
    group.sync()
    group.store.close()
    group.store = Store(group.folder / "data")  # a restart: its chain names the end of the one before
    group.conduct = Conduct(group.study, group.store, group.arms)
    group.rate()
    group.sync()
    altered(group, lambda rows: rows.pop())
    with pytest.raises(NotRestored, match="missing"):
        restore(Store(tmp_path / "new" / "data"), group.dataset)


def test_a_redacted_dataset_holds_no_word_without_consent_and_no_log(tmp_path, hub):
    group = Group(tmp_path / "group", hub, public=True)
    group.rate(2, publish_transcript=False, scenario="My own sad story")
    group.rate(1, publish_transcript=True, scenario="My other story")
    group.sync()
    everything = json.dumps([group.loaded(c) for c in ("ratings", "conversations", "withdrawals")])
    assert everything.count("my message 1") == 1 and "my comment" not in everything
    assert "sad story" not in everything and "My other story" in everything
    raters = {e.body["rater"] for e in group.store.events(kind="opened")}
    assert not any(rater in everything for rater in raters)
    assert len({row["rater"] for row in group.loaded("ratings")}) == 3
    assert not any(p.startswith("events/") for p in hub.files(REPO, "dataset"))
    with pytest.raises(Problem, match="redacted ratings and no log"):
        at_start(Store(tmp_path / "new" / "data"), group.dataset)


def test_a_redacted_row_does_not_tell_that_a_rater_was_in_distress(tmp_path, hub):
    group = Group(tmp_path / "group", hub, public=True)
    group.comment = "I want to kill myself"
    group.rate(1, publish_transcript=True)
    group.sync()
    (row,) = group.loaded("ratings")
    assert row["comment"] is None and row["comment_withheld"] is None


def test_a_rating_withdrawn_before_it_was_sent_leaves_no_row(group):
    (token,) = group.rate()
    asyncio.run(group.conduct.withdraw(group.receipts[token]))
    group.rate()
    group.sync()
    assert len(group.loaded("ratings")) == 1
    assert len(group.loaded("withdrawals")) == 2


def test_of_two_portals_that_ended_one_comparison_the_first_counts_and_the_second_is_kept(group, tmp_path):
    group.rate()
    token = asyncio.run(group.conduct.start({"agreed": True, "of_age": True}))["comparison"]

    async def finish(conduct: Conduct, answer: str) -> None:
        for n in range(3):
            async for _ in conduct.say(token, f"m{n}"):
                pass
        await conduct.rate(token, {"answers": {"fluency": answer, "overall": "tie"}})

    group.sync()
    other = Store(tmp_path / "other" / "data")  # a second portal that restored while the first was alive
    restore(other, group.dataset)
    asyncio.run(finish(group.conduct, "a"))
    asyncio.run(finish(Conduct(group.study, other, group.arms), "b"))
    group.sync()
    sync_other(other, group)
    everything = Store(tmp_path / "everything", pseudonyms=False)
    restore(everything, group.dataset)
    rated = [c for c in fold_all(everything.events()) if c.state == "rated"]
    assert len(rated) == 2 and [c.rated["answers"]["fluency"] for c in rated] == ["a", "a"]
    assert sum(e.kind == "rated" for e in everything.events()) == 3
    assert everything.verify()[0] == everything.count()


def sync_other(store: Store, group: Group) -> None:
    from extes.collection.outbox import sync

    sync(store, group.dataset)


def test_complete_ratings_never_go_to_a_public_dataset_nor_redacted_ones_among_complete_ones(group, hub):
    from huggingface_hub import HfApi

    HfApi(endpoint=hub.url, token=hub.token).create_repo("extes/open", repo_type="dataset", private=False)
    with pytest.raises(Problem, match="private datasets only"):
        at_start(group.store, Dataset("extes/open", False, hub.token))
    group.sync()
    with pytest.raises(Problem, match="need a dataset of their own"):
        at_start(group.store, Dataset(REPO, True, hub.token))


def test_the_first_versions_events_travel_and_come_back_proven(tmp_path, hub):
    from extes.collection.outbox import sync
    from tests.study.test_kept import KEPT, TOLD

    group = Group(tmp_path / "group", hub)
    group.sync()
    shutil.copytree(KEPT, tmp_path / "kept")
    old = Store(tmp_path / "kept")
    sync(old, group.dataset)
    new = Store(tmp_path / "new", pseudonyms=False)
    restore(new, group.dataset)
    kept = [e for e in new.events() if e.schema == 1]
    assert len(kept) == TOLD["events"] and kept[-1].hash == TOLD["last_hash"]
    assert new.verify()[0] == new.count()
    assert len(group.loaded("ratings")) == 3


def test_a_shard_of_an_older_schema_is_read_beside_newer_ones(group):
    group.rate()
    group.sync()
    files = group.hub.files(REPO, "dataset")
    path = next(p for p in files if p.startswith("ratings/") and shards.batch_of(p))
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(files[path])).drop_columns(["stream", "screen", "comment_withheld"])
    older = pa.array([shards.SCHEMA_VERSION - 1] * len(table), pa.int64())
    table = table.set_column(table.column_names.index("schema_version"), "schema_version", older)
    sink = io.BytesIO()
    pq.write_table(table, sink)
    group.dataset.commit({path: sink.getvalue()}, "as an older version wrote it")
    group.rate()
    group.sync()
    rows = group.loaded("ratings")
    assert sorted(row["screen"] is None for row in rows) == [False, True]
    from extes.collection.check import check

    assert check(group.store, group.dataset).problems == []


def test_two_portals_that_began_as_copies_of_one_disk_fork_nothing(group, tmp_path):
    group.rate()
    group.sync()
    shutil.copytree(group.folder / "data", tmp_path / "copy")
    copy = Store(tmp_path / "copy")
    other = Conduct(group.study, copy, group.arms)
    group.rate()
    asyncio.run(other.start({"agreed": True, "of_age": True}))
    sync_other(copy, group)
    group.sync()
    everything = Store(tmp_path / "everything", pseudonyms=False)
    restore(everything, group.dataset)
    assert everything.verify()[0] == everything.count()
    assert len({e.chain for e in everything.events()}) == 2
    assert len([c for c in fold_all(everything.events()) if c.state == "rated"]) == 2


def copy_of(group: Group, folder) -> Store:
    """A copy of the disk as it is now: a backup, a snapshot."""
    shutil.copytree(group.folder / "data", folder)
    return Store(folder)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_disk_put_back_from_an_older_copy_gets_what_the_dataset_has_beyond_it(group, tmp_path, restarted):
    token, *_ = group.rate(2)
    group.sync()
    group.rate()  # waits to be sent when the copy is made
    older = copy_of(group, tmp_path / "older")
    if restarted:
        group.store.close()
        group.store = Store(group.folder / "data")
        group.conduct = Conduct(group.study, group.store, group.arms)
    asyncio.run(group.conduct.withdraw(group.receipts[token]))
    group.rate()
    group.sync()
    assert "came from it" in at_start(older, group.dataset)
    assert older.verify() == group.store.verify()
    assert sorted(c.state for c in fold_all(older.events())) == ["rated", "rated", "rated", "withdrawn"]
    assert older.backlog(REPO) == 0
    before = len(group.loaded("ratings"))
    sync_other(older, group)
    assert len(group.loaded("ratings")) == before


def test_a_disk_with_ratings_starts_though_the_datasets_log_beyond_it_is_damaged(group, tmp_path):
    group.rate()
    group.sync()
    older = copy_of(group, tmp_path / "older")
    group.rate()
    group.sync()
    altered(group, lambda rows: rows[0].update(body="{"))
    assert "NOT restored" in at_start(older, group.dataset)


def test_a_shard_whose_first_event_is_no_json_is_refused(group, tmp_path):
    group.rate()
    group.sync()
    altered(group, lambda rows: rows[0].update(body="{"))
    with pytest.raises(NotRestored):
        restore(Store(tmp_path / "new" / "data"), group.dataset)


def test_a_disk_that_holds_a_study_and_no_comparison_does_not_begin_beside_a_full_dataset(group, tmp_path):
    group.rate()
    group.sync()
    bare = Store(tmp_path / "bare")
    Conduct(group.study, bare, group.arms)  # started once without the dataset's name
    group.hub.fail("info", 500, times=None)
    with pytest.raises(Problem, match="Not started"):
        at_start(bare, group.dataset)
    group.hub.heal()
    assert "restored from it" in at_start(bare, group.dataset)


def test_a_dataset_that_was_deleted_gets_everything_anew(group):
    from huggingface_hub import HfApi

    group.rate(2)
    group.sync()
    HfApi(endpoint=group.hub.url, token=group.hub.token).delete_repo(REPO, repo_type="dataset")
    at_start(group.store, group.dataset)
    group.rate()
    begin(group.dataset, group.study, group.store)
    sync_other(group.store, group)
    assert len(group.loaded("ratings")) == 3
    assert len(group.loaded("events")) == group.store.count()


def test_a_repository_that_was_made_on_the_hubs_own_page_gets_its_configs(group):
    from huggingface_hub import HfApi

    api = HfApi(endpoint=group.hub.url, token=group.hub.token)
    api.create_repo(REPO, repo_type="dataset", private=True)
    group.dataset.commit({"README.md": b"---\nlicense: mit\n---\n"}, "initial commit")
    group.rate(2)
    group.sync()
    assert len(group.loaded("ratings")) == 2 and len(group.loaded("withdrawals")) == 1


def test_a_card_that_a_person_edited_stays(group):
    group.sync()
    edited = group.hub.files(REPO, "dataset")["README.md"] + b"\nOur own words.\n"
    group.dataset.commit({"README.md": edited}, "our words")
    group.rate()
    group.sync()
    assert group.hub.files(REPO, "dataset")["README.md"] == edited


def test_complete_ratings_do_not_go_among_redacted_ones_though_the_dataset_is_private(group, hub):
    from huggingface_hub import HfApi

    HfApi(endpoint=hub.url, token=hub.token).create_repo(REPO, repo_type="dataset", private=True)  # to look first
    public = Dataset(REPO, True, hub.token)
    group.rate(publish_transcript=False)
    begin(public, group.study, group.store)
    with pytest.raises(Problem, match="complete ones need a dataset of their own"):
        begin(group.dataset, group.study, group.store)
    with pytest.raises(Problem, match="complete ones need a dataset of their own"):
        at_start(group.store, group.dataset)
    assert not any(p.startswith("events/") for p in hub.files(REPO, "dataset"))


def test_a_dataset_that_another_portal_makes_in_the_same_moment_is_taken(group, monkeypatch):
    from huggingface_hub import HfApi

    make = HfApi.create_repo

    def just_before(self, *args, **kwargs):
        make(self, *args, **kwargs)
        return make(self, *args, **kwargs)

    monkeypatch.setattr(HfApi, "create_repo", just_before)
    assert "no ratings yet" in at_start(group.store, group.dataset)


def test_a_forged_chain_that_reuses_an_events_name_is_refused_and_nothing_is_written(group, tmp_path):
    from dataclasses import replace

    from extes.study.chains import Batch, event_hash

    group.rate()
    group.sync()
    forged, previous = [], ""
    for event in group.store.events():
        event = replace(event, chain="f" * 16)
        previous = event_hash(event, previous)
        forged.append(shards._event_row(replace(event, hash=previous)))
    path = shards.path("events", Batch("f" * 16, 1, len(forged)))
    group.dataset.commit({path: shards.parquet("events", forged)}, "forged")
    store = Store(tmp_path / "new" / "data")
    with pytest.raises(NotRestored, match="nothing was restored"):
        restore(store, group.dataset)
    assert store.count() == 0
