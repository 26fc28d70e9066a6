"""Arms on this machine: one copy of the base weights, any number of adapters over it.

An engine owns a base model and one thread; everything that touches the weights happens on that thread, which gives each
reply under way one token in turn, so that a long reply never holds up a short one. A base arm is the same weights with
the adapters left out of the forward pass.

Knows transformers and peft. Imports them only when an engine loads.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extes.arms.arm import ArmError, Messages, Piece, Sampling


def weights_hash(folder: Path) -> str:
    """12 hex digits over the files that decide what a model says, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".json", ".jinja")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


@dataclass
class _Job:
    """One reply under way. ``step`` yields pieces; ``send`` hands a piece, an error or the end to the waiting side."""

    step: Iterator[Piece]
    send: Callable[[Piece | Exception | None], None]
    cancelled: bool = False


@dataclass
class Engine:
    """A base model, its tokenizer and its adapters: ``adapters`` maps a name to a folder or a Hub repository.

    ``max_new_tokens`` is what the study wants of a reply; a base whose context is less than twice that does not load.
    """

    base: str
    adapters: dict[str, str] = field(default_factory=dict)
    max_new_tokens: int = 1
    ready: bool = False
    revisions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._jobs: list[_Job] = []
        self._wake = threading.Condition()
        self._loading = threading.Lock()
        self.model: Any = None
        self.tokenizer: Any = None
        self._own_tokenizers: dict[str, Any] = {}

    def load(self) -> None:
        with self._loading:
            if self.ready:
                return
            import warnings

            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer
            from transformers.utils import logging
            from transformers.utils.hub import cached_file

            if Path(self.base).is_dir():  # read in a moment; a bar is for downloads
                logging.disable_progress_bar()  # type: ignore[no-untyped-call]
            # An adapter may change input and output embeddings apart (training/extract.py); nothing is merged here.
            warnings.filterwarnings("ignore", message=".*tie_word_embeddings")
            device = "cuda" if torch.cuda.is_available() else "cpu"
            dtype = torch.bfloat16 if device == "cuda" else torch.float32
            try:
                # The commit first, and then that commit, here and below: a repository may move on while it is read.
                commit = hub_commit(self.base, "config.json")
                self.tokenizer = AutoTokenizer.from_pretrained(self.base, revision=commit)
                model: Any = AutoModelForCausalLM.from_pretrained(self.base, dtype=dtype, revision=commit)
                context = int(model.config.max_position_embeddings)
                if context < 2 * self.max_new_tokens:
                    raise ValueError(
                        f"its context of {context} tokens is too short for replies of {self.max_new_tokens}; "
                        "lower max_new_tokens in the study"
                    )
                self.revisions[""] = _revision(self.base, commit)
                for name, path in self.adapters.items():
                    from peft import PeftModel

                    commit = hub_commit(path, "adapter_config.json")
                    if isinstance(model, PeftModel):
                        model.load_adapter(path, adapter_name=name, revision=commit)
                    else:
                        model = PeftModel.from_pretrained(model, path, adapter_name=name, revision=commit)
                    self.revisions[name] = f"{self.revisions['']}+{_revision(path, commit)}"
                    # A tuned model is asked with the template it was tuned with, and stops where that ends a turn.
                    found = cached_file(
                        path, "tokenizer_config.json", revision=commit, _raise_exceptions_for_missing_entries=False
                    )
                    if found:
                        self._own_tokenizers[name] = AutoTokenizer.from_pretrained(path, revision=commit)
            except Exception as error:  # a broken file raises whatever its reader raises
                raise ArmError(f"cannot load {self.base}: {type(error).__name__}: {error}") from error
            self.model = model.to(device).eval()
            threading.Thread(target=self._run, name=f"engine {self.base}", daemon=True).start()
            self.ready = True

    def submit(self, job: _Job) -> None:
        with self._wake:
            self._jobs.append(job)
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._jobs)
                jobs = list(self._jobs)
            for job in jobs:
                outcome: Piece | Exception | None
                try:
                    outcome = None if job.cancelled else next(job.step, None)
                except Exception as error:  # whatever the model raises ends this reply and no other
                    outcome = error
                try:
                    job.send(outcome)
                except RuntimeError:  # the event loop that waited for it is gone
                    outcome = None
                if not isinstance(outcome, Piece):
                    with self._wake:
                        self._jobs.remove(job)

    def generate(
        self, adapter: str, messages: Messages, sampling: Sampling, max_new_tokens: int, seed: int
    ) -> Iterator[Piece]:
        """Decode one reply, a token a step. Runs on the engine's thread only."""
        import torch
        from transformers import DynamicCache
        from transformers.generation import logits_process as lp

        model, tokenizer = self.model, self._own_tokenizers.get(adapter, self.tokenizer)
        virtual = getattr(model.peft_config[adapter], "num_virtual_tokens", 0) if adapter else 0
        ids, left_out = self._prompt(tokenizer, messages, max_new_tokens + virtual)
        ends = model.generation_config.eos_token_id
        ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
        shapers: list[Any] = []
        if sampling.repetition_penalty != 1.0:
            shapers.append(lp.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
        if sampling.no_repeat_ngram_size:
            shapers.append(lp.NoRepeatNGramLogitsProcessor(sampling.no_repeat_ngram_size))
        if sampling.temperature > 0:
            shapers.append(lp.TemperatureLogitsWarper(sampling.temperature))
            if sampling.top_p < 1:
                shapers.append(lp.TopPLogitsWarper(sampling.top_p))
        rng = torch.Generator().manual_seed(seed)
        cache, feed, emitted = DynamicCache(), ids, ""
        new: list[int] = []
        for _ in range(max_new_tokens):
            # Learnt prompts and prefixes lie in the cache after the first step; peft would add them at every step.
            step = model.get_base_model() if virtual and new else model
            with torch.inference_mode(), self._only(adapter):
                out = step(input_ids=feed, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, logits = out.past_key_values, out.logits[:, -1].float().cpu()
            seen = torch.tensor([new], dtype=torch.long)
            for shaper in shapers:
                logits = shaper(seen, logits)
            if sampling.temperature > 0:
                token = int(torch.multinomial(logits.softmax(-1), 1, generator=rng))
            else:
                token = int(logits.argmax())
            if token in ends:
                yield Piece("", finish="stop", left_out=left_out)
                return
            new.append(token)
            text = tokenizer.decode(new, skip_special_tokens=True)
            whole = text if not text.endswith("\ufffd") else emitted
            yield Piece(whole[len(emitted) :], tokens=1)
            emitted = whole
            feed = torch.tensor([[token]], device=model.device)
        yield Piece("", finish="length", left_out=left_out)

    def _prompt(self, tokenizer: Any, messages: Messages, max_new_tokens: int) -> tuple[Any, int]:
        """Token ids, shape ``(1, n)``, and the number of messages left out: the oldest, where they do not fit.

        Everyone's replies wait for this, so it does not try one length after the other: a history may have thousands of
        messages.
        """
        room = max(1, int(self.model.config.max_position_embeddings) - max_new_tokens)
        start = 1 if messages[0]["role"] == "system" else 0
        system, turns = messages[:start], messages[start:]

        def without(exchanges: int) -> Any:
            kept = [*system, *turns[2 * exchanges :]]
            return tokenizer.apply_chat_template(
                kept, add_generation_prompt=True, return_dict=True, return_tensors="pt"
            )["input_ids"]

        most = (len(turns) - 1) // 2  # the last message stays
        least = min(most, max(0, (len(turns) - room + 1) // 2))  # each message takes a token or more
        left_out = least + bisect_left(range(least, most), True, key=lambda n: without(n).shape[1] <= room)
        return without(left_out)[:, -room:].to(self.model.device), 2 * left_out

    def _only(self, adapter: str) -> Any:
        if not self.adapters:
            return nullcontext()
        if not adapter:
            return self.model.disable_adapter()
        if self.model.active_adapter != adapter:
            self.model.set_adapter(adapter)
        return nullcontext()


def hub_commit(source: str, file: str, revision: str | None = None) -> str | None:
    """The commit that a Hub repository, or a branch or tag of it, is at, by one of its files; none for a folder."""
    from transformers.utils.hub import cached_file, extract_commit_hash

    return None if Path(source).is_dir() else extract_commit_hash(cached_file(source, file, revision=revision), None)


def _revision(source: str, commit: str | None) -> str:
    """A hash of local weights, or the Hub commit that was loaded."""
    if Path(source).is_dir():
        return weights_hash(Path(source))
    return f"{source}@{commit or 'unknown'}"


@dataclass
class LocalArm:
    """An engine, one of its adapters (``""`` for the bare base) and a way of sampling."""

    name: str
    engine: Engine
    adapter: str
    sampling: Sampling
    system_prompt: str = ""

    @property
    def revision(self) -> str:
        return self.engine.revisions.get(self.adapter, "not loaded")

    @property
    def ready(self) -> bool:
        return self.engine.ready

    def load(self) -> None:
        self.engine.load()

    async def reply(self, messages: Messages, max_new_tokens: int, seed: int) -> AsyncIterator[Piece]:
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[Piece | Exception | None]()
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []

        def send(outcome: Piece | Exception | None) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, outcome)

        step = self.engine.generate(self.adapter, [*system, *messages], self.sampling, max_new_tokens, seed)
        job = _Job(step, send)
        self.engine.submit(job)
        try:
            while (outcome := await queue.get()) is not None:
                if isinstance(outcome, Exception):
                    raise ArmError(f"arm {self.name}: {type(outcome).__name__}: {outcome}") from outcome
                yield outcome
        finally:
            job.cancelled = True
