"""A base model and what a strategy adds to it: load, attach, save, load again, merge.

Knows transformers and peft, and which of peft's methods can be merged. Does not know data, runs or training loops. No
strategy is named here: a recipe names a peft config class and its arguments, so that another is a recipe file and
nothing else.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import inspect
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.tuners_utils import BaseTuner
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from extes.errors import Problem
from extes.hub.merge import stop_at
from training.recipe import Recipe

# Their keys and values stand in the cache, which a checkpointed layer is not given: nothing would be learnt.
NEEDS_CACHE = (peft.PeftType.PREFIX_TUNING, peft.PeftType.CARTRIDGE)


def load_tokenizer(recipe: Recipe) -> Any:
    base = _base(recipe)
    try:
        return AutoTokenizer.from_pretrained(base, revision=recipe.base_revision or None)
    except Exception as error:  # a broken file raises whatever its reader raises
        raise Problem(
            f"the tokenizer of {base!r} cannot be loaded: {_first_line(error)}. It belongs beside the weights, as "
            "tokenizer.json and tokenizer_config.json"
        ) from error


def load_base(recipe: Recipe, shape_only: bool = False) -> Any:
    """The base model: in the recipe's dtype, quantised where the recipe says so, and on the CPU unless quantised.

    With ``shape_only`` no weight is read: the model has its true shapes on torch's meta device, to be counted.
    """
    base, revision = _base(recipe), recipe.base_revision or None
    if shape_only:
        try:
            config = AutoConfig.from_pretrained(base, revision=revision)
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config)
        except (OSError, ValueError) as error:
            raise Problem(f"the base model {base!r} cannot be loaded: {_first_line(error)}") from error
        _fits_context(recipe, config)
        return model
    arguments: dict[str, Any] = {"dtype": base_dtype(recipe)}
    if recipe.quantization is not None:
        arguments["quantization_config"] = _quantization(recipe.quantization)
        # Quantised weights cannot be moved afterwards: each process loads them to where it computes.
        arguments["device_map"] = {"": _own_device()}
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(
            base, revision=revision, ignore_mismatched_sizes=True, output_loading_info=True, **arguments
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise Problem(f"the base model {base!r} cannot be loaded: {_first_line(error)}") from error
    # transformers would fill the gaps with random numbers
    if lacking := sorted([*loaded["missing_keys"], *(key for key, *_ in loaded["mismatched_keys"])]):
        raise Problem(
            f"the base model {base!r} cannot be loaded: {len(lacking)} of its weights are missing or of another shape "
            f"than config.json says ({', '.join(lacking[:3])}); fetch it again, or name another base"
        )
    _fits_context(recipe, model.config)
    if recipe.quantization is not None:
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        _unpacked(model)
    return model


def attach(model: Any, recipe: Recipe) -> Any:
    """The model as the recipe trains it: wrapped by its adapter with the base frozen, or every weight learning."""
    if recipe.adapter is None:
        return model.requires_grad_(True)
    config = adapter_config(recipe)
    if recipe.gradient_checkpointing and config.peft_type in NEEDS_CACHE:
        raise Problem(
            f"strategy {recipe.strategy!r} learns keys and values before the dialogue, which gradient checkpointing "
            "throws away: --set gradient_checkpointing=false, and a smaller micro_batch to save memory"
        )
    kind = model.config.model_type
    try:
        tuned = peft.get_peft_model(model, config)
    except (ValueError, KeyError, TypeError, AttributeError, NotImplementedError, ZeroDivisionError) as error:
        raise Problem(
            f"strategy {recipe.strategy!r} ({type(config).__name__}) does not fit the base {recipe.base!r}, a {kind!r} "
            f"model: {_first_line(error)}. Change [adapter] (--set adapter.KEY=VALUE) or take another recipe"
        ) from error
    for parameter in tuned.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()  # bf16 cannot hold small steps of the optimiser
    return tuned


def adapter_config(recipe: Recipe) -> peft.PeftConfig:
    """peft's config object for the recipe's ``[adapter]`` table."""
    assert recipe.adapter is not None
    arguments = dict(recipe.adapter)
    name = arguments.pop("config")
    known = [n for n in dir(peft) if n.endswith("Config")]
    if name not in known:
        close = difflib.get_close_matches(name, known, 3)
        raise Problem(f"[adapter] config: peft has no {name!r}; the closest are {', '.join(close) or 'none'}")
    cls = getattr(peft, name)
    fields = [f.name for f in dataclasses.fields(cls)]
    for key in arguments:
        if key not in fields:
            raise Problem(f"[adapter] {key}: {name} has no such argument; it has {', '.join(fields)}")
    if "tokenizer_name_or_path" in fields and arguments.get("prompt_tuning_init") == "TEXT":
        arguments.setdefault("tokenizer_name_or_path", recipe.base)
    try:
        return cls(task_type="CAUSAL_LM", **arguments)
    except (ValueError, TypeError) as error:
        raise Problem(f"[adapter] {name}: {_first_line(error)}") from error


def base_dtype(recipe: Recipe) -> torch.dtype:
    """Weights that learn are fp32, since bf16 loses small steps; a frozen base takes half of that on a GPU."""
    if recipe.base_dtype != "auto":
        return torch.float32 if recipe.base_dtype == "float32" else torch.bfloat16
    frozen = recipe.adapter is not None
    return torch.bfloat16 if frozen and torch.cuda.is_available() else torch.float32


def save(model: Any, tokenizer: Any, folder: Path, base_name: str = "", state_dict: Any = None) -> None:
    """Weights as safetensors, with tokenizer and chat template. For an adapter, the adapter alone."""
    if isinstance(model, peft.PeftModel):
        config = model.peft_config["default"]
        before = config.base_model_name_or_path
        config.base_model_name_or_path = base_name or before
        model.save_pretrained(folder, state_dict=state_dict)
        config.base_model_name_or_path = before
        (folder / "README.md").unlink(missing_ok=True)  # peft's empty form of a card; the run writes the real one
    else:
        model.config.use_cache = True
        stop_at(model, tokenizer.eos_token_id)
        model.save_pretrained(folder, state_dict=state_dict)
    tokenizer.save_pretrained(folder)


def load_tuned(recipe: Recipe, run: Path) -> Any:
    """The tuned model of a finished run, in evaluation mode, from its files alone.

    For a quantised base the base is quantised anew from its full weights, which gives the same values each time.
    """
    if recipe.adapter is None:
        return AutoModelForCausalLM.from_pretrained(run / "model", dtype=base_dtype(recipe)).eval()
    return peft.PeftModel.from_pretrained(load_base(recipe), run / "adapter").eval()


def mergeable(model: Any) -> str:
    """Why the adapter cannot be merged into the base's weights; empty where it can.

    Prompts, prefixes and LLaMA-Adapter add positions or a gated branch, which no change of weights can stand for.
    """
    if not isinstance(model, peft.PeftModel):
        return "there is no adapter: the weights themselves were tuned"
    if not isinstance(model.base_model, BaseTuner):
        return "it adds something to attend to, not a change of weights"
    if model.config.model_type and getattr(model.get_base_model().config, "quantization_config", None) is not None:
        return "its base is quantised; load the base in full precision, attach the adapter, and merge that"
    return ""


def merge(model: Any) -> Any:
    """A plain model with the adapter folded into its weights. Raises :class:`Problem` where that is not defined."""
    if reason := mergeable(model):
        raise Problem(f"cannot merge: {reason}")
    return model.merge_and_unload()


def _base(recipe: Recipe) -> str:
    if not recipe.base:
        raise Problem("which model should be tuned? Say --set base=FOLDER_OR_HUB_REPOSITORY")
    folder = Path(recipe.base)
    local = folder.is_absolute() or recipe.base.startswith((".", "models/")) or recipe.base.count("/") > 1
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise Problem(f"base: {recipe.base} holds no model (no config.json); name the folder that has it")
    if local and not folder.is_dir():
        raise Problem(f"base: there is no folder {recipe.base}; name a model's folder or a Hub repository OWNER/NAME")
    if not folder.is_dir():
        try:
            AutoConfig.from_pretrained(recipe.base, revision=recipe.base_revision or None)
        except (OSError, ValueError) as error:
            raise Problem(
                f"base: {recipe.base!r} is neither a folder here nor a Hub repository that can be read "
                f"({_first_line(error)}). Check its spelling, the network, and for a gated one `hf auth login`"
            ) from error
    return recipe.base


def _fits_context(recipe: Recipe, config: Any) -> None:
    context = config.get_text_config().max_position_embeddings
    virtual = (recipe.adapter or {}).get("num_virtual_tokens", 0)
    if "num_virtual_tokens" in (recipe.adapter or {}) and (not isinstance(virtual, int) or virtual < 1):
        raise Problem(f"[adapter] num_virtual_tokens is {virtual!r}; it is a whole number, 1 or more")
    if recipe.data.max_length + virtual > context:
        learnt = f", {virtual} of which the strategy's own tokens take" if virtual else ""
        raise Problem(
            f"data.max_length is {recipe.data.max_length} tokens, and {recipe.base!r} was made for {context}{learnt}; "
            f"set it to {context - virtual} or less (longer dialogues are cut at turns, and counted)"
        )


def _quantization(arguments: dict[str, Any]) -> BitsAndBytesConfig:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise Problem(
            'a quantised base needs bitsandbytes: pip install "extes[qlora]", or take training/recipes/lora.toml'
        )
    known = list(inspect.signature(BitsAndBytesConfig.__init__).parameters)[1:-1]
    for key in arguments:
        if key not in known:
            raise Problem(f"[quantization] {key}: BitsAndBytesConfig has no such argument; it has {', '.join(known)}")
    try:
        return BitsAndBytesConfig(**arguments)
    except (TypeError, ValueError, AttributeError) as error:
        raise Problem(f"[quantization]: {_first_line(error)}") from error


def _unpacked(model: Any) -> None:
    """Keep bitsandbytes from its packed form for CPUs: going in and out of it rounds the scales, so that a model would
    no longer be the one that its adapter was trained on. Nothing changes on a GPU."""
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _own_device() -> Any:
    from accelerate import PartialState

    return PartialState().device


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
