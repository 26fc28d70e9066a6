"""The portal without its pages, as a process that boots in a moment: the same conduct, store and outbox over HTTP.

Made to be killed. A process of a fork server, so that fifty boots cost seconds; the kill is as real as any.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import resource
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__, "extes.collection.outbox", "huggingface_hub.hf_api", "huggingface_hub.lfs"])


def start(folder: Path, hub_url: str = "", token: str = "", max_file: int = 0) -> tuple[Any, int]:
    """A worker on ``folder`` (its study under ``study/``, its log under ``data/``) and its port."""
    ours, theirs = _context.Pipe()
    process = _context.Process(target=_run, args=(folder, hub_url, token, max_file, theirs), daemon=True)
    process.start()
    theirs.close()
    if not ours.poll(60):
        raise AssertionError("the worker did not start")
    return process, ours.recv()


def _run(folder: Path, hub_url: str, token: str, max_file: int, parent: Connection) -> None:
    from extes.collection.outbox import Outbox
    from extes.collection.remote import Dataset
    from extes.study.conduct import Conduct
    from extes.study.config import load
    from extes.study.forms import Refused
    from extes.study.health import Bounds, Health
    from extes.study.roster import build
    from extes.study.store import Store

    if max_file:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file, resource.RLIM_INFINITY))
    study = load(folder / "study" / "study.toml")
    store = Store(folder / "data")
    arms = build(study)
    for arm in arms.values():
        arm.load()
    conduct = Conduct(study, store, arms, Health(store, Bounds(free_bytes=0)))
    if hub_url:
        import huggingface_hub

        huggingface_hub.constants.ENDPOINT = hub_url
        huggingface_hub.constants.HF_HUB_DISABLE_XET = True
        dataset = Dataset("extes/ratings", False, token)
        Outbox(lambda: Store(folder / "data"), dataset, study, every=0.1, first_wait=0.05).start()
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    async def answer(call: str, given: list[Any]) -> Any:
        if call == "say":
            return [frame async for frame in conduct.say(*given)][-1]
        return await getattr(conduct, call)(*given)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                said = asyncio.run_coroutine_threadsafe(answer(self.path.strip("/"), given), loop).result()
                status = 200
            except Refused as error:
                said, status = str(error), 422
            body = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    parent.send(server.server_port)
    server.serve_forever()
