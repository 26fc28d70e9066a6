"""Events as Parquet shards. Pure: values in, bytes out, and back.

A shard is named for the piece of a chain that it holds, and the same piece always gives the same shard: a second
attempt after an unknown outcome changes nothing. Nothing here knows the Hub.

==============  ==========================================================================================
ratings         one row a rating, with all that it rests on; its conversation is in
conversations   one row an exchange of a rated comparison
withdrawals     one row a withdrawal: whoever counts or publishes drops these comparisons from the others
events          the log itself, from which all of it can be computed again (only where the dataset is private)
==============  ==========================================================================================
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from extes.study.assignment import SIDES
from extes.study.chains import Batch, Event
from extes.study.comparison import Comparison
from extes.study.ratings import row
from extes.study.redact import published

SCHEMA_VERSION = 1

_text, _int, _float = pa.string(), pa.int64(), pa.float64()
_side = pa.struct(
    [
        ("arm", _text),
        ("label", _text),
        ("revision", _text),
        ("sampling", _text),
        ("system_prompt", _text),
        ("system_prompt_hash", _text),
        ("prompt_hashes", pa.list_(_text)),
        ("seeds", pa.list_(_int)),
        ("seconds", pa.list_(_float)),
        ("tokens", pa.list_(_int)),
    ]
)
_reply = pa.struct(
    [
        ("arm", _text),
        ("revision", _text),
        ("reply", _text),
        ("prompt_hash", _text),
        ("seed", _int),
        ("tokens", _int),
        ("seconds", _float),
        ("finish", _text),
        ("messages_left_out", _int),
    ]
)
_event = [("chain", _text), ("place", _int), ("event_schema", _int), ("event_hash", _text)]

SCHEMAS: dict[str, pa.Schema] = {
    "ratings": pa.schema(
        [
            ("schema_version", _int),
            ("comparison", _text),
            ("rater", _text),
            ("study", _text),
            ("study_name", _text),
            ("study_version", _text),
            ("code", _text),
            ("screen", _text),
            ("opened_at", _text),
            ("rated_at", _text),
            ("consent_hash", _text),
            ("publish_transcript", pa.bool_()),
            ("scenario_source", _text),
            ("scenario", _text),
            ("stream", _text),
            ("position", _int),
            ("block", _int),
            ("probability", _float),
            ("a", _side),
            ("b", _side),
            ("generation", _text),
            ("exchanges", _int),
            ("answers", pa.list_(pa.struct([("criterion", _text), ("answer", _text)]))),
            ("comment", _text),
            ("comment_withheld", _text),
            ("receipt_hash", _text),
            *_event,
        ]
    ),
    "conversations": pa.schema(
        [
            ("schema_version", _int),
            ("comparison", _text),
            ("study", _text),
            ("publish_transcript", pa.bool_()),
            ("number", _int),
            ("message", _text),
            ("a", _reply),
            ("b", _reply),
        ]
    ),
    "withdrawals": pa.schema(
        [("schema_version", _int), ("comparison", _text), ("at", _text), ("receipt_hash", _text), *_event]
    ),
    "events": pa.schema(
        [
            ("chain", _text),
            ("place", _int),
            ("schema", _int),
            ("id", _text),
            ("at", _text),
            ("kind", _text),
            ("comparison", _text),
            ("number", _int),
            ("body", _text),
            ("hash", _text),
        ]
    ),
}
PRIVATE = ("ratings", "conversations", "withdrawals", "events")
PUBLIC = ("ratings", "conversations", "withdrawals")

Rows = dict[str, list[dict[str, Any]]]


def path(config: str, batch: Batch) -> str:
    return f"{config}/{batch.name}.parquet"


def batch_of(path: str) -> Batch | None:
    """The piece that a shard's path names, or nothing for other files."""
    parts = re.fullmatch(r"([^-]+)-([0-9]+)-([0-9]+)\.parquet", path.rsplit("/", 1)[-1])
    return Batch(parts[1], int(parts[2]), int(parts[3])) if parts else None


def rows(
    events: Iterable[Event],
    whole: Callable[[str], Comparison | None],
    configs: Mapping[str, Any],
    public: Callable[[str], str] | None,
) -> Rows:
    """What a piece of the log says, by config. ``whole`` gives a comparison with all its events.

    ``configs`` holds the studies by hash. ``public`` renames raters and makes the rows fit to be published; ``None``
    leaves them complete. A rating that is withdrawn by now has no row.
    """
    found: Rows = {config: [] for config in (PUBLIC if public else PRIVATE)}
    for event in events:
        if not public:
            found["events"].append(_event_row(event))
        if event.kind == "withdrawn":
            found["withdrawals"].append(_withdrawal_row(event, public is not None))
        elif event.kind == "rated":
            comparison = whole(event.comparison or "")
            if comparison is None or comparison.state != "rated" or comparison.rated_event is None:
                continue
            if comparison.rated_event.hash != event.hash:
                continue  # another portal's rating of the same comparison came first
            full = row(comparison, configs[comparison.opened["study"]])
            shown = published(full, public) if public else full
            found["ratings"].append(_rating_row(shown))
            if not public or comparison.opened["consent"]["publish_transcript"]:
                found["conversations"] += [_exchange_row(shown, n, e) for n, e in enumerate(shown["exchanges"], 1)]
    return found


def parquet(config: str, rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A shard's bytes: the same rows give the same bytes."""
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, SCHEMAS[config], compression="zstd") as writer:
        if rows:  # readers stumble over a row group of no rows; over no row group they do not
            writer.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMAS[config]))
    return sink.getvalue()


def first(config: str) -> bytes:
    """The shard that a dataset begins with.

    ``datasets`` opens no config without a row. Withdrawals are read by everyone, also before there is one: they begin
    with a row that names no comparison. Of the others there is nothing to read until there is something.
    """
    nothing = [{"schema_version": SCHEMA_VERSION, "comparison": None}] if config == "withdrawals" else []
    return parquet(config, nothing)


def read(content: bytes) -> list[dict[str, Any]]:
    """The rows of a shard of any schema version. Raises ``ValueError`` for bytes that are none."""
    try:
        table: pa.Table = pq.read_table(io.BytesIO(content))
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"not a readable shard ({error})") from error


def read_events(content: bytes) -> list[Event]:
    try:
        return [
            Event(0, r["chain"], r["place"], r["schema"], r["id"], r["at"], r["kind"], r["comparison"], r["number"],
                  r["body"], r["hash"])
            for r in read(content)
        ]  # fmt: skip
    except KeyError as error:
        raise ValueError(f"a shard of events without {error}") from error


def _event_row(e: Event) -> dict[str, Any]:
    return {
        "chain": e.chain,
        "place": e.place,
        "schema": e.schema,
        "id": e.id,
        "at": e.at,
        "kind": e.kind,
        "comparison": e.comparison,
        "number": e.number,
        "body": e.text,
        "hash": e.hash,
    }


def _withdrawal_row(e: Event, public: bool) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "comparison": e.comparison,
        "at": e.at[:10] if public else e.at,
        "receipt_hash": None if public else e.body["receipt_hash"],
        "chain": e.chain,
        "place": e.place,
        "event_schema": e.schema,
        "event_hash": e.hash,
    }


def _rating_row(row: Mapping[str, Any]) -> dict[str, Any]:
    same = ("comparison", "rater", "study", "study_name", "study_version", "code", "screen", "opened_at", "rated_at")
    return (
        {"schema_version": SCHEMA_VERSION}
        | {key: row[key] for key in (*same, "comment", "comment_withheld", "receipt_hash")}
        | {key: row["assignment"][key] for key in ("stream", "position", "block", "probability")}
        | {"consent_hash": row["consent"]["hash"], "publish_transcript": row["consent"]["publish_transcript"]}
        | {"scenario_source": row["scenario"]["source"], "scenario": row["scenario"]["text"]}
        | {side: _side_row(row["arms"][side]) for side in SIDES}
        | {"generation": _json(row["generation"]), "exchanges": len(row["exchanges"])}
        | {"answers": [{"criterion": c, "answer": a} for c, a in row["answers"].items()]}
        | {"chain": row["event"]["chain"], "place": row["event"]["place"]}
        | {"event_schema": row["event"]["schema"], "event_hash": row["event"]["hash"]}
    )


def _side_row(arm: Mapping[str, Any]) -> dict[str, Any]:
    same = ("label", "revision", "system_prompt", "system_prompt_hash", "prompt_hashes", "seeds", "seconds", "tokens")
    return {key: arm[key] for key in same} | {"arm": arm["name"], "sampling": _json(arm["sampling"])}


def _exchange_row(row: Mapping[str, Any], number: int, exchange: Mapping[str, Any]) -> dict[str, Any]:
    sides: dict[str, Any] = {s: dict(exchange["details"][s]) | {"reply": exchange["replies"][s]} for s in SIDES}
    return {
        "schema_version": SCHEMA_VERSION,
        "comparison": row["comparison"],
        "study": row["study"],
        "publish_transcript": row["consent"]["publish_transcript"],
        "number": number,
        "message": exchange["message"],
        **sides,
    }


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
