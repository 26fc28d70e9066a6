"""What can go wrong between here and the Hub, as sentences that say what to do next.

Knows the client's exceptions and the meaning of the Hub's statuses. Does not know what is being sent.
"""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from extes.errors import Problem

TOKENS = "https://huggingface.co/settings/tokens"
AGAIN = "Give the same command again later; what has arrived is not sent twice"


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from. The client wraps a failed upload in a RuntimeError of its own."""
    at: BaseException | None = error
    while at is not None:
        yield at
        at = at.__cause__


def status_of(error: BaseException) -> int | None:
    """The HTTP status that is behind the error; None where there was no answer."""
    return next((e.response.status_code for e in causes(error) if isinstance(e, HfHubHTTPError)), None)


def lost_connection(error: BaseException) -> bool:
    """Whether no answer came. The Xet part of the client tells it with Python's own ConnectionError."""
    lost = (httpx2.TransportError, ConnectionError, TimeoutError)
    return any(isinstance(e, lost) and not isinstance(e, OfflineModeIsEnabled) for e in causes(error))


def is_of_the_hub(error: BaseException) -> bool:
    """Whether the error came from talking to the Hub, and not from a defect or a file of ours, which has a name."""
    ours = isinstance(error, OSError) and error.filename is not None
    answered = status_of(error) is not None or lost_connection(error)
    return answered or (isinstance(error, OSError | RuntimeError) and not ours)


def retry_after(error: BaseException) -> int | None:
    """Seconds the Hub asked to wait."""
    for e in causes(error):
        if isinstance(e, HfHubHTTPError):
            value = e.response.headers.get("Retry-After", "")
            return int(value) if value.isdigit() else None
    return None


def no_token() -> Problem:
    return Problem(
        f"there is no Hub token. Make one with write permission at {TOKENS} and set HF_TOKEN, or run `hf auth login`"
    )


def explain(error: BaseException, repo: str) -> Problem:
    """The :class:`Problem` that tells a person what the failure means and what to do."""
    status = status_of(error)
    if any(isinstance(e, OfflineModeIsEnabled) for e in causes(error)):
        return Problem("HF_HUB_OFFLINE is set, so the Hub may not be asked. Unset it and give the same command again")
    if status == 401:
        return Problem(
            f"the Hub does not accept the token (401): it is mistyped, expired or revoked. Make a new one with write "
            f"permission at {TOKENS} and set HF_TOKEN, or run `hf auth login --force`"
        )
    if status == 403:
        return Problem(
            f"the token may not write to {repo} (403). Check that {repo.split('/')[0]!r} is your account or an "
            f"organisation you belong to, and that the token has write permission ({TOKENS})"
        )
    if status == 404:
        return Problem(
            f"the Hub finds no {repo} for this token (404). Check its spelling; a fine-grained token must name the "
            f"repository or its owner ({TOKENS})"
        )
    if status in (409, 412):
        return Problem(
            f"{repo} was being changed by someone else at the same time ({status}). See who else pushes there, then "
            "give the same command again; what has arrived is not sent twice"
        )
    if status == 429:
        wait = retry_after(error)
        when = f"in {wait} s" if wait else "in some minutes"
        return Problem(f"the Hub asks for fewer requests (429). Give the same command again {when}")
    if status is not None and status >= 500:
        return Problem(f"the Hub has a fault of its own ({status}). {AGAIN}")
    if status is not None:
        return Problem(f"the Hub refused ({status}): {last_line(error)}")
    if lost_connection(error):
        return Problem(
            f"the connection to {constants.ENDPOINT} failed ({last_line(error)}). Check the network, and HF_ENDPOINT "
            f"if you set it. {AGAIN}{xet_hint()}"
        )
    return Problem(f"the Hub's client stopped: {last_line(error)}. {AGAIN}{xet_hint()}")


def xet_hint() -> str:
    """What else to try where large files go through Xet, the newer of the Hub's two ways."""
    return "" if constants.HF_HUB_DISABLE_XET else ". If it stays so, set HF_HUB_DISABLE_XET=1 for the classic way"


def last_line(error: BaseException) -> str:
    """The innermost message, in one line and without a final stop."""
    innermost = list(causes(error))[-1]
    lines = [line.strip() for line in str(innermost).splitlines() if line.strip()]
    return (lines[0] if lines else type(innermost).__name__).rstrip(".")
