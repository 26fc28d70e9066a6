"""Dialogues as a Hub dataset: Parquet for ``datasets``, the canonical JSON lines beside it, a card with counts.

Knows the canonical form and the dataset card. Does not talk to the Hub.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

from huggingface_hub import DatasetCardData

from extes.dialogue import Dialogue, read_jsonl, to_json
from extes.errors import Problem
from extes.hub.send import Item, check_name

PARQUET, LINES = "data/dialogues.parquet", "dialogues.jsonl"
TEXT = """# {title}

{dialogues:,} emotional-support dialogues with {turns:,} turns, in the form of the ExTES Portal, after *Building
Emotional Support Chatbots in the Era of LLMs* (arXiv 2308.11584). A seeker tells of one of 36 situations; each
supporter turn may be labelled with one of 16 strategies ({labelled:,} of {supporter:,} are).

```python
from datasets import load_dataset

dialogues = load_dataset("{repo}", split="train")
```

| column | what it holds |
|---|---|
| `id` | unique, and says where the dialogue comes from |
| `scenario` | one of the 36, or null |
| `description` | of the person and the situation |
| `turns` | `speaker` (seeker or supporter), `text`, `strategy` (or null), `train` (false: context, not to be learnt) |
| `provenance` | JSON: source, and for a generated dialogue the model, its exemplars and what was asked |

`{lines}` holds the same, one object a line.

## Where they come from

{sources}

## Intended use and limits

For research on emotional-support dialogue. They do not show how care is given: do not take them for clinical advice.
Generated dialogues carry the habits and mistakes of the model that wrote them, and its terms of use apply to them.
"""


def dataset_items(file: Path, repo: str, licence: str) -> tuple[tuple[Item, ...], str]:
    """What is pushed for ``file`` (canonical JSON lines), and the card. :class:`Problem` if a line is unusable."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_name(repo)
    if not licence:
        raise Problem("--licence is empty; say what the dialogues may be used under, for example cc-by-4.0")
    dialogues, report = read_jsonl(file)
    if report.rejected or not dialogues:
        raise Problem(f"{file} cannot be published as it is; mend the lines or leave them out:\n{report}")
    rows = [to_json(d) | {"provenance": json.dumps(d.provenance, ensure_ascii=False)} for d in dialogues]
    said = {"speaker": pa.string(), "text": pa.string(), "strategy": pa.string(), "train": pa.bool_()}
    turns = pa.list_(pa.struct(list(said.items())))
    text = dict.fromkeys(("id", "scenario", "description"), pa.string())
    schema = pa.schema(text | {"turns": turns, "provenance": pa.string()})
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), sink)
    lines = "".join(json.dumps(to_json(d), ensure_ascii=False) + "\n" for d in dialogues)
    card = _card(dialogues, repo, licence)
    return (Item(PARQUET, sink.getvalue()), Item(LINES, lines.encode()), Item("README.md", card.encode())), card


def _card(dialogues: list[Dialogue], repo: str, licence: str) -> str:
    data = DatasetCardData(
        license=licence,
        language="en",
        task_categories=["text-generation"],
        tags=["emotional-support", "extes", "dialogue"],
        configs=[{"config_name": "default", "data_files": PARQUET}],
    )
    supporter = [t for d in dialogues for t in d.turns if t.speaker == "supporter"]
    made = Counter((str(d.provenance.get("source", "not recorded")), d.provenance.get("model")) for d in dialogues)
    text = TEXT.format(
        title=repo.split("/")[1],
        repo=repo,
        dialogues=len(dialogues),
        turns=sum(len(d.turns) for d in dialogues),
        supporter=len(supporter),
        labelled=sum(t.strategy is not None for t in supporter),
        lines=LINES,
        sources="\n".join(
            f"- {count:,} with source `{source}`" + (f", written by `{model}`" if model else "")
            for (source, model), count in made.most_common()
        ),
    )
    return f"---\n{data.to_yaml()}\n---\n\n{text}"
