"""A pool on disk: one append-only file of events, and a lock. The only writer of ``pool.jsonl``.

``pool.jsonl`` holds no clock time, no cost and nothing of the network, so that a killed and resumed run ends in the
same bytes as an unbroken one. Dialogues stay on disk and are read by their place in the file. Knows nothing of what
the events mean (``state`` does) or of paid replies (``cache`` does).
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from extes.dialogue import Dialogue, from_json
from extes.generation.errors import Stop
from extes.generation.state import Entry, State

LOG = "pool.jsonl"
LOCK = "lock"
TORN = "pool.torn"


class Pool:
    """Opened for writing it holds the lock until closed; opened for reading it takes none and repairs nothing."""

    def __init__(self, folder: Path, write: bool) -> None:
        self.folder, self.path = folder, folder / LOG
        self.state = State()
        self.torn = 0
        self._lock: int | None = None
        if write:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except FileExistsError as error:
                raise Stop(f"--pool {folder}: is a file; name a folder") from error
            self._take_lock()
        elif not self.path.is_file():
            raise Stop(f"{folder}: no pool here (there is no {LOG}); `extes generate --pool {folder} ...` makes one")
        try:
            self._size = self._read(write)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND if write else os.O_RDONLY
            self._file = os.open(self.path, flags, 0o644)
        except BaseException:
            self._drop_lock()
            raise

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)
        self._drop_lock()

    def append(self, event: dict[str, Any]) -> None:
        """Write one event and count it. Where the disk does not take it: :class:`Stop`, and nothing is counted."""
        line = (json.dumps(event, ensure_ascii=False) + "\n").encode()
        try:
            written = os.write(self._file, line)
            if written < len(line):  # a full disk may take part of a line; the rest then raises
                os.write(self._file, line[written:])
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise Stop(
                f"{self.path}: cannot be written ({error.strerror}). Make room and run the same command again: "
                "what was paid for is kept, and the run goes on where it stopped."
            ) from error
        # Through JSON once, so that what is in memory is what a later reader of the file will see.
        self.state.apply(json.loads(line), (self._size, len(line)))
        self._size += len(line)

    def sync(self) -> None:
        """Onto the disk, not only out of this process."""
        os.fsync(self._file)

    def dialogue(self, id: str) -> Dialogue:
        return self._dialogue(self.state.entries[id])

    def dialogues(self, *states: str) -> Iterator[tuple[Entry, Dialogue]]:
        """Dialogues in the order of the log, one at a time; of these states, or of every state."""
        for entry in list(self.state.entries.values()):
            if not states or entry.state in states:
                yield entry, self._dialogue(entry)

    def _dialogue(self, entry: Entry) -> Dialogue:
        offset, length = entry.span
        return from_json(json.loads(os.pread(self._file, length, offset))["dialogue"])

    def _read(self, write: bool) -> int:
        """Count every whole line; returns the bytes they take. A last line cut short is set aside (when writing)."""
        if not self.path.exists():
            return 0
        position = 0
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    if not line.endswith(b"\n"):
                        raise ValueError("no line end")
                    self.state.apply(json.loads(line), (position, len(line)))
                except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
                    if lines.read(1):
                        raise Stop(
                            f"{self.path}: line {number} is damaged ({error}), and more follows it. Put back a copy, "
                            f"or keep the first {number - 1} lines and run again: paid replies are in the cache and "
                            "are not asked for twice."
                        ) from error
                    self.torn = len(line)
                    break
                position += len(line)
        if self.torn and write:
            self._set_aside(position)
        return position

    def _set_aside(self, position: int) -> None:
        """A write that a kill or a full disk cut short: its slot is made again from the cache, at no cost."""
        with self.path.open("r+b") as file:
            file.seek(position)
            rest = file.read()
            with (self.folder / TORN).open("ab") as torn:
                torn.write(rest + b"\n")
            file.truncate(position)

    def _take_lock(self) -> None:
        path = self.folder / LOCK
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(lock, 32).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            raise Stop(
                f"{self.folder}: another process (number {holder}) is working on this pool. Wait until it has ended, "
                "or give this run a pool of its own with --pool."
            ) from error
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        self._lock = lock

    def _drop_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
