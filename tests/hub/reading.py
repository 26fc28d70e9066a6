"""The steps of the protocol that only read: information, listings, history, files."""

from __future__ import annotations

import hashlib
import re
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

import yaml

from tests.hub.access import Access
from tests.hub.answers import Answer, Call, Refused, said
from tests.hub.state import Commit, File, folders, pointer


class Reading(Access):
    page: int

    def info(self, call: Call) -> Answer:
        """All there is to know, or with ``expand`` only the fields asked for, as the real one does."""
        repo = self.find(call)
        oid = self.at_revision(call, repo)
        first = next(iter(repo.commits.values()))
        found: dict[str, Any] = {
            "_id": hashlib.sha1(repo.id.encode()).hexdigest()[:24], "id": repo.id, "author": repo.id.split("/")[0],
            "sha": oid, "lastModified": repo.commits[oid].date, "createdAt": first.date, "private": repo.private,
            "gated": False, "disabled": False, "downloads": 0, "likes": 0,
            **({"modelId": repo.id} if repo.kind == "model" else {}),
        }  # fmt: skip
        asked = set(call.query.get("expand", ()))
        if not asked or asked & {"siblings", "cardData", "tags"}:
            files = repo.tree(oid)
            _, card = card_of(self.state.get(files["README.md"].sha256)) if "README.md" in files else (None, {})
            found |= {"tags": (card or {}).get("tags") or [], "cardData": card or {}}
            blobs = call.flag("blobs")
            found["siblings"] = [
                {"rfilename": path} | (blob(file) if blobs else {}) for path, file in sorted(files.items())
            ]
        return said({key: value for key, value in found.items() if not asked or key in asked | {"_id", "id"}})

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
        repo = self.find(call)
        oid = self.at_revision(call, repo)
        files = repo.tree(oid)
        form = call.json() if "json" in call.headers.get("Content-Type", "") else parse_qs(call.body.decode())
        known, expand = {*files, *folders(files)}, str(form.get("expand", "")).lower() in ("true", "['true']")
        wanted = [path.strip("/") for path in form["paths"]]
        return said([entry(path, files, repo.commits[oid], expand) for path in wanted if path in known])

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
