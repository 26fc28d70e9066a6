"""What passes between the local Hub's server and its steps: a call read, an answer to write, a refusal, a user."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


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
