"""What a push of a run consists of, file by file: weights, tokenizer, template, the run's records, the card.

Knows run folders and the card. Does not talk to the Hub.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from extes.errors import Problem
from extes.hub.card import Base, model_card
from extes.hub.merge import check_mergeable, merge
from extes.hub.run import Run, is_local, read_run
from extes.hub.send import Item, check_name

RECORDS = ("recipe.toml", "run.json", "metrics.json", "log.jsonl", "curves.png")
PICKLES = (".bin", ".pt", ".pth", ".pkl")
NAMES_FOLDERS = (*RECORDS[:4], "config.json", "tokenizer_config.json", "adapter_config.json")
"""Text files in which a folder of this machine may stand; others (a vocabulary, say) are pushed byte for byte."""

NEVER_BESIDE = {
    "adapter": ("model*.safetensors*", "pytorch_model*", "config.json"),
    # Whole weights in other pieces: transformers takes the first it knows, which may be the older.
    "model": ("adapter_*", "model*.safetensors*", "pytorch_model*"),
}


@dataclass(frozen=True)
class Parcel:
    """Everything that is pushed, the card last. ``base`` is the repository the card names as the base's, if any;
    ``left_out`` has a reason for each file of the weights' folder that stays here."""

    repo: str
    what: str
    base: str | None
    items: tuple[Item, ...]
    card: str
    never_beside: tuple[str, ...]
    left_out: tuple[str, ...]
    message: str


@contextmanager
def packed(path: Path, repo: str, merged: bool, base: str | None, licence: str | None, keep: bool) -> Iterator[Parcel]:
    """The parcel for the run in ``path``; its files are there inside the ``with``.

    ``base`` is where the base lives on the Hub, where the run used a folder. Merged weights are kept in RUN/merged,
    for the next call, unless ``keep`` is false: then nothing is written into the run. Raises :class:`Problem`.
    """
    check_name(repo)
    run = read_run(path)
    if merged:
        check_mergeable(run)
    on_hub = base_on_hub(run, base, needed=run.kind == "adapter" and not merged)
    card = model_card(run, repo, on_hub, merged, licence)
    if not merged:
        yield _parcel(run, repo, run.weights, on_hub, card, merged)
    elif keep or (path / "merged").is_dir():
        if not (path / "merged").is_dir():
            merge(run, path / "merged")
        yield _parcel(run, repo, path / "merged", on_hub, card, merged)
    else:
        with TemporaryDirectory() as folder:
            merge(run, Path(folder) / "merged")
            yield _parcel(run, repo, Path(folder) / "merged", on_hub, card, merged)


def base_on_hub(run: Run, asked: str | None, needed: bool) -> Base:
    """Where others find the base. :class:`Problem` where an adapter would name a folder that only this machine has."""
    if asked is not None:
        check_name(asked)
        return Base(asked)
    recorded = str(run.recipe.get("base_name") or run.recipe.get("base") or run.record.base)
    if recorded and not is_local(recorded):
        same = recorded == run.recipe.get("base")
        return Base(recorded, (run.record.base_revision or None) if same else None)
    if needed:
        raise Problem(
            f"this adapter's base is {recorded!r}, a folder that nobody else has. Put the base on the Hub first "
            f"(`hf upload OWNER/NAME {recorded}`) and say --base OWNER/NAME, or push whole weights with --merged"
        )
    return Base(None)


def _parcel(run: Run, repo: str, weights: Path, base: Base, card: str, merged: bool) -> Parcel:
    names = run.local_names
    items, left_out = [], []
    for file in sorted(weights.rglob("*")):
        path = file.relative_to(weights).as_posix()
        if file.is_dir() or path.startswith(".") or path == "README.md":
            continue
        if file.suffix in PICKLES:
            left_out.append(f"{path}: a pickle can run code where it is opened, and is not needed")
            continue
        items.append(_item(path, file, names))
    records = [run.path / name for name in RECORDS if (run.path / name).is_file()]
    items += [_item(file.name, file, names) for file in records]
    if not merged and run.kind == "adapter":
        items = [_with_base(item, base) if item.path == "adapter_config.json" else item for item in items]
    text = _without_folders(card, names)
    items.append(Item("README.md", text.encode()))
    kind = "model" if merged else run.kind
    strategy = run.record.strategy
    if kind == "adapter":
        described = f"adapter ({strategy}) for {base.name}"
    else:
        described = f"whole weights ({strategy}, merged)" if merged else f"whole weights ({strategy})"
    return Parcel(
        repo, described, base.name, tuple(items), text, NEVER_BESIDE[kind], tuple(left_out), f"Push {described}"
    )


def _item(path: str, file: Path, names: dict[str, str]) -> Item:
    if file.name not in NAMES_FOLDERS:
        return Item(path, file)
    text = file.read_text(encoding="utf-8")
    shown = _without_folders(text, names)
    return Item(path, file if shown == text else shown.encode())


def _without_folders(text: str, names: dict[str, str]) -> str:
    """``text`` with each folder of this machine cut to its last part: it tells others nothing, and may tell a name."""
    for folder, name in names.items():
        text = text.replace(folder, name)
    return text


def _with_base(item: Item, base: Base) -> Item:
    """adapter_config.json naming the base as others find it, at the commit the run used."""
    content = item.content if isinstance(item.content, bytes) else item.content.read_bytes()
    config = json.loads(content)
    config["base_model_name_or_path"] = base.name
    config["revision"] = base.revision
    return Item(item.path, (json.dumps(config, indent=2) + "\n").encode())
