"""An adapter folded into its base's weights: whole weights that need no peft. Knows torch, transformers and peft.

Done in the dtype of the base's files, which is what ``merge_and_unload`` users expect and what fits in memory.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from extes.errors import Problem
from extes.hub.run import Run


def check_mergeable(run: Run) -> None:
    """Raise :class:`Problem` where merging is not defined, before any weight is read."""
    if run.kind == "model":
        raise Problem(f"{run.path} holds whole weights, with nothing to merge; leave --merged out")
    reason = run.record.cannot_merge
    if reason is None:
        from peft import PEFT_TYPE_TO_TUNER_MAPPING, PeftType
        from peft.tuners.tuners_utils import BaseTuner

        kind = json.loads((run.weights / "adapter_config.json").read_text(encoding="utf-8"))["peft_type"]
        if issubclass(PEFT_TYPE_TO_TUNER_MAPPING.get(PeftType(kind), object), BaseTuner):
            return
        reason = "it adds something to attend to, not a change of weights"
    if not reason or "base is quantised" in reason:
        return  # a quantised base is loaded here in full precision, where merging is defined
    raise Problem(f"the adapter of {run.path} cannot be merged: {reason}. Push it as an adapter, without --merged")


def merge(run: Run, folder: Path) -> None:
    """Write the merged weights into ``folder``, all or nothing. Raises :class:`Problem` if the base is missing."""
    import peft
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    where = str(run.recipe.get("base") or run.record.base)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        base = AutoModelForCausalLM.from_pretrained(
            where, revision=run.record.base_revision or run.recipe.get("base_revision") or None, dtype="auto"
        )
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise Problem(f"the base {where!r} of {run.path} cannot be loaded ({first}); merging needs it") from error
    tuned = peft.PeftModel.from_pretrained(base, run.weights)
    whole = tuned.merge_and_unload()
    whole.config.use_cache = True
    stop_at(whole, AutoTokenizer.from_pretrained(run.weights).eos_token_id)
    staged = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(staged, ignore_errors=True)
    whole.save_pretrained(staged)
    for path in run.weights.iterdir():
        if path.is_file() and not path.name.startswith(("adapter_", "README")):
            shutil.copyfile(path, staged / path.name)  # tokenizer and template
    staged.rename(folder)


def stop_at(model: Any, end_of_turn: int | None) -> None:
    """Have the saved model stop generating where a turn ends; its base may end texts with another token."""
    settings = model.generation_config
    settings.eos_token_id = settings.eos_token_id if end_of_turn is None else end_of_turn
    try:
        settings.validate(strict=True)
    except ValueError:
        # Some published bases (Vicuna) give a temperature and forget this; changed, they would not be saved without.
        settings.do_sample = True
