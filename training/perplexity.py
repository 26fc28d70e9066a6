"""Perplexity over supporter tokens: the sum of their negative log-likelihoods over their number.

Weighted by tokens, so that it does not depend on the batch size (``exp(eval_loss)`` does). Knows examples and a causal
model; nothing of templates or data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from extes.errors import Problem
from training.data import Example
from training.template import IGNORED

LARGEST = 700  # nats a token or word: e to this power is about the largest number there is


@dataclass(frozen=True)
class Score:
    """Sums over a set of examples; two of disjoint sets add up. ``nll`` in nats."""

    nll: float = 0.0
    tokens: int = 0
    words: int = 0

    def __add__(self, other: Score) -> Score:
        return Score(self.nll + other.nll, self.tokens + other.tokens, self.words + other.words)

    @property
    def per_token(self) -> float:
        """Perplexity as usually told: it can be compared between models of one tokenizer and one template."""
        return math.exp(self.nll / self.tokens)

    @property
    def per_word(self) -> float:
        """The same likelihood per word of the replies: it can be compared between tokenizers."""
        return math.exp(self.nll / self.words)


def score(model: Any, examples: Sequence[Example], batch: int = 8) -> Score:
    """Negative log-likelihood of every label of the examples, end of turn included.

    Padded on the right whatever the tokenizer would do: with causal attention no real token then sees padding or has
    its position moved. Examples of one batch are of about one length. Raises :class:`Problem` where there is nothing
    to score, or the model gives no number.
    """
    was_training = model.training
    model.eval()
    try:
        ordered = sorted(examples, key=lambda e: len(e.input_ids))
        total = sum((_batch(model, ordered[i : i + batch]) for i in range(0, len(ordered), batch)), Score())
    finally:
        model.train(was_training)
    if not total.tokens:
        raise Problem("there is no supporter token to score: hold out dialogues that have supporter turns")
    if not math.isfinite(total.nll) or total.nll > LARGEST * min(total.tokens, total.words or total.tokens):
        raise Problem(
            f"the perplexity is not a number (summed loss {total.nll}): the weights or the precision are broken. "
            "Load the model in float32; if it was just tuned, lower the learning rate and tune again."
        )
    return total


def _batch(model: Any, examples: Sequence[Example]) -> Score:
    width = max(len(e.input_ids) for e in examples)
    ids = torch.zeros((len(examples), width), dtype=torch.long)
    attention, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for n, e in enumerate(examples):
        size = len(e.input_ids)
        ids[n, :size] = torch.tensor(e.input_ids)
        labels[n, :size] = torch.tensor(e.labels)
        attention[n, :size] = 1
    with torch.inference_mode():
        logits = model(input_ids=ids.to(model.device), attention_mask=attention.to(model.device)).logits
    # Prompt-learning adapters put virtual tokens first and give logits for them too: count from the end.
    logits, targets = logits[:, -width:][:, :-1], labels[:, 1:].to(logits.device)
    kept = targets != IGNORED
    nll = functional.cross_entropy(logits[kept].float(), targets[kept], reduction="none").double().sum()
    return Score(float(nll), int(kept.sum()), sum(e.words for e in examples))
