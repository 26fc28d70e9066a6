"""Tune a chat model for emotional support: one entry point, one recipe per strategy.

    python training/finetune.py --config training/recipes/lora.toml --output RUN --set base=FOLDER_OR_REPOSITORY
    python training/finetune.py --config training/recipes/lora.toml --set base=... --dry-run
    accelerate launch --config_file training/accelerate/fsdp.yaml training/finetune.py --config ... --output RUN

A killed run goes on where it stopped when the same command is given again; a finished one does nothing. What a recipe
may say is in training/recipe.py, what a run leaves in training/run.py, and all of it for people in training/README.md.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from extes.errors import Problem


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--config", type=Path, required=True, help="a recipe, such as training/recipes/lora.toml")
    found.add_argument("--output", type=Path, help="run folder; made if it is not there")
    found.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="another value for a key of the recipe; inside a table as adapter.r=8 or data.train='[\"seeds\"]'",
    )
    found.add_argument("--dry-run", action="store_true", help="say what would be trained, and stop")
    found.add_argument(
        "--show-mask", type=int, nargs="?", const=1, metavar="N", help="print N rows with the trained tokens marked"
    )
    return found


def main() -> int:
    args = parser().parse_args()
    if not (args.output or args.dry_run or args.show_mask):
        parser().error("name a run folder with --output, or look first with --dry-run or --show-mask")
    if args.show_mask is not None and args.show_mask < 1:
        parser().error("--show-mask takes how many rows to print: 1 or more")
    first = os.environ.get("RANK", "0") == "0"
    try:
        from training import recipe as recipes

        recipe = recipes.load(args.config, args.overrides)
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it advises to install what nothing here needs
        from training import tune  # torch and transformers: only once the recipe is known to be good

        if args.show_mask and first:
            _show(recipe, args.show_mask)
        if args.dry_run and first:
            print(tune.plan(recipe))
        if args.output and not args.dry_run and not args.show_mask:
            tune.tune(recipe, args.output)
            _leave_together()
    except Problem as problem:
        # All processes meet the same mistake in a recipe; only what one alone can meet is told by the others too.
        if first or type(problem) is not Problem:
            print(f"finetune: {problem}", file=sys.stderr)
        return problem.status
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def _leave_together() -> None:
    """Of many processes, none ends while another still holds a connection to it: that aborts, though all is written."""
    from accelerate import PartialState

    everyone = PartialState()
    everyone.wait_for_everyone()
    everyone.destroy_process_group()


def _show(recipe: object, count: int) -> None:
    from training import strategies, tune
    from training.mask import render

    with tune.quiet():
        tokenizer = strategies.load_tokenizer(recipe)
        prepared = tune.prepare(recipe.data, tokenizer)
    tokenizer.chat_template = prepared.template
    for example in prepared.train[:count]:
        print(render(example, tokenizer))


if __name__ == "__main__":
    sys.exit(main())
