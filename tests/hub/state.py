"""What the local Hub holds: blobs, repositories, commits with their parents. Knows nothing of HTTP, tokens or faults.

In memory, or in a folder: ``journal.jsonl`` (everything that changed, in order) and ``blobs/`` (content by SHA-256).
A commit keeps what it changed, not the whole tree, so that a repository of many thousand commits stays small.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

GITATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.parquet filter=lfs diff=lfs merge=lfs -text\n"


@dataclass(frozen=True)
class File:
    """A file in a tree. ``oid`` is git's name of the blob (of the pointer, for an LFS file)."""

    sha256: str
    size: int
    oid: str
    lfs: bool


@dataclass(frozen=True)
class Commit:
    """``changes`` maps a path to its new file, or to None where it was deleted."""

    oid: str
    parent: str | None
    title: str
    message: str
    author: str
    at: float
    changes: dict[str, File | None]

    @property
    def date(self) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(self.at)) + f".{int(self.at % 1 * 1000):03d}Z"


@dataclass
class Repo:
    """One repository: ``kind`` is model, dataset or space; ``refs`` maps refs/heads/main and the like to a commit."""

    kind: str
    id: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    lfs: set[str] = field(default_factory=set)
    _trees: dict[str, dict[str, File]] = field(default_factory=dict)

    def resolve(self, revision: str) -> str | None:
        """The commit a branch, tag, ref or (shortened) commit id stands for."""
        for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if name in self.refs:
                return self.refs[name]
        if revision in self.commits:
            return revision
        short = [oid for oid in self.commits if len(revision) >= 7 and oid.startswith(revision)]
        return short[0] if len(short) == 1 else None

    def tree(self, oid: str) -> dict[str, File]:
        """Every file at a commit. Not to be changed by the caller."""
        pending: list[Commit] = []
        at: str | None = oid
        while at is not None and at not in self._trees:
            pending.append(self.commits[at])
            at = self.commits[at].parent
        files = dict(self._trees[at]) if at is not None else {}
        for commit in reversed(pending):
            for path, file in commit.changes.items():
                if file is None:
                    files.pop(path, None)
                else:
                    files[path] = file
        if pending:
            while len(self._trees) >= 4:
                del self._trees[next(iter(self._trees))]
            self._trees[oid] = files
        return files

    def history(self, revision: str = "main") -> list[Commit]:
        """Commits, newest first."""
        found, at = [], self.resolve(revision)
        while at is not None:
            found.append(self.commits[at])
            at = self.commits[at].parent
        return found


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


class State:
    """All repositories and blobs. Every method may be called from many threads."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder, self.repos = folder, {}  # type: ignore[var-annotated]
        self.lock = threading.RLock()
        self._memory: dict[str, bytes] = {}
        if folder:
            (folder / "blobs").mkdir(parents=True, exist_ok=True)
            journal = folder / "journal.jsonl"
            for line in journal.read_text().splitlines() if journal.exists() else ():
                self._apply(json.loads(line))

    # blobs

    def put(self, content: bytes) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        if self.folder:
            path = self.folder / "blobs" / sha256
            if not path.exists():
                part = path.with_name(f"{sha256}.{uuid.uuid4().hex}")
                part.write_bytes(content)
                os.replace(part, path)
        else:
            self._memory[sha256] = content
        return sha256

    def get(self, sha256: str) -> bytes:
        return (self.folder / "blobs" / sha256).read_bytes() if self.folder else self._memory[sha256]

    # changes: each is a record, written down first and applied after

    def create(self, kind: str, repo_id: str, private: bool, author: str) -> Repo:
        with self.lock:
            self._record({"do": "create", "kind": kind, "id": repo_id, "private": private})
            repo: Repo = self.repos[kind, repo_id]
            first = File(self.put(GITATTRIBUTES), len(GITATTRIBUTES), git_oid(GITATTRIBUTES), False)
            self.commit(repo, "refs/heads/main", None, "initial commit", "", author, {".gitattributes": first})
            return repo

    def delete(self, repo: Repo) -> None:
        self._record({"do": "delete", "kind": repo.kind, "id": repo.id})

    def set_private(self, repo: Repo, private: bool) -> None:
        self._record({"do": "private", "kind": repo.kind, "id": repo.id, "private": private})

    def set_ref(self, repo: Repo, ref: str, oid: str | None) -> None:
        self._record({"do": "ref", "kind": repo.kind, "id": repo.id, "ref": ref, "oid": oid})

    def hold(self, repo: Repo, sha256: str) -> None:
        """The repository's large-file storage has this content from now on."""
        self._record({"do": "lfs", "kind": repo.kind, "id": repo.id, "sha256": sha256})

    def commit(
        self, repo: Repo, ref: str, parent: str | None, title: str, message: str, author: str,
        changes: dict[str, File | None],
    ) -> Commit:  # fmt: skip
        oid = hashlib.sha1(f"{repo.id}{parent}{title}{uuid.uuid4()}".encode()).hexdigest()
        files = {path: file and [file.sha256, file.size, file.oid, file.lfs] for path, file in changes.items()}
        record = {
            "do": "commit", "kind": repo.kind, "id": repo.id, "ref": ref, "oid": oid, "parent": parent,
            "title": title, "message": message, "author": author, "at": time.time(), "changes": files,
        }  # fmt: skip
        self._record(record)
        return repo.commits[oid]

    def _record(self, record: dict) -> None:
        with self.lock:
            if self.folder:
                with (self.folder / "journal.jsonl").open("a") as journal:
                    journal.write(json.dumps(record) + "\n")
            self._apply(record)

    def _apply(self, record: dict) -> None:
        key = (record["kind"], record["id"])
        match record["do"]:
            case "create":
                self.repos[key] = Repo(*key, record["private"])
            case "delete":
                del self.repos[key]
            case "private":
                self.repos[key].private = record["private"]
            case "ref" if record["oid"] is None:
                self.repos[key].refs.pop(record["ref"])
            case "ref":
                self.repos[key].refs[record["ref"]] = record["oid"]
            case "lfs":
                self.repos[key].lfs.add(record["sha256"])
            case "commit":
                changes = {path: File(*file) if file else None for path, file in record["changes"].items()}
                fields = ("oid", "parent", "title", "message", "author", "at")
                commit = Commit(*(record[name] for name in fields), changes)
                self.repos[key].commits[commit.oid] = commit
                self.repos[key].refs[record["ref"]] = commit.oid


def folders(paths: Iterable[str]) -> set[str]:
    """Every folder that these files lie in."""
    return {path[:i] for path in paths for i, letter in enumerate(path) if letter == "/"}
