"""``extes push``: reading arguments, printing. No logic of its own; importing this is cheap."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from extes.hub.send import Item, Sent


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this part's commands to the ``extes`` parser."""
    group = commands.add_parser("push", help="publish a tuned model or dialogues on the Hugging Face Hub")
    verbs = group.add_subparsers(metavar="VERB", required=True)
    p = verbs.add_parser(
        "model",
        help="push the weights of a finished run, with tokenizer, template, card and records",
        description="Push a finished run of training/finetune.py to the Hub, in one commit. The token is read from "
        "HF_TOKEN or from `hf auth login`. After a failure the same command sends only what is missing; repeated after "
        "a success it does nothing.",
    )
    p.add_argument("run_folder", type=Path, metavar="RUN", help="the --output of training/finetune.py")
    p.add_argument("repo", metavar="REPO", help="OWNER/NAME; made if missing")
    p.add_argument("--merged", action="store_true", help="fold the adapter into its base and push whole weights")
    p.add_argument("--base", metavar="OWNER/NAME", help="where the base is on the Hub, if the run used a folder")
    p.add_argument("--licence", metavar="ID", help="of the weights, where the run does not state it")
    _add_common(p)
    p.set_defaults(run=_model)

    p = verbs.add_parser(
        "dataset",
        help="push dialogues: Parquet, canonical JSON lines and a card",
        description="Push a file of `extes pool export` or `extes seeds export` to the Hub as a dataset.",
    )
    p.add_argument("file", type=Path, metavar="FILE.jsonl", help="dialogues in canonical JSON lines")
    p.add_argument("repo", metavar="REPO", help="OWNER/NAME; made if missing")
    p.add_argument("--licence", metavar="ID", required=True, help="of the dialogues, such as cc-by-4.0")
    _add_common(p)
    p.set_defaults(run=_dataset)


def _add_common(p: argparse.ArgumentParser) -> None:
    p.add_argument("--private", action="store_true", help="make the repository private")
    p.add_argument("--dry-run", action="store_true", help="print the files with their sizes and the card; send nothing")


def _model(args: argparse.Namespace) -> int:
    from extes.hub.model import packed
    from extes.hub.send import send

    _quiet()
    with packed(args.run_folder, args.repo, args.merged, args.base, args.licence, keep=not args.dry_run) as parcel:
        for note in parcel.left_out:
            print(f"left out {note}", file=sys.stderr)
        if args.dry_run:
            _show(parcel.repo, parcel.what, parcel.items, parcel.card, args.private)
            return 0
        print(parcel.what)
        sent = send(args.repo, "model", parcel.items, parcel.message, args.private, parcel.never_beside, parcel.base)
        _tell(sent)
    return 0


def _dataset(args: argparse.Namespace) -> int:
    from extes.hub.dataset import dataset_items
    from extes.hub.send import send

    _quiet()
    items, card = dataset_items(args.file, args.repo, args.licence)
    if args.dry_run:
        _show(args.repo, f"the dialogues of {args.file.name}", items, card, args.private)
    else:
        _tell(send(args.repo, "dataset", items, f"Push {args.file.name}", args.private))
    return 0


def _show(repo: str, what: str, items: Sequence[Item], card: str, private: bool) -> None:
    print(f"Would push to the {'private' if private else 'public'} repository {repo}: {what}\n")
    width = len(f"{sum(item.size for item in items):,}")
    for item in items:
        print(f"{item.size:{width + 2},}  {item.path}")
    print(f"{sum(item.size for item in items):{width + 2},}  bytes in {len(items)} files\n\nREADME.md\n")
    print("\n".join(f"    {line}".rstrip() for line in card.splitlines()))
    print("\nNothing was sent.")


def _tell(sent: Sent) -> None:
    if not sent.files:
        print(f"Nothing to do: {sent.url} already holds all {sent.already_there} files (commit {sent.commit[:12]}).")
    else:
        rest = f", {sent.already_there} were there" if sent.already_there else ""
        files = "1 file" if len(sent.files) == 1 else f"{len(sent.files)} files"
        print(f"Pushed {files}{rest}: {sent.url} (commit {sent.commit[:12]})")


def _quiet() -> None:
    """The client's bars only where a person watches, and no library's own warnings: what matters is told here."""
    import logging as standard
    import warnings

    from huggingface_hub.utils import disable_progress_bars, logging  # type: ignore[attr-defined]

    if not sys.stderr.isatty():
        disable_progress_bars()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft|torch")
    standard.getLogger("bitsandbytes").setLevel(standard.ERROR)
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
