"""``extes ratings verify --repo``: whether the Hub's copy says what the log says."""

import asyncio

import pytest

from extes.cli import main
from extes.collection import settings, shards
from extes.collection.check import check
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
