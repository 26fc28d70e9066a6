"""The Hub's HTTP protocol: which request is which step, and what the answer is. Knows nothing of sockets or faults.

Written against what huggingface_hub 2.4 sends and reads. Storage is LFS (basic and multipart); there is no Xet here,
so a client must have HF_HUB_DISABLE_XET=1 when it uploads.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from urllib.parse import unquote

from tests.hub.access import PREFIXES
from tests.hub.answers import Answer, Call, Refused, said
from tests.hub.reading import Reading, card_of
from tests.hub.state import File, Repo, State, git_oid, pointer
from tests.hub.storage import Storage

LFS_SUFFIXES = (".safetensors", ".parquet", ".arrow", ".bin", ".pt", ".npz", ".gz", ".zip", ".png", ".jpg")
REGULAR_LIMIT = 10 * 1024 * 1024


class Protocol(Reading, Storage):
    """Answers requests from a ``State``. ``part_size``: LFS files above it go up in parts of it (None: never)."""

    def __init__(self, state: State, page: int = 1000, part_size: int | None = None) -> None:
        self.state, self.page, self.part_size = state, page, part_size
        self.tickets: dict[str, tuple[Repo, str, int]] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        api, git = r"/api/(?P<kinds>models|datasets|spaces)/(?P<id>[^/]+/[^/]+)", r"/(?P<id>(?:[^/]+/){1,2}[^/]+?)\.git"
        routes: list[tuple[str, str, str, Callable[[Call], Answer]]] = [
            ("GET", "/api/whoami-v2", "whoami", self.whoami),
            ("POST", "/api/repos/create", "create", self.create),
            ("DELETE", "/api/repos/delete", "delete", self.delete),
            ("POST", "/api/validate-yaml", "yaml", self.validate_yaml),
            ("GET", api + r"(?:/revision/(?P<revision>[^/]+))?", "info", self.info),
            ("GET", api + "/auth-check(?:/.*)?", "access", self.access),
            ("PUT", api + "/settings", "settings", self.settings),
            ("GET", api + "/refs", "refs", self.refs),
            ("GET", api + "/commits/(?P<revision>[^/]+)", "history", self.history),
            ("POST", api + "/branch/(?P<name>[^/]+)", "branch", self.branch),
            ("POST", api + "/tag/(?P<revision>[^/]+)", "tag", self.tag),
            ("GET", api + "/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?", "tree", self.tree),
            ("POST", api + "/paths-info/(?P<revision>[^/]+)", "paths", self.paths),
            ("POST", api + "/preupload/(?P<revision>[^/]+)", "preupload", self.preupload),
            ("POST", api + "/commit/(?P<revision>[^/]+)", "commit", self.commit),
            ("POST", git + "/info/lfs/objects/batch", "lfs_batch", self.lfs_batch),
            ("POST", git + "/info/lfs/verify", "lfs_verify", self.lfs_verify),
            ("PUT", "/lfs/(?P<ticket>[^/]+)", "lfs_upload", self.lfs_upload),
            ("PUT", r"/lfs/(?P<ticket>[^/]+)/(?P<part>\d+)", "lfs_part", self.lfs_part),
            ("POST", "/lfs/(?P<ticket>[^/]+)/complete", "lfs_complete", self.lfs_complete),
            ("GET", r"/(?P<id>(?:[^/]+/){1,2}[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve", self.file),
        ]
        self.routes = [(method, re.compile(pattern), step, answer) for method, pattern, step, answer in routes]

    def route(self, method: str, path: str) -> tuple[str | None, Callable[[Call], Answer], dict[str, str]]:
        for verb, pattern, step, answer in self.routes:
            if verb == ("GET" if method == "HEAD" else method) and (match := pattern.fullmatch(path)):
                return step, answer, {key: unquote(value or "") for key, value in match.groupdict().items()}
        return None, self.nothing, {}

    def nothing(self, call: Call) -> Answer:
        raise Refused(404, f"Sorry, we can't find the page you are looking for: {call.method} {call.path}")

    # steps

    def whoami(self, call: Call) -> Answer:
        if call.user is None:
            raise Refused(401, "Invalid username or password.")
        orgs = [{"type": "org", "name": name, "roleInOrg": "write"} for name in call.user.orgs]
        token = {"displayName": "local", "role": call.user.role}
        who = {"type": "user", "id": call.user.name, "name": call.user.name, "fullname": call.user.name, "orgs": orgs}
        return said(who | {"auth": {"type": "access_token", "accessToken": token}})

    def create(self, call: Call) -> Answer:
        asked = call.json()
        if call.user is None:
            raise Refused(401, "Invalid username or password.")
        kind, owner = asked.get("type") or "model", asked.get("organization") or call.user.name
        repo_id = f"{owner}/{asked['name']}"
        if not self.may_write(call.user, owner):
            raise Refused(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
        url = f"{call.base}/{next(p for p, k in PREFIXES.items() if k == kind)}{repo_id}"
        with self.state.lock:
            if (kind, repo_id) in self.state.repos:
                raise Refused(409, f"You already created this {kind} repo", url=url)
            self.state.create(kind, repo_id, asked.get("visibility") == "private", call.user.name)
        return said({"url": url, "name": repo_id, "id": repo_id})

    def delete(self, call: Call) -> Answer:
        asked = call.json()
        owner = asked.get("organization") or (call.user.name if call.user else "")
        call.at |= {"kinds": (asked.get("type") or "model") + "s", "id": f"{owner}/{asked['name']}"}
        self.state.delete(self.find(call, write=True))
        return said({})

    def settings(self, call: Call) -> Answer:
        repo, asked = self.find(call, write=True), call.json()
        self.state.set_private(repo, asked.get("visibility") == "private" or bool(asked.get("private")))
        return said({"private": repo.private})

    def access(self, call: Call) -> Answer:
        self.find(call)
        return said({})

    def validate_yaml(self, call: Call) -> Answer:
        head, card = card_of(call.json()["content"].encode())
        if head is not None and not isinstance(card, dict):
            message = f"the metadata between the --- lines is not valid YAML: {head!r}"
            return said({"errors": [{"message": message}], "warnings": []}, 400)
        empty = [] if card else [{"message": "empty or missing yaml metadata in repo card"}]
        return said({"errors": [], "warnings": empty})

    def branch(self, call: Call) -> Answer:
        repo, asked = self.find(call, write=True), call.json() if call.body else {}
        if f"refs/heads/{call.at['name']}" in repo.refs:
            raise Refused(409, "Reference already exists")
        call.at["revision"] = asked.get("startingPoint") or "main"
        self.state.set_ref(repo, f"refs/heads/{call.at['name']}", self.at_revision(call, repo))
        return said({})

    def tag(self, call: Call) -> Answer:
        repo, name = self.find(call, write=True), call.json()["tag"]
        if f"refs/tags/{name}" in repo.refs:
            raise Refused(409, "Tag already exists")
        self.state.set_ref(repo, f"refs/tags/{name}", self.at_revision(call, repo))
        return said({})

    def preupload(self, call: Call) -> Answer:
        repo = self.find(call, write=not call.flag("create_pr"))
        files, found = repo.tree(self.at_revision(call, repo)), []
        for asked in call.json()["files"]:
            large = asked["path"].endswith(LFS_SUFFIXES) or asked["size"] > REGULAR_LIMIT
            large = large or b"\0" in base64.b64decode(asked.get("sample", ""))
            there = files.get(asked["path"])
            oid = None if there is None else there.sha256 if there.lfs else there.oid
            mode = "lfs" if large else "regular"
            found.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return said({"files": found})

    def commit(self, call: Call) -> Answer:
        pull = call.flag("create_pr")
        repo = self.find(call, write=not pull)
        lines = [json.loads(line) for line in call.body.splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        with self.state.lock:
            head = self.at_revision(call, repo)
            parent = header.get("parentCommit")
            if parent and not pull and not head.startswith(parent):
                raise Refused(412, "A commit has happened since. Please refresh and try again.")
            changes = self.changes(repo, repo.tree(head), [line for line in lines if line["key"] != "header"])
            name = call.at["revision"]
            ref = name if name in repo.refs else f"refs/heads/{name}"
            if pull:
                ref = f"refs/pr/{1 + sum(r.startswith('refs/pr/') for r in repo.refs)}"
            elif ref not in repo.refs:
                raise Refused(404, f"{name} is no branch", "RevisionNotFound")
            author = call.user.name if call.user else "nobody"
            done = self.state.commit(repo, ref, head, header["summary"], header.get("description", ""), author, changes)
        url = f"{call.base}/{next(p for p, k in PREFIXES.items() if k == repo.kind)}{repo.id}"
        answer = {"success": True, "commitOid": done.oid, "commitUrl": f"{url}/commit/{done.oid}", "hookOutput": ""}
        return said(answer | ({"pullRequestUrl": f"{url}/discussions/{ref.split('/')[-1]}"} if pull else {}))

    def changes(self, repo: Repo, files: dict[str, File], lines: list[dict]) -> dict[str, File | None]:
        changed: dict[str, File | None] = {}
        for line in lines:
            value = line["value"]
            path = value["path"].strip("/")
            match line["key"]:
                case "file":
                    content = base64.b64decode(value["content"])
                    changed[path] = File(self.state.put(content), len(content), git_oid(content), False)
                case "lfsFile":
                    if value["oid"] not in repo.lfs:
                        message = "Your push was rejected because an LFS pointer pointed to a file that does not exist"
                        raise Refused(400, f"{message}: {path}")
                    size = len(self.state.get(value["oid"]))
                    changed[path] = File(value["oid"], size, git_oid(pointer(value["oid"], size)), True)
                case "deletedFile":
                    if path not in files:
                        raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
                    changed[path] = None
                case "deletedFolder":
                    gone = [other for other in files if other.startswith(f"{path}/")]
                    if not gone:
                        raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
                    changed |= dict.fromkeys(gone)
        return changed
