"""Paid replies, and what was sent for them. One class owns all SQL; standard library only.

The identity of a request is what the server is sent and which sample of it this is (:func:`key`). What is left out of
it, and why, is :data:`LEFT_OUT`. A row in ``sent`` is a request in flight: one that a kill left there may have been
billed, so it counts against the budget at its most.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extes.generation.errors import Stop
from extes.generation.money import Tokens

CACHE = "cache.sqlite"
KEY_VERSION = 1

LEFT_OUT = {
    "api key": "who pays does not change what is answered, and a secret has no place in a pool",
    "concurrency": "the order of sending does not enter a request",
    "time limit, attempts, back-off": "they decide how long we wait, not what is asked",
    "prices, budget": "they decide whether to ask, not what",
    "batch or online": "the same payload by another road; the model is the same",
    "target, policy, mix, exemplar count": "they act through the messages, which are in the key",
    "auto-accept, checks, drift bounds": "they judge an answer and can judge a stored one again",
    "logging, view": "they only look on",
}


def canonical(server: str, payload: Mapping[str, Any], sample: str) -> str:
    """The text whose hash is the key. ``sample`` tells apart equal payloads that are meant to be asked twice."""
    request = {"version": KEY_VERSION, "server": server, "payload": payload, "sample": sample}
    return json.dumps(request, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def key(server: str, payload: Mapping[str, Any], sample: str) -> str:
    return hashlib.sha256(canonical(server, payload, sample).encode()).hexdigest()


@dataclass(frozen=True)
class Stored:
    """A finished request: HTTP status, the body as it came, and its tokens (none where the server refused)."""

    status: int
    body: str
    tokens: Tokens | None


@dataclass(frozen=True)
class Spent:
    """Money by who counted the tokens; ``lost`` is the most that unanswered requests can have cost."""

    provider: float
    estimate: float
    lost: float
    lost_requests: int
    unpriced: int

    @property
    def most(self) -> float:
        return self.provider + self.estimate + self.lost


_TABLES = """
CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY, status INTEGER NOT NULL, body TEXT NOT NULL,
    input INTEGER, output INTEGER, cached INTEGER, counted_by TEXT, cost REAL, currency TEXT, batch INTEGER NOT NULL,
    provider_request TEXT, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS sent (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, bytes INTEGER NOT NULL, token_limit INTEGER NOT NULL, cost REAL,
    state TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS batches (
    name TEXT PRIMARY KEY, id TEXT, keys TEXT NOT NULL, state TEXT NOT NULL, at REAL NOT NULL);
"""


class Cache:
    """``clock`` gives seconds since the epoch; it only dates rows."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time, read_only: bool = False) -> None:
        self.path, self._clock = folder / CACHE, clock
        with self._trouble():
            if read_only:
                self._db = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, isolation_level=None)
                return
            self._db = sqlite3.connect(self.path, isolation_level=None, timeout=30)
            # WAL with NORMAL survives kill -9 whole; a power cut can cost the last moments, never the database.
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_TABLES)
            self._db.execute("UPDATE sent SET state = 'lost' WHERE state = 'sent'")

    def close(self) -> None:
        self._db.close()

    def get(self, key: str) -> Stored | None:
        with self._trouble():
            row = self._db.execute(
                "SELECT status, body, input, output, cached, counted_by FROM replies WHERE key = ?", (key,)
            ).fetchone()
        if row is None:
            return None
        status, body, *counts, by = row
        return Stored(status, body, Tokens(counts[0], counts[1], counts[2], by) if by else None)

    def send(self, key: str, bytes_in: int, token_limit: int, most: float | None, batch: bool = False) -> int:
        """Note a request before it goes out; its number is given to :meth:`put`, :meth:`drop` or :meth:`lose`."""
        with self._trouble():
            cursor = self._db.execute(
                "INSERT INTO sent (key, bytes, token_limit, cost, state, at) VALUES (?, ?, ?, ?, ?, ?)",
                (key, bytes_in, token_limit, most, "batch" if batch else "sent", self._clock()),
            )
        return int(cursor.lastrowid or 0)

    def drop(self, sent: int) -> None:
        """The server refused it unread (429, 5xx, no connection): it cost nothing."""
        with self._trouble():
            self._db.execute("DELETE FROM sent WHERE id = ?", (sent,))

    def lose(self, sent: int) -> None:
        """The connection broke or time ran out after it was sent: it may have been billed."""
        with self._trouble():
            self._db.execute("UPDATE sent SET state = 'lost' WHERE id = ?", (sent,))

    def put(
        self,
        key: str,
        stored: Stored,
        sent: int | None,
        cost: float | None,
        currency: str | None,
        batch: bool = False,
        provider_request: str | None = None,
    ) -> None:
        """Keep a finished request and forget that it was in flight, both or neither."""
        t = stored.tokens
        counts = (t.input, t.output, t.cached, t.by) if t else (None, None, None, None)
        with self._trouble(), self._db:
            self._db.execute("BEGIN")
            self._db.execute(
                "INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (key, stored.status, stored.body, *counts, cost, currency, batch, provider_request, self._clock()),
            )
            if sent is not None:
                self._db.execute("DELETE FROM sent WHERE id = ?", (sent,))

    def finished(self) -> int:
        """Requests that have an answer, whether the pool has come to it or not."""
        with self._trouble():
            return int(self._db.execute("SELECT count(*) FROM replies").fetchone()[0])

    def unpriced(self) -> list[tuple[str, Tokens, bool]]:
        """Paid replies from runs that had no price: (key, tokens, batch)."""
        with self._trouble():
            rows = self._db.execute(
                "SELECT key, input, output, cached, counted_by, batch FROM replies "
                "WHERE cost IS NULL AND counted_by IS NOT NULL"
            ).fetchall()
        return [(key, Tokens(i, o, c, by), bool(batch)) for key, i, o, c, by, batch in rows]

    def price(self, costs: Mapping[str, float], currency: str) -> None:
        with self._trouble(), self._db:
            self._db.execute("BEGIN")
            self._db.executemany(
                "UPDATE replies SET cost = ?, currency = ? WHERE key = ?",
                [(cost, currency, key) for key, cost in costs.items()],
            )

    def lost(self) -> list[tuple[int, int, int, float | None]]:
        """Requests that went unanswered after they were sent: (id, bytes, token limit, most they cost)."""
        with self._trouble():
            return self._db.execute("SELECT id, bytes, token_limit, cost FROM sent WHERE state = 'lost'").fetchall()

    def price_lost(self, costs: Mapping[int, float]) -> None:
        with self._trouble(), self._db:
            self._db.execute("BEGIN")
            self._db.executemany("UPDATE sent SET cost = ? WHERE id = ?", [(c, id) for id, c in costs.items()])

    def spent(self) -> Spent:
        with self._trouble():
            by = dict(self._db.execute("SELECT counted_by, total(cost) FROM replies GROUP BY counted_by").fetchall())
            lost, n = self._db.execute("SELECT total(cost), count(*) FROM sent WHERE state = 'lost'").fetchone()
            (bare,) = self._db.execute(
                "SELECT count(*) FROM replies WHERE cost IS NULL AND counted_by IS NOT NULL"
            ).fetchone()
        return Spent(by.get("provider", 0.0), by.get("estimate", 0.0), lost, n, bare)

    def currencies(self) -> list[str]:
        with self._trouble():
            rows = self._db.execute("SELECT DISTINCT currency FROM replies WHERE currency IS NOT NULL").fetchall()
        return sorted(row[0] for row in rows)

    def in_batches(self) -> dict[str, tuple[int, float | None]]:
        """Requests that lie in a batch of an earlier run: key to (number, most they cost)."""
        with self._trouble():
            rows = self._db.execute("SELECT key, id, cost FROM sent WHERE state = 'batch'").fetchall()
        return {key: (id, cost) for key, id, cost in rows}

    def batch_count(self) -> int:
        with self._trouble():
            return int(self._db.execute("SELECT count(*) FROM batches").fetchone()[0])

    def batch_begin(self, name: str, keys: list[str]) -> None:
        with self._trouble():
            self._db.execute(
                "INSERT OR REPLACE INTO batches VALUES (?, NULL, ?, 'new', ?)", (name, json.dumps(keys), self._clock())
            )

    def batch_made(self, name: str, id: str) -> None:
        with self._trouble():
            self._db.execute("UPDATE batches SET id = ?, state = 'made' WHERE name = ?", (id, name))

    def batch_done(self, name: str) -> None:
        with self._trouble():
            self._db.execute("UPDATE batches SET state = 'done' WHERE name = ?", (name,))

    def batches_open(self) -> list[tuple[str, str | None, list[str]]]:
        with self._trouble():
            rows = self._db.execute("SELECT name, id, keys FROM batches WHERE state != 'done' ORDER BY at").fetchall()
        return [(name, id, json.loads(keys)) for name, id, keys in rows]

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise Stop(
                f"{self.path}: {error}. If the disk is full, make room and run the same command again; if the file is "
                "damaged, put back a copy (without it, requests already paid for would be sent again)."
            ) from error
