"""Which repository a call means, at which revision, and whether its user may see or change it."""

from __future__ import annotations

from tests.hub.answers import Call, Refused, User
from tests.hub.state import Repo, State

PREFIXES = {"": "model", "datasets/": "dataset", "spaces/": "space"}


class Access:
    """What the steps of the protocol share."""

    state: State

    def find(self, call: Call, write: bool = False) -> Repo:
        """The repository of the call, if its user may see it (and change it, where ``write``)."""
        if "kinds" in call.at:
            kind, repo_id = call.at["kinds"][:-1], call.at["id"]
        else:
            prefix = next(p for p in ("datasets/", "spaces/", "") if call.at["id"].startswith(p))
            kind, repo_id = PREFIXES[prefix], call.at["id"].removeprefix(prefix)
        repo: Repo | None = self.state.repos.get((kind, repo_id))
        if repo is None or (repo.private and not self.may_write(call.user, repo_id.split("/")[0], reading=True)):
            if call.user is None:
                raise Refused(401, "Invalid username or password.", "RepoNotFound")
            raise Refused(404, "Repository not found", "RepoNotFound")
        if write and call.user is None:
            raise Refused(401, "Invalid username or password.")
        if write and not self.may_write(call.user, repo_id.split("/")[0]):
            raise Refused(403, f"You don't have write permission on {repo_id}; check the role of your token")
        return repo

    @staticmethod
    def may_write(user: User | None, namespace: str, reading: bool = False) -> bool:
        return user is not None and namespace in (user.name, *user.orgs) and (reading or user.role == "write")

    def at_revision(self, call: Call, repo: Repo) -> str:
        oid = repo.resolve(call.at.get("revision") or "main")
        if oid is None:
            raise Refused(404, f"Invalid rev id: {call.at['revision']}", "RevisionNotFound")
        return oid
