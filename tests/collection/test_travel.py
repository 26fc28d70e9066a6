"""A rating's way to the Hub and back, with the real clients over HTTP."""

from extes.collection.restore import restore
from extes.study.store import Store


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


def test_an_empty_disk_gets_the_whole_log_back(group, tmp_path):
    group.rate(3)
    group.sync()
    again = Store(tmp_path / "new" / "data")
    assert restore(again, group.dataset) == group.store.count()
    assert [(e.chain, e.place, e.hash) for e in again.events()] == [
        (e.chain, e.place, e.hash) for e in group.store.events()
    ]
    assert again.verify() == group.store.verify()
    assert again.backlog(group.dataset.repo) == 0
