"""The error meant for a person: its text says what happened, where, and what to do next. It is shown as it is."""


class Problem(Exception):
    """Something a person can act on. ``status`` is the exit status of a command that it ends."""

    status = 2
