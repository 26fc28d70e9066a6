"""The model card of a tuned model, from its run record and metrics. Knows the Hub's card form; trains nothing."""

from __future__ import annotations

from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

LICENCES = {
    "seeds": "seed dialogues of this project, written one by one by language-model agents, CC BY 4.0",
    "exchanges": "short exchanges of this project, written by language-model agents, CC BY 4.0",
    "esconv": "ESConv (Liu et al. 2021), CC BY-NC 4.0: not for commercial use",
    "extes": "ExTES (Zheng et al. 2023): its authors state no licence; ask them before you redistribute",
    "pool": "dialogues generated with this project; the terms of the model that wrote them apply",
    "hub": "a Hub dataset; its card states its licence",
}

TEXT = """# {title}

{what}

**Not for care.** A research artefact for studying emotional-support dialogue. It does not know who it talks to, \
has no notion of danger, makes things up and may claim a life it does not have. Do not use it as support for anyone \
without people in charge who watch over it, a screen for crises, and help lines in sight.

## Held-out perplexity

Token-weighted over the supporter's tokens, end of turn included; lower is better. It says how expected held-out \
replies are to the model, not whether its replies help.

| held-out set | tokens | base | tuned |
|---|---:|---:|---:|
{scores}

## Data

{sources}

{counts}

Loss is on the supporter's tokens only.

## How it was made

Strategy `{strategy}`: {trainable:,} of {parameters:,} parameters learnt, {steps:,} steps, {tokens:,} trained tokens, \
{seconds:.0f} s on {device} ({processes} process{es}). Code version `{code}`. The same again:

```sh
{command}
```

`recipe.toml`, `run.json`, `metrics.json` and `log.jsonl` are beside this card.

## Intended use and limits

For comparing tuning strategies and for blinded studies with informed, consenting adults. English only. It learnt from \
a small number of dialogues and repeats their habits; perplexity on dialogues of one kind says little about others. \
{merge}

## Licence

{licence}
"""


def card(record: dict[str, Any], metrics: list[dict[str, Any]]) -> ModelCard:
    """``record`` is ``run.json`` and ``metrics`` ``metrics.json``."""
    by_set: dict[str, dict[str, Any]] = {}
    for metric in (m for m in metrics if m["name"] == "perplexity"):
        by_set.setdefault(metric["dataset"], {})[metric["of"]] = metric
    results = [
        EvalResult(
            task_type="text-generation",
            task_name="Text generation",
            dataset_type=m["dataset"],
            dataset_name=f"held-out dialogues: {m['dataset']}",
            metric_type=m["name"],
            metric_name=f"{m['name'].replace('_', ' ')} ({m['signature']})",
            metric_value=round(m["value"], 4),
        )
        for m in metrics
        if m["of"] == "tuned"
    ]
    name = f"{record['base']} tuned for emotional support ({record['strategy']})"
    data = ModelCardData(
        model_name=name,
        base_model=record["base"],
        library_name="peft" if record["weights"] == "adapter" else "transformers",
        license=record["licence"],
        language="en",
        pipeline_tag="text-generation",
        tags=["emotional-support", "extes", record["strategy"]],
        datasets=[s.split(":")[1].split("@")[0] for s in record["sources"] if s.startswith("hub:")] or None,
        eval_results=results or None,
    )
    scores = "\n".join(
        f"| {name} | {pair['tuned']['tokens']:,} | {pair['base']['value']:.2f} | {pair['tuned']['value']:.2f} |"
        for name, pair in by_set.items()
    )
    sources = "\n".join(f"- `{source}`: {LICENCES[source.partition(':')[0]]}" for source in record["sources"])
    hashes = "\n".join(f"- `{digest[:16]}…` {source}" for source, digest in record["data_sha256"].items())
    licence = record["licence"]
    body = TEXT.format(
        title=name,
        what=f"{'An adapter for' if record['weights'] == 'adapter' else 'A fully tuned'} `{record['base']}`.",
        scores=scores or "| none held out | | | |",
        sources=f"{sources}\n\nSHA-256 of what was read:\n\n{hashes}",
        counts=f"```\n{record['data_counts_text']}\n```",
        strategy=record["strategy"],
        trainable=record["trainable_parameters"],
        parameters=record["parameters"],
        steps=record["steps"],
        tokens=record["trained_tokens"],
        seconds=record["seconds"],
        device=record["device"],
        processes=record["processes"],
        es="es" if record["processes"] > 1 else "",
        code=record["code_version"],
        command=record["command"],
        merge=f"The adapter cannot be merged: {record['cannot_merge']}." if record["cannot_merge"] else "",
        licence=f"`{licence}`."
        if licence != "other"
        else "Not stated by the run. Before publishing, choose one that the base and every source above allow, and set "
        "`licence` in the recipe.",
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}")
