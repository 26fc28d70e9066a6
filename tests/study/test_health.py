"""When the disk or the backlog crosses its bound the portal says so, takes nothing, and recovers by itself."""

import asyncio
import json
import shutil
from collections import namedtuple

import pytest

from extes.study import health
from extes.study.forms import Refused
from extes.study.health import Bounds, Health
from tests.conftest import CONSENT, RATING
from tests.study.test_conduct import Study

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def fresh(monkeypatch):
    monkeypatch.setattr(health, "FRESH_SECONDS", -1.0)


def test_a_disk_that_fills_up_stops_the_asking_and_free_space_starts_it_again(tmp_path, monkeypatch, fresh):
    async def go():
        study = Study(tmp_path)
        rated, unrated = await study.through(), await study.through()
        kept = await study.conduct.rate(rated, RATING)
        events = study.store.count()
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 10**12, 10**6))
        with pytest.raises(Refused, match="disk of this site is nearly full"):
            await study.conduct.start(CONSENT)
        with pytest.raises(Refused, match="nearly full"):
            await study.conduct.rate(unrated, RATING)
        assert (await study.conduct.rate(rated, RATING))["receipt"] == kept["receipt"]
        assert study.store.count() == events
        monkeypatch.undo()
        monkeypatch.setattr(health, "FRESH_SECONDS", -1.0)
        assert await study.conduct.closed() == ""
        await study.conduct.rate(unrated, RATING)

    asyncio.run(go())


def test_a_backlog_beyond_its_bound_stops_the_asking_until_it_is_sent(tmp_path, fresh):
    async def go():
        study = Study(tmp_path)
        study.conduct._health = Health(study.store, Bounds(backlog=8, free_bytes=0), "owner/name")
        token = await study.through()
        assert await study.conduct.closed() == ""
        await study.conduct.rate(token, RATING)
        await study.conduct.start(CONSENT)
        await study.conduct.start(CONSENT)
        with pytest.raises(Refused, match="do not reach their archive"):
            await study.conduct.start(CONSENT)
        study.store.acknowledge("owner/name", study.store.undelivered("owner/name", 1000))
        await study.conduct.start(CONSENT)

    asyncio.run(go())


def test_a_conversation_that_goes_on_is_not_cut_off_by_it(tmp_path, monkeypatch, fresh):
    async def go():
        study = Study(tmp_path)
        token = (await study.conduct.start(CONSENT))["comparison"]
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 10**12, 10**6))
        frames = await study.say(token)
        assert json.dumps(frames[-1]).count("true")

    asyncio.run(go())
