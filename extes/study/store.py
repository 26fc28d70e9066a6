"""The event log: one SQLite database, append only, hash-chained. The only door to what is kept.

Knows events and bytes on disk; does not know what a comparison is. An event is acknowledged when ``append`` returns:
the transaction is then on disk (``synchronous=FULL``). The database itself forbids change and removal, a second ending
of a comparison (a rating or a void), a second exchange of one number, an exchange after the ending, and two comparisons
on one position of the assignment (triggers and unique indexes); so requests side by side, and processes, cannot.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from extes.errors import Problem

SCHEMA_VERSION = 1
KEY_BYTES = 32

_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    at TEXT NOT NULL,
    kind TEXT NOT NULL,
    comparison TEXT,
    number INTEGER,
    body TEXT NOT NULL,
    hash TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS by_comparison ON events (comparison, seq);
CREATE INDEX IF NOT EXISTS by_kind ON events (kind, seq);
CREATE UNIQUE INDEX IF NOT EXISTS one_opening ON events (comparison) WHERE kind = 'opened';
CREATE UNIQUE INDEX IF NOT EXISTS one_opening_of_a_position ON events (json_extract(body, '$.study'), number)
    WHERE kind = 'opened';
CREATE UNIQUE INDEX IF NOT EXISTS one_ending ON events (comparison) WHERE kind IN ('rated', 'voided');
CREATE UNIQUE INDEX IF NOT EXISTS one_withdrawal ON events (comparison) WHERE kind = 'withdrawn';
CREATE UNIQUE INDEX IF NOT EXISTS one_exchange_of_a_number ON events (comparison, number) WHERE kind = 'exchanged';
CREATE TRIGGER IF NOT EXISTS closed_is_closed BEFORE INSERT ON events
    WHEN NEW.kind = 'exchanged'
    AND EXISTS (SELECT 1 FROM events WHERE comparison = NEW.comparison AND kind IN ('rated', 'voided'))
    BEGIN SELECT RAISE(ABORT, 'the comparison is closed'); END;
CREATE TRIGGER IF NOT EXISTS no_change BEFORE UPDATE ON events
    BEGIN SELECT RAISE(ABORT, 'events are append only'); END;
CREATE TRIGGER IF NOT EXISTS no_removal BEFORE DELETE ON events
    BEGIN SELECT RAISE(ABORT, 'events are append only'); END;
"""


class StoreError(Problem):
    """The store cannot be used: the text says why and what to do. Nothing was acknowledged."""


class Exists(Exception):
    """The event would be a second of what there is one of, or come after the end."""


@dataclass(frozen=True)
class Event:
    """One thing that happened. ``hash`` covers this event and, through its predecessor's, all before it."""

    seq: int
    id: str
    at: str
    kind: str
    comparison: str | None
    number: int | None
    body: dict[str, Any]
    hash: str


def event_hash(
    previous: str, id: str, at: str, kind: str, comparison: str | None, number: int | None, body: str
) -> str:
    return hashlib.sha256(json.dumps([previous, id, at, kind, comparison, number, body]).encode()).hexdigest()


class Store:
    """The log in ``folder``. One process writes it at a time; threads may share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._key = self._load_key()
            self._db = sqlite3.connect(folder / "events.sqlite3", check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA busy_timeout=10000")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, SCHEMA_VERSION):
                raise StoreError(f"{folder}: written by schema version {version}; this program reads {SCHEMA_VERSION}")
            self._db.executescript(_SCHEMA)
            self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{folder}: cannot open the rating store ({error}); EXTES_DATA_DIR names it") from error

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def append(
        self, kind: str, body: dict[str, Any], comparison: str | None = None, number: int | None = None
    ) -> Event:
        """Write one event and return it once it is on disk. Raises :class:`Exists` or :class:`StoreError`."""
        text = json.dumps(body, ensure_ascii=False, sort_keys=True)
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    last = self._db.execute("SELECT hash FROM events ORDER BY seq DESC LIMIT 1").fetchone()
                    id, at = secrets.token_hex(16), datetime.now(UTC).isoformat(timespec="milliseconds")
                    hash = event_hash(last[0] if last else "", id, at, kind, comparison, number, text)
                    row = (id, at, kind, comparison, number, text, hash)
                    cursor = self._db.execute(
                        "INSERT INTO events (id, at, kind, comparison, number, body, hash) VALUES (?,?,?,?,?,?,?)", row
                    )
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
            except sqlite3.IntegrityError as error:
                raise Exists(kind) from error
            except sqlite3.Error as error:
                raise StoreError(f"{self.folder}: could not be written ({error})") from error
        return Event(cursor.lastrowid or 0, id, at, kind, comparison, number, body, hash)

    def events(self, comparison: str | None = None, kind: str | None = None) -> Iterator[Event]:
        """Events in the order they were written, of one comparison and kind if named."""
        where = [f"{column} = ?" for column, value in (("comparison", comparison), ("kind", kind)) if value is not None]
        query = "SELECT seq, id, at, kind, comparison, number, body, hash FROM events"
        query += (" WHERE " + " AND ".join(where) if where else "") + " ORDER BY seq"
        with self._lock:
            try:
                rows = self._db.execute(query, [v for v in (comparison, kind) if v is not None]).fetchall()
            except sqlite3.Error as error:
                raise StoreError(f"{self.folder}: could not be read ({error})") from error
        for seq, id, at, kind_, comparison_, number, body, hash in rows:
            yield Event(seq, id, at, kind_, comparison_, number, json.loads(body), hash)

    def count(self, kind: str, like: str | None = None) -> int:
        """Number of events of a kind whose body's ``study`` is ``like``, or of all."""
        query, values = "SELECT COUNT(*) FROM events WHERE kind = ?", [kind]
        if like is not None:
            query, values = query + " AND json_extract(body, '$.study') = ?", [kind, like]
        with self._lock:
            try:
                return int(self._db.execute(query, values).fetchone()[0])
            except sqlite3.Error as error:
                raise StoreError(f"{self.folder}: could not be read ({error})") from error

    def verify(self) -> tuple[int, str]:
        """Recompute the chain; returns the number of events and the last hash.

        Raises :class:`StoreError` naming the first bad event. That nothing was cut off at the end, only a copy of an
        earlier number and hash can show.
        """
        with self._lock:
            previous, n = "", 0
            try:
                rows = self._db.execute(
                    "SELECT seq, id, at, kind, comparison, number, body, hash FROM events ORDER BY seq"
                )
                for n, (seq, *fields, hash) in enumerate(rows, 1):
                    if seq != n or event_hash(previous, *fields) != hash:
                        raise StoreError(f"{self.folder}: event {seq} (place {n}) does not follow from those before it")
                    previous = hash
            except sqlite3.Error as error:
                raise StoreError(f"{self.folder}: damaged after event {n} ({error})") from error
        return n, previous

    def pseudonym(self, purpose: str, word: str) -> str:
        """A keyed hash, 20 hex digits: the same word gives the same pseudonym here, and nowhere else."""
        return hmac.new(self._key, f"{purpose}/{word}".encode(), "sha256").hexdigest()[:20]

    def _load_key(self) -> bytes:
        path = self.folder / "pseudonym.key"
        if not path.exists():
            if (self.folder / "events.sqlite3").exists():
                raise StoreError(f"{path}: the key is gone but the ratings are not; put it back from your copy")
            staging = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
            descriptor = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as out:
                out.write(secrets.token_bytes(KEY_BYTES))
                out.flush()
                os.fsync(out.fileno())
            with contextlib.suppress(FileExistsError):  # a portal that started beside this one was first
                os.link(staging, path)
            staging.unlink()
        key = path.read_bytes()
        if len(key) != KEY_BYTES:
            raise StoreError(f"{path}: the key has {len(key)} bytes instead of {KEY_BYTES}; put it back from your copy")
        return key
