"""The model card as it is pushed: the run's own, completed with what only the push knows.

Knows the Hub's card metadata. The text is the run's README.md, which a person may have edited; this adds or replaces
named sections and fills metadata, and takes nothing else away.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from huggingface_hub import EvalResult, ModelCard

from extes.errors import Problem
from extes.hub.run import Run

NO_LICENCE = (None, "", "other", "unknown")
USE = "How to use"
MERGED = "These are whole weights: the adapter of this run merged into its base. No base is needed beside them."
LIMITS = """For research on emotional-support dialogue, and for blinded studies with informed, consenting adults. It is
not care: it has no notion of danger, makes things up and may claim a life it does not have. Do not use it as support
for anyone without people in charge who watch over it, a screen for crises, and help lines in sight. English only."""


@dataclass(frozen=True)
class Base:
    """The base model on the Hub; ``name`` is None where it is not there."""

    name: str | None
    revision: str | None = None


def model_card(run: Run, repo: str, base: Base, merged: bool, licence: str | None) -> str:
    """README.md for ``repo``. Raises :class:`Problem` where the run has no card, or no licence is stated."""
    path = run.path / "README.md"
    if not path.is_file():
        raise Problem(f"{path}, the model card, is missing. Write it, or make the run again in a new folder")
    try:
        card = ModelCard.load(path)
    except Exception as error:  # the client raises ValueError and yaml's errors alike for unreadable metadata
        raise Problem(f"{path}: its metadata cannot be read: {' '.join(str(error).split())}") from error
    data, text = card.data, card.text
    named = data.license == "other" and data.license_name
    if not licence and data.license in NO_LICENCE and not named:
        raise Problem(
            f"{path} states no licence for the weights. Choose one that the base and every data source allow, and say "
            "it: --licence cc-by-nc-4.0 (or another id of https://huggingface.co/docs/hub/repositories-licenses)"
        )
    if licence:
        data.license = licence
        text = with_section(text, "Licence", f"`{licence}`.")

    adapter = run.kind == "adapter" and not merged
    data.library_name = "peft" if adapter else "transformers"
    data.pipeline_tag = data.pipeline_tag or "text-generation"
    data.language = data.language or "en"
    data.base_model = base.name
    data["base_model_relation"] = None if base.name is None else "adapter" if adapter else "finetune"
    if not data.eval_results and (results := _results(run)):
        data.model_name = data.model_name or repo.split("/")[1]
        data.eval_results = results

    if not has_section(text, "data", "lineage"):
        text = with_section(text, "Data lineage", _lineage(run))
    if not has_section(text, "intended use", "limits"):
        text = with_section(text, "Intended use and limits", LIMITS)
    if merged:
        text = re.sub(r"^# .*$", lambda title: f"{title[0]}\n\n{MERGED}", text, count=1, flags=re.MULTILINE)
    text = with_section(text, USE, _use(repo, base, adapter))
    return f"---\n{data.to_yaml()}\n---\n\n{text.strip()}\n"


def has_section(text: str, *words: str) -> bool:
    headings = [match[1].lower() for match in re.finditer(r"^#+ (.*)$", text, re.MULTILINE)]
    return any(word in heading for heading in headings for word in words)


def with_section(text: str, title: str, body: str) -> str:
    """``text`` with the section ``## title`` replaced, or added at the end."""
    section = f"## {title}\n\n{body.strip()}\n"
    pattern = re.compile(rf"^## {re.escape(title)}[ \t]*\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    if pattern.search(text):
        return pattern.sub(lambda _: section + "\n", text, count=1)
    return f"{text.rstrip()}\n\n{section}"


def _results(run: Run) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="text-generation",
            task_name="Text generation",
            dataset_type=metric.dataset,
            dataset_name=f"held-out dialogues: {metric.dataset}",
            metric_type=metric.name,
            metric_name=f"{metric.name} ({metric.signature})" if metric.signature else metric.name,
            metric_value=round(metric.value, 4),
        )
        for metric in run.metrics
        if metric.of == "tuned"
    ]


def _lineage(run: Run) -> str:
    sources = "\n".join(f"- `{source}`" for source in run.record.sources) or "- not recorded"
    hashes = "\n".join(f"- `{digest}` {name}" for name, digest in run.record.data_sha256.items()) or "- not recorded"
    return (
        f"Tuned on\n\n{sources}\n\nSHA-256 of what was read:\n\n{hashes}\n\nCode version `{run.record.code_version}`."
    )


def _use(repo: str, base: Base, adapter: bool) -> str:
    if adapter:
        revision = f', revision="{base.revision}"' if base.revision else ""
        load = (
            "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f'base = AutoModelForCausalLM.from_pretrained("{base.name}"{revision})\n'
            f'model = PeftModel.from_pretrained(base, "{repo}")'
        )
        stop = ", eos_token_id=tokenizer.eos_token_id"  # the base may end texts with another token
        arm = f'base = "{base.name}"\nadapter = "{repo}"'
    else:
        load = (
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f'model = AutoModelForCausalLM.from_pretrained("{repo}")'
        )
        stop = ""  # the weights carry their own
        arm = f'base = "{repo}"'
    return f"""```python
{load}
tokenizer = AutoTokenizer.from_pretrained("{repo}")
messages = [{{"role": "user", "content": "I failed my exam and I don't know how to tell my parents."}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
reply = model.generate(**inputs, max_new_tokens=80{stop})[0, inputs["input_ids"].shape[1] :]
print(tokenizer.decode(reply, skip_special_tokens=True))
```

As an arm of a blinded study in the ExTES Portal:

```toml
[[arms]]
name = "tuned"
label = "{repo}"
kind = "local"
{arm}
```"""
