"""The outbox: carries what the dataset has not acknowledged, in a thread of its own, again and again until it has.

Raters never wait for it. What is to be sent, and in which pieces, is written down in the store before it is sent, and
struck off only after the Hub has said yes; so an outage, a cut connection or a kill at any point loses and doubles
nothing. One sync costs what is new, whatever the dataset has grown to.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from extes.collection import shards
from extes.collection.card import card
from extes.collection.remote import Dataset, Unreachable
from extes.errors import Problem
from extes.study.chains import Batch
from extes.study.comparison import fold
from extes.study.config import Study
from extes.study.store import Store

log = logging.getLogger(__name__)

EVENTS_A_COMMIT = 2000
LONGEST_WAIT = 600.0
LOOK_SECONDS = 1.0
PATIENCE = 5
ANSWERS = ("rated", "withdrawn")


@dataclass(frozen=True)
class Sent:
    """What one sync did."""

    events: int = 0
    commits: int = 0


def sync(store: Store, dataset: Dataset, limit: int = EVENTS_A_COMMIT) -> Sent:
    """Send what is not acknowledged, a commit at a time; what was sent stays sent.

    Raises :class:`extes.collection.remote.Unreachable`.
    """
    sent = Sent()
    while batches := store.undelivered(dataset.repo, limit):
        files = files_of(store, batches, dataset.public)
        n = sum(b.last - b.first + 1 for b in batches)
        if files:  # a public dataset takes nothing of a piece without ratings
            dataset.commit(files, f"{n} events")
        store.acknowledge(dataset.repo, batches)
        sent = Sent(sent.events + n, sent.commits + bool(files))
    return sent


def files_of(store: Store, batches: list[Batch], public: bool) -> dict[str, bytes]:
    """The shards of some pieces of the log, by path."""
    configs = {e.body["hash"]: e.body["config"] for e in store.events(kind="study")}
    rename: Callable[[str], str] | None = (lambda rater: store.pseudonym("public", rater)) if public else None
    found: dict[str, bytes] = {}
    for batch in batches:
        rows = shards.rows(
            store.batch(batch), lambda comparison: fold(store.events(comparison=comparison)), configs, rename
        )
        found |= {shards.path(config, batch): shards.parquet(config, its) for config, its in rows.items() if its}
    return found


def begin(dataset: Dataset, study: Study, store: Store | None = None) -> None:
    """Make the repository if it is not there, and give it its card and the first shard of each config.

    What ``store`` had sent to one of this name that is gone is to be sent again. A README that tells of no configs, as
    the Hub's own page makes one, gives way to the card: without configs nothing could be loaded.
    """
    if not dataset.create() and dataset.has("README.md") and dataset.has(f"{shards.PUBLIC[-1]}/first.parquet"):
        return
    sha, paths = dataset.listing()
    if store and not any(shards.batch_of(path) for path in paths):
        store.unacknowledge(dataset.repo)
    configs = shards.PUBLIC if dataset.public else shards.PRIVATE
    files = {f"{config}/first.parquet": shards.first(config) for config in configs}
    if "README.md" not in paths or b"config_name: ratings" not in dataset.read("README.md", sha):
        files["README.md"] = card(study, dataset.repo, dataset.public).encode()
    dataset.commit(files, "The card, and the first shard of each config")


class Outbox:
    """A thread that sends a rating within seconds, but never more often than ``every`` seconds.

    What is said on the way to a rating may wait ``PATIENCE`` times as long. After a failure it waits longer and longer,
    or as long as the Hub asks.
    """

    def __init__(
        self, open_store: Callable[[], Store], dataset: Dataset, study: Study, every: float, first_wait: float = 5.0
    ) -> None:
        self.dataset, self._study, self._every, self._first_wait = dataset, study, every, first_wait
        self._open_store = open_store
        self._stop = threading.Event()
        self._failures = 0
        self._told = ""
        self._begun = False
        self._sent_at, self._seen = float("-inf"), 0
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def flush(self, seconds: float) -> bool:
        """Send what is left and end; false if that took longer than ``seconds`` or did not succeed."""
        self._stop.set()
        self._thread.join(seconds)
        return not self._thread.is_alive() and self._failures == 0

    @property
    def busy(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        store = None
        wait = 0.0
        last = False
        while not last:
            last = self._stop.wait(wait)
            try:
                store = store or self._open_store()
                if last or self._due(store):
                    self._send(store)
                wait = min(LOOK_SECONDS, self._every)
            except Problem as error:
                wait = self._after(error)
            except Exception as error:  # a defect here must not end the thread: the events are safe, and it tries again
                log.exception("the outbox failed")
                wait = self._after(error)
        if store:
            store.close()

    def _due(self, store: Store) -> bool:
        """Whether something should be sent now."""
        if not self._begun or self._failures:
            return True
        waited = time.monotonic() - self._sent_at
        if waited < self._every or store.count() == self._seen:
            return False
        return waited >= PATIENCE * self._every or any(True for _ in store.events(kind=ANSWERS, after=self._seen))

    def _send(self, store: Store) -> None:
        if not self._begun:
            begin(self.dataset, self._study, store)
            self._begun = True
        elif store.backlog(self.dataset.repo):
            self.dataset.check_private()
        seen = store.count()
        if sync(store, self.dataset).events:
            self._sent_at = time.monotonic()
        self._seen = seen
        if self._failures:
            log.warning("%s is reached again; nothing was lost", self.dataset.repo)
        self._failures, self._told = 0, ""

    def _after(self, error: Exception) -> float:
        """Tell a failure once, and say how long to wait."""
        self._failures += 1
        if isinstance(error, Unreachable) and error.http == 404:
            self._begun = False  # the dataset may have been deleted: then it is made anew
        if str(error) != self._told:
            log.warning("%s; ratings are kept on this disk, and sent as soon as it is possible", error)
            self._told = str(error)
        wait = min(LONGEST_WAIT, self._first_wait * 2.0 ** min(self._failures - 1, 10)) * random.uniform(0.8, 1.2)
        return max(wait, getattr(error, "retry_after", None) or 0.0)
