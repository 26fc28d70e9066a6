"""The ``extes ratings`` commands: export, summary, withdraw, verify. Thin: the work is in ``store`` and ``ratings``."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path

from extes.errors import Problem


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    group = commands.add_parser("ratings", help="export, count, withdraw or verify what raters gave")
    verbs = group.add_subparsers(metavar="VERB", required=True)

    export = _verb(verbs, "export", "write every rating with all it rests on, one JSON object a line")
    export.add_argument("--out", type=Path, required=True, help="FILE.jsonl")
    export.set_defaults(run=_export)

    _verb(verbs, "summary", "wins, ties and losses per criterion").set_defaults(run=_summary)

    withdraw = _verb(verbs, "withdraw", "take a rating out of every later export and count, by its receipt")
    withdraw.add_argument("receipt", help="as the rater got it, like 1A2B-3C4D-5E6F-7A8B")
    withdraw.set_defaults(run=_withdraw)

    _verb(verbs, "verify", "prove that no event of the log was altered or taken out of its middle").set_defaults(
        run=_verify
    )


def _verb(verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, help: str) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=help)
    verb.add_argument("--data", type=Path, help="folder of the ratings (default: EXTES_DATA_DIR, else data/)")
    return verb


def _open(args: argparse.Namespace):  # type: ignore[no-untyped-def]
    from extes.study.store import Store

    folder = args.data or Path(os.environ.get("EXTES_DATA_DIR") or "data")
    if not (folder / "events.sqlite3").exists():
        raise Problem(f"{folder}: no ratings here; name the folder with --data or EXTES_DATA_DIR")
    return Store(folder)


def _export(args: argparse.Namespace) -> int:
    from extes.study.comparison import fold_all
    from extes.study.ratings import row

    if args.out.is_dir() or not args.out.parent.is_dir():
        raise Problem(f"{args.out}: name a file in a folder that exists, like ratings.jsonl")
    store = _open(args)
    events = list(store.events())
    configs = {e.body["hash"]: e.body["config"] for e in events if e.kind == "study"}
    comparisons = fold_all(events)
    rated = [c for c in comparisons if c.state == "rated"]
    staging = args.out.with_name(args.out.name + ".tmp")
    with staging.open("w", encoding="utf-8") as out:
        for comparison in rated:
            out.write(json.dumps(row(comparison, configs[comparison.opened["study"]]), ensure_ascii=False) + "\n")
    staging.replace(args.out)
    states = {s: sum(c.state == s for c in comparisons) for s in ("open", "voided", "withdrawn")}
    left = ", ".join(f"{n} {state}" for state, n in states.items())
    print(f"wrote {len(rated)} ratings to {args.out}; of {len(comparisons)} comparisons the others are: {left}")
    private = sum(not c.opened["consent"]["publish_transcript"] for c in rated)
    if private:
        print(f"NOT for publication as it is: {private} raters did not agree to have their conversation published")
    return 0


def _summary(args: argparse.Namespace) -> int:
    from extes.study.comparison import fold_all
    from extes.study.ratings import tally

    events = list(_open(args).events())
    comparisons = fold_all(events)
    for study in [e.body for e in events if e.kind == "study"]:
        rated = [c for c in comparisons if c.state == "rated" and c.opened["study"] == study["hash"]]
        print(f"study {study['config']['name']} {study['config']['version']} ({study['hash']}): {len(rated)} ratings")
        for t in tally(rated, [c["name"] for c in study["config"]["criteria"]]):
            other = "".join(f", {n} {kind}" for kind, n in t.other.items())
            print(f"  {t.criterion:16} {t.arm} against {t.against}: {t.win} won, {t.tie} tied, {t.loss} lost{other}")
    return 0


def _withdraw(args: argparse.Namespace) -> int:
    from extes.study.store import Exists

    store = _open(args)
    code = "".join(c for c in args.receipt.upper() if c.isalnum())
    wanted = hashlib.sha256("-".join(code[i : i + 4] for i in range(0, len(code), 4)).encode()).hexdigest()
    for event in store.events(kind="rated"):
        if event.body["receipt_hash"] == wanted:
            try:
                store.append("withdrawn", {"receipt_hash": wanted}, event.comparison)
            except Exists:
                print(f"The rating with the receipt {args.receipt} was withdrawn before.")
                return 0
            print(f"The rating with the receipt {args.receipt} is withdrawn.")
            return 0
    raise Problem(f"no rating has the receipt {args.receipt}; check it letter by letter")


def _verify(args: argparse.Namespace) -> int:
    from extes.study.store import StoreError

    store = _open(args)
    try:
        n, last = store.verify()
    except StoreError as error:
        print(f"NOT intact: {error}")
        return 1
    print(f"{n} events, each follows from the one before it; the last hash is {last}")
    print("Keep that number and hash elsewhere: only they can show later that nothing was cut off at the end.")
    return 0
