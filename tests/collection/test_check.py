"""``extes ratings verify --repo``: whether the Hub's copy says what the log says."""

import asyncio
import os

import pytest

from extes.cli import main
from extes.collection import settings, shards
from extes.collection.check import check
from extes.collection.outbox import files_of
from extes.collection.remote import Dataset
from extes.study.chains import Batch
from extes.study.store import Store
from tests.collection.conftest import REPO, Group


def change(group: Group, config: str, how) -> None:
    files = group.hub.files(REPO, "dataset")
    path = next(p for p in sorted(files) if p.startswith(f"{config}/") and shards.batch_of(p))
    rows = shards.read(files[path])
    how(rows)
    group.dataset.commit({path: shards.parquet(config, rows)}, "changed")


def remove(group: Group, config: str) -> None:
    from huggingface_hub import HfApi

    files = group.hub.files(REPO, "dataset")
    path = next(p for p in sorted(files) if p.startswith(f"{config}/") and shards.batch_of(p))
    HfApi(endpoint=group.hub.url, token=group.hub.token).delete_file(path, REPO, repo_type="dataset")


@pytest.mark.parametrize("public", [False, True])
def test_an_honest_copy_passes_also_after_withdrawals_and_a_restore(tmp_path, hub, public):
    group = Group(tmp_path / "group", hub, public)
    tokens = group.rate(3, publish_transcript=True)
    group.sync()
    asyncio.run(group.conduct.withdraw(group.receipts[tokens[0]]))
    group.rate()
    group.sync()
    report = check(group.store, group.dataset)
    assert report.problems == [] and report.shards >= 4 and report.rows > 5
    if not public:
        from extes.collection.restore import restore

        anew = Store(tmp_path / "anew")
        restore(anew, group.dataset)
        assert check(anew, group.dataset).problems == []


CHANGES = [
    ("events", lambda rows: rows[2].update(body="{}"), r"row 3 \(event 3 of chain \w+\).* body"),
    ("events", lambda rows: rows.reverse(), "out of order"),
    ("events", lambda rows: rows.pop(1), "row 2"),
    ("ratings", lambda rows: rows[0]["answers"][0].update(answer="b"), r"row 1 \(comparison \w+\).* answers"),
    ("ratings", lambda rows: rows.append(rows[0]), "is not in the log"),
    ("ratings", lambda rows: rows.clear(), "is missing"),
    ("conversations", lambda rows: rows[1].update(message="other"), r"row 2 .*exchange 2\).* message"),
    ("withdrawals", lambda rows: rows.clear(), "is missing"),
]


@pytest.mark.parametrize(("config", "how", "reason"), CHANGES)
def test_an_altered_row_is_named(group, config, how, reason):
    import re

    token, _ = group.rate(2)
    group.sync()
    asyncio.run(group.conduct.withdraw(group.receipts[token]))
    group.sync()
    change(group, config, how)
    (problem,) = check(group.store, group.dataset).problems
    assert re.search(reason, problem), problem


@pytest.mark.parametrize("config", ["events", "ratings", "conversations", "withdrawals"])
def test_a_missing_shard_is_named(group, config):
    token, _ = group.rate(2)
    group.sync()
    asyncio.run(group.conduct.withdraw(group.receipts[token]))
    group.sync()
    remove(group, config)
    (problem,) = check(group.store, group.dataset).problems
    assert problem.startswith(f"{config}: no shard holds event")


def test_the_command_says_what_it_found_and_ends_with_it(group, capsys):
    group.rate(2)
    group.sync()
    command = ["ratings", "verify", "--data", str(group.folder / "data"), "--repo", REPO]
    assert main(command) == 0
    assert "It says what the log says." in capsys.readouterr().out
    change(group, "ratings", lambda rows: rows[0].update(comment="forged"))
    assert main(command) == 1
    told = capsys.readouterr().out
    assert "NOT the same" in told and "comment" in told
    group.hub.stop()
    assert main(command) == 2
    assert "no connection" in capsys.readouterr().err


def test_shards_of_another_portal_are_counted_and_not_judged(tmp_path, hub):
    one, two = Group(tmp_path / "one", hub), Group(tmp_path / "two", hub)
    for group in (one, two):
        group.rate()
        group.sync()
    report = check(one.store, one.dataset)
    assert report.problems == [] and report.elsewhere == 3


@pytest.mark.parametrize("public", [False, True])
def test_a_purge_takes_withdrawn_rows_out_and_the_copy_still_passes(tmp_path, hub, public, capsys):
    group = Group(tmp_path / "group", hub, public)
    token, *_ = group.rate(3, publish_transcript=True)
    group.sync()
    asyncio.run(group.conduct.withdraw(group.receipts[token]))
    group.sync()
    assert len(group.loaded("ratings")) == 3
    flags = ["--data", str(group.folder / "data"), "--repo", REPO, *(["--public"] if public else [])]
    assert main(["ratings", "purge", *flags]) == 0
    assert "4 rows of withdrawn ratings were taken out of 2 files" in capsys.readouterr().out
    assert len(group.loaded("ratings")) == 2 and len(group.loaded("conversations")) == 6
    assert check(group.store, group.dataset).problems == []
    assert main(["ratings", "purge", *flags]) == 0
    assert "0 rows" in capsys.readouterr().out


def test_push_and_restore_are_commands_too(group, tmp_path, capsys):
    group.rate()
    data, study = str(group.folder / "data"), str(group.folder / "study" / "study.toml")
    assert main(["ratings", "push", "--data", data, "--repo", REPO, "--study", study]) == 0
    assert "acknowledged 7 events in 1 commits" in capsys.readouterr().out
    assert main(["ratings", "restore", "--data", str(tmp_path / "all"), "--repo", REPO]) == 0
    assert "7 events came" in capsys.readouterr().out
    assert main(["ratings", "summary", "--data", str(tmp_path / "all")]) == 0
    assert "1 ratings" in capsys.readouterr().out


@pytest.mark.parametrize("public", [False, True])
def test_the_flag_decides_what_a_command_sends_and_the_variable_what_the_portal_sends(group, monkeypatch, public):
    monkeypatch.setenv("EXTES_RATINGS_REPO", REPO)
    monkeypatch.setenv("EXTES_RATINGS_VISIBILITY", "private" if public else "public")
    group.rate()
    flags = ["--data", str(group.folder / "data"), "--repo", REPO, *(["--public"] if public else [])]
    assert main(["ratings", "push", "--study", str(group.folder / "study" / "study.toml"), *flags]) == 0
    assert any(f.startswith("events/") for f in group.hub.files(REPO, "dataset")) is not public
    assert main(["ratings", "verify", *flags]) == 0
    own = settings.dataset(group.study)
    assert own is not None and own.public is not public


@pytest.mark.parametrize(("config", "column"), [("ratings", "answers"), ("events", "body")])
def test_a_column_that_was_taken_out_is_named(group, config, column):
    import io

    import pyarrow.parquet as pq

    group.rate()
    group.sync()
    files = group.hub.files(REPO, "dataset")
    path = next(p for p in files if p.startswith(f"{config}/") and shards.batch_of(p))
    sink = io.BytesIO()
    pq.write_table(pq.read_table(io.BytesIO(files[path])).drop_columns([column]), sink)
    group.dataset.commit({path: sink.getvalue()}, "changed")
    (problem,) = check(group.store, group.dataset).problems
    assert column in problem


def test_a_damaged_file_stops_a_purge_with_its_name(group, capsys):
    token, _ = group.rate(2)
    asyncio.run(group.conduct.withdraw(group.receipts[token]))
    group.sync()
    group.dataset.commit({"ratings/odd.parquet": b"no shard"}, "by hand")
    assert main(["ratings", "purge", "--data", str(group.folder / "data"), "--repo", REPO]) == 2
    assert "ratings/odd.parquet" in capsys.readouterr().err


def test_an_empty_name_of_a_dataset_is_told(group, capsys):
    assert main(["ratings", "purge", "--data", str(group.folder / "data"), "--repo", ""]) == 2
    assert "owner/name" in capsys.readouterr().err


def test_a_token_that_is_no_token_is_told_and_not_shown(group, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_secret\x0bpart")
    assert main(["ratings", "purge", "--data", str(group.folder / "data"), "--repo", REPO]) == 2
    told = capsys.readouterr().err
    assert "HF_TOKEN" in told and "hf_secret" not in told


def a_shard(group: Group, config: str) -> tuple[str, bytes]:
    files = group.hub.files(REPO, "dataset")
    path = next(p for p in sorted(files) if p.startswith(f"{config}/") and shards.batch_of(p))
    return path, files[path]


@pytest.mark.parametrize("name", ["ratings/more.parquet", "ratings/first.parquet", "withdrawals/first.parquet"])
def test_rows_in_a_file_that_is_no_piece_of_a_log_are_named(group, name):
    (token,) = group.rate()
    asyncio.run(group.conduct.withdraw(group.receipts[token]))
    group.rate()
    group.sync()
    group.dataset.commit({name: a_shard(group, name.split("/")[0])[1]}, "by hand")
    (problem,) = check(group.store, group.dataset).problems
    assert problem.startswith(f"{name}: is no piece of a log")


def test_a_piece_that_is_there_twice_is_named(group):
    group.rate(2)
    group.sync()
    batch = shards.batch_of(a_shard(group, "ratings")[0])
    again = files_of(group.store, [Batch(batch.chain, batch.first, batch.last - 1)], public=False)
    group.dataset.commit({p: c for p, c in again.items() if p.startswith("ratings/")}, "from a copy of the disk")
    assert len(group.loaded("ratings")) == 3
    (problem,) = check(group.store, group.dataset).problems
    assert "holds again" in problem


def test_other_files_are_not_minded(group):
    group.rate()
    group.sync()
    group.dataset.commit({"figures/a--1.parquet": b"", "notes/a-1-x.parquet": b""}, "by hand")
    assert check(group.store, group.dataset).problems == []


def test_a_schema_version_that_is_no_number_is_told(group):
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    group.rate()
    group.sync()
    path, content = a_shard(group, "ratings")
    table = pq.read_table(io.BytesIO(content))
    table = table.set_column(table.column_names.index("schema_version"), "schema_version", pa.array(["one"]))
    sink = io.BytesIO()
    pq.write_table(table, sink)
    group.dataset.commit({path: sink.getvalue()}, "changed")
    (problem,) = check(group.store, group.dataset).problems
    assert "schema_version" in problem


@pytest.mark.parametrize("first", [True, False])
def test_a_portal_that_sends_while_a_copy_is_verified_makes_no_false_alarm(group, first):
    class Alive(Dataset):
        """A portal beside the check sends a rating just before, or just after, the dataset is read."""

        def shards(self):
            found = super().shards()
            group.rate()
            group.sync()
            return super().shards() if first else found

    group.rate()
    group.sync()
    assert check(group.store, Alive(REPO, False, group.hub.token)).problems == []


def test_with_the_key_destroyed_public_raters_are_not_compared_and_no_key_is_made(tmp_path, hub, capsys):
    group = Group(tmp_path / "group", hub, public=True)
    group.rate(2)
    group.sync()
    data = str(group.folder / "data")
    verify = ["ratings", "verify", "--data", data, "--repo", REPO, "--public"]
    assert main(verify) == 0
    assert "not compared" not in capsys.readouterr().out
    assert main(["ratings", "destroy-key", "--data", data, "--yes"]) == 0
    assert main(verify) == 0
    assert "public pseudonyms are not compared" in capsys.readouterr().out
    assert not (group.folder / "data" / "pseudonym.key").exists()
    change(group, "ratings", lambda rows: rows[0].update(exchanges=9))
    assert main(verify) == 1


def test_a_restore_without_a_token_leaves_no_empty_log(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert main(["ratings", "restore", "--repo", REPO, "--data", str(tmp_path / "new")]) == 2
    assert "HF_TOKEN" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_an_export_puts_no_file_in_the_place_of_a_pipe_or_a_device_and_follows_a_link(group, tmp_path, capsys):
    group.rate()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "real.jsonl")
    command = ["ratings", "export", "--data", str(group.folder / "data"), "--out"]
    assert main([*command, str(tmp_path / "pipe")]) == 2
    assert "name a file" in capsys.readouterr().err
    assert (tmp_path / "pipe").is_fifo()
    assert main([*command, str(tmp_path / "link.jsonl")]) == 0
    assert (tmp_path / "link.jsonl").is_symlink() and (tmp_path / "real.jsonl").stat().st_size


def test_a_summary_of_nothing_says_so(tmp_path, capsys):
    Store(tmp_path / "data")
    assert main(["ratings", "summary", "--data", str(tmp_path / "data")]) == 0
    assert "no ratings yet" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["just-a-name", "a/b..c", "a/-b", "\u00e4/b", "a/b.git"])
def test_a_name_that_the_hub_would_not_take_is_told_before_it_is_asked(group, name, capsys):
    assert main(["ratings", "purge", "--data", str(group.folder / "data"), "--repo", name]) == 2
    assert f"{name!r} is no dataset" in capsys.readouterr().err


@pytest.mark.parametrize("body", ["{", "{}"])
@pytest.mark.parametrize("verb", ["summary", "export", "redact", "push"])
def test_a_damaged_log_is_told_and_nothing_is_written_from_it(group, tmp_path, capsys, verb, body):
    import sqlite3

    group.rate(2)
    group.store.close()
    database = sqlite3.connect(group.folder / "data" / "events.sqlite3")
    database.execute("DROP TRIGGER no_change")
    database.execute("UPDATE events SET body = ? WHERE kind = 'exchanged'", (body,))
    database.commit()
    more = {"export": ["--out", str(tmp_path / "out")], "redact": ["--out", str(tmp_path / "out")]}
    more["push"] = ["--repo", REPO, "--study", str(group.folder / "study" / "study.toml")]
    assert main(["ratings", verb, "--data", str(group.folder / "data"), *more.get(verb, [])]) == 2
    assert "extes ratings verify" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_export_warns_though_every_rater_agreed_to_publication(group, tmp_path, capsys):
    group.rate(publish_transcript=True)
    command = ["ratings", "export", "--data", str(group.folder / "data"), "--out", str(tmp_path / "all.jsonl")]
    assert main(command) == 0
    assert "my comment" in (tmp_path / "all.jsonl").read_text()
    assert "NOT for publication" in capsys.readouterr().out


@pytest.mark.parametrize("public", [False, True])
@pytest.mark.parametrize("verb", ["verify", "purge"])
def test_a_dataset_of_the_other_kind_is_told_as_that_and_not_as_altered(tmp_path, hub, capsys, verb, public):
    group = Group(tmp_path / "group", hub, public)
    group.rate(1, publish_transcript=True)
    group.sync()
    wrong = ["--data", str(group.folder / "data"), "--repo", REPO, *([] if public else ["--public"])]
    assert main(["ratings", verb, *wrong]) == 2
    told = capsys.readouterr()
    assert ("add --public" if public else "leave out --public") in told.err
    assert "NOT" not in told.out
