"""The dataset on the Hub: begin it, add to it, read it. The only module that talks to the Hub about ratings.

Knows files and commits; does not know what is in them, when to try again, or what was sent before. Everything that can
go wrong on the way is an :class:`Unreachable` that says what it means and how long to wait.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from extes.errors import Problem

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TIMEOUT_SECONDS = 60  # the library's own is none: a connection that hangs would hang for ever
WORKERS = 8


class Unreachable(Problem):
    """The Hub did not do what was asked. ``retry_after``: seconds it asked to wait. ``status``: of HTTP, if any."""

    def __init__(self, text: str, http: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.http, self.retry_after = http, retry_after


class Unfit(Problem):
    """The dataset is not one for these ratings."""


_MEANS = {
    401: "the token was refused (401): it is wrong, or was revoked; HF_TOKEN needs write access to {repo}",
    403: "the token may not do this (403): HF_TOKEN needs write access to {repo}",
    404: "{repo} is not there, or HF_TOKEN may not see it (404)",
    429: "the Hub asks to wait (429)",
}


@dataclass(frozen=True)
class Dataset:
    """A dataset repository, ``owner/name``; ``public`` says whether redacted rows or the whole log go there."""

    repo: str
    public: bool
    token: str

    def __post_init__(self) -> None:
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.repo):
            raise Problem(f'{self.repo!r} is no dataset: name it as "owner/name"')
        try:
            validate_repo_id(self.repo)
        except HFValidationError as error:
            raise Problem(f'{self.repo!r} is no dataset: name it as "owner/name". {error}') from error

    @cached_property
    def _api(self) -> HfApi:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

        disable_progress_bars()  # they would be written into the portal's log
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # of its retries and skips: what stands, we tell
        return HfApi(token=self.token, library_name="extes")

    def create(self) -> bool:
        """Make sure that the repository is there; true if it was made just now.

        Raises :class:`Unfit` where what would be sent does not belong there.
        """
        if self._is_there():
            return False
        try:
            with self._told("created"):
                self._api.create_repo(self.repo, repo_type="dataset", private=not self.public)
        except Unreachable as error:
            if error.http != 409:
                raise
            if self._is_there():  # another portal made it in this moment
                return False
            raise Unreachable(f"{self.repo} is there, but HF_TOKEN may not see it", 409) from error
        return True

    def _is_there(self) -> bool:
        """Whether the token sees the repository. Raises :class:`Unfit` where it is one of the other kind."""
        from huggingface_hub.errors import RepositoryNotFoundError

        with self._told("looked up"):
            try:
                info = self._api.dataset_info(self.repo, expand=["private"])
            except RepositoryNotFoundError:
                return False
        self._fits(info.private)
        complete = self.has("events/first.parquet")
        if self.public and complete:
            raise Unfit(f"{self.repo} holds complete ratings; redacted ones need a dataset of their own")
        if not self.public and not complete and self.has("ratings/first.parquet"):
            raise Unfit(
                f"{self.repo} holds redacted ratings, though it is private; complete ones need a dataset of their own"
            )
        return True

    def check_private(self) -> None:
        """Raise :class:`Unfit` where complete ratings would go to a dataset that was made public meanwhile."""
        if not self.public:
            with self._told("looked up"):
                info = self._api.dataset_info(self.repo, expand=["private"])
            self._fits(info.private)

    def check_kind(self) -> None:
        """Raise :class:`Unfit` where a command was told that complete ratings are redacted ones, or the reverse."""
        complete = self.has("events/first.parquet")
        if self.public and complete:
            raise Unfit(f"{self.repo} holds complete ratings: leave out --public")
        if not self.public and not complete and self.has("ratings/first.parquet"):
            raise Unfit(f"{self.repo} holds redacted ratings: add --public")

    def _fits(self, private: bool | None) -> None:
        if not self.public and not private:
            raise Unfit(
                f"{self.repo} is public, and complete ratings with every word of the raters go to private datasets "
                'only: make it private, or send redacted ones (visibility = "public")'
            )

    def has(self, path: str) -> bool:
        with self._told("read"):
            return self._api.file_exists(self.repo, path, repo_type="dataset")

    def commit(self, files: Mapping[str, bytes], message: str) -> None:
        """Add files in one commit, all or none. A file that is there already with this content is left as it is."""
        from huggingface_hub import CommitOperationAdd

        with self._told("written"):
            operations = [CommitOperationAdd(path, content) for path, content in files.items()]
            self._api.create_commit(self.repo, operations, commit_message=message, repo_type="dataset")

    def shards(self) -> dict[str, bytes]:
        """Every Parquet file by path, of one state of the repository; nothing where there is no repository."""
        return {path: content for path, content in self._all(".parquet")}

    def events(self) -> Iterator[tuple[str, bytes]]:
        """The shards of the log by path."""
        yield from self._all(".parquet", "events/")

    def listing(self) -> tuple[str, list[str]]:
        """The commit at the head, and the paths of all files there."""
        with self._told("listed"):
            sha = self._api.dataset_info(self.repo, expand=["sha"]).sha
            assert sha is not None
            tree = self._api.list_repo_tree(self.repo, recursive=True, revision=sha, repo_type="dataset")
            return sha, [item.path for item in tree if hasattr(item, "size")]

    def _all(self, suffix: str, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        sha, paths = self.listing()
        wanted = sorted(p for p in paths if p.endswith(suffix) and p.startswith(prefix))
        with ThreadPoolExecutor(WORKERS) as pool:
            yield from zip(wanted, pool.map(lambda path: self.read(path, sha), wanted), strict=True)

    def read(self, path: str, sha: str) -> bytes:
        """One file as it was at a commit."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff  # type: ignore[attr-defined]

        with self._told(f"read ({path})"):
            url = hf_hub_url(self.repo, path, repo_type="dataset", revision=sha)
            response = http_backoff("GET", url, headers=build_hf_headers(token=self.token), follow_redirects=True)
            hf_raise_for_status(response)
            content: bytes = response.content
            return content

    @contextmanager
    def _told(self, done: str) -> Iterator[None]:
        """Turn what the libraries raise into :class:`Unreachable`."""
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
        from huggingface_hub.utils import get_session, httpx  # type: ignore[attr-defined]

        get_session().timeout = httpx.Timeout(TIMEOUT_SECONDS)
        try:
            yield
        except Unreachable:
            raise
        except (httpx.HTTPError, OSError, RuntimeError, ValueError) as error:
            cause: BaseException = error
            while isinstance(cause, RuntimeError) and cause.__cause__:  # as uploads in threads are told
                cause = cause.__cause__
            if isinstance(cause, HfHubHTTPError):
                code = cause.response.status_code
                means = _MEANS.get(code, "the Hub answered {code}").format(repo=self.repo, code=code)
                wait = cause.response.headers.get("Retry-After", "")
                after = float(wait) if wait.isdigit() else None
                raise Unreachable(f"{self.repo} could not be {done}: {means}", code, after) from error
            if isinstance(cause, OfflineModeIsEnabled):
                raise Unreachable(f"{self.repo} could not be {done}: HF_HUB_OFFLINE is set; unset it") from error
            means = f"no connection to the Hub ({cause or type(cause).__name__})"
            if not isinstance(cause, httpx.HTTPError | OSError):
                means = f"its answer was not understood ({cause})"
            raise Unreachable(f"{self.repo} could not be {done}: {means}") from error
