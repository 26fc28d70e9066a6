"""How fast tuning is, and what memory it takes, beside trl's SFTTrainer on the same model and data.

    python -m benchmarks.training [--base FOLDER] [--steps 40] [--rounds 3]

Four ways, each in a process of its own, in alternation. ``here`` is ``training.tune.tune``, which finetune.py calls;
``trl alike`` is SFTTrainer told to do the same. ``trl`` is SFTTrainer as its README has it, its defaults untouched but
for what fixes the work (steps, batch, length, learning rate and its course, loss on replies only); among its defaults
is activation checkpointing, so ``here frugal`` has that too. The data are the project's seeds, twenty held out.

Prints medians over the rounds, the ratio of each pair, and, as a check that one work was done, the perplexity that each
reaches on the held-out seeds. Then the time of the whole CPU strategy matrix.

tokens/s counts tokens that are not padding, over the time that ``Trainer.train`` takes; on a busy machine CPU time is
the fairer measure. Memory is the largest resident set of the process, libraries included.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WAYS = ("here", "trl alike", "here frugal", "trl")
RECIPE = ROOT / "training" / "recipes" / "lora.toml"
LOG_STEPS = 10


def settings(args: argparse.Namespace) -> list[str]:
    """Of the work, for all three."""
    return [
        f"base={args.base}",
        f"data.train={json.dumps([f'pool:{args.folder}/train.jsonl'])}",
        "data.held_out.seeds=0",
        "data.held_out.per_mille=0",
        f"data.max_length={args.length}",
        f"batch={args.batch}",
        f"max_steps={args.steps}",
        "learning_rate=2e-3",
        "eval_steps=0",
        "save_steps=0",
        f"log_steps={LOG_STEPS}",
    ]


@contextmanager
def watched() -> Iterator[dict[str, float]]:
    """The wall and CPU seconds of ``Trainer.train``, from which both sides inherit it."""
    from transformers import Trainer

    plain, found = Trainer.train, dict[str, float]()

    def train(self: Any, *rest: Any, **named: Any) -> Any:
        began, busy = time.monotonic(), time.process_time()
        try:
            return plain(self, *rest, **named)
        finally:
            found.update(seconds=time.monotonic() - began, cpu=time.process_time() - busy)

    Trainer.train = train  # type: ignore[method-assign]
    try:
        yield found
    finally:
        Trainer.train = plain  # type: ignore[method-assign]


def here(args: argparse.Namespace, frugal: bool) -> dict[str, Any]:
    from training import recipe as recipes
    from training.tune import tune

    recipe = recipes.load(RECIPE, [*settings(args), f"gradient_checkpointing={str(frugal).lower()}"])
    with watched() as spent:
        done = tune(recipe, args.output / "run", say=None)
    return {**spent, "tokens": done.record["read_tokens"], "adapter": str(done.weights)}


def trl(args: argparse.Namespace, alike: bool) -> dict[str, Any]:
    import torch
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from training import recipe as recipes

    recipe = recipes.load(RECIPE, settings(args))
    same: dict[str, Any] = {}
    if alike:
        same = {
            "gradient_checkpointing": False,
            "bf16": recipe.precision == "bf16",
            "optim": recipe.optimiser,
            "max_grad_norm": recipe.max_grad_norm,
        }

    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(args.base),
        args=SFTConfig(
            output_dir=str(args.output / "trainer"),
            max_steps=recipe.max_steps,
            per_device_train_batch_size=recipe.batch,
            learning_rate=recipe.learning_rate,
            lr_scheduler_type=recipe.schedule,
            warmup_steps=recipe.warmup_steps,
            seed=recipe.seed,
            max_length=recipe.data.max_length,
            assistant_only_loss=True,
            logging_steps=LOG_STEPS,
            save_strategy="no",
            report_to="none",
            use_cpu=not torch.cuda.is_available(),
            **same,
        ),
        train_dataset=load_dataset(
            "json", data_files=f"{args.folder}/rows.jsonl", split="train", cache_dir=str(args.output / "cache")
        ),
        peft_config=LoraConfig(
            task_type="CAUSAL_LM", **{k: v for k, v in (recipe.adapter or {}).items() if k != "config"}
        ),
    )
    with watched() as spent:
        trainer.train()
    tokens = max(entry["num_tokens"] for entry in trainer.state.log_history if "num_tokens" in entry)
    trainer.save_model(str(args.output / "adapter"))
    return {**spent, "tokens": tokens, "adapter": str(args.output / "adapter")}


def write_data(args: argparse.Namespace) -> str:
    """The training seeds as dialogues, for here, and cut to length as chat rows, for trl; returns what they are."""
    from transformers import AutoTokenizer

    from extes.dialogue import write_jsonl
    from training import sources
    from training.data import DataConfig, HeldOut, prepare
    from training.split import seeds_away

    found = sources.read("seeds").dialogues
    away = seeds_away((d.id for d in found), 20)
    write_jsonl((d for d in found if d.id not in away), args.folder / "train.jsonl")
    config = DataConfig(
        train=(f"pool:{args.folder}/train.jsonl",), max_length=args.length, held_out=HeldOut(seeds=0, per_mille=0)
    )
    prepared = prepare(config, AutoTokenizer.from_pretrained(args.base))
    rows = [json.dumps({"messages": list(e.messages)}) for e in prepared.train]
    (args.folder / "rows.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    sizes = [len(e.input_ids) for e in prepared.train]
    share = prepared.counts.train.trained_tokens / sum(sizes)
    mean = statistics.mean(sizes)
    return f"{len(sizes)} rows of {min(sizes)} to {max(sizes)} tokens, mean {mean:.0f}, {share:.0%} with loss"


def reached(args: argparse.Namespace, adapters: dict[str, str]) -> dict[str, float]:
    """Perplexity of the held-out seeds before and after."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from training.data import DataConfig, prepare
    from training.perplexity import score

    config = DataConfig(train=("seeds",), max_length=args.length)
    rows = prepare(config, AutoTokenizer.from_pretrained(args.base)).held_out["seeds"]

    def base() -> Any:
        return AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32)

    found = {"base": score(base(), rows).per_token}
    return found | {way: score(PeftModel.from_pretrained(base(), a), rows).per_token for way, a in adapters.items()}


def once(args: argparse.Namespace, way: str, number: int) -> dict[str, Any]:
    """One way in a process of its own; with the seconds from start to end and the peak of its memory."""
    output = args.folder / f"{WAYS.index(way)}-{number}"
    command = [sys.executable, "-m", "benchmarks.training", "--one", way, "--output", str(output)]
    command += ["--folder", str(args.folder), "--base", args.base, "--steps", str(args.steps)]
    command += ["--batch", str(args.batch), "--length", str(args.length)]
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr
    errors = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{way} failed:\n{errors.decode()[-3000:]}")
    result = json.loads((output / "result.json").read_text())
    return result | {"whole": time.monotonic() - began, "peak": used.ru_maxrss * 1024}


def matrix() -> str:
    """Every recipe on a tiny model, as CI runs it."""
    command = [sys.executable, "-m", "pytest", "-q", "tests/training/test_matrix.py"]
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    last = done.stdout.strip().splitlines()[-1]
    return f"strategy matrix, start of pytest included: {wall:.0f} s, {busy:.0f} s of CPU time ({last})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default=str(ROOT / "models" / "starter-base"), help="folder of a model to tune")
    parser.add_argument("--steps", type=int, default=40, help=f"optimiser steps, a multiple of {LOG_STEPS}")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-matrix", action="store_true")
    parser.add_argument("--only-matrix", action="store_true")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        args.output.mkdir(parents=True)
        if args.one.startswith("here"):
            result = here(args, frugal=args.one == "here frugal")
        else:
            result = trl(args, alike=args.one == "trl alike")
        (args.output / "result.json").write_text(json.dumps(result))
        return 0

    if args.only_matrix:
        print(matrix())
        return 0
    os.environ |= {"HF_HUB_OFFLINE": "1"}
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        args.folder = Path(folder)
        threads = os.environ.get("OMP_NUM_THREADS", "all")
        print(
            f"machine: {platform.machine()}, {os.cpu_count()} cores, {threads} used; Python {platform.python_version()}"
        )
        print(
            f"data: {write_data(args)}; {args.steps} steps of {args.batch}; LoRA r = 16 on every linear layer",
            flush=True,
        )
        found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        for number in range(args.rounds):
            load = os.getloadavg()[0]
            for way in WAYS:
                found[way].append(once(args, way, number))
            rates = ", ".join(f"{way} {found[way][-1]['tokens'] / found[way][-1]['seconds']:,.0f}" for way in WAYS)
            print(f"round {number + 1}: tokens/s {rates} (load of the machine before it: {load:.1f})", flush=True)
        report(found)
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        scores = reached(args, {way: found[way][-1]["adapter"] for way in WAYS})
        print("perplexity of the held-out seeds: " + ", ".join(f"{way} {value:.2f}" for way, value in scores.items()))
    if not args.no_matrix:
        print(matrix())
    return 0


def report(found: dict[str, list[dict[str, Any]]]) -> None:
    def middle(way: str, of: Any) -> float:
        return statistics.median(of(one) for one in found[way])

    heads = ["here", "trl alike", "ratio", "here frugal", "trl", "ratio"]
    print(f"\n{'':27}" + "".join(f"{head:>12}" for head in heads))
    for name, of, form in (
        ("tokens/s", lambda r: r["tokens"] / r["seconds"], ",.0f"),
        ("tokens per s of CPU time", lambda r: r["tokens"] / r["cpu"], ",.0f"),
        ("training, s", lambda r: r["seconds"], ".1f"),
        ("whole process, s", lambda r: r["whole"], ".1f"),
        ("peak memory, MB", lambda r: r["peak"] / 1e6, ",.0f"),
    ):
        one, two, three, four = (middle(way, of) for way in WAYS)
        pairs = "".join(f"{a:12{form}}{b:12{form}}{a / b:12.2f}" for a, b in ((one, two), (three, four)))
        print(f"{name:27}{pairs}")
    print()


if __name__ == "__main__":
    sys.exit(main())
