"""An arm behind any OpenAI-compatible server: OpenAI, vLLM (also with LoRA modules), ``transformers serve``, others.

Knows the chat-completions protocol through the ``openai`` client. The key is read from an environment variable that the
study names; it is never part of the study, its hash, a page or a log.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from extes.arms.arm import ArmError, Messages, Piece, Sampling


@dataclass
class RemoteArm:
    name: str
    base_url: str
    model: str
    sampling: Sampling
    system_prompt: str = ""
    api_key_variable: str = "OPENAI_API_KEY"
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
        self._client = openai.AsyncOpenAI(base_url=self.base_url, api_key=key, max_retries=1, timeout=60)
        self.ready = True

    async def reply(self, messages: Messages, max_new_tokens: int, seed: int) -> AsyncIterator[Piece]:
        import openai

        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        try:
            stream = await self._client.chat.completions.create(
                model=self.model,
                messages=[*system, *messages],
                max_tokens=max_new_tokens,
                temperature=self.sampling.temperature,
                top_p=self.sampling.top_p,
                seed=seed % 2**31,
                stream=True,
            )
            async for chunk in stream:
                if not chunk.choices:
                    continue
                choice = chunk.choices[0]
                finish = {"length": "length", None: None}.get(choice.finish_reason, "stop")
                if choice.delta.content or finish:
                    yield Piece(choice.delta.content or "", tokens=1, finish=finish)  # type: ignore[arg-type]
        except openai.OpenAIError as error:
            raise ArmError(f"arm {self.name}: {type(error).__name__}: {error}") from error
