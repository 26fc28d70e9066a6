import sqlite3
import threading

import pytest

from extes.study import store as store_module
from extes.study.store import Exists, Store, StoreError


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "data")
    yield store
    store.close()


def test_events_come_back_in_order_after_a_restart(tmp_path):
    store = Store(tmp_path / "data")
    store.append("opened", {"n": 1}, "c1")
    store.append("exchanged", {"n": 2}, "c1", 1)
    store.close()
    again = Store(tmp_path / "data")
    assert [e.body["n"] for e in again.events(comparison="c1")] == [1, 2]
    assert again.verify()[0] == 3  # with the beginning of its chain


@pytest.mark.parametrize("kind", ["opened", "rated", "voided", "withdrawn"])
def test_a_second_event_of_a_single_kind_is_refused(store, kind):
    store.append(kind, {}, "c1")
    with pytest.raises(Exists):
        store.append(kind, {}, "c1")
    store.append(kind, {}, "c2")


@pytest.mark.parametrize(("first", "then"), [("rated", "voided"), ("voided", "rated")])
def test_a_comparison_ends_once(store, first, then):
    store.append(first, {}, "c1")
    with pytest.raises(Exists):
        store.append(then, {}, "c1")
    with pytest.raises(Exists):
        store.append("exchanged", {}, "c1", 4)


def test_two_comparisons_never_share_a_position_of_one_study(store):
    store.append("opened", {"study": "s"}, "c1", 0)
    with pytest.raises(Exists):
        store.append("opened", {"study": "s"}, "c2", 0)
    store.append("opened", {"study": "t"}, "c3", 0)


def test_an_empty_or_cut_key_is_not_used(tmp_path):
    Store(tmp_path / "data").close()
    (tmp_path / "data" / "pseudonym.key").write_bytes(b"")
    with pytest.raises(StoreError, match="0 bytes instead of 32"):
        Store(tmp_path / "data")


def test_a_damaged_database_is_told_by_verify(store, tmp_path):
    for n in range(200):
        store.append("opened", {"text": "x" * 500}, f"c{n}")
    store._database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path = tmp_path / "data" / "events.sqlite3"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 20_000] = b"\xff" * 20_000
    path.write_bytes(bytes(raw))
    with pytest.raises(StoreError):
        Store(tmp_path / "data").verify()


def test_fifty_writers_at_once_leave_one_rating_and_an_unbroken_chain(store):
    outcomes = []

    def write():
        try:
            outcomes.append(store.append("rated", {}, "c1").id)
        except Exists:
            outcomes.append(None)

    threads = [threading.Thread(target=write) for _ in range(50)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len([o for o in outcomes if o]) == 1
    assert store.verify()[0] == 2


def test_the_database_refuses_change_and_removal(store, tmp_path):
    store.append("opened", {"n": 1}, "c1")
    db = sqlite3.connect(tmp_path / "data" / "events.sqlite3")
    for statement in ("UPDATE events SET body = '{}'", "DELETE FROM events"):
        with pytest.raises(sqlite3.IntegrityError, match="append only"):
            db.execute(statement)


@pytest.mark.parametrize(
    "tamper",
    ["UPDATE events SET body = '{\"n\": 9}' WHERE seq = 2", "DELETE FROM events WHERE seq = 2"],
)
def test_tampering_past_the_guards_is_found_at_the_first_bad_event(store, tmp_path, tamper):
    for n in range(4):
        store.append("opened", {"n": n}, f"c{n}")
    db = sqlite3.connect(tmp_path / "data" / "events.sqlite3")
    db.executescript(f"DROP TRIGGER no_change; DROP TRIGGER no_removal; {tamper};")
    with pytest.raises(StoreError, match=r"place 2"):
        store.verify()


def test_a_file_that_is_no_database_is_a_clear_error(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pseudonym.key").write_bytes(b"k" * 32)
    (tmp_path / "data" / "events.sqlite3").write_bytes(b"garbage" * 1000)
    with pytest.raises(StoreError, match="EXTES_DATA_DIR"):
        Store(tmp_path / "data")


def test_ratings_without_their_key_are_not_opened(tmp_path):
    store = Store(tmp_path / "data")
    store.append("opened", {}, "c1")
    store.close()
    (tmp_path / "data" / "pseudonym.key").unlink()
    with pytest.raises(StoreError, match="key is gone"):
        Store(tmp_path / "data")


def test_a_full_disk_is_an_error_and_not_a_rating(store):
    store.append("opened", {"n": 1}, "c1")
    pages = store._database.connection.execute("PRAGMA page_count").fetchone()[0]
    store._database.connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match="full"):
        store.append("rated", {"text": "x" * 100_000}, "c1")
    store._database.connection.execute("PRAGMA max_page_count = 1000000")
    assert list(store.events(kind="rated")) == []
    store.append("rated", {}, "c1")
    assert store.verify()[0] == 3


def test_two_processes_on_one_disk_keep_one_rating_and_chains_of_their_own(tmp_path):
    one, two = Store(tmp_path), Store(tmp_path)
    one.append("opened", {"study": "s"}, "c1", 0)
    with pytest.raises(Exists):
        two.append("opened", {"study": "s"}, "c2", 0)
    two.append("opened", {"study": "s"}, "c2", 1)
    two.append("rated", {}, "c1")
    with pytest.raises(Exists):
        one.append("rated", {}, "c1")
    one.append("rated", {}, "c2")
    events = list(one.events())
    assert len({e.chain for e in events}) == 2
    begun = [e for e in events if e.kind == "chain"][1]
    assert list(begun.body["follows"]) == [events[0].chain]
    assert one.verify() == two.verify()
    assert one.verify()[0] == 6


def test_a_chain_that_was_cut_at_its_end_is_found_by_the_one_that_follows_it(tmp_path):
    store = Store(tmp_path)
    store.append("opened", {}, "c1")
    store.append("opened", {}, "c2")
    store.close()
    Store(tmp_path).append("opened", {}, "c3")
    db = sqlite3.connect(tmp_path / "events.sqlite3")
    db.executescript("DROP TRIGGER no_removal; DROP TRIGGER no_change; DELETE FROM events WHERE seq = 3;")
    db.executescript("UPDATE events SET seq = 3 WHERE seq = 4; UPDATE events SET seq = 4 WHERE seq = 5;")
    with pytest.raises(StoreError, match=r"event 3 of chain \w+ is missing: chain \w+ found 3 events there"):
        Store(tmp_path).verify()


def test_a_rating_of_another_number_of_exchanges_is_refused(store):
    store.append("opened", {}, "c1")
    store.append("exchanged", {}, "c1", 1)
    with pytest.raises(Exists):
        store.append("rated", {}, "c1", 2)
    store.append("rated", {}, "c1", 1)


def test_of_many_that_write_at_once_each_is_told_of_its_own(store):
    outcomes = {}

    def write(n):
        try:
            outcomes[n] = store.append("rated", {"n": n}, f"c{n % 10}").body["n"]
        except Exists:
            outcomes[n] = None

    threads = [threading.Thread(target=write, args=(n,)) for n in range(60)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    kept = {e.body["n"] for e in store.events(kind="rated")}
    assert {n for n, told in outcomes.items() if told == n} == kept and len(kept) == 10 and len(outcomes) == 60
    assert store.verify()[0] == 11


@pytest.mark.parametrize("break_at", ["COMMIT", "insert", "interrupt"])
def test_nobody_who_shared_a_failed_write_is_acknowledged(tmp_path, monkeypatch, break_at):
    store = Store(tmp_path)
    store.append("opened", {}, "c0")
    broken = threading.Event()
    insert = store_module._insert

    def fail(db, *given):
        event = insert(db, *given)
        if not broken.is_set() and event.comparison == "c7":
            broken.set()
            if break_at == "COMMIT":
                db.execute("ROLLBACK")  # the transaction is gone, and the commit fails
            elif break_at == "insert":
                raise sqlite3.OperationalError("disk I/O error")
            else:
                raise KeyboardInterrupt
        return event

    monkeypatch.setattr(store_module, "_insert", fail)
    told = {}

    def write(n):
        try:
            told[f"c{n}"] = store.append("opened", {}, f"c{n}").hash
        except (StoreError, KeyboardInterrupt):
            told[f"c{n}"] = None

    threads = [threading.Thread(target=write, args=(n,)) for n in range(1, 40)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    kept = {e.comparison: e.hash for e in Store(tmp_path).events(kind="opened")}
    assert broken.is_set() and None in told.values() and len(told) == 39
    assert {c: h for c, h in told.items() if h} == {c: h for c, h in kept.items() if c != "c0"}
    assert store.verify()[0] == store.count()


def test_what_no_file_can_hold_is_its_own_writers_error(store):
    with pytest.raises(ValueError):
        store.append("opened", {"text": "\ud800"}, "c1")
    store.append("opened", {}, "c1")
    assert store.verify()[0] == 2


def test_no_question_that_a_rater_or_a_sync_asks_scans_the_whole_log(store):
    """A log grows for months; what is asked again and again must be found by an index."""
    asked = []
    for connection in (store._database.connection, store._database._reader):
        connection.set_trace_callback(asked.append)
    store.append("opened", {"study": "s"}, "c1", store.next_position("s"))
    list(store.events(comparison="c1"))
    list(store.events(kind="study"))
    store.rated("0" * 64)
    store.backlog("owner/name")
    batches = store.undelivered("owner/name", 10)
    store.batch(batches[0])
    store.acknowledge("owner/name", batches)
    plans = [
        (query, step[3])
        for query in asked
        if query.lstrip().startswith(("SELECT", "UPDATE"))
        for step in store._database.connection.execute(f"EXPLAIN QUERY PLAN {query}")
    ]
    assert plans and [plan for plan in plans if plan[1].startswith("SCAN events") and "INDEX" not in plan[1]] == []
