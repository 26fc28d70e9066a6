"""Put files into a repository of the Hub, in one commit, so that a second call sends only what is missing.

Knows the Hub's client. Does not know what the files are or where they come from.

Why one commit: nobody ever finds half a model. Large files go up before the commit and are known to the Hub by their
SHA-256, so a call after a failure sends only those that did not arrive. Why look at the repository first: a repeated
call then does nothing at all, and a commit whose answer was lost is found to be there.
"""

from __future__ import annotations

import fnmatch
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from extes.errors import Problem
from extes.hub.errors import explain, is_of_the_hub, lost_connection, no_token, retry_after, status_of

Kind = Literal["model", "dataset"]
ATTEMPTS = 3
WAIT = 1.0
LONGEST_WAIT = 60
BLOCK = 1 << 20


@dataclass(frozen=True)
class Item:
    """A file to be: its path in the repository, and its content (a file here, or bytes)."""

    path: str
    content: Path | bytes

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    def same_as(self, there: RepoFile | None) -> bool:
        """Whether the repository's file has this content. Reads the content only where the sizes agree."""
        if there is None or there.size != self.size:
            return False
        if there.lfs:
            return self._digest(hashlib.sha256()) == there.lfs.sha256
        return self._digest(hashlib.sha1(b"blob %d\0" % self.size)) == there.blob_id

    def _digest(self, digest: Any) -> str:
        if isinstance(self.content, bytes):
            digest.update(self.content)
        else:
            with self.content.open("rb") as file:
                while block := file.read(BLOCK):
                    digest.update(block)
        return str(digest.hexdigest())


@dataclass(frozen=True)
class Sent:
    """What a push came to. ``files`` is empty where there was nothing to do."""

    url: str
    commit: str
    files: tuple[Item, ...]
    already_there: int


def check_name(repo: str) -> None:
    """Raise :class:`Problem` unless ``repo`` is OWNER/NAME as the Hub allows it."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise Problem(f"{repo!r} cannot be a repository: {error} Write it as OWNER/NAME") from error
    if repo.count("/") != 1:
        raise Problem(
            f"{repo!r} cannot be a repository: write it as OWNER/NAME, for example your-account/{repo or 'x'}"
        )


def send(
    repo: str,
    kind: Kind,
    items: Sequence[Item],
    message: str,
    private: bool = False,
    never_beside: Sequence[str] = (),
    base: str | None = None,
    tell: Callable[[str], None] = print,
) -> Sent:
    """Make ``repo`` if need be and commit to it the items that it lacks.

    ``private`` holds for a repository that this call makes; one that exists and is public is refused. Patterns in
    ``never_beside`` name files that must not be there, such as an adapter beside whole weights. ``base`` is a model
    repository that must exist, since what is pushed needs it. Raises :class:`Problem` for whatever goes wrong.
    """
    check_name(repo)
    if not get_token():
        raise no_token()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _send_once(repo, kind, items, message, private, never_beside, base, tell)
        except Problem:
            raise
        except Exception as error:
            if not (is_of_the_hub(error) or _refused_card(error)):
                raise
            if _refused_card(error):
                raise Problem(
                    f"README.md: {' '.join(str(error).split())} Mend it and give the command again"
                ) from error
            wait = retry_after(error) or WAIT * 2 ** (attempt - 1)
            if not _may_pass(error) or attempt == ATTEMPTS or wait > LONGEST_WAIT:
                raise explain(error, repo) from error
            tell(f"{_short(error)}; trying again in {wait:g} s")
            time.sleep(wait)
    raise AssertionError("not reached")


def _send_once(
    repo: str,
    kind: Kind,
    items: Sequence[Item],
    message: str,
    private: bool,
    never_beside: Sequence[str],
    base: str | None,
    tell: Callable[[str], None],
) -> Sent:
    api = HfApi(library_name="extes")
    if base is not None:
        try:
            api.repo_info(base)
        except RepositoryNotFoundError as error:
            raise Problem(
                f"the base {base} is not on the Hub, or this token may not see it, so nobody could load what is "
                "pushed. Check its spelling, or put it there first: hf upload OWNER/NAME FOLDER"
            ) from error
    try:
        info = api.repo_info(repo, repo_type=kind)
    except RepositoryNotFoundError:
        api.create_repo(repo, repo_type=kind, private=private)
        info = api.repo_info(repo, repo_type=kind)
        tell(f"made the {'private' if private else 'public'} {kind} repository {repo}")
    if private and not info.private:
        raise Problem(
            f"{repo} exists and is public, and --private was asked for. Make it private in its settings on the Hub, or "
            "name another repository"
        )
    tree = api.list_repo_tree(repo, recursive=True, repo_type=kind, revision=info.sha)
    there = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    ours = {item.path for item in items}
    clash = [p for p in there if p not in ours and any(fnmatch.fnmatch(p, pattern) for pattern in never_beside)]
    if clash:
        raise Problem(
            f"{repo} holds {', '.join(sorted(clash))}, which cannot stand beside what is pushed: who loads the "
            "repository would get a mixture. Name another repository, or delete these files there"
        )
    prefix = "" if kind == "model" else f"{kind}s/"
    url = f"{constants.ENDPOINT}/{prefix}{repo}"
    missing = tuple(item for item in items if not item.same_as(there.get(item.path)))
    if not missing:
        return Sent(url, str(info.sha), (), len(items))
    tell(f"sending {len(missing)} of {len(items)} files, {size(sum(item.size for item in missing))} at most, to {url}")
    operations = [
        CommitOperationAdd(item.path, item.content if isinstance(item.content, bytes) else str(item.content))
        for item in missing
    ]
    done = api.create_commit(repo, operations, commit_message=message, repo_type=kind, parent_commit=info.sha)
    return Sent(url, done.oid, missing, len(items) - len(missing))


def _may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed in a moment."""
    status = status_of(error)
    return lost_connection(error) or status in (409, 412, 429) or (status is not None and status >= 500)


def _refused_card(error: BaseException) -> bool:
    return isinstance(error, ValueError) and "metadata in README.md" in str(error)


def _short(error: BaseException) -> str:
    status = status_of(error)
    return f"the Hub answered {status}" if status else "the connection broke"


def size(count: int) -> str:
    """``count`` bytes as a person reads them."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
