"""What every arm is: a name, a revision, and replies in pieces.

Knows nothing about how a reply comes to be; ``local`` does it with transformers and peft, ``remote`` with any
OpenAI-compatible server, ``scripted`` with a script for tests and rehearsals.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Messages = Sequence[dict[str, str]]
Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How an arm draws its tokens. Part of the study's hash and of every stored rating."""

    temperature: float = 0.7
    top_p: float = 0.9
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0


@dataclass(frozen=True)
class Piece:
    """A stretch of a reply. The last piece of a reply carries ``finish``: ``length`` where the token cap cut it.

    ``left_out`` counts messages of the conversation that did not fit into the arm's context.
    """

    text: str
    tokens: int = 0
    finish: Finish | None = None
    left_out: int = 0


class ArmError(Exception):
    """An arm could not reply. The text is for the operator's log; it never reaches a rater or a context."""


class Arm(Protocol):
    name: str

    @property
    def revision(self) -> str:
        """What exactly answered: a hash of the weights, or the server's model name. Known once ready."""
        ...

    @property
    def ready(self) -> bool: ...

    def load(self) -> None:
        """Make the arm ready; blocks. Raises :class:`ArmError` with what to do."""
        ...

    def reply(self, messages: Messages, max_new_tokens: int, seed: int) -> AsyncIterator[Piece]:
        """Stream the reply to a conversation that ends with a ``user`` message. Raises :class:`ArmError`."""
        ...
