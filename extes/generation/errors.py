"""What stops a run, for a person to read."""

from __future__ import annotations

from extes.errors import Problem


class Stop(Problem):
    """A run cannot or must not go on. The text says what happened, where, and what to do next.

    ``status`` is the exit status: 1 where the work ended short of its target, 2 where the call or its input was wrong.
    """

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(message)
        self.status = status
