"""The database's schema, and the way from the older one. Knows SQL; does not know what an event means.

Version 1 held one chain of events for the whole file. Since version 2 each process that writes begins a chain of its
own (``chain``, ``place``), so that two portals, or two copies of a disk, never write the same place; an event tells the
version it was written under, because its hash is computed by the rule of that version.
"""

from __future__ import annotations

import sqlite3

VERSION = 2

_TABLES = (
    """CREATE TABLE IF NOT EXISTS events (
        seq INTEGER PRIMARY KEY,
        chain TEXT NOT NULL,
        place INTEGER NOT NULL,
        schema INTEGER NOT NULL,
        id TEXT NOT NULL UNIQUE,
        at TEXT NOT NULL,
        kind TEXT NOT NULL,
        comparison TEXT,
        number INTEGER,
        body TEXT NOT NULL,
        hash TEXT NOT NULL,
        imported INTEGER NOT NULL DEFAULT 0
    ) STRICT""",
    # Where each chain ends: derived from the events, kept so that nothing has to be counted.
    """CREATE TABLE IF NOT EXISTS ends (
        chain TEXT PRIMARY KEY, place INTEGER NOT NULL, hash TEXT NOT NULL
    ) STRICT, WITHOUT ROWID""",
    # What was handed to a dataset, in which pieces, and when it said that it has them.
    """CREATE TABLE IF NOT EXISTS deliveries (
        repo TEXT NOT NULL, chain TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, acknowledged TEXT,
        PRIMARY KEY (repo, chain, first)
    ) STRICT, WITHOUT ROWID""",
    "CREATE UNIQUE INDEX IF NOT EXISTS one_place ON events (chain, place)",
    "CREATE INDEX IF NOT EXISTS by_comparison ON events (comparison, seq)",
    "CREATE INDEX IF NOT EXISTS by_kind ON events (kind, seq)",
    "CREATE INDEX IF NOT EXISTS by_receipt ON events (json_extract(body, '$.receipt_hash')) WHERE kind = 'rated'",
    "CREATE INDEX IF NOT EXISTS by_position ON events (json_extract(body, '$.study'), number) WHERE kind = 'opened'",
    # An imported event happened elsewhere and is kept as it is; the rules are for what is written here.
    """CREATE UNIQUE INDEX IF NOT EXISTS one_opening ON events (comparison)
        WHERE kind = 'opened' AND imported = 0""",
    """CREATE UNIQUE INDEX IF NOT EXISTS one_opening_of_a_position ON events (json_extract(body, '$.study'), number)
        WHERE kind = 'opened' AND imported = 0""",
    """CREATE UNIQUE INDEX IF NOT EXISTS one_ending ON events (comparison)
        WHERE kind IN ('rated', 'voided') AND imported = 0""",
    """CREATE UNIQUE INDEX IF NOT EXISTS one_withdrawal ON events (comparison)
        WHERE kind = 'withdrawn' AND imported = 0""",
    """CREATE UNIQUE INDEX IF NOT EXISTS one_exchange_of_a_number ON events (comparison, number)
        WHERE kind = 'exchanged' AND imported = 0""",
    """CREATE TRIGGER IF NOT EXISTS closed_is_closed BEFORE INSERT ON events
        WHEN NEW.imported = 0 AND NEW.kind IN ('exchanged', 'rated', 'voided')
        AND EXISTS (SELECT 1 FROM events WHERE comparison = NEW.comparison AND kind IN ('rated', 'voided'))
        BEGIN SELECT RAISE(ABORT, 'the comparison is closed'); END""",
    """CREATE TRIGGER IF NOT EXISTS withdrawn_is_withdrawn BEFORE INSERT ON events
        WHEN NEW.imported = 0 AND NEW.kind = 'withdrawn'
        AND EXISTS (SELECT 1 FROM events WHERE comparison = NEW.comparison AND kind = 'withdrawn')
        BEGIN SELECT RAISE(ABORT, 'the rating is withdrawn'); END""",
    """CREATE TRIGGER IF NOT EXISTS said_is_said BEFORE INSERT ON events
        WHEN NEW.imported = 0 AND NEW.kind = 'exchanged'
        AND EXISTS (SELECT 1 FROM events
            WHERE comparison = NEW.comparison AND kind = 'exchanged' AND number = NEW.number)
        BEGIN SELECT RAISE(ABORT, 'the exchange is there'); END""",
    """CREATE TRIGGER IF NOT EXISTS rated_as_it_was BEFORE INSERT ON events
        WHEN NEW.imported = 0 AND NEW.kind = 'rated' AND NEW.number IS NOT NULL AND NEW.number !=
        (SELECT COUNT(*) FROM events WHERE comparison = NEW.comparison AND kind = 'exchanged')
        BEGIN SELECT RAISE(ABORT, 'the conversation went on'); END""",
    """CREATE TRIGGER IF NOT EXISTS no_change BEFORE UPDATE ON events
        BEGIN SELECT RAISE(ABORT, 'events are append only'); END""",
    """CREATE TRIGGER IF NOT EXISTS no_removal BEFORE DELETE ON events
        BEGIN SELECT RAISE(ABORT, 'events are append only'); END""",
    """CREATE TRIGGER IF NOT EXISTS where_it_ends AFTER INSERT ON events
        BEGIN INSERT INTO ends VALUES (NEW.chain, NEW.place, NEW.hash)
        ON CONFLICT (chain) DO UPDATE SET place = NEW.place, hash = NEW.hash; END""",
)


def prepare(db: sqlite3.Connection) -> int:
    """Make or migrate the tables, all or nothing; returns the version that was found (0: a new file).

    Raises ``ValueError`` for a version that this program does not know.
    """
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if version == VERSION:
        return version
    db.execute("BEGIN IMMEDIATE")
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]  # another process may have been first
        if version not in (0, 1, VERSION):
            raise ValueError(f"written by schema version {version}; this program reads up to {VERSION}")
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if version == 0 and tables:
            raise ValueError("this database holds something else")
        if version == 1:
            db.execute("ALTER TABLE events RENAME TO events_1")
            for (name,) in db.execute(
                "SELECT name FROM sqlite_master WHERE type IN ('index', 'trigger') AND sql IS NOT NULL"
            ).fetchall():
                kind = db.execute("SELECT type FROM sqlite_master WHERE name = ?", (name,)).fetchone()[0]
                db.execute(f'DROP {kind} "{name}"')
        for statement in _TABLES:
            db.execute(statement)
        if version == 1:
            db.execute(
                """INSERT INTO events
                       (seq, chain, place, schema, id, at, kind, comparison, number, body, hash, imported)
                   SELECT seq, (SELECT substr(hash, 1, 16) FROM events_1 WHERE seq = 1), seq, 1,
                       id, at, kind, comparison, number, body, hash, 0 FROM events_1 ORDER BY seq"""
            )
            db.execute("DROP TABLE events_1")
        db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return version
