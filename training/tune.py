"""One run from recipe to finished run folder. ``tune`` is what the command line and the benchmarks call.

Knows the order of things (folder, data, base's score, training, tuned score, saving, describing) and what only one
process may do. How each is done is its own module's.
"""

from __future__ import annotations

import itertools
import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from accelerate import PartialState
from transformers import TrainingArguments, set_seed
from transformers.utils import logging as transformers_logging

from extes.errors import Problem
from training import batches, curves, strategies
from training.data import Prepared, prepare
from training.evaluate import Sets, scores
from training.loop import Tuner, arguments, last_checkpoint, memory_errors_told
from training.perplexity import Score
from training.plan import Plan, memory
from training.progress import Log, Progress
from training.recipe import Recipe
from training.record import begun, metrics_of, perplexities, same_start
from training.run import RunFolder, peak_memory
from training.tuned_card import card


@dataclass(frozen=True)
class Finished:
    """A finished run. ``model`` is the tuned one as it was saved; None where the run was finished before and nothing
    was done (``training.strategies.load_tuned`` reads it)."""

    folder: Path
    weights: Path
    record: dict[str, Any]
    metrics: list[dict[str, Any]]
    model: Any = None


@dataclass(frozen=True)
class Work:
    """What is to be done, with everything counted before it is done."""

    recipe: Recipe
    prepared: Prepared
    processes: int
    micro_batch: int
    accumulation: int
    steps: int
    rows: batches.Rows

    @property
    def learnt_tokens(self) -> int:
        return sum(self.rows[i].trained_tokens for i in range(len(self.rows)))

    @property
    def read_tokens(self) -> list[int]:
        """Of each step, padding not counted."""
        sizes = [len(self.rows[i].input_ids) for i in range(len(self.rows))]
        batch = self.recipe.batch
        return [sum(sizes[s : s + batch]) for s in range(0, len(sizes), batch)]


def plan(recipe: Recipe) -> Plan:
    """What a run would do. Reads the model's configuration and the data; no weights. Writes nothing."""
    with quiet():
        model = strategies.load_base(recipe, shape_only=True)
        parameters, config = model.num_parameters(), model.config
        tuned = strategies.attach(model, recipe)
        trainable = _trainable(tuned)
        work = _work(recipe, strategies.load_tokenizer(recipe))
        gpu = torch.cuda.is_available()
        labelled = work.micro_batch * max(e.trained_tokens for e in work.prepared.train)
        return Plan(
            recipe=recipe,
            prepared=work.prepared,
            parameters=parameters,
            trainable=trainable,
            micro_batch=work.micro_batch,
            accumulation=work.accumulation,
            processes=work.processes,
            steps=work.steps,
            order=list(work.rows.order),
            memory=memory(recipe, config, parameters, trainable, gpu, work.micro_batch, labelled),
            device="GPU" if gpu else "CPU",
        )


def tune(recipe: Recipe, run: Path, say: Callable[[str], None] | None = print) -> Finished:
    """Train as the recipe says, go on where a killed run stopped, or do nothing if it is finished.

    ``say`` gets the lines that a person reads; None keeps silent. Under ``accelerate launch`` every process calls this,
    and the first writes and speaks. Raises :class:`Problem` for everything that a person can mend.
    """
    folder = RunFolder(run)
    micro, accumulation, _ = _share(recipe)
    # The trainer's arguments start the processes' talk, and come before the model: ZeRO-3 shards weights as they load.
    args = arguments(recipe, folder.checkpoints, micro, accumulation)
    everyone = PartialState()
    main = everyone.is_main_process
    tell: Callable[[str], None] = say if say and main else lambda _: None
    with everyone.main_process_first():
        finished = folder.check(recipe)
        if main and not finished:
            folder.make()
    if finished:
        tell(f"{run} is finished; nothing to do (remove it to train again)")
        return _finished(folder)

    with quiet():
        tokenizer = strategies.load_tokenizer(recipe)
        work = _work(recipe, tokenizer)
        tokenizer.chat_template = work.prepared.template
        # A base may end texts with another token than the template ends turns; who generates must stop at the latter.
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(work.prepared.end_of_turn)
        result = _train(work, folder, args, tell, shown=bool(say) and main)
        if main:
            _write(folder, work, tokenizer, result)
        everyone.wait_for_everyone()
    base, tuned = perplexities(result.metrics, "base"), perplexities(result.metrics, "tuned")
    for name, value in tuned.items():
        tell(f"held out {name}: perplexity {base[name]:.2f} -> {value:.2f}")
    tell(f"wrote {folder.weights}")
    return _finished(folder, result.model)


@dataclass(frozen=True)
class _Result:
    """What training leaves in memory."""

    model: Any
    state_dict: dict[str, torch.Tensor] | None  # gathered, where the weights are sharded
    record: dict[str, Any]
    metrics: list[dict[str, Any]]


def _train(work: Work, folder: RunFolder, args: TrainingArguments, tell: Callable[[str], None], shown: bool) -> _Result:
    recipe, everyone = work.recipe, PartialState()
    progress: Progress | None = None
    with memory_errors_told(recipe, work.micro_batch, lambda: progress.step if progress else -1):
        set_seed(recipe.seed)
        model = strategies.load_base(recipe)
        record = begun(
            recipe, work.prepared, model, work.steps, work.learnt_tokens, sum(work.read_tokens), work.processes
        )
        tuned = strategies.attach(model, recipe)
        record["trainable_parameters"] = trainable = _trainable(tuned)
        tell(
            f"{recipe.strategy}: {trainable:,} of {record['parameters']:,} parameters learn from "
            f"{work.learnt_tokens:,} supporter tokens in {work.steps:,} steps of {recipe.batch} rows, on "
            + (f"{work.processes} processes, " if work.processes > 1 else "")
            + record["device"]
        )

        # Where an earlier attempt stopped; before this, a mistake leaves the folder empty
        if everyone.is_main_process:
            folder.begin(recipe)
        with everyone.main_process_first():
            checkpoint = last_checkpoint(folder.checkpoints)
        start = int(checkpoint.name.removeprefix("checkpoint-")) if checkpoint else 0
        log = Log(folder.log)
        before = log.rewind(start) if everyone.is_main_process else log.entries()
        if start:
            tell(f"resuming at step {start} of {work.steps}")
        started = folder.read("run.json") if folder.has("run.json") else record
        same_start(folder, started, record)
        # Of the base alone: an attempt that was killed while it wrote its folder has left the tuned model's there, too
        metrics = [m for m in folder.read("metrics.json") if m["of"] == "base"] if folder.has("metrics.json") else []
        everyone.wait_for_everyone()

        # Sharded weights can be read by all processes together only, and only once the trainer has wrapped them.
        sharded = bool(args.deepspeed_plugin) or os.environ.get("ACCELERATE_USE_FSDP") == "true"
        share = (0, 1) if sharded else (everyone.process_index, everyone.num_processes)
        some = {name: rows[: recipe.eval_rows] for name, rows in work.prepared.held_out.items()}

        def scored(model: Any, sets: Sets) -> dict[str, Score]:
            try:
                return scores(model, sets, work.micro_batch, share)
            except Problem as error:
                raise trainer.diverged(f"the held-out loss is no number after step {progress.step}") from error

        def losses() -> dict[str, float]:
            found = scored(trainer.model_wrapped, some)
            return {name: round(s.nll / s.tokens, 6) for name, s in found.items()}

        def score_base() -> None:
            if metrics:
                return
            with _without_adapter(tuned):
                found = scores(trainer.model_wrapped, work.prepared.held_out, work.micro_batch, share)
            metrics.extend(metrics_of(found, "base"))
            if everyone.is_main_process:
                folder.write("run.json", record)
                folder.write("metrics.json", metrics)

        progress = Progress(
            log if everyone.is_main_process else None,
            list(itertools.accumulate(work.read_tokens)),
            losses,
            recipe.eval_steps,
            shown,
            before,
            peak=lambda: peak_memory(args.device.type),
            at_start=score_base if sharded else lambda: None,
        )
        trainer = Tuner(tuned, args, work.rows, [progress])
        if not sharded:
            score_base()
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        progress.line.close()

        state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if sharded else None
        # Without the mixed precision that training wrapped around it: scored as it will be loaded.
        final = trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
        after = scored(trainer.model_wrapped if sharded else final, work.prepared.held_out)
    record |= {
        "cannot_merge": strategies.mergeable(final) if recipe.adapter else "",
        "seconds": round(progress.seconds, 1),
        "peak_memory_bytes": _most([peak_memory(args.device.type), *(e["peak_memory_bytes"] for e in before)]),
    }
    return _Result(final, state, record, [*metrics, *metrics_of(after, "tuned")])


def _write(folder: RunFolder, work: Work, tokenizer: Any, result: _Result) -> None:
    """Everything that a finished run folder holds; the weights get their name last."""
    recipe, record = work.recipe, result.record
    staged = folder.staged(record["weights"])
    strategies.save(result.model, tokenizer, staged, recipe.base_name, result.state_dict)
    folder.write("run.json", record)
    folder.write("metrics.json", result.metrics)
    card(record, result.metrics).save(folder.path / "README.md")
    base = {name: math.log(value) for name, value in perplexities(result.metrics, "base").items()}
    entries = Log(folder.log).entries()
    curves.draw(entries, folder.path / "curves.png", f"{recipe.strategy} on {record['base']}", base)
    folder.finish(record["weights"])


def _work(recipe: Recipe, tokenizer: Any) -> Work:
    prepared = prepare(recipe.data, tokenizer)
    micro, accumulation, processes = _share(recipe)
    steps = batches.steps_for(len(prepared.train), recipe.epochs, recipe.batch, recipe.max_steps)
    order = batches.order([len(e.input_ids) for e in prepared.train], recipe.batch, steps, recipe.seed)
    return Work(recipe, prepared, processes, micro, accumulation, steps, batches.Rows(prepared.train, order))


def _share(recipe: Recipe) -> tuple[int, int, int]:
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    try:
        return *batches.split(recipe.batch, recipe.micro_batch, processes), processes
    except ValueError as error:
        raise Problem(str(error)) from error


def _without_adapter(model: Any) -> Any:
    return model.disable_adapter() if isinstance(model, peft.PeftModel) else nullcontext()


def _trainable(model: Any) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _most(values: list[int]) -> int:
    """The largest over time and over processes."""
    from accelerate.utils import gather

    return int(gather(torch.tensor([max(values)], device=PartialState().device)).max())


def _finished(folder: RunFolder, model: Any = None) -> Finished:
    assert folder.weights
    return Finished(folder.path, folder.weights, folder.read("run.json"), folder.read("metrics.json"), model)


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps the libraries' bars, advice and warnings from between the lines that a person reads."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(level)
        transformers_logging.enable_progress_bar()
