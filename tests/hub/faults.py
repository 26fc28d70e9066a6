"""What the local Hub is told to do wrong, and what it was asked. Knows nothing of HTTP or repositories.

Steps are the names of the protocol's parts; ``server.py`` says which request is which step.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

STEPS = (
    "whoami", "create", "delete", "settings", "info", "refs", "history", "branch", "tag", "yaml", "tree", "paths",
    "preupload", "lfs_batch", "lfs_upload", "lfs_part", "lfs_verify", "lfs_complete", "commit", "resolve", "access",
)  # fmt: skip
HOWS = ("cut", "cut-before", "cut-after", "slow")


@dataclass
class Fault:
    """One thing to do wrong. ``times`` None means until ``heal``; ``after`` requests of the step pass first."""

    step: str
    how: int | str
    times: int | None = 1
    after: int = 0
    retry_after: int | None = None
    seconds: float = 1.0
    repo: str | None = None
    met: int = 0


@dataclass(frozen=True)
class Request:
    """One request as the server saw it. ``received`` and ``sent`` are bytes of body; ``status`` None: it was cut."""

    step: str | None
    method: str
    path: str
    received: int
    sent: int
    status: int | None
    fault: str | None


@dataclass
class Faults:
    """The faults that are still to come, in the order they were asked for. Safe to use from many threads."""

    waiting: list[Fault] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, fault: Fault) -> Fault:
        if fault.step != "*" and fault.step not in STEPS:
            raise ValueError(f"unknown step {fault.step!r}; the steps are {', '.join(STEPS)} and * for any")
        if not (isinstance(fault.how, int) and 400 <= fault.how <= 599) and fault.how not in HOWS:
            raise ValueError(f"unknown way to fail {fault.how!r}; an HTTP error status, or one of {', '.join(HOWS)}")
        with self.lock:
            self.waiting.append(fault)
        return fault

    def meet(self, step: str | None, path: str) -> Fault | None:
        """The fault this request meets, if any; each request meets one at most."""
        with self.lock:
            for fault in self.waiting:
                if fault.step not in ("*", step) or (fault.repo and fault.repo not in path):
                    continue
                if fault.after > 0:
                    fault.after -= 1
                    continue
                fault.met += 1
                if fault.times is not None and fault.met >= fault.times:
                    self.waiting.remove(fault)
                return fault
        return None

    def clear(self) -> None:
        with self.lock:
            self.waiting.clear()
