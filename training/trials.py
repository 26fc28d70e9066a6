"""The table of what was tried for the starter base: run folders of pretrain.py in, Markdown out.

    python training/trials.py RUN... > eval_results/starter-trials.md

Held-out loss is in nats per character, so that vocabularies can be compared. Knows run.json; trains nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

CORPORA = ("empathetic-dialogues", "counsel-chat", "self-dialogue")


def line(name: str, record: dict[str, Any]) -> str:
    asked = record["arguments"]
    loss = record["held_out_nats_per_character"]
    told = " | ".join(f"{loss[c]:.4f}" if c in loss else "" for c in CORPORA)
    compute = 6 * record["parameters"] * record["training_tokens"] / 1e12
    return (
        f"| {name} | {record['parameters'] / 1e6:.2f} M ({asked['hidden']} x {asked['layers']}) "
        f"| {asked['vocab_size']} "
        f"| {asked['mixture']} | {asked['lr']:g} | {record['training_tokens'] / 1e6:.2f} M | {compute:.0f} | {told} |"
    )


def table(runs: list[Path]) -> str:
    """Markdown, one line a run, in the order given."""
    head = ("trial", "parameters (width x layers)", "vocabulary", "mixture", "lr", "tokens", "compute, TFLOP", *CORPORA)
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + [line(run.name, json.loads((run / "run.json").read_text())) for run in runs])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    args = parser.parse_args()
    missing = [run for run in args.runs if not (run / "run.json").exists()]
    if missing:
        sys.exit(f"{missing[0]}: no finished run here (run.json is missing); let it end first")
    print(table(args.runs))


if __name__ == "__main__":
    main()
