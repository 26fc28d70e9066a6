"""How the generation loop carries a full-sized run: 11,177 dialogues against a local server of fixed latency.

    python -m benchmarks.generation [--target 11177] [--latency 0.2] [--slots 8]

The server is a process of its own that works on ``slots`` requests at once, ``latency`` seconds each, and refuses one
more with 429 and ``retry-after: 1``. The client does not know the number of slots. Printed: dialogues a second, share
of the server's capacity (slots / latency), refusals after warm-up, CPU time of this process by part, and memory; and
the same at each thousand, which shows how the cost grows.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from extes import dialogue, seeds
from extes.generation import job, loop, settler
from extes.generation.settings import Settings, seeds_hash, server_identity

WARM_UP = 500  # requests


class Stopwatch:
    """CPU seconds by part of the loop: the named methods are wrapped; what they call is in their time."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        parts: list[tuple[str, Any, str]] = [
            ("plan", loop.Loop, "_plan"),
            ("build the request", loop.Loop, "_payload"),
            ("parse", loop.ladder, "parse"),
            ("check, compare, write", loop.Loop, "_commit"),
            ("cache and count", settler.Settler, "settle"),
        ]
        for name, owner, method in parts:
            setattr(owner, method, self._timed(name, getattr(owner, method)))

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] += time.process_time() - begun

        return timed


def resident_mb() -> float:
    """Memory of this process now, in MB (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return float("nan")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=int, default=11_177)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--concurrency", type=int, default=64)
    args = parser.parse_args()

    command = [
        sys.executable,
        "-m",
        "tests.generation.server",
        "--latency",
        str(args.latency),
        "--slots",
        str(args.slots),
    ]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin and server.stdout
    url = server.stdout.readline().strip()
    seed_dialogues, _ = seeds.load()
    settings = Settings(
        base_url=server_identity(url),
        model="local",
        target=args.target,
        auto_accept=True,
        seeds=seeds_hash(seed_dialogues),
    )
    watch = Stopwatch()
    marks: list[tuple[int, float, float, dict[str, float], float]] = []
    began = time.monotonic()
    commit = loop.Loop._commit

    def marked(self: loop.Loop, *rest: Any) -> None:
        commit(self, *rest)
        kept = self._pool.state.kept.total()
        if not marks or kept >= marks[-1][0] + 1000 or kept == args.target:
            now = time.monotonic() - began
            marks.append((kept, now, time.process_time(), dict(watch.seconds), resident_mb()))

    loop.Loop._commit = marked  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        pool = Path(folder) / "pool"
        job.run(pool, settings, seed_dialogues, job.Means(concurrency=args.concurrency))
        took = time.monotonic() - began
        sizes = {p.name: p.stat().st_size / 1e6 for p in pool.iterdir()}
        events = (json.loads(line) for line in (pool / "pool.jsonl").open(encoding="utf-8"))
        kept = [dialogue.from_json(e["dialogue"]) for e in events if e["event"] == "slot" and e["dialogue"]]
    server.stdin.close()
    counts = json.loads(server.stdout.read())
    server.wait()

    capacity = args.slots / args.latency
    arrivals = counts["arrivals"]
    steady_from = arrivals[WARM_UP]
    steady = len(arrivals) - WARM_UP
    refused = sum(at >= steady_from for at in counts["refusals"])
    seconds = arrivals[-1] - steady_from
    worked = [(max(a, steady_from), min(b, arrivals[-1])) for a, b in counts["worked"] if b > steady_from]
    # Share of the slots' time that was filled. On a loaded machine the server itself answers late, which is no fault of
    # the client; the share of the nominal rate, which counts it as one, is printed beside it.
    share = sum(b - a for a, b in worked) / (args.slots * seconds)
    nominal = (steady - refused) / seconds / capacity
    service = sum(b - a for a, b in worked) / len(worked)
    print(f"\nmachine: {platform.processor() or platform.machine()}, Python {platform.python_version()}")
    print(f"server: {args.slots} slots of {args.latency * 1000:.0f} ms, {capacity:.0f} requests a second at most")
    print(f"dialogues: {len(kept)} in {took:.1f} s, {len(kept) / took:.1f} a second, start and end included")
    print(f"capacity used after warm-up: {share:.1%} of the slots' time, {nominal:.1%} of the nominal rate")
    print(f"the server took {service * 1000:.0f} ms an answer; load of this machine: {os.getloadavg()[0]:.1f}")
    print(f"refused after warm-up of {WARM_UP}: {refused} of {steady} requests ({refused / steady:.2%})")
    print(f"most at once: {counts['busy_most']}; sent twice: {counts['sent_twice']}")
    total = time.process_time()
    print(f"CPU of this process: {total:.1f} s, {total / len(kept) * 1000:.2f} ms a dialogue; in it our own code:")
    for name, seconds in watch.seconds.most_common():
        print(f"  {seconds:6.1f} s  {seconds / len(kept) * 1000:6.3f} ms a dialogue  {name}")
    print("files: " + ", ".join(f"{name} {mb:.1f} MB" for name, mb in sizes.items()))
    print("\nkept     seconds  a second  CPU ms each  our code ms each  memory MB")
    for before, after in itertools.pairwise(marks):
        n = after[0] - before[0]
        own = sum(after[3].values()) - sum(before[3].values())
        print(
            f"{after[0]:6}  {after[1]:8.1f}  {n / (after[1] - before[1]):8.1f}  "
            f"{(after[2] - before[2]) / n * 1000:11.2f}  {own / n * 1000:16.2f}  {after[4]:9.0f}"
        )
    return 0 if share >= 0.95 and refused / steady <= 0.02 else 1


if __name__ == "__main__":
    sys.exit(main())
