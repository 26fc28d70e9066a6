"""The key behind the pseudonyms: made, kept, given by the environment, destroyed. Knows nothing of events.

It lies in ``pseudonym.key`` beside the log, or comes as 64 hex digits in ``EXTES_PSEUDONYM_KEY``, which is the way
where the disk does not survive a restart (a secret of the Space). Whoever holds it can tell whether a rater's word
belongs to a pseudonym; nobody else can, and once it is destroyed, nobody.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from pathlib import Path

from extes.errors import Problem

BYTES = 32
VARIABLE = "EXTES_PSEUDONYM_KEY"
NAME = "pseudonym.key"


class KeyProblem(Problem):
    """A key that is gone, cut or malformed. Nothing was changed."""


def fingerprint(key: bytes) -> str:
    """16 hex digits by which a key is named without being told."""
    return hashlib.sha256(b"extes key/" + key).hexdigest()[:16]


def given() -> bytes | None:
    """The key of the environment, if there is one."""
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return None
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != BYTES:
        raise KeyProblem(f"{VARIABLE} is not {BYTES * 2} hex digits; `extes ratings new-key` prints a fresh one")
    return key


def kept(folder: Path) -> bytes | None:
    """The key on this disk, if there is one."""
    path = folder / NAME
    if not path.exists():
        return None
    key = path.read_bytes()
    if len(key) != BYTES:
        raise KeyProblem(f"{path}: the key has {len(key)} bytes instead of {BYTES}; put it back from your copy")
    return key


def make(folder: Path) -> bytes:
    """A new key on this disk, or the one that a process beside this made first."""
    path = folder / NAME
    staging = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(secrets.token_bytes(BYTES))
        out.flush()
        os.fsync(out.fileno())
    with contextlib.suppress(FileExistsError):
        os.link(staging, path)
    staging.unlink()
    key = kept(folder)
    assert key is not None
    return key


def destroy(folder: Path) -> bool:
    """Overwrite and remove the key on this disk. False: there was none.

    Overwriting does not reach copies, snapshots or the spare blocks of a flash disk.
    """
    path = folder / NAME
    if not path.exists():
        return False
    with path.open("r+b") as out:
        out.write(secrets.token_bytes(BYTES))
        out.flush()
        os.fsync(out.fileno())
    path.unlink()
    return True
