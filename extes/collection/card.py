"""The dataset's card: the template in ``resources/cards/ratings.md``, filled in. Pure but for reading it."""

from __future__ import annotations

from importlib.resources import files

from extes.collection.shards import PRIVATE, PUBLIC, SCHEMAS
from extes.study.config import Study

_PRIVATE = """**This dataset is complete and private.** It holds the whole conversation of every rater, also of those
who did not agree to publication, and the log itself. Do not make it public; `extes ratings redact` writes what may be
published."""
_PUBLIC = """**This dataset is redacted.** No comments; conversations, prompt hashes and self-described situations
only of raters who agreed to publication; dates instead of times."""
_EVENTS = "| `events` | one event of the log, from which all the others can be computed again; hash-chained |\n"
_KEYED = "The key is with the group, who can destroy it."
_APART = "It is another one than in the group's own records, under a key that the group can destroy."


def card(study: Study, repo: str, public: bool) -> str:
    """README.md of the dataset, with the configs and their columns in its YAML."""
    import yaml
    from datasets import Features

    configs = PUBLIC if public else PRIVATE
    meta = {
        "configs": [{"config_name": c, "data_files": f"{c}/*.parquet"} | _first(c) for c in configs],
        # The columns, so that a shard of an older schema, which lacks some, is read beside newer ones.
        "dataset_info": [
            {"config_name": c, "features": Features.from_arrow_schema(SCHEMAS[c])._to_yaml_list()} for c in configs
        ],
    }
    template = (files("extes") / "resources" / "cards" / "ratings.md").read_text(encoding="utf-8")
    fields = {
        "title": study.title.replace('"', "'"),
        "yaml": yaml.safe_dump(meta, sort_keys=False, allow_unicode=True).strip(),
        "study": study.name,
        "version": study.version,
        "hash": study.hash,
        "repo": repo,
        "visibility": _PUBLIC if public else _PRIVATE,
        "events_row": "" if public else _EVENTS,
        "pseudonyms": _APART if public else _KEYED,
    }
    return _fill(template, fields)


def _first(config: str) -> dict[str, bool]:
    return {"default": True} if config == "ratings" else {}


def _fill(template: str, fields: dict[str, str]) -> str:
    """Like ``str.format``, but for named fields alone, so that braces in the text stay."""
    for name, value in fields.items():
        template = template.replace("{" + name + "}", value)
    return template
