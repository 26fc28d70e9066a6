"""The ``extes`` command. Each part of the project adds its own; heavy imports wait for the command that needs them.

Exit status: 0 done, 1 the work found something wrong (a check failed), 2 the call or its input was wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from extes import __version__
from extes.collection import commands as ratings
from extes.errors import Problem
from extes.generation import commands as generation
from extes.hub import commands as hub


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="extes", description="From seed dialogues to rated emotional-support models.")
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _seeds(commands)
    _dialogues(commands)
    generation.add_commands(commands)
    ratings.add_commands(commands)
    hub.add_commands(commands)
    return top


def _seeds(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    group = commands.add_parser("seeds", help="check the hand-written dialogues, or write them as JSON lines")
    verbs = group.add_subparsers(metavar="VERB", required=True)

    check = verbs.add_parser("check", help="hold the seeds against the bar of seeds/README.md")
    check.add_argument("--dir", type=Path, help="folder of seeds (default: the project's own)")
    check.add_argument("--each-scenario", type=int, default=1, metavar="N", help="seeds wanted per scenario")
    check.add_argument("--each-strategy", type=int, default=1, metavar="N", help="uses wanted per strategy")
    check.set_defaults(run=_seeds_check)

    export = verbs.add_parser("export", help="write the seeds in canonical JSON lines, or in the form of ExTES.json")
    export.add_argument("--dir", type=Path, help="folder of seeds (default: the project's own)")
    export.add_argument("--out", type=Path, required=True, help="FILE.jsonl, or FILE.json for the form of ExTES.json")
    export.set_defaults(run=_seeds_export)


def _seeds_check(args: argparse.Namespace) -> int:
    from extes import seeds, taxonomy

    report = seeds.check(args.dir or seeds.SEEDS, args.each_scenario, args.each_strategy)
    dialogues = report.dialogues
    turns = [len(d.turns) for d in dialogues]
    if dialogues:
        print(f"{len(dialogues)} seeds, {sum(turns)} turns ({min(turns)} to {max(turns)} a dialogue)\n")
        print("seeds  scenario")
        for scenario in taxonomy.SCENARIOS:
            print(f"{report.scenarios[scenario.name]:5}  {scenario.name}")
        print("\n uses  strategy")
        for strategy in taxonomy.STRATEGIES:
            print(f"{report.strategies[strategy.name]:5}  {strategy.name}")
        print("\nseeds  arc")
        for arc in seeds.ARCS:
            print(f"{report.arcs[arc]:5}  {arc} ({report.arcs[arc] / len(dialogues):.0%})")
        print()
    for problem in report.problems:
        print(f"problem: {problem}")
    print("The bar is met." if not report.problems else f"The bar is not met: {len(report.problems)} problems.")
    return 1 if report.problems else 0


def _seeds_export(args: argparse.Namespace) -> int:
    from extes import seeds

    dialogues, problems = seeds.load(args.dir or seeds.SEEDS)
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    _write(dialogues, args.out)
    print(f"wrote {len(dialogues)} seeds to {args.out}")
    return 1 if problems else 0


def _dialogues(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    group = commands.add_parser("dialogues", help="read a file of dialogues, report on it, convert it")
    verbs = group.add_subparsers(metavar="VERB", required=True)
    read = verbs.add_parser("read", help="read ExTES.json or JSON lines; say what was repaired and rejected, and why")
    read.add_argument("file", type=Path)
    read.add_argument("--out", type=Path, help="write what was read: FILE.jsonl (canonical) or FILE.json (ExTES form)")
    read.set_defaults(run=_dialogues_read)


def _dialogues_read(args: argparse.Namespace) -> int:
    from extes import dialogue, wild

    read = dialogue.read_jsonl if args.file.suffix == ".jsonl" else wild.read_extes_json
    dialogues, report = read(args.file)
    print(report)
    if args.out:
        _write(dialogues, args.out)
        print(f"wrote {len(dialogues)} dialogues to {args.out}")
    return 0 if dialogues else 1


def _write(dialogues, path: Path) -> None:  # type: ignore[no-untyped-def]
    from extes import dialogue, wild

    write = {".jsonl": dialogue.write_jsonl, ".json": wild.write_extes_json}.get(path.suffix)
    if write is None:
        raise Problem(f"{path}: name the output .jsonl (canonical JSON lines) or .json (the form of ExTES.json)")
    write(dialogues, path)


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        status = int(args.run(args))
        sys.stdout.flush()  # here, so that a closed pipe is met here
        return status
    except BrokenPipeError:  # whoever read the output, like `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains as it ends
        return 141
    except Problem as error:
        print(f"extes: {error}", file=sys.stderr)
        return error.status
    except OSError as error:
        print(f"extes: {error.filename or 'input/output'}: {error.strerror or error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("extes: stopped", file=sys.stderr)
        return 130
    return 2


if __name__ == "__main__":
    sys.exit(main())
