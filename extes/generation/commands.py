"""``extes generate`` and ``extes pool``: reading arguments, putting the parts together, printing. No logic of its own.

Importing this is cheap: everything else of the package is imported by the command that runs.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from extes.dialogue import Dialogue
    from extes.generation.settings import Settings

BASE_URL = "https://api.openai.com/v1"


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this part's commands to the ``extes`` parser."""
    _add_generate(commands)
    group = commands.add_parser("pool", help="look into a pool of generated dialogues")
    verbs = group.add_subparsers(metavar="VERB", required=True)
    stats = verbs.add_parser("stats", help="states, reasons, counts, cost and drift")
    stats.add_argument("folder", type=Path, metavar="DIR")
    stats.set_defaults(run=_stats)
    lineage = verbs.add_parser("lineage", help="the exemplars of a dialogue, and theirs, down to the seeds")
    lineage.add_argument("folder", type=Path, metavar="DIR")
    lineage.add_argument("id", help="a dialogue's id, such as gen/0123456789abcdef")
    lineage.set_defaults(run=_lineage)
    export = verbs.add_parser("export", help="write the accepted dialogues in canonical JSON lines")
    export.add_argument("folder", type=Path, metavar="DIR")
    export.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl")
    export.add_argument("--state", choices=("accepted", "candidate", "seed"), default="accepted")
    export.set_defaults(run=_export)


def _add_generate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = commands.add_parser(
        "generate",
        help="grow a pool of dialogues from the seeds with a chat model",
        description="Grow a pool of dialogues from the seeds with any OpenAI-compatible endpoint. The key is read from "
        "OPENAI_API_KEY. A run that was stopped or killed goes on when the same command is given again.",
    )
    p.add_argument("--base-url", default=BASE_URL, metavar="URL", help="the endpoint (default: %(default)s)")
    p.add_argument("--model", required=True, metavar="NAME")
    p.add_argument("--pool", type=Path, required=True, metavar="DIR", help="folder of the pool; made if missing")
    p.add_argument("--target", type=int, required=True, metavar="N", help="dialogues to keep, seeds not counted")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="of every draw: exemplars, scenarios, strategies")
    p.add_argument("--seeds", type=Path, metavar="DIR", help="folder of seeds (default: the project's own)")
    p.add_argument("--auto-accept", action="store_true", help="accept what passes the machine's checks, unread")
    p.add_argument("--dry-run", action="store_true", help="print the estimate and the first request; send nothing")

    shape = p.add_argument_group("what is asked (a change starts a new run in the same pool)")
    shape.add_argument("--policy", choices=("balanced", "uniform", "mixed", "deficit"), default="balanced")
    shape.add_argument("--mix", default="paper", help="scenario mix: paper, even, or a TOML file (default: paper)")
    shape.add_argument("--exemplars", type=int, default=3, metavar="N", help="dialogues shown (default: 3)")
    shape.add_argument("--round", type=int, default=128, metavar="N", help="requests planned together (default: 128)")
    shape.add_argument("--temperature", type=float, default=1.0, metavar="T")
    shape.add_argument("--max-tokens", type=int, default=4096, metavar="N", help="limit of an answer (default: 4096)")
    shape.add_argument("--limit-field", choices=("max_tokens", "max_completion_tokens"), default="max_tokens")
    shape.add_argument("--on-drift", choices=("seeds-only", "stop", "report"), default="seeds-only")
    shape.add_argument("--give-up", type=int, default=60, metavar="N", help="stop after N in a row that were not kept")

    money = p.add_argument_group("money and pressure (free to change at any time)")
    money.add_argument(
        "--prices", type=Path, metavar="FILE", help="TOML file of prices, yours; its form: extes/generation/README.md"
    )
    money.add_argument("--budget", type=float, metavar="AMOUNT", help="most to spend on this pool, over all runs")
    money.add_argument("--concurrency", type=int, default=32, metavar="N", help="most requests at once (default: 32)")
    money.add_argument("--timeout", type=float, default=300.0, metavar="S", help="for one answer (default: 300)")
    money.add_argument("--batch", action="store_true", help="use the provider's Batch API: slower, usually cheaper")
    money.add_argument("--poll", type=float, default=30.0, metavar="S", help="between looks at a batch (default: 30)")
    p.set_defaults(run=_generate)


def _generate(args: argparse.Namespace) -> int:
    from extes.generation import job

    settings, seeds = _settings(args)
    means = job.Means(
        concurrency=args.concurrency,
        timeout=args.timeout,
        budget=args.budget,
        prices=args.prices,
        batch=args.batch,
        poll=args.poll,
    )
    if args.dry_run:
        print(job.preview(args.pool, settings, seeds, means))
        return 0
    job.run(args.pool, settings, seeds, means)
    return 0


def _settings(args: argparse.Namespace) -> tuple[Settings, list[Dialogue]]:
    """Settings and seeds; raises Stop for what no run can start with."""
    from extes import seeds as seed_files
    from extes.generation import quota
    from extes.generation.errors import Stop
    from extes.generation.settings import Settings, seeds_hash, server_identity

    for name, value, least in (
        ("target", args.target, 1),
        ("exemplars", args.exemplars, 1),
        ("round", args.round, 1),
        ("concurrency", args.concurrency, 1),
        ("max-tokens", args.max_tokens, 1),
        ("give-up", args.give_up, 1),
    ):
        if value < least:
            raise Stop(f"--{name} {value}: give {least} or more")
    for name, number in (
        ("temperature", args.temperature),
        ("timeout", args.timeout),
        ("poll", args.poll),
        ("budget", args.budget or 0.0),
    ):
        if not 0 <= number < math.inf or (name == "timeout" and not number):
            raise Stop(f"--{name} {number:g}: give a number {'above' if name == 'timeout' else 'from'} 0")
    if args.budget is not None and not args.prices:
        raise Stop("--budget needs --prices FILE: without prices nobody knows what a request costs")
    folder = args.seeds or seed_files.SEEDS
    seeds, problems = seed_files.load(folder)
    if problems:
        shown = "\n  ".join(problems)
        raise Stop(f"{folder}: {len(problems)} seeds cannot be read; mend them and run again:\n  {shown}")
    settings = Settings(
        base_url=server_identity(args.base_url),
        model=args.model,
        target=args.target,
        seed=args.seed,
        policy=args.policy,
        weights=quota.weights(args.mix),
        exemplars=args.exemplars,
        round_size=args.round,
        temperature=args.temperature,
        max_tokens=args.max_tokens,
        limit_field=args.limit_field,
        auto_accept=args.auto_accept,
        on_drift=args.on_drift,
        give_up=args.give_up,
        seeds=seeds_hash(seeds),
    )
    return settings, seeds


def _stats(args: argparse.Namespace) -> int:
    from extes.generation import cache, stats
    from extes.generation.pool import Pool

    with Pool(args.folder, write=False) as pool:
        paid = cache.Cache(args.folder, read_only=True) if (args.folder / cache.CACHE).is_file() else None
        print(stats.report(pool, paid))
    return 0


def _lineage(args: argparse.Namespace) -> int:
    from extes.generation import stats
    from extes.generation.pool import Pool

    with Pool(args.folder, write=False) as pool:
        print(stats.lineage(pool.state, args.id))
    return 0


def _export(args: argparse.Namespace) -> int:
    from extes import dialogue
    from extes.generation.errors import Stop
    from extes.generation.pool import Pool

    if args.out.suffix != ".jsonl":
        raise Stop(f"--out {args.out}: what is written is JSON lines; name it .jsonl")
    with Pool(args.folder, write=False) as pool:
        chosen = [d for _, d in pool.dialogues(args.state)]
    dialogue.write_jsonl(chosen, args.out)
    print(f"wrote {len(chosen)} dialogues to {args.out}")
    return 0 if chosen else 1
