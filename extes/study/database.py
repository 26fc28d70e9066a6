"""The database file: a connection that writes, one that reads, and the errors of both. Knows SQL, and no event.

A transaction has happened, and is on disk, when its block has ended (WAL with ``synchronous=FULL``).
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from extes.errors import Problem
from extes.study import schema

NAME = "events.sqlite3"


class StoreError(Problem):
    """The store cannot be used: the text says why and what to do. Nothing was acknowledged."""


class Exists(Exception):
    """The event would be a second of what there is one of, or come after the end."""


class Database:
    """``folder``'s database, made or migrated if need be. Threads may share it; processes may have it open too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writes, self._reads = threading.Lock(), threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.connection = self._connect()
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.execute("PRAGMA synchronous=FULL")
            schema.prepare(self.connection)
            self._reader = self._connect()  # its own, so that nobody who looks waits for the disk
        except ValueError as error:
            raise StoreError(f"{folder}: {error}") from error
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{folder}: cannot open the rating store ({error}); EXTES_DATA_DIR names it") from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.folder / NAME, check_same_thread=False, isolation_level=None)
        connection.execute("PRAGMA busy_timeout=10000")
        return connection

    def close(self) -> None:
        with self._writes, self._reads:
            self.connection.close()
            self._reader.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, on disk when the block has ended; nothing of it where the block fails.

        Raises :class:`Exists` or :class:`StoreError`.
        """
        with self._writes:
            try:
                self.connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self.connection
                    self.connection.execute("COMMIT")
                except BaseException:
                    if self.connection.in_transaction:
                        self.connection.execute("ROLLBACK")
                    raise
            except sqlite3.IntegrityError as error:
                raise Exists(str(error)) from error
            except sqlite3.Error as error:
                raise StoreError(f"{self.folder}: could not be written ({error})") from error

    def read(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._reads:
            try:
                return self._reader.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise StoreError(f"{self.folder}: could not be read ({error})") from error
