"""The steps of large-file storage (LFS): what is wanted, uploads whole or in parts, verification."""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

from tests.hub.access import Access
from tests.hub.answers import Answer, Call, Refused, said
from tests.hub.state import Repo


class Storage(Access):
    part_size: int | None
    tickets: dict[str, tuple[Repo, str, int]]
    parts: dict[tuple[str, int], bytes]

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
