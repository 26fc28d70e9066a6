"""What a run would do, told before it does it: sizes, tokens, steps, an estimate of memory. Trains and writes nothing.

Memory for one process, in bytes, is the sum of

    weights      parameters x bytes each (4-bit ones 0.56, scales included)
    gradients    learning parameters x 4
    optimiser    learning parameters x 8 (AdamW's two moments; 2 with 8-bit ones, about 0 for adafactor)
    activations  rows x tokens x layers x hidden x 100 in bf16, 140 in fp32, and a tenth of it when checkpointed
                 (measured on a CPU: 97 and 141 with LoRA on every linear layer, 65 and 99 without an adapter)
    logits       labelled tokens of a micro-batch x vocabulary x 10 (the output, its fp32 copy and their gradients)

Rough: it leaves out libraries (half a gigabyte), buffers and fragmentation (on a CPU as much again as the activations),
and is for choosing, not for filling a GPU to the brim.
FSDP and ZeRO-3 divide the first three by the number of processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from training.batches import padding_share
from training.data import Prepared
from training.recipe import Recipe

ACTIVATION_BYTES = {"bf16": 100, "fp32": 140}
CHECKPOINTED_SHARE = 0.1
NF4_BYTES = 0.56
OPTIMISER_BYTES = {"adamw_bnb_8bit": 2, "paged_adamw_8bit": 2, "adafactor": 0}


@dataclass(frozen=True)
class Memory:
    """Estimated bytes of one process."""

    weights: float
    gradients: float
    optimiser: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimiser + self.activations + self.logits


@dataclass(frozen=True)
class Plan:
    recipe: Recipe
    prepared: Prepared
    parameters: int
    trainable: int
    micro_batch: int
    accumulation: int
    processes: int
    steps: int
    order: list[int]
    memory: Memory
    device: str

    @property
    def tokens(self) -> int:
        return sum(len(self.prepared.train[row].input_ids) for row in self.order)

    @property
    def trained_tokens(self) -> int:
        return sum(self.prepared.train[row].trained_tokens for row in self.order)

    def __str__(self) -> str:
        r, m = self.recipe, self.memory
        passes = len(self.order) / len(self.prepared.train)
        held = ", ".join(f"{name} {len(rows)}" for name, rows in self.prepared.held_out.items()) or "none"
        times = f" x {self.accumulation} times" if self.accumulation > 1 else ""
        spread = f" x {self.processes} processes" if self.processes > 1 else ""
        padding = padding_share(self.prepared.train, self.order, self.micro_batch)
        method = r.adapter["config"] if r.adapter else "every weight"
        quantised = f", base in {_bits(r)}" if r.quantization else ""
        lines = [
            ("model", f"{r.base}, {self.parameters:,} parameters"),
            ("strategy", f"{r.strategy} ({method}{quantised}): {self.trainable:,} learn"
             f" ({self.trainable / self.parameters:.2%} of the base)"),
            ("template", self.prepared.template_name),
            ("data", f"{len(self.prepared.train):,} rows to train on; held out: {held}"),
            ("steps", f"{self.steps:,} of {r.batch} rows ({self.micro_batch} at once{times}{spread})"
             f"; {passes:.2f} passes over the data"),
            ("tokens", f"{self.trained_tokens:,} trained of {self.tokens:,} read; {padding:.1%} padding"),
            ("learning rate", f"{r.learning_rate:g}, {r.warmup_steps} steps of warm-up, then {r.schedule}"),
            ("memory", f"about {size(m.total)} a process on the {self.device}: weights {size(m.weights)}, gradients "
             f"{size(m.gradients)}, optimiser {size(m.optimiser)}, activations {size(m.activations)}, logits "
             f"{size(m.logits)} (an estimate; the formula is in training/plan.py)"),
        ]  # fmt: skip
        told = [f"{name:14}{text}" for name, text in lines]
        return "\n".join(told) + f"\n\n{self.prepared.counts}"


def memory(recipe: Recipe, config: Any, parameters: int, trainable: int, gpu: bool, rows: int, labelled: int) -> Memory:
    """The estimate of the module's docstring. ``rows``: of a micro-batch; ``labelled``: its trained tokens at most."""
    added = trainable if recipe.adapter else 0
    if recipe.quantization is not None:
        each = NF4_BYTES if recipe.quantization.get("load_in_4bit") else 1.0
    else:
        half = recipe.base_dtype == "bfloat16" or (recipe.base_dtype == "auto" and recipe.adapter is not None and gpu)
        each = 2.0 if half else 4.0
    text = config.get_text_config()
    places = rows * recipe.data.max_length * text.num_hidden_layers * text.hidden_size
    activations = places * ACTIVATION_BYTES[recipe.precision]
    return Memory(
        weights=parameters * each + added * 4,
        gradients=trainable * 4,
        optimiser=trainable * OPTIMISER_BYTES.get(recipe.optimiser, 8),
        activations=activations * (CHECKPOINTED_SHARE if recipe.gradient_checkpointing else 1),
        logits=labelled * text.vocab_size * 10,
    )


def size(count: float) -> str:
    """Bytes as a person reads them: ``512 KB``, ``37 MB``, ``14.2 GB``."""
    for limit, unit, digits in ((1e9, "GB", 1), (1e6, "MB", 0), (1e3, "KB", 0)):
        if count >= limit:
            return f"{count / limit:.{digits}f} {unit}"
    return f"{count:.0f} bytes"


def _bits(recipe: Recipe) -> str:
    assert recipe.quantization is not None
    return "4 bits" if recipe.quantization.get("load_in_4bit") else "8 bits"
