"""The training loop: transformers' Trainer with the loss on supporter tokens only, and nothing that is hidden.

Why Trainer and not trl's SFTTrainer: the rows arrive tokenised, masked and counted (``training/data.py``), so what trl
would add is templating, which is done, and packing. What it would cost: 5 s of import, rows dropped in silence, a
patched ``forward`` that breaks LLaMA-Adapter. And this loss is cheaper: the output layer, the largest matrix of a small
model, sees only the places that carry loss, where trl sends all of them through in chunks.

Knows models, optimiser steps, checkpoints and processes. Does not know recipes' files, dialogues or run folders.
"""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from extes.errors import Problem
from training.batches import Rows, collate
from training.recipe import Recipe
from training.template import IGNORED

LEARNT = "learnt.safetensors"  # in a checkpoint, beside what peft makes of it


class Halted(Problem):
    """Training cannot go on; told by whichever process met it."""


class LabelledOnly:
    """Lets the output layer see only the places whose next token is to be learnt.

    A hook on the output layer, so that it holds for every architecture, adapter and way of sharding. With ``places``
    unset (evaluation, generation) it does nothing.
    """

    def __init__(self, model: Any):
        self.places: torch.Tensor | None = None
        model.get_output_embeddings().register_forward_pre_hook(self._select)

    def _select(self, layer: Any, hidden: tuple[torch.Tensor, ...]) -> Any:
        if self.places is None:
            return None
        width = hidden[0].shape[1]
        # Virtual tokens of a prompt stand before the row; their places carry no loss.
        before = width - self.places.shape[1]
        places = functional.pad(self.places, (before, 0)) if before else self.places
        return (hidden[0][places],)


class Tuner(Trainer):
    """Trainer whose loss is the mean over the labelled tokens of the whole optimiser step, on all processes."""

    def __init__(self, model: Any, args: TrainingArguments, rows: Rows, callbacks: list[TrainerCallback]):
        super().__init__(model=model, args=args, train_dataset=rows, data_collator=collate, callbacks=callbacks)
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = True  # num_items_in_batch is what divides below
        self.labelled = LabelledOnly(model)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        targets = inputs["labels"][:, 1:]
        learnt = targets != IGNORED
        # A place predicts the one after it: the last predicts nothing.
        self.labelled.places = functional.pad(learnt, (0, 1))
        try:
            logits = model(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
            ).logits
        finally:
            self.labelled.places = None
        total = functional.cross_entropy(logits.float(), targets[learnt], reduction="sum")
        # Each process divides by the tokens of all; the mean of gradients over processes then needs this factor.
        return total / num_items_in_batch * self.accelerator.num_processes

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if isinstance(self.model, peft.PeftModel) and self.args.should_save and output_dir and state_dict is None:
            learnt = {name: p.detach().contiguous() for name, p in self.model.named_parameters() if p.requires_grad}
            save_file(learnt, Path(output_dir) / LEARNT)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        # peft saves what a prompt encoder makes, not the encoder, which is what learns.
        if (path := Path(resume_from_checkpoint) / LEARNT).exists():
            self.model.load_state_dict(load_file(path), strict=False)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        if not math.isfinite(float(loss)):
            raise self.diverged(f"the loss became {float(loss)} at step {self.state.global_step + 1}")
        return loss

    def diverged(self, what: str) -> Halted:
        return Halted(
            f"{what}: the weights are lost. Lower learning_rate (it is {self.args.learning_rate:g}), lengthen "
            f"warmup_steps (it is {self.args.warmup_steps:g}), or take precision=fp32, and start again in a new folder"
        )


def arguments(recipe: Recipe, folder: Path, micro_batch: int, accumulation: int) -> TrainingArguments:
    """transformers' arguments for a recipe; ``folder`` takes the checkpoints."""
    if "8bit" in recipe.optimiser and importlib.util.find_spec("bitsandbytes") is None:
        raise Problem(
            f'optimiser {recipe.optimiser!r} needs bitsandbytes: pip install "extes[qlora]", or take adamw_torch_fused'
        )
    return TrainingArguments(
        output_dir=str(folder),
        seed=recipe.seed,
        num_train_epochs=1,  # the passes are in the order of the rows
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation,
        train_sampling_strategy="sequential",
        learning_rate=recipe.learning_rate,
        lr_scheduler_type={"constant": "constant_with_warmup"}.get(recipe.schedule, recipe.schedule),
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        optim=recipe.optimiser,
        bf16=recipe.precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        activation_checkpointing=recipe.gradient_checkpointing,
        ddp_find_unused_parameters=False,
        logging_strategy="steps",
        logging_steps=recipe.log_steps,
        logging_nan_inf_filter=False,  # it would show the mean of the earlier losses in place of a NaN
        save_strategy="steps" if recipe.save_steps else "no",
        save_steps=recipe.save_steps or 1,
        save_total_limit=1,
        disable_tqdm=True,
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        log_level="error",
        log_level_replica="error",
    )


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint. One whose writing was cut off is removed: its last file, the state, is missing."""
    whole = []
    for path in folder.glob("checkpoint-*"):
        try:
            whole.append((int(json.loads((path / "trainer_state.json").read_text())["global_step"]), path))
        except (OSError, ValueError, KeyError):
            shutil.rmtree(path)
    return max(whole)[1] if whole else None


@contextmanager
def memory_errors_told(recipe: Recipe, micro_batch: int, step: Callable[[], int]) -> Iterator[None]:
    """Out of memory, on a GPU or not, becomes a :class:`Halted` that says what to change."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error)
        cpu = isinstance(error, MemoryError) or "DefaultCPUAllocator" in text or "not enough memory" in text
        if not cpu and not isinstance(error, torch.OutOfMemoryError):
            raise
        ways = []
        same = " (may be changed in the same run folder)"
        if micro_batch > 1:
            less = next(n for n in range(micro_batch // 2, 0, -1) if micro_batch % n == 0)  # it must divide the batch
            ways.append(f"--set micro_batch={less}, the same training in smaller pieces{same}")
        if not recipe.gradient_checkpointing:
            ways.append(f"--set gradient_checkpointing=true{same}")
        ways.append(f"--set data.max_length={recipe.data.max_length // 2}")
        if recipe.adapter is None:
            ways.append("training/recipes/lora.toml in place of full")
        elif recipe.quantization is None:
            ways.append("training/recipes/qlora.toml")
        where = "GPU" if isinstance(error, torch.OutOfMemoryError) else "machine"
        at = f" in step {step() + 1}" if step() >= 0 else " while the model was loaded"
        raise Halted(
            f"the {where} is out of memory{at}. Try, in this order: {'; '.join(ways)}. "
            "`--dry-run` estimates what a run needs"
        ) from error
