"""Shared by the tests of the way to the Hub and back: a study that fills a store through the real conduct."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from extes.collection.outbox import begin, sync
from extes.collection.remote import Dataset
from extes.study.conduct import Conduct
from extes.study.config import load
from extes.study.roster import build
from extes.study.store import Store
from tests.conftest import CONSENT, RATING, STUDY, write_study
from tests.hub.server import Hub

REPO = "extes/ratings"


class Group:
    """A research group: a study, its log, its dataset."""

    def __init__(self, folder: Path, hub: Hub, public: bool = False, repo: str = REPO) -> None:
        self.folder, self.hub = folder, hub
        self.study = load(write_study(folder / "study", STUDY))
        self.arms = build(self.study)
        for arm in self.arms.values():
            arm.load()
        self.store = Store(folder / "data")
        self.conduct = Conduct(self.study, self.store, self.arms)
        self.dataset = Dataset(repo, public, hub.token)
        self.receipts: dict[str, str] = {}
        self.comment = "my comment"

    def rate(self, times: int = 1, **consent: object) -> list[str]:
        """Whole comparisons, rated; returns their tokens."""
        return [asyncio.run(self._rate(CONSENT | consent)) for _ in range(times)]

    async def _rate(self, consent: dict) -> str:
        token: str = (await self.conduct.start(consent))["comparison"]
        for n in range(3):
            async for _ in self.conduct.say(token, f"my message {n}"):
                pass
        kept = await self.conduct.rate(token, RATING | {"comment": self.comment})
        self.receipts[token] = kept["receipt"]
        return token

    def sync(self) -> object:
        begin(self.dataset, self.study)
        return sync(self.store, self.dataset)

    def loaded(self, config: str) -> list[dict]:
        """A config as a stranger reads it."""
        return loaded(self.dataset.repo, config)


def loaded(repo: str, config: str) -> list[dict]:
    import datasets

    table = datasets.load_dataset(repo, config, split="train", download_mode="force_redownload")
    return [json.loads(json.dumps(row)) for row in table]


@pytest.fixture
def group(tmp_path: Path, hub: Hub) -> Group:
    return Group(tmp_path / "group", hub)
