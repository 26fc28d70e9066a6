"""The Hub's HTTP protocol: which request is which step, and what the answer is. Knows nothing of sockets or faults.

Written against what huggingface_hub 2.4 sends and reads. Storage is LFS (basic and multipart); there is no Xet here,
so a client must have HF_HUB_DISABLE_XET=1 when it uploads.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urlencode

import yaml

from tests.hub.state import Commit, File, Repo, State, folders, git_oid, pointer

LFS_SUFFIXES = (".safetensors", ".parquet", ".arrow", ".bin", ".pt", ".npz", ".gz", ".zip", ".png", ".jpg")
REGULAR_LIMIT = 10 * 1024 * 1024
PREFIXES = {"": "model", "datasets/": "dataset", "spaces/": "space"}


@dataclass(frozen=True)
class User:
    """Whose token it is. ``role`` is write or read; ``orgs`` are further namespaces the user may write to."""

    name: str
    role: str = "write"
    orgs: tuple[str, ...] = ()


@dataclass
class Call:
    """One request, read. ``at`` holds the parts of the path, unquoted."""

    method: str
    path: str
    query: dict[str, list[str]]
    body: bytes
    headers: Any
    user: User | None
    base: str
    at: dict[str, str] = field(default_factory=dict)

    def json(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise Refused(400, f"the body is not JSON: {error}") from error

    def flag(self, name: str) -> bool:
        return self.query.get(name, [""])[0].lower() in ("1", "true")


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class Refused(Exception):
    """An error of the protocol, with the headers the client reads."""

    def __init__(self, status: int, message: str, code: str | None = None, **more: Any) -> None:
        super().__init__(message)
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.answer = said({"error": message, **more}, status, headers)


def said(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    return Answer(
        status, json.dumps(value).encode(), {"Content-Type": "application/json; charset=utf-8", **(headers or {})}
    )


class Protocol:
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

    # who asks, for what

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

    def info(self, call: Call) -> Answer:
        repo = self.find(call)
        oid = self.at_revision(call, repo)
        files = repo.tree(oid)
        _, card = card_of(self.state.get(files["README.md"].sha256)) if "README.md" in files else (None, {})
        siblings = [
            {"rfilename": path} | (blob(file) if call.flag("blobs") else {}) for path, file in sorted(files.items())
        ]
        return said({
            "_id": hashlib.sha1(repo.id.encode()).hexdigest()[:24], "id": repo.id, "author": repo.id.split("/")[0],
            "sha": oid, "lastModified": repo.commits[oid].date, "createdAt": repo.history()[-1].date,
            "private": repo.private, "gated": False, "disabled": False, "downloads": 0, "likes": 0,
            "tags": (card or {}).get("tags") or [], "cardData": card or {}, "siblings": siblings,
            **({"modelId": repo.id} if repo.kind == "model" else {}),
        })  # fmt: skip

    def refs(self, call: Call) -> Answer:
        found: dict[str, list] = {"branches": [], "tags": [], "converts": [], "pullRequests": []}
        kinds = {"refs/heads/": "branches", "refs/tags/": "tags", "refs/pr/": "pullRequests"}
        for ref, oid in self.find(call).refs.items():
            prefix = next(p for p in kinds if ref.startswith(p))
            name = ref if prefix == "refs/pr/" else ref.removeprefix(prefix)
            found[kinds[prefix]].append({"name": name, "ref": ref, "targetCommit": oid})
        return said(found)

    def history(self, call: Call) -> Answer:
        repo = self.find(call)
        commits = repo.history(self.at_revision(call, repo))
        return self.paged(call, [
            {"id": c.oid, "title": c.title, "message": c.message, "date": c.date, "authors": [{"user": c.author}]}
            for c in commits
        ])  # fmt: skip

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

    def paged(self, call: Call, rows: list[dict]) -> Answer:
        start, size = int(call.query.get("cursor", ["0"])[0]), int(call.query.get("limit", [str(self.page)])[0])
        headers = {}
        if start + size < len(rows):
            query = urlencode(call.query | {"cursor": [str(start + size)]}, doseq=True)
            headers["Link"] = f'<{call.base}{call.path}?{query}>; rel="next"'
        return said(rows[start : start + size], headers=headers)

    def tree(self, call: Call) -> Answer:
        repo = self.find(call)
        oid, under = self.at_revision(call, repo), call.at["path"].strip("/")
        files, deep = repo.tree(oid), call.flag("recursive")
        prefix = f"{under}/" if under else ""
        paths = [path for path in (*files, *folders(files)) if path.startswith(prefix)]
        if under and not paths:
            raise Refused(404, f'{under} does not exist on "{call.at["revision"]}"', "EntryNotFound")
        shown = sorted(path for path in paths if deep or "/" not in path[len(prefix) :])
        return self.paged(call, [entry(path, files, repo.commits[oid], call.flag("expand")) for path in shown])

    def paths(self, call: Call) -> Answer:
        from urllib.parse import parse_qs

        repo = self.find(call)
        oid = self.at_revision(call, repo)
        files = repo.tree(oid)
        form = call.json() if "json" in call.headers.get("Content-Type", "") else parse_qs(call.body.decode())
        known, expand = {*files, *folders(files)}, str(form.get("expand", "")).lower() in ("true", "['true']")
        wanted = [path.strip("/") for path in form["paths"]]
        return said([entry(path, files, repo.commits[oid], expand) for path in wanted if path in known])

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

    def lfs_batch(self, call: Call) -> Answer:
        repo, objects = self.find(call, write=True), []
        for asked in call.json()["objects"]:
            oid, size, actions = asked["oid"], asked["size"], {}
            if oid not in repo.lfs:
                ticket = secrets.token_urlsafe(16)
                self.tickets[ticket] = (repo, oid, size)
                upload: dict[str, Any] = {"href": f"{call.base}/lfs/{ticket}"}
                if self.part_size and size > self.part_size:
                    count = -(-size // self.part_size)
                    parts = {str(n): f"{call.base}/lfs/{ticket}/{n}" for n in range(1, count + 1)}
                    upload = {"href": f"{call.base}/lfs/{ticket}/complete", "header": parts}
                    upload["header"]["chunk_size"] = str(self.part_size)
                actions = {
                    "upload": upload,
                    "verify": {"href": f"{call.base}{call.path[: -len('objects/batch')]}verify"},
                }
            objects.append({"oid": oid, "size": size} | ({"actions": actions} if actions else {}))
        transfer = "multipart" if self.part_size else "basic"
        return said({"transfer": transfer, "objects": objects})

    def ticket(self, call: Call) -> tuple[Repo, str, int]:
        if call.at["ticket"] not in self.tickets:
            raise Refused(403, "Request has expired")
        return self.tickets[call.at["ticket"]]

    def lfs_upload(self, call: Call) -> Answer:
        repo, oid, _ = self.ticket(call)
        return self.keep(repo, oid, call.body)

    def lfs_part(self, call: Call) -> Answer:
        self.ticket(call)
        self.parts[call.at["ticket"], int(call.at["part"])] = call.body
        return Answer(headers={"ETag": f'"{hashlib.md5(call.body).hexdigest()}"'})

    def lfs_complete(self, call: Call) -> Answer:
        repo, oid, _ = self.ticket(call)
        ticket = call.at["ticket"]
        names = sorted(key for key in self.parts if key[0] == ticket)
        if len(names) != len(call.json()["parts"]):
            raise Refused(400, "One or more of the specified parts could not be found")
        return self.keep(repo, oid, b"".join(self.parts.pop(name) for name in names))

    def keep(self, repo: Repo, oid: str, content: bytes) -> Answer:
        if hashlib.sha256(content).hexdigest() != oid:
            raise Refused(400, "the content does not have the announced sha256")
        self.state.put(content)
        self.state.hold(repo, oid)
        return Answer()

    def lfs_verify(self, call: Call) -> Answer:
        if call.json()["oid"] not in self.find(call, write=True).lfs:
            raise Refused(404, "the object is not in storage")
        return said({})

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

    def file(self, call: Call) -> Answer:
        repo = self.find(call)
        oid = self.at_revision(call, repo)
        file = repo.tree(oid).get(call.at["path"])
        if file is None:
            raise Refused(404, "Entry not found", "EntryNotFound")
        content, etag = self.state.get(file.sha256), file.sha256 if file.lfs else file.oid
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": oid, "Accept-Ranges": "bytes"}
        headers["Content-Type"] = "application/octet-stream"
        headers["Content-Disposition"] = f"inline; filename*=UTF-8''{quote(call.at['path'].split('/')[-1])}"
        if file.lfs:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(file.size)}
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", call.headers.get("Range", ""))
        if match and content:
            first, last = match.groups()
            start = int(first) if first else max(0, file.size - int(last))
            end = min(int(last), file.size - 1) if first and last else file.size - 1
            if start > end:
                raise Refused(416, "Range Not Satisfiable")
            return Answer(
                206, content[start : end + 1], headers | {"Content-Range": f"bytes {start}-{end}/{file.size}"}
            )
        return Answer(200, content, headers)


def blob(file: File) -> dict[str, Any]:
    large = {"oid": file.sha256, "sha256": file.sha256, "size": file.size, "pointerSize": 134}
    return {"size": file.size, "blobId": file.oid} | ({"lfs": large} if file.lfs else {})


def entry(path: str, files: dict[str, File], commit: Commit, expand: bool) -> dict[str, Any]:
    file = files.get(path)
    found: dict[str, Any] = {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}
    if file is not None:
        found = {"type": "file", "oid": file.oid, "size": file.size}
        if file.lfs:
            found["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": len(pointer(file.sha256, file.size))}
    if expand:
        found["lastCommit"] = {"id": commit.oid, "title": commit.title, "date": commit.date}
    return found | {"path": path}


def card_of(content: bytes) -> tuple[str | None, Any]:
    """The YAML between the --- lines of a card: as text (None: there is none) and read (None: not readable)."""
    match = re.match(r"\A---\r?\n(.*?)\r?\n---", content.decode(errors="replace"), re.DOTALL)
    if not match:
        return None, {}
    try:
        return match[1], yaml.safe_load(match[1])
    except yaml.YAMLError:
        return match[1], None
