"""Perplexity over supporter tokens: the sum of their negative log-likelihoods over their number.

Weighted by tokens, so that it does not depend on the batch size (``exp(eval_loss)`` does).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional


def perplexity(model: Any, tokenizer: Any, dialogues: Sequence[list[dict[str, str]]], batch: int = 8) -> dict[str, Any]:
    """``{"perplexity", "nll_per_token", "tokens"}`` of the supporter's tokens, end-of-turn included."""
    encoded = [tokenizer.apply_chat_template(d, return_dict=True, return_assistant_tokens_mask=True) for d in dialogues]
    encoded.sort(key=lambda e: len(e["input_ids"]))
    total, tokens = 0.0, 0
    for i in range(0, len(encoded), batch):
        part = encoded[i : i + batch]
        width = max(len(e["input_ids"]) for e in part)
        ids = torch.full((len(part), width), tokenizer.pad_token_id)
        attention, kept = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
        for n, e in enumerate(part):
            size = len(e["input_ids"])
            ids[n, :size] = torch.tensor(e["input_ids"])
            attention[n, :size] = 1
            kept[n, :size] = torch.tensor(e["assistant_masks"]).bool()
        with torch.inference_mode():
            logits = model(input_ids=ids.to(model.device), attention_mask=attention.to(model.device)).logits
        targets = ids[:, 1:].to(model.device)
        nll = functional.cross_entropy(logits[:, :-1].float().transpose(1, 2), targets, reduction="none").double().cpu()
        total += float(nll[kept[:, 1:]].sum())
        tokens += int(kept[:, 1:].sum())
    if not tokens:
        raise ValueError("no supporter token to score: the dialogues have no supporter turn, or the template no marker")
    return {"perplexity": math.exp(total / tokens), "nll_per_token": total / tokens, "tokens": tokens}
