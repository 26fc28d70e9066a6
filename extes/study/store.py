"""The event log: one SQLite database, append only, hash-chained. The only door to what is kept.

Knows events and bytes on disk; does not know what a comparison is. An event is acknowledged when ``append`` returns:
the transaction is then on disk (``synchronous=FULL``). The database itself forbids change and removal, a second ending
of a comparison (a rating or a void), a second exchange of one number, an exchange after the ending, a rating of another
number of exchanges than there are, and two comparisons on one position of the assignment (triggers and unique indexes);
so requests side by side, and processes, cannot.

Each process writes a *chain* of its own: its first event names the ends of the chains before it, every other the event
before it. So no two processes, machines or copies of a disk ever write the same place, and chains from several portals
lie side by side in one log.
"""

from __future__ import annotations

import hmac
import json
import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from extes import __version__
from extes.study import keys, schema
from extes.study.chains import Batch, Broken, Check, Event, event_hash
from extes.study.database import NAME, Database, Exists, StoreError
from extes.study.queue import Queue, Slip

__all__ = ["NAME", "Exists", "Store", "StoreError"]
_COLUMNS = "seq, chain, place, schema, id, at, kind, comparison, number, body, hash"
_PAGE = 1000


class Store:
    """The log in ``folder``. Threads may share it; other processes may have it open too.

    ``pseudonyms=False`` opens it without the key: everything but :meth:`pseudonym` works.
    """

    def __init__(self, folder: Path, pseudonyms: bool = True) -> None:
        self.folder = folder
        self._database = Database(folder)
        self._queue = Queue(self._write_all)
        self._chain = ""
        self._key: bytes | None = None
        if pseudonyms:
            try:
                self._key = self._find_key()
            except (keys.KeyProblem, OSError) as error:
                raise StoreError(f"{folder}: {error}") from error

    def close(self) -> None:
        self._database.close()

    def append(
        self, kind: str, body: dict[str, Any], comparison: str | None = None, number: int | None = None
    ) -> Event:
        """Write one event and return it once it is on disk. Raises :class:`Exists` or :class:`StoreError`.

        What is appended at the same moment shares one transaction and one fsync; each is told of its own.
        """
        slip = Slip(kind, json.dumps(body, ensure_ascii=False, sort_keys=True), comparison, number)
        self._queue.pass_through(slip)
        if slip.error:
            raise slip.error
        assert slip.event
        return slip.event

    def _write_all(self, slips: list[Slip]) -> None:
        """Write them in one transaction. None is acknowledged unless all that could be written are on disk."""
        chain = self._chain
        failure: Exception = StoreError(f"{self.folder}: the writing was interrupted")
        on_disk = False
        try:
            with self._database.writing() as db:
                for slip in slips:
                    db.execute("SAVEPOINT slip")
                    try:
                        chain, slip.event = self._next(db, chain, slip)
                    except (sqlite3.IntegrityError, ValueError) as error:  # its own fault, not the disk's
                        db.execute("ROLLBACK TO slip")
                        slip.error = Exists(slip.kind) if isinstance(error, sqlite3.IntegrityError) else error
                    db.execute("RELEASE slip")
            on_disk = True
            self._chain = chain if any(slip.event for slip in slips) else self._chain
        except StoreError as error:
            failure = error
        finally:
            for slip in slips:
                if not on_disk:
                    slip.event, slip.error = None, StoreError(str(failure))
                slip.done = True

    def _next(self, db: sqlite3.Connection, chain: str, slip: Slip) -> tuple[str, Event]:
        """Write the next event of a chain; if there is none yet, its beginning first. Returns both."""
        if chain:
            place, previous = db.execute("SELECT place, hash FROM ends WHERE chain = ?", (chain,)).fetchone()
        else:
            about = {"follows": _loose_ends(db), "code": __version__, "key": self.key_fingerprint}
            chain, place = secrets.token_hex(8), 1
            previous = _insert(db, chain, 1, "", Slip("chain", json.dumps(about, sort_keys=True))).hash
        return chain, _insert(db, chain, place + 1, previous, slip)

    def take_over(self, events: Iterable[Event], repo: str) -> int:
        """Take events that were written elsewhere and that ``repo`` has, all or none; returns how many were new.

        They come whole, in order, and checked. What is here already is left as it is.
        """
        new = 0
        with self._database.writing() as db:
            ends = {chain: place for chain, place in db.execute("SELECT chain, place FROM ends")}
            there: dict[str, int] = {}
            for event in events:
                there[event.chain] = event.place
                if event.place > ends.get(event.chain, 0):
                    _put(db, event, imported=1)
                    ends[event.chain] = event.place
                    new += 1
            now = _now()
            for chain, last in there.items():  # also what was here, and was sent from another copy of this disk
                db.execute(
                    """UPDATE deliveries SET acknowledged = ?
                       WHERE repo = ? AND chain = ? AND last <= ? AND acknowledged IS NULL""",
                    (now, repo, chain, last),
                )
                told = "SELECT COALESCE(MAX(last), 0) FROM deliveries WHERE repo = ? AND chain = ?"
                if (done := db.execute(told, (repo, chain)).fetchone()[0]) < last:
                    db.execute("INSERT INTO deliveries VALUES (?,?,?,?,?)", (repo, chain, done + 1, last, now))
        return new

    def events(
        self, comparison: str | None = None, kind: str | Iterable[str] | None = None, after: int = 0
    ) -> Iterator[Event]:
        """Events in the order they came, of one comparison and of kinds if named, after a ``seq``."""
        query = f"SELECT {_COLUMNS} FROM events WHERE seq > ?"
        values: list[Any] = []
        if comparison is not None:
            query, values = query + " AND comparison = ?", [*values, comparison]
        if kind is not None:
            kinds = [kind] if isinstance(kind, str) else list(kind)
            # with several kinds the rows in their order, not an index that would have to be sorted
            by = "kind" if len(kinds) == 1 and comparison is None else "+kind"
            query, values = query + f" AND {by} IN ({', '.join('?' * len(kinds))})", [*values, *kinds]
        while True:  # in pages, so that a long log neither fills memory nor holds up a writer
            rows = self._database.read(f"{query} ORDER BY seq LIMIT {_PAGE}", [after, *values])
            yield from (Event(*row) for row in rows)
            if len(rows) < _PAGE:
                return
            after = rows[-1][0]

    def batch(self, batch: Batch) -> list[Event]:
        query = f"SELECT {_COLUMNS} FROM events WHERE chain = ? AND place BETWEEN ? AND ? ORDER BY place"
        return [Event(*row) for row in self._database.read(query, [batch.chain, batch.first, batch.last])]

    def rated(self, receipt_hash: str) -> Event | None:
        """The rating that has a receipt."""
        query = f"""SELECT {_COLUMNS} FROM events
                    WHERE kind = 'rated' AND json_extract(body, '$.receipt_hash') = ? ORDER BY seq LIMIT 1"""
        rows = self._database.read(query, [receipt_hash])
        return Event(*rows[0]) if rows else None

    def next_position(self, study: str) -> int:
        """The first position of the assignment that no comparison of the study has."""
        query = "SELECT MAX(number) FROM events WHERE kind = 'opened' AND json_extract(body, '$.study') = ?"
        last = self._database.read(query, [study])[0][0]
        return 0 if last is None else int(last) + 1

    def ends(self) -> dict[str, int]:
        """The last place of every chain."""
        return dict(self._database.read("SELECT chain, place FROM ends", []))

    def count(self) -> int:
        """Number of events; a row is never removed, so the last one's number tells it."""
        return int(self._database.read("SELECT COALESCE(MAX(seq), 0) FROM events", [])[0][0])

    def verify(self) -> tuple[int, str]:
        """Recompute all chains; returns the number of events and the seal, one hash over all of them.

        Raises :class:`StoreError` naming the first bad event. That nothing was cut off at the end of the last chain,
        only a copy of an earlier number and seal, or the Hub's copy, can show.
        """
        n = 0
        try:
            check = Check(self.events(kind="chain"))
            for n, event in enumerate(self.events(), 1):
                if event.seq != n:
                    raise Broken(f"a row is missing before event {event.place} of chain {event.chain} (place {n})")
                check.add(event)
            check.finish()
        except Broken as error:
            raise StoreError(f"{self.folder}: {error} (place {n})") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{self.folder}: damaged after event {n} ({error})") from error
        return n, check.seal

    # What was handed to a dataset: bookkeeping beside the log, never part of it.

    def undelivered(self, repo: str, limit: int) -> list[Batch]:
        """What ``repo`` has not acknowledged, at most about ``limit`` events, in pieces that stay the same.

        The pieces are written down before they are handed out: after an attempt whose outcome is unknown, the next one
        carries the same pieces under the same names, and nothing arrives twice.
        """
        open_ = (
            "SELECT chain, first, last FROM deliveries WHERE repo = ? AND acknowledged IS NULL ORDER BY chain, first"
        )
        with self._database.writing() as db:
            if waiting := db.execute(open_, (repo,)).fetchall():
                return [Batch(*row) for row in waiting]
            # In the order in which they came: no chain is ever ahead of one that it follows.
            waiting = db.execute(
                """WITH unsent AS (SELECT chain, place AS last, COALESCE(
                       (SELECT last FROM deliveries d WHERE d.repo = ? AND d.chain = ends.chain
                        ORDER BY first DESC LIMIT 1), 0) AS done FROM ends)
                   SELECT (SELECT seq FROM events e WHERE e.chain = unsent.chain AND e.place = unsent.done + 1) AS seq,
                       chain, done, last FROM unsent WHERE last > done ORDER BY seq""",
                (repo,),
            ).fetchall()
            batches: list[Batch] = []
            for _, chain, done, last in waiting:
                if limit > 0:
                    batches.append(Batch(chain, done + 1, min(last, done + limit)))
                    limit -= batches[-1].last - done
            for b in batches:
                db.execute("INSERT INTO deliveries VALUES (?,?,?,?,NULL)", (repo, b.chain, b.first, b.last))
            return batches

    def acknowledge(self, repo: str, batches: Iterable[Batch]) -> None:
        with self._database.writing() as db:
            for b in batches:
                db.execute(
                    "UPDATE deliveries SET acknowledged = ? WHERE repo = ? AND chain = ? AND first = ?",
                    (_now(), repo, b.chain, b.first),
                )

    def unacknowledge(self, repo: str) -> None:
        """``repo`` was emptied or deleted: all that it had acknowledged is to be sent again."""
        with self._database.writing() as db:
            db.execute("UPDATE deliveries SET acknowledged = NULL WHERE repo = ?", (repo,))

    def delivered(self, repo: str) -> list[Batch]:
        query = "SELECT chain, first, last FROM deliveries WHERE repo = ? AND acknowledged IS NOT NULL"
        return [Batch(*row) for row in self._database.read(f"{query} ORDER BY chain, first", [repo])]

    def backlog(self, repo: str) -> int:
        """Number of events that ``repo`` has not acknowledged."""
        query = "SELECT COALESCE(SUM(last - first + 1), 0) FROM deliveries WHERE repo = ? AND acknowledged IS NOT NULL"
        return self.count() - int(self._database.read(query, [repo])[0][0])

    # Pseudonyms.

    def pseudonym(self, purpose: str, word: str) -> str:
        """A keyed hash, 20 hex digits: the same word gives the same pseudonym here, and nowhere else."""
        if self._key is None:
            raise StoreError(f"{self.folder}: this needs the pseudonym key, and the log was opened without it")
        return hmac.new(self._key, f"{purpose}/{word}".encode(), "sha256").hexdigest()[:20]

    @property
    def key_fingerprint(self) -> str | None:
        return keys.fingerprint(self._key) if self._key else None

    def destroyed_keys(self) -> dict[str, str]:
        """Fingerprints of the keys that were destroyed, and when."""
        return {e.body["key"]: e.at for e in self.events(kind="key_destroyed")}

    def destroy_key(self) -> str | None:
        """Write that the key of this disk is destroyed, then destroy it; returns its fingerprint, if there was one."""
        key = keys.kept(self.folder)
        if key is None:
            return None
        self._key = None
        name = keys.fingerprint(key)
        self.append("key_destroyed", {"key": name})
        keys.destroy(self.folder)
        return name

    def _find_key(self) -> bytes:
        destroyed = self.destroyed_keys()
        if key := keys.given():
            if keys.fingerprint(key) in destroyed:
                raise StoreError(f"{keys.VARIABLE} is the key that was destroyed; remove it from the environment")
            return key
        if (key := keys.kept(self.folder)) and keys.fingerprint(key) in destroyed:
            keys.destroy(self.folder)  # it was interrupted between the event and the deed
            key = None
        written_here = self._database.read("SELECT EXISTS (SELECT 1 FROM events WHERE imported = 0)", [])[0][0]
        if key is None and written_here and not destroyed:
            path = self.folder / keys.NAME
            raise StoreError(
                f"{path}: the key is gone but the ratings are not; put it back from your copy, or set {keys.VARIABLE}"
            )
        return key or keys.make(self.folder)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _insert(db: sqlite3.Connection, chain: str, place: int, previous: str, slip: Slip) -> Event:
    id, at = secrets.token_hex(16), _now()
    event = Event(0, chain, place, schema.VERSION, id, at, slip.kind, slip.comparison, slip.number, slip.text, "")
    return _put(db, replace(event, hash=event_hash(event, previous)), imported=0)


def _put(db: sqlite3.Connection, e: Event, imported: int) -> Event:
    row = (e.chain, e.place, e.schema, e.id, e.at, e.kind, e.comparison, e.number, e.text, e.hash, imported)
    marks = ", ".join("?" * len(row))
    columns = f"{_COLUMNS.removeprefix('seq, ')}, imported"
    cursor = db.execute(f"INSERT INTO events ({columns}) VALUES ({marks})", row)
    return replace(e, seq=cursor.lastrowid or 0)


def _loose_ends(db: sqlite3.Connection) -> dict[str, tuple[int, str]]:
    """The ends of the chains that no later chain names as far as they go."""
    ends = {chain: (place, hash) for chain, place, hash in db.execute("SELECT chain, place, hash FROM ends")}
    for (body,) in db.execute("SELECT body FROM events WHERE kind = 'chain'"):
        for chain, (place, _) in json.loads(body)["follows"].items():
            if chain in ends and ends[chain][0] <= place:
                del ends[chain]
    return ends
