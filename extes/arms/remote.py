"""An arm behind any OpenAI-compatible server: OpenAI, vLLM (also with LoRA modules), ``transformers serve``, others.

Knows the chat-completions protocol through the ``openai`` client. The key is read from an environment variable that the
study names; it is never part of the study, its hash, a page or a log.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from extes.arms.arm import ArmError, Messages, Piece, Sampling

_NAME = re.compile(r"[\w.-]{1,64}")


def _told(error: Exception) -> str:
    """What went wrong, without the server's own words: some send the request back in them, a person's message with it,
    and this goes to the log."""
    fields = [getattr(error, key, None) for key in ("status_code", "code", "type", "param")]
    known = [str(f) for f in fields if f is not None and _NAME.fullmatch(str(f))]
    return f"{type(error).__name__} ({', '.join(known)})" if known else type(error).__name__


@dataclass
class RemoteArm:
    name: str
    base_url: str
    model: str
    sampling: Sampling
    system_prompt: str = ""
    api_key_variable: str = "OPENAI_API_KEY"
    timeout: float = 60  # seconds; the study's deadline ends both replies, also where a server sends on and on
    limit_field: str = "max_tokens"
    ready: bool = False
    _client: Any = field(default=None, repr=False)

    @property
    def revision(self) -> str:
        return f"{self.model}@{self.base_url}"

    def load(self) -> None:
        import openai

        key = os.environ.get(self.api_key_variable, "")
        if not key:
            raise ArmError(
                f"arm {self.name}: the environment variable {self.api_key_variable} is empty; "
                "set it to the server's key (any word will do for a server that wants none)"
            )
        self._client = openai.AsyncOpenAI(base_url=self.base_url, api_key=key, max_retries=1, timeout=self.timeout)
        self.ready = True

    async def reply(self, messages: Messages, max_new_tokens: int, seed: int) -> AsyncIterator[Piece]:
        import openai

        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        # Not of OpenAI's protocol, but vLLM's and others'; a server that does not know it says so at once.
        penalty = (
            {"repetition_penalty": self.sampling.repetition_penalty} if self.sampling.repetition_penalty != 1 else None
        )
        try:
            stream = await self._client.chat.completions.create(
                model=self.model,
                messages=[*system, *messages],
                temperature=self.sampling.temperature,
                top_p=self.sampling.top_p,
                seed=seed % 2**31,
                stream=True,
                extra_body=penalty,
                **{self.limit_field: max_new_tokens},
            )
            finish: str | None = None
            async for chunk in stream:
                for choice in chunk.choices:
                    finish = choice.finish_reason or finish
                    if choice.delta.content:
                        yield Piece(choice.delta.content, tokens=1)
        except (
            openai.OpenAIError,
            ValueError,
            AttributeError,
            TypeError,
        ) as error:  # the last three: malformed answers
            raise ArmError(f"arm {self.name}: {_told(error)}") from None
        if finish not in ("stop", "length"):
            raise ArmError(f"arm {self.name}: the answer ended with {finish!r}, which is no proper end")
        yield Piece("", finish="length" if finish == "length" else "stop")
