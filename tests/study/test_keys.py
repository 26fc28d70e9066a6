"""The pseudonyms' key: kept, given, destroyed."""

import asyncio

import pytest

from extes.cli import main
from extes.study import keys
from extes.study.comparison import fold_all
from extes.study.conduct import Conduct
from extes.study.store import Store, StoreError
from tests.conftest import RATING
from tests.study.test_conduct import Study


def test_after_its_destruction_raters_are_new_and_all_else_still_works(tmp_path, capsys):
    async def go():
        study = Study(tmp_path)
        token = await study.through(rater="w" * 32)
        kept = await study.conduct.rate(token, RATING)
        data = str(tmp_path / "data")
        assert main(["ratings", "destroy-key", "--data", data]) == 1  # only told
        assert (tmp_path / "data" / "pseudonym.key").exists()
        assert main(["ratings", "destroy-key", "--data", data, "--yes"]) == 0
        assert not (tmp_path / "data" / "pseudonym.key").exists()
        told = capsys.readouterr().out
        assert "for ever" in told and "is destroyed" in told

        for verb in (["export", "--out", str(tmp_path / "e.jsonl")], ["redact", "--out", str(tmp_path / "r.jsonl")],
                     ["summary"], ["verify"]):  # fmt: skip
            assert main(["ratings", *verb, "--data", data]) == 0
        study.store.close()
        study.store = Store(tmp_path / "data")  # a new key: the study may go on
        study.conduct = Conduct(study.conduct.study, study.store, study.arms)
        assert (await study.conduct.rate(token, None))["receipt"] == kept["receipt"]
        await study.through(rater="w" * 32)
        one, two = fold_all(study.store.events())
        assert one.opened["rater"] != two.opened["rater"]
        assert main(["ratings", "withdraw", kept["receipt"], "--data", data]) == 0
        assert study.store.verify()[0] == study.store.count()

    asyncio.run(go())


def test_a_destroyed_key_is_refused_when_it_comes_back(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.append("opened", {}, "c1")
    copy = (tmp_path / "pseudonym.key").read_bytes()
    store.destroy_key()
    monkeypatch.setenv(keys.VARIABLE, copy.hex())
    with pytest.raises(StoreError, match="the key that was destroyed"):
        Store(tmp_path)
    monkeypatch.delenv(keys.VARIABLE)
    (tmp_path / "pseudonym.key").write_bytes(copy)  # as after a kill between the event and the deed
    again = Store(tmp_path)
    assert (tmp_path / "pseudonym.key").read_bytes() != copy
    assert again.key_fingerprint != keys.fingerprint(copy)


@pytest.mark.parametrize("text", ["short", "zz" * 32, "ab" * 31])
def test_a_given_key_that_is_none_is_told(tmp_path, monkeypatch, text):
    monkeypatch.setenv(keys.VARIABLE, text)
    with pytest.raises(StoreError, match="64 hex digits"):
        Store(tmp_path)


def test_a_fresh_key_can_be_given(tmp_path, monkeypatch, capsys):
    assert main(["ratings", "new-key"]) == 0
    monkeypatch.setenv(keys.VARIABLE, capsys.readouterr().out)
    assert len(Store(tmp_path).pseudonym("rater", "x")) == 20
    assert not (tmp_path / "pseudonym.key").exists()
