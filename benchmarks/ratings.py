"""What keeping ratings costs, and what is lost: beside ``CommitScheduler`` over a JSON-lines file, as arenas do it.

    python -m benchmarks.ratings    # all, some minutes; --only writes|start|sync|lost; --quick for a first look

Prints tables; writes nothing but to a temporary folder, or to ``--out FILE``. The Hub is the tests' local one, spoken
to by the real client over HTTP on this machine: seconds of a sync have no network in them, requests and bytes are what
the real Hub would see without Xet.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from extes.study.chains import Event, event_hash
from extes.study.config import Study
from extes.study.schema import VERSION
from extes.study.store import Store

ROOT = Path(__file__).resolve().parent.parent
REPO = "extes/ratings"
PACE = 1 / 20  # of the clock, where the way of waiting is compared
WORDS = [
    "I",
    "moved",
    "here",
    "in",
    "March",
    "and",
    "still",
    "eat",
    "lunch",
    "in",
    "my",
    "car",
    "because",
    "everyone",
    "has",
    "ten",
    "years",
    "of",
    "jokes",
    "behind",
    "them",
]


def study() -> Study:
    arms = [{"name": n, "label": n, "kind": "scripted", "replies": ["Hm."]} for n in ("warm", "cold")]
    criteria = [{"name": n, "label": n, "definition": n} for n in ("fluency", "overall")]
    return Study.model_validate(
        {"name": "bench", "version": "1", "title": "Bench", "consent": "We keep what you write here.", "arms": arms,
         "criteria": criteria}
    )  # fmt: skip


def said(dice: random.Random, words: int = 20) -> str:
    return " ".join(dice.choices(WORDS, k=words))


def bodies(dice: random.Random, it: Study) -> list[tuple[str, int | None, dict]]:
    """One rated comparison as the portal writes it: three exchanges of twenty words."""
    detail = {"revision": "r" * 16, "messages_left_out": 0, "tokens": 25, "seconds": 1.2, "finish": "stop"}
    found: list[tuple[str, int | None, dict]] = [
        ("opened", 0, {
            "study": it.hash, "study_name": it.name, "study_version": it.version, "code": "0", "rater": "f" * 20,
            "consent": {"hash": it.consent_hash, "publish_transcript": True}, "screen": "en-1",
            "scenario": {"source": "drawn", "text": "Job Loss or Career Setbacks"},
            "assignment": {"position": 0, "block": 0, "sides": {"a": "warm", "b": "cold"}, "probability": 0.5,
                           "stream": "e" * 16},
        })
    ]  # fmt: skip
    for n in (1, 2, 3):
        details = {
            s: detail | {"arm": a, "seed": dice.getrandbits(48), "prompt_hash": secrets.token_hex(8)}
            for s, a in (("a", "warm"), ("b", "cold"))
        }
        found.append(
            ("exchanged", n, {"message": said(dice), "replies": {s: said(dice) for s in "ab"}, "details": details})
        )
    rated = {"answers": {"fluency": "a", "overall": "tie"}, "comment": said(dice), "exchanges": 3,
             "receipt_hash": secrets.token_hex(32)}  # fmt: skip
    return [*found, ("rated", None, rated)]


def written(n: int, it: Study) -> Iterator[Event]:
    """The events of ``n`` rated comparisons as one chain."""
    dice, chain, previous, place = random.Random(n), secrets.token_hex(8), "", 0
    config = {"hash": it.hash, "config": it.model_dump(mode="json"), "code": "0"}
    beginning = [("chain", None, None, {"follows": {}, "code": "0", "key": None}), ("study", None, None, config)]
    for number in range(-1, n):
        comparison = secrets.token_hex(12)
        parts = beginning if number < 0 else [(k, comparison, no, b) for k, no, b in bodies(dice, it)]
        for kind, of, no, body in parts:
            place += 1
            at, text = "2026-11-20T12:00:00.000+00:00", json.dumps(body, sort_keys=True)
            no = number if kind == "opened" else no
            event = Event(0, chain, place, VERSION, secrets.token_hex(16), at, kind, of, no, text, "")
            previous = event_hash(event, previous)
            yield Event(0, chain, place, VERSION, event.id, at, kind, of, no, text, previous)


def writes(folder: Path, seconds: float) -> list[str]:
    """Acknowledged ratings a second, each on disk before it is acknowledged, from 1 to 32 writers at once."""
    lines = [f"{'writers':>8}{'ratings/s':>12}{'median, ms':>12}{'p99, ms':>10}{'worst, ms':>11}"]
    body = bodies(random.Random(1), study())[-1][2]
    for writers in (1, 2, 4, 8, 16, 32):
        store, took, end = Store(folder / f"w{writers}"), [], time.monotonic() + seconds

        def write(store: Store = store, took: list[float] = took, end: float = end) -> None:
            while (began := time.monotonic()) < end:
                store.append("rated", body | {"receipt_hash": secrets.token_hex(32)}, secrets.token_hex(12))
                took.append(time.monotonic() - began)

        threads = [threading.Thread(target=write) for _ in range(writers)]
        began = time.monotonic()
        [t.start() for t in threads]
        [t.join() for t in threads]
        rate = len(took) / (time.monotonic() - began)
        took.sort()
        p99 = took[int(0.99 * (len(took) - 1))]
        lines.append(
            f"{writers:8}{rate:12.0f}{1e3 * statistics.median(took):12.1f}{1e3 * p99:10.1f}{1e3 * took[-1]:11.1f}"
        )
        store.close()
    with (folder / "probe").open("wb") as probe:
        fsyncs, end = 0, time.monotonic() + 1
        while time.monotonic() < end:
            probe.write(b"x" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
            fsyncs += 1
    return [*lines, f"(this disk: {fsyncs} fsyncs of 4 KB a second)"]


START = """
import sys, time
began = time.monotonic()
import asyncio
from pathlib import Path
from benchmarks.ratings import study
from extes.study.conduct import Conduct
from extes.study.roster import build
from extes.study.store import Store
imported = time.monotonic()
it = study(); arms = build(it); [a.load() for a in arms.values()]
conduct = Conduct(it, Store(Path(sys.argv[1])), arms)
opened = time.monotonic()
asyncio.run(conduct.start({"agreed": True, "of_age": True}))
print(opened - imported, time.monotonic() - opened, imported - began)
"""


def start(folder: Path, quick: bool) -> list[str]:
    """Seconds until a log of so many events is open, and until the first comparison after that."""
    lines = [f"{'events':>9}{'open, s':>10}{'first start, s':>16}{'verify, s':>11}{'log, MB':>9}"]
    for n in (200, 2_000) if quick else (200, 20_000):
        store = Store(folder / f"s{n}")
        store.take_over(written(n, study()), "elsewhere")
        events = store.count()
        began = time.monotonic()
        store.verify()
        verify = time.monotonic() - began
        store.close()
        command = [sys.executable, "-c", START, str(folder / f"s{n}")]
        runs = [subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True) for _ in range(3)]
        opened, first, _ = (
            statistics.median(v) for v in zip(*(map(float, r.stdout.split()) for r in runs), strict=True)
        )
        size = sum(p.stat().st_size for p in (folder / f"s{n}").iterdir()) / 1e6
        lines.append(f"{events:9}{opened:10.3f}{first:16.3f}{verify:11.2f}{size:9.0f}")
    return lines


def sync_cost(folder: Path, quick: bool) -> list[str]:
    """Seconds, requests and bytes to send fifty new ratings to a dataset that holds so many already."""
    from extes.collection.outbox import begin, sync
    from extes.collection.remote import Dataset
    from tests.hub.server import Hub

    lines = [f"{'ratings there':>14}{'files there':>13}{'seconds':>9}{'requests':>10}{'KB sent':>9}"]
    for n in (100, 1_000) if quick else (1_000, 10_000, 100_000):
        with Hub() as hub:
            point_at(hub)
            store, dataset, it = Store(folder / f"y{n}"), Dataset(REPO, False, hub.token), study()
            store.take_over(written(n, it), "elsewhere")
            begin(dataset, it)
            sync(store, dataset)
            costs = []
            for _ in range(5):
                store.take_over(written(50, it), "elsewhere")
                requests, received, began = hub.count(), hub.received(), time.monotonic()
                sync(store, dataset)
                costs.append((time.monotonic() - began, hub.count() - requests, (hub.received() - received) / 1e3))
            seconds, requests, kilobytes = (statistics.median(c) for c in zip(*costs, strict=True))
            files = len(hub.files(REPO, "dataset"))
            lines.append(f"{n:14}{files:13}{seconds:9.2f}{requests:10.0f}{kilobytes:9.0f}")
            store.close()
    return lines


def point_at(hub) -> None:  # type: ignore[no-untyped-def]
    import huggingface_hub
    from huggingface_hub.utils import close_session, disable_progress_bars

    huggingface_hub.constants.ENDPOINT = hub.url
    huggingface_hub.constants.HF_HUB_DISABLE_XET = True
    disable_progress_bars()
    close_session()


CHILD = """
import json, logging, signal, sys, threading
from pathlib import Path
logging.disable(logging.CRITICAL)
kind, folder, token, pace = sys.argv[1], Path(sys.argv[2]), sys.argv[3], float(sys.argv[4])
said = 0
if kind == "here":
    import random, secrets
    from benchmarks.ratings import REPO, bodies, study
    from extes.collection.outbox import Outbox, begin, sync
    from extes.collection.remote import Dataset
    from extes.collection.restore import at_start
    from extes.study.store import Store
    it, store, dataset = study(), Store(folder), Dataset(REPO, False, token)
    at_start(store, dataset)
    begin(dataset, it)
    if not any(store.events(kind="study")):
        store.append("study", {"hash": it.hash, "config": it.model_dump(mode="json"), "code": "0"})
    outbox = Outbox(lambda: Store(folder), dataset, it, pace * 60)
    outbox.start()
    def stop(*_):
        ok = outbox.flush(20)
        import os; os._exit(0 if ok else 1)
    for s in (signal.SIGTERM, signal.SIGINT):
        signal.signal(s, stop)
    def rate(name):
        comparison = secrets.token_hex(12)
        for kind, no, body in bodies(random.Random(name), it):
            if kind == "rated": body |= {"comment": name}
            store.append(kind, body, comparison, store.next_position(it.hash) if kind == "opened" else no)
    push = lambda: sync(store, dataset)
else:
    # As arenas on Spaces do it: CommitScheduler over a folder with a JSON-lines file. "fixed" has one file name, "uuid"
    # one for each start; neither handles SIGTERM, as an app under Gradio does not.
    import random, uuid
    from huggingface_hub import CommitScheduler
    from benchmarks.ratings import REPO, bodies, study
    it = study()
    folder.mkdir(parents=True, exist_ok=True)
    scheduler = CommitScheduler(repo_id=REPO, repo_type="dataset", folder_path=folder, path_in_repo="data",
                                every=pace * 5, token=token, private=True)
    path = folder / ("votes.jsonl" if kind == "fixed" else f"votes-{uuid.uuid4()}.jsonl")
    def rate(name):
        with scheduler.lock, path.open("a") as out:
            row = {"name": name, "events": [b for _, _, b in bodies(random.Random(name), it)]}
            out.write(json.dumps(row) + "\\n")
    push = lambda: scheduler.push_to_hub()
print("ready", flush=True)
for line in sys.stdin:
    word, _, name = line.strip().partition(" ")
    rate(name) if word == "rate" else push()
    print("ok", flush=True)
"""


class Child:
    """A process that takes ratings one at a time and says when it has taken each."""

    def __init__(self, kind: str, folder: Path, hub, home: Path, pace: float = 60) -> None:  # type: ignore[no-untyped-def]
        env = os.environ | hub.env(home) | {"PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        command = [sys.executable, "-c", CHILD, kind, str(folder), hub.token, str(pace)]
        self.process = subprocess.Popen(
            command,
            env=env,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._hear("ready")

    def _hear(self, word: str) -> None:
        assert self.process.stdout
        heard = self.process.stdout.readline().strip()
        if heard != word:
            sys.exit(f"the child said {heard!r}")

    def say(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        self._hear("ok")

    def rate(self, names: list[str]) -> None:
        for name in names:
            self.say(f"rate {name}")

    def end(self, number: int) -> None:
        self.process.send_signal(number)
        self.process.wait(60)


def on_the_hub(hub) -> set[str]:  # type: ignore[no-untyped-def]
    """The names of the ratings in the dataset, whoever wrote it."""
    from extes.collection import shards

    found: set[str] = set()
    for path, content in hub.files(REPO, "dataset").items():
        if path.startswith("ratings/"):
            found |= {row["comment"] for row in shards.read(content)}
        elif path.endswith(".jsonl"):
            found |= {json.loads(line)["name"] for line in content.decode().splitlines()}
    return found


def lost(folder: Path, quick: bool) -> list[str]:
    """Ratings that were acknowledged and are not in the dataset, when the disk goes with the process; bytes sent."""
    from tests.hub.server import Hub

    kinds = ("here", "uuid", "fixed")
    cells: dict[tuple[str, str], str] = {}
    for kind in kinds:
        for number, name in ((signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT"), (signal.SIGKILL, "SIGKILL")):
            with Hub() as hub:
                home = folder / kind / name
                child = Child(kind, home / "disk", hub, home)
                names = [f"r{n}" for n in range(60)]
                child.rate(names[:30])
                child.say("push")
                child.rate(names[30:])
                child.end(number)
                cells[name, kind] = f"{len(set(names) - on_the_hub(hub))} of 60"
                if number == signal.SIGKILL:  # the same disk comes back
                    child = Child(kind, home / "disk", hub, home)
                    child.say("push")
                    cells["SIGKILL, the disk comes back", kind] = f"{len(set(names) - on_the_hub(hub))} of 60"
                    child.end(signal.SIGKILL)
        with Hub() as hub:
            child = Child(kind, (home := folder / kind / "pace") / "disk", hub, home, PACE)
            child.rate(names := [f"r{n}" for n in range(60)])
            time.sleep(100 * PACE)
            child.end(signal.SIGKILL)
            cells["SIGKILL 100 s after the last rating *", kind] = f"{len(set(names) - on_the_hub(hub))} of 60"
        with Hub() as hub:
            home = folder / kind / "empty"
            names = [f"r{n}" for n in range(60)]
            for part in (names[:30], names[30:]):
                child = Child(kind, home / part[0], hub, home)  # a new disk each time
                child.rate(part)
                child.say("push")
                child.end(signal.SIGKILL)
            cells["all sent, then a start on an empty disk", kind] = f"{len(set(names) - on_the_hub(hub))} of 60"
        with Hub() as hub:
            home, n = folder / kind / "bytes", 200 if quick else 1000
            child = Child(kind, home / "disk", hub, home)
            before = hub.received()
            for n_ in range(0, n, 50):
                child.rate([f"b{i}" for i in range(n_, n_ + 50)])
                child.say("push")
            cells[f"KB sent for {n} ratings, 50 at a time", kind] = f"{(hub.received() - before) / 1e3:.0f}"
            child.end(signal.SIGKILL)
    rows = list(dict.fromkeys(row for row, _ in cells))
    lines = [f"{'':42}{'here':>10}{'uuid name':>12}{'fixed name':>12}"]
    for row in rows:
        lines.append(f"{row:42}" + "".join(f"{cells[row, k]:>{w}}" for k, w in zip(kinds, (10, 12, 12), strict=True)))
    return [*lines, "* with all clocks 20 times as fast: here a commit a minute at most, CommitScheduler its every=5"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["writes", "start", "sync", "lost"])
    parser.add_argument("--quick", action="store_true", help="small sizes: to see that it runs")
    parser.add_argument("--out", type=Path, help="write the tables there too")
    args = parser.parse_args()
    told: list[str] = []

    def show(title: str, lines: list[str]) -> None:
        told.extend([title, "", *lines, ""])
        print("\n".join(["", title, "", *lines]), flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.only in (None, "writes"):
            show("Ratings acknowledged, each with fsync", writes(folder, 1 if args.quick else 5))
        if args.only in (None, "start"):
            show("Start with a log that has grown", start(folder, args.quick))
        if args.only in (None, "sync"):
            show("A sync of fifty new ratings", sync_cost(folder, args.quick))
        if args.only in (None, "lost"):
            show("Lost, of what was acknowledged; beside CommitScheduler", lost(folder, args.quick))
    if args.out:
        args.out.write_text("\n".join(told), encoding="utf-8")


if __name__ == "__main__":
    main()
