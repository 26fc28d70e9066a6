"""Waiting for what another thread or process does in its own time."""

import time
from collections.abc import Callable


def until(what: Callable[[], object], seconds: float = 40) -> bool:
    """Whether ``what`` came true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.02)
    return False
