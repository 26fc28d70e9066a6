"""One local Hub for the whole project: the real ``huggingface_hub`` client and ``datasets`` talk to it over real HTTP.

In a test::

    from tests.hub.server import Hub, User

    with Hub() as hub:                                   # or Hub(folder=tmp_path) to survive a restart
        api = HfApi(endpoint=hub.url, token=hub.token)   # user "extes", who may write to extes/...
        api.create_repo("extes/ratings", repo_type="dataset", private=True)
        hub.fail("commit", "cut-after")                  # takes effect, but the answer never arrives
        hub.fail("lfs_upload", 503, times=2)             # the next two
        hub.fail("commit", 429, retry_after=0)
        ...
        hub.count("commit"), hub.received()              # requests of a step; bytes of body taken in
        hub.repo("extes/ratings", "dataset").history()   # commits, newest first, with what each changed
        hub.files("extes/ratings", "dataset")            # {path: bytes} at main

The client reads its endpoint when it is imported and uploads through Xet where it can. A process that a test starts
gets ``env=os.environ | hub.env(tmp_path)``. Inside pytest use the fixture ``hub`` of ``tests/conftest.py``, which
points the imported libraries (``HfApi()`` without an endpoint, ``datasets.load_dataset``) at this server too.

The client waits between its own retries (1, 2, 4, 8, 8 s): the fixture ``no_waiting`` makes these waits short.

``hub.fail(step, how, times=1, after=0, ...)``. Steps: see ``faults.STEPS``, or ``*`` for any. ``how``: an HTTP status
(429 may have ``retry_after``, in seconds); ``cut`` or ``cut-before`` (the connection is reset in the middle of the
request, nothing took effect); ``cut-after`` (it took effect, and the answer never arrives; a download ends half-way);
``slow`` (``seconds`` late). ``times=None`` lasts until ``hub.heal()``; ``after=n`` lets n requests of the step pass;
``repo="name"`` meets only paths that contain it.
``hub.stop()`` and ``hub.start()`` make an outage: connection refused, same port, state kept.

Tokens: ``Hub(tokens={"hf_a": User("ann"), "hf_r": User("ann", role="read"), "hf_b": User("ben", orgs=("lab",))})``;
``hub.revoke(token)`` and ``hub.allow(token, user)`` at run time. A private repository is 401 without a token and 404
with another user's.

Stand-alone, for a benchmark::

    python -m tests.hub.server --port 8123 --folder /tmp/hub    # prints the URL and the token

Not here: Xet, Spaces at work, discussions, gating, quotas.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

from tests.hub.answers import Answer, Call, Refused, User, said
from tests.hub.faults import Fault, Faults, Request
from tests.hub.protocol import Protocol
from tests.hub.state import Repo, State

__all__ = ["TOKEN", "Hub", "Request", "User"]
TOKEN = "hf_local"


class Hub:
    """The server. See the module's docstring for how to use it."""

    def __init__(
        self, folder: Path | None = None, tokens: dict[str, User] | None = None, port: int = 0,
        page: int = 1000, part_size: int | None = None,
    ) -> None:  # fmt: skip
        self.tokens = dict(tokens) if tokens is not None else {TOKEN: User("extes")}
        self.token = next(iter(self.tokens), "")
        self.state = State(folder)
        self.protocol = Protocol(self.state, page, part_size)
        self.faults = Faults()
        self.requests: list[Request] = []
        self.port = port
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # running

    def __enter__(self) -> Hub:
        return self.start()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> Hub:
        self._server = _Server(self)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="hub", daemon=True).start()
        return self

    def stop(self) -> None:
        """Refuse connections from now on and break those that are open; ``start`` takes the same port again."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server.break_all()
            self._server = None

    def env(self, home: Path, token: str | None = None) -> dict[str, str]:
        """The environment of a process that talks to this Hub. ``home`` keeps its caches apart. Token "" is none."""
        token = self.token if token is None else token
        found = {
            "HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0", "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1", "HF_TOKEN": token,
        }  # fmt: skip
        return found

    # failing on command

    def fail(
        self, step: str, how: int | str, times: int | None = 1, after: int = 0, *,
        retry_after: int | None = None, seconds: float = 1.0, repo: str | None = None,
    ) -> Fault:  # fmt: skip
        return self.faults.add(Fault(step, how, times, after, retry_after, seconds, repo))

    def heal(self) -> None:
        self.faults.clear()

    def revoke(self, token: str) -> None:
        self.tokens.pop(token, None)

    def allow(self, token: str, user: User) -> None:
        self.tokens[token] = user

    # looking

    def count(self, step: str | None = None) -> int:
        return sum(step in (None, request.step) for request in list(self.requests))

    def received(self, step: str | None = None) -> int:
        """Bytes of request bodies taken in."""
        return sum(request.received for request in list(self.requests) if step in (None, request.step))

    def repo(self, repo_id: str, kind: str = "model") -> Repo:
        found: Repo = self.state.repos[kind, repo_id]
        return found

    def files(self, repo_id: str, kind: str = "model", revision: str = "main") -> dict[str, bytes]:
        repo = self.repo(repo_id, kind)
        oid = repo.resolve(revision)
        assert oid, f"{repo_id} has no revision {revision}"
        return {path: self.state.get(file.sha256) for path, file in repo.tree(oid).items()}


class _Cut(Exception):
    """The connection was broken on purpose."""


class _Server(ThreadingHTTPServer):
    daemon_threads, block_on_close, allow_reuse_address = True, False, True
    request_queue_size = 128

    def __init__(self, hub: Hub) -> None:
        self.hub, self.open, self.lock = hub, set(), threading.Lock()  # type: ignore[var-annotated]
        super().__init__(("127.0.0.1", hub.port), _Handler)

    def get_request(self):  # type: ignore[no-untyped-def]
        connection, address = super().get_request()
        with self.lock:
            self.open.add(connection)
        return connection, address

    def shutdown_request(self, request) -> None:  # type: ignore[no-untyped-def]
        with self.lock:
            self.open.discard(request)
        super().shutdown_request(request)

    def break_all(self) -> None:
        with self.lock:
            for connection in self.open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request, client_address) -> None:  # type: ignore[no-untyped-def]
        """A client that went away is no news; anything else is a defect of this server, and is shown."""
        import sys

        if not isinstance(sys.exc_info()[1], (ConnectionError, _Cut, TimeoutError)):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle_any(self) -> None:
        hub, url = self.server.hub, urlsplit(self.path)
        step, answer_to, at = hub.protocol.route(self.command, url.path)
        fault = hub.faults.meet(step, url.path)
        size = int(self.headers.get("Content-Length") or 0)
        if fault and fault.how in ("cut", "cut-before"):
            taken = len(self.rfile.read(size // 2)) if size else 0
            self.note(step, taken, 0, None, fault)
            self.cut()
        body = self.body(size)
        if fault and fault.how == "slow":
            time.sleep(fault.seconds)
        if fault and isinstance(fault.how, int):
            wait = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            message = f"{fault.how} on command"
            answer = said({"error": message}, fault.how, {"X-Error-Message": message, **wait})
        else:
            try:
                call = Call(self.command, url.path, parse_qs(url.query), body, self.headers, self.user(), hub.url, at)
                answer = answer_to(call)
            except Refused as refused:
                answer = refused.answer
        if fault and fault.how == "cut-after":
            half = answer.body[: len(answer.body) // 2] if step == "resolve" and self.command == "GET" else b""
            self.note(step, len(body), len(half), None, fault)
            if half:
                self.begin(answer)
                self.wfile.write(half)
                self.wfile.flush()
                self.close_connection = True  # an orderly end: a reset could take back what was already sent
                return
            self.cut()
        self.note(step, len(body), 0 if self.command == "HEAD" else len(answer.body), answer.status, fault)
        self.begin(answer)
        if self.command != "HEAD":
            self.wfile.write(answer.body)
        self.wfile.flush()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def user(self) -> User | None:
        header = self.headers.get("Authorization", "")
        if not header:
            return None
        user = self.server.hub.tokens.get(header.removeprefix("Bearer "))
        if user is None:
            raise Refused(401, "Invalid credentials in Authorization header")
        return user

    def body(self, size: int) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(size) if size else b""
        chunks = []
        while length := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(length))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def begin(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()

    def note(self, step: str | None, received: int, sent: int, status: int | None, fault: Fault | None) -> None:
        how = str(fault.how) if fault else None
        self.server.hub.requests.append(Request(step, self.command, self.path, received, sent, status, how))

    def cut(self) -> None:
        """Break the connection so that the other side notices at once: a reset, not an orderly end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())
        self.close_connection = True
        raise _Cut


def main() -> None:
    parser = argparse.ArgumentParser(description="A local Hub for tests and benchmarks.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keep the state here (default: in memory)")
    parser.add_argument("--token", default=TOKEN, help="the token of user extes")
    parser.add_argument(
        "--fail", action="append", default=[], metavar="JSON", help='{"step": "commit", "how": 500, ...}'
    )
    args = parser.parse_args()
    hub = Hub(args.folder, {args.token: User("extes")}, args.port)
    for fault in args.fail:
        hub.fail(**json.loads(fault))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})  # for sigwait, in every thread
    with hub:
        print(f"{hub.url} {hub.token}", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
