"""A database that the first version wrote, kept as it was: it must stay readable, provable and usable."""

import asyncio
import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from extes.study.comparison import fold_all
from extes.study.conduct import Conduct
from extes.study.config import Study
from extes.study.ratings import row
from extes.study.receipts import withdraw
from extes.study.roster import build
from extes.study.store import Store, StoreError

KEPT = Path(__file__).parent / "kept" / "v1"
TOLD = json.loads((KEPT / "tokens.json").read_text())


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(KEPT, tmp_path / "data")
    return tmp_path / "data"


def conduct(store: Store) -> Conduct:
    (body,) = [e.body["config"] for e in store.events(kind="study")]
    study = Study.model_validate(body)
    arms = build(study)
    for arm in arms.values():
        arm.load()
    return Conduct(study, store, arms)


def test_it_migrates_whole_and_its_chain_still_proves_it(folder):
    store = Store(folder)
    n, _ = store.verify()
    assert n == TOLD["events"]
    *_, last = store.events()
    assert last.hash == TOLD["last_hash"] and last.schema == 1
    states = [c.state for c in fold_all(store.events())]
    assert sorted(states) == ["open", "rated", "rated", "rated", "withdrawn"]


def test_its_rows_have_every_column_of_today(folder):
    store = Store(folder)
    configs = {e.body["hash"]: e.body["config"] for e in store.events(kind="study")}
    rows = [row(c, configs[c.opened["study"]]) for c in fold_all(store.events()) if c.state == "rated"]
    assert [r["comment"] for r in rows] == ["comment 1", "comment 2", "comment 3"]
    assert all(r["event"]["schema"] == 1 and r["assignment"]["stream"] is None for r in rows)
    assert all(len(r["arms"]["a"]["prompt_hashes"]) == 3 for r in rows)


def test_it_goes_on_under_the_new_schema_with_its_old_receipts(folder):
    store = Store(folder)
    it = conduct(store)
    for token, receipt in TOLD["tokens"].items():
        if receipt and asyncio.run(it.view(token))["state"] == "rated":
            assert asyncio.run(it.rate(token, None))["receipt"] == receipt
    asyncio.run(it.start({"agreed": True, "of_age": True}))
    *_, begun, opened = store.events()
    assert begun.kind == "chain" and list(begun.body["follows"].values()) == [[24, TOLD["last_hash"]]]
    assert opened.number == 5 and opened.schema == 2
    assert withdraw(store, list(TOLD["tokens"].values())[1]) == "withdrawn"
    assert store.verify()[0] == TOLD["events"] + 3


def test_an_old_event_that_was_altered_is_still_found(folder):
    Store(folder).close()
    db = sqlite3.connect(folder / "events.sqlite3")
    db.executescript("DROP TRIGGER no_change; UPDATE events SET at = '2020' WHERE seq = 7;")
    with pytest.raises(StoreError, match=r"place 7\)"):
        Store(folder).verify()


def test_a_migration_that_is_cut_off_leaves_the_old_file(folder, monkeypatch):
    from extes.study import schema

    monkeypatch.setattr(schema, "_TABLES", (*schema._TABLES, "THIS IS NO SQL"))
    with pytest.raises(StoreError):
        Store(folder)
    monkeypatch.undo()
    assert Store(folder).verify()[0] == TOLD["events"]


def test_a_file_of_a_later_version_is_left_alone(folder):
    db = sqlite3.connect(folder / "events.sqlite3")
    db.execute("PRAGMA user_version = 9")
    db.commit()
    with pytest.raises(StoreError, match="version 9"):
        Store(folder)
