"""The ``extes ratings`` commands. Thin: the work is in ``study`` and ``collection``."""

from __future__ import annotations

import argparse
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extes.errors import Problem

if TYPE_CHECKING:
    from extes.collection.remote import Dataset
    from extes.study.store import Store


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    group = commands.add_parser("ratings", help="export, publish, verify, withdraw and restore what raters gave")
    verbs = group.add_subparsers(metavar="VERB", required=True)

    export = _verb(verbs, "export", "write every rating with all it rests on, one JSON object a line", _export)
    export.add_argument("--out", type=Path, required=True, help="FILE.jsonl")
    redact = _verb(verbs, "redact", "write what of the ratings may be published, one JSON object a line", _redact)
    redact.add_argument("--out", type=Path, required=True, help="FILE.jsonl")

    _verb(verbs, "summary", "wins, ties and losses per criterion", _summary)

    withdraw = _verb(verbs, "withdraw", "take a rating out of every later export and count, by its receipt", _withdraw)
    withdraw.add_argument("receipt", help="as the rater got it, like 1A2B-3C4D-5E6F-7A8B")

    verify = _verb(verbs, "verify", "prove the log complete and unaltered; with --repo, the Hub's copy too", _verify)
    verify.add_argument("--repo", metavar="OWNER/NAME", help="the dataset to hold against the log")
    push = _verb(verbs, "push", "send what the dataset does not have yet, once", _push)
    restore = _verb(verbs, "restore", "bring what the dataset has and the log lacks", _restore)
    purge = _verb(verbs, "purge", "take the rows of withdrawn ratings out of the dataset's files", _purge)
    for verb in (push, restore, purge):
        verb.add_argument("--repo", metavar="OWNER/NAME", required=True)
    push.add_argument("--study", type=Path, required=True, help="the study file; its title goes into a new card")
    for verb in (verify, push, restore, purge):
        verb.add_argument("--public", action="store_true", help="the dataset is public and redacted")

    destroy = _verb(verbs, "destroy-key", "destroy the key of the pseudonyms, for ever", _destroy_key)
    destroy.add_argument("--yes", action="store_true", help="do it; without, say what it would mean")
    new = verbs.add_parser("new-key", help="print a fresh key for EXTES_PSEUDONYM_KEY")
    new.set_defaults(run=_new_key)


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, help: str, run: Any
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=help)
    verb.add_argument("--data", type=Path, help="folder of the ratings (default: EXTES_DATA_DIR, else data/)")
    verb.set_defaults(run=run)
    return verb


def _folder(args: argparse.Namespace) -> Path:
    return args.data or Path(os.environ.get("EXTES_DATA_DIR") or "data")


def _open(args: argparse.Namespace, pseudonyms: bool = False) -> Store:
    from extes.study.store import NAME, Store

    folder = _folder(args)
    if not (folder / NAME).exists():
        raise Problem(f"{folder}: no ratings here; name the folder with --data or EXTES_DATA_DIR")
    return Store(folder, pseudonyms)


def _dataset(args: argparse.Namespace) -> Dataset:
    from extes.collection import settings

    dataset = settings.named(args.repo, args.public)
    if dataset is None:
        raise Problem('--repo is empty: name the dataset as "owner/name"')
    return dataset


@contextmanager
def _intact(store: Store) -> Iterator[None]:
    """Tell of a damaged log what to do; what its events are made of shows only where they are used."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise Problem(
            f"{store.folder}: the log is damaged ({type(error).__name__}: {error}); `extes ratings verify` names the "
            "first bad event. Put the folder back from your copy, or restore it from the dataset"
        ) from error


def _rows(store: Store) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The ratings that count, as rows, and how many comparisons ended otherwise."""
    from extes.study.comparison import fold_all
    from extes.study.ratings import row

    with _intact(store):
        events = list(store.events())
        configs = {e.body["hash"]: e.body["config"] for e in events if e.kind == "study"}
        comparisons = fold_all(events)
        states = {s: sum(c.state == s for c in comparisons) for s in ("rated", "open", "voided", "withdrawn")}
        return [row(c, configs[c.opened["study"]]) for c in comparisons if c.state == "rated"], states


def _write(rows: Iterable[dict[str, Any]], path: Path) -> None:
    special = path.exists() and not path.is_file()  # a folder, a pipe, /dev/null: not to be put a file in the place of
    if special or not path.parent.is_dir():
        raise Problem(f"{path}: name a file in a folder that exists, like ratings.jsonl")
    path = path.resolve()
    staging = path.with_name(path.name + ".tmp")
    with staging.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    staging.replace(path)


def _told(states: dict[str, int]) -> str:
    others = ", ".join(f"{n} {state}" for state, n in states.items() if state != "rated")
    return f"of {sum(states.values())} comparisons the others are: {others}"


def _export(args: argparse.Namespace) -> int:
    rows, states = _rows(_open(args))
    _write(rows, args.out)
    print(f"wrote {len(rows)} ratings to {args.out}; {_told(states)}")
    if rows:
        private = sum(not r["consent"]["publish_transcript"] for r in rows)
        print(
            f"NOT for publication as it is: it holds comments and times, and the raters of {private} ratings did not "
            "agree to have their conversation published."
        )
        print("`extes ratings redact` writes what may be published.")
    return 0


def _redact(args: argparse.Namespace) -> int:
    import hashlib

    from extes.study.redact import published

    rows, states = _rows(_open(args))
    salt = secrets.token_bytes(32)  # of this file alone: its raters cannot be found in another
    _write((published(r, lambda rater: hashlib.sha256(salt + rater.encode()).hexdigest()[:20]) for r in rows), args.out)
    agreed = sum(r["consent"]["publish_transcript"] for r in rows)
    print(f"wrote {len(rows)} ratings to {args.out}; {_told(states)}")
    print(
        f"{agreed} with their conversation, whose raters agreed to that; {len(rows) - agreed} without a word of theirs."
    )
    print("No comments, no receipts, dates for times, raters renamed. Have a person read it before it is published.")
    return 0


def _summary(args: argparse.Namespace) -> int:
    from extes.study.comparison import fold_all
    from extes.study.ratings import tally

    store, lines = _open(args), []
    with _intact(store):
        events = list(store.events())
        comparisons = fold_all(events)
        for study in {e.body["hash"]: e.body for e in events if e.kind == "study"}.values():
            config = study["config"]
            rated = [c for c in comparisons if c.state == "rated" and c.opened["study"] == study["hash"]]
            lines.append(f"study {config['name']} {config['version']} ({study['hash']}): {len(rated)} ratings")
            for t in tally(rated, [c["name"] for c in config["criteria"]]):
                other = "".join(f", {n} {kind}" for kind, n in t.other.items())
                counts = f"{t.win} won, {t.tie} tied, {t.loss} lost{other}"
                lines.append(f"  {t.criterion:16} {t.arm} against {t.against}: {counts}")
    print("\n".join(lines) or "no study and no ratings yet")
    return 0


def _withdraw(args: argparse.Namespace) -> int:
    from extes.study.receipts import withdraw

    match withdraw(_open(args), args.receipt):
        case "unknown":
            raise Problem(f"no rating has the receipt {args.receipt}; check it letter by letter")
        case "before":
            print(f"The rating with the receipt {args.receipt} was withdrawn before.")
        case "withdrawn":
            print(f"The rating with the receipt {args.receipt} is withdrawn.")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from extes.study.store import StoreError

    dataset = _dataset(args) if args.repo is not None else None
    store = _open(args)
    try:
        n, seal = store.verify()
    except StoreError as error:
        print(f"NOT intact: {error}")
        return 1
    print(f"{n} events, each follows from the one before it; the seal is {seal}")
    if dataset is None:
        print("Keep that number and seal elsewhere: only they can show later that nothing was cut off at the end.")
        return 0
    from extes.collection.check import check

    dataset.check_kind()
    report = check(_with_key(store) if dataset.public else store, dataset)
    for problem in report.problems[:10]:
        print(f"NOT the same: {problem}")
    if more := len(report.problems) - 10:
        print(f"and {more} more" if more > 0 else "", end="\n" if more > 0 else "")
    others = f"; {report.elsewhere} shards are another portal's" if report.elsewhere else ""
    waiting = f"; {report.waiting} events are not sent yet" if report.waiting else ""
    print(f"{dataset.repo}: {report.shards} shards of this log, {report.rows} rows compared{others}{waiting}")
    print("It says what the log says." if not report.problems else "It does NOT say what the log says.")
    return 1 if report.problems else 0


def _with_key(store: Store) -> Store:
    """The same log with its key, to compute public pseudonyms again; without, where the key is gone.

    Opening a log with its key makes one where there is none, and a new key names every rater anew.
    """
    from extes.study import keys
    from extes.study.store import Store, StoreError

    try:
        if not store.destroyed_keys() and (keys.given() or keys.kept(store.folder)):
            return Store(store.folder)
    except (StoreError, keys.KeyProblem):
        pass
    print("The key is gone, so the raters' public pseudonyms are not compared.")
    return store


def _push(args: argparse.Namespace) -> int:
    from extes.collection import outbox
    from extes.study import config

    study = config.load(args.study)
    dataset, store = _dataset(args), _open(args, pseudonyms=args.public)
    outbox.begin(dataset, study, store)
    with _intact(store):
        sent = outbox.sync(store, dataset)
    print(f"{dataset.repo} has acknowledged {sent.events} events in {sent.commits} commits; it has all there are.")
    return 0


def _restore(args: argparse.Namespace) -> int:
    from extes.collection.restore import restore
    from extes.study.store import Store

    dataset = _dataset(args)  # first, so that a missing token leaves no empty log behind
    n = restore(store := Store(_folder(args), pseudonyms=False), dataset)
    print(f"{n} events came from {dataset.repo}; the log in {store.folder} has {store.count()}.")
    return 0


def _purge(args: argparse.Namespace) -> int:
    from extes.collection.purge import purge

    store, dataset = _open(args), _dataset(args)
    dataset.check_kind()
    rows, files = purge(store, dataset)
    print(f"{dataset.repo}: {rows} rows of withdrawn ratings were taken out of {files} files.")
    print("Earlier commits still hold them, until the dataset's history is squashed (HfApi.super_squash_history).")
    if not dataset.public:
        print("The config `events` still holds them: it is the log, and a log with holes proves nothing.")
    return 0


def _destroy_key(args: argparse.Namespace) -> int:
    from extes.study import keys

    store = _open(args)
    if not args.yes:
        print(
            "This destroys the key for ever. Afterwards nobody can tell which pseudonym a rater's browser has, and a\n"
            "rater who comes back counts as a new one. Still possible: export, redact, summary, verify, restore, and\n"
            "withdrawal by receipt (a receipt of this program's first version cannot be shown again, but withdraws).\n"
            "Stop the portal first, and destroy your copies of the key yourself. To do it, add --yes."
        )
        return 1
    name = store.destroy_key()
    if name is None:
        raise Problem(
            f"{store.folder}: there is no key here"
            + (f"; the one in {keys.VARIABLE} is yours to remove" if os.environ.get(keys.VARIABLE) else "")
        )
    print(f"The key {name} is destroyed, and the log says so. Destroy your copies of it too.")
    return 0


def _new_key(args: argparse.Namespace) -> int:
    from extes.study import keys

    print(secrets.token_hex(keys.BYTES))
    return 0
