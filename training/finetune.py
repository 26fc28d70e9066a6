"""Tune a chat model for emotional support with an adapter.

    python training/finetune.py --config training/recipes/lora.toml --corpora DIR --output RUN --set base=FOLDER

Built on trl's SFTTrainer; loss on supporter tokens only, by the generation markers of the chat template. A killed run
resumes from its last epoch; a finished run does nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from training import corpora
from training.data import tuning_data, windows
from training.perplexity import perplexity


def recipe(path: Path, overrides: list[str]) -> dict[str, Any]:
    config = tomllib.loads(path.read_text(encoding="utf-8"))
    for override in overrides:
        key, _, value = override.partition("=")
        table, *inner = key.split(".")
        target = config[table] if inner else config
        name = inner[0] if inner else table
        if name not in target:
            raise SystemExit(f"--set {override}: the recipe has no {key!r}; it has {', '.join(config)}")
        target[name] = type(target[name])(value)
    if not config["base"]:
        raise SystemExit("name the model to tune: --set base=FOLDER_OR_REPOSITORY")
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--corpora", type=Path, required=True, help="folder with esconv-part.jsonl.gz")
    parser.add_argument("--output", type=Path, required=True, help="run folder")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    args = parser.parse_args()
    config, run = recipe(args.config, args.overrides), args.output
    if (run / "adapter").exists():
        print(f"{run} is finished; nothing to do (remove it to train again)")
        return

    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    # Data
    tokenizer = AutoTokenizer.from_pretrained(config["base"])
    train, held = tuning_data(args.corpora, config["held_out_seeds"])

    def length(messages: list[dict[str, str]]) -> int:
        return len(tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"])

    rows, lost = [], 0
    for dialogue in train:
        found, left = windows(dialogue, length, config["max_length"])
        rows += found
        lost += left
    print(f"{len(train)} dialogues in {len(rows)} windows; {lost} supporter turns too long and left out", flush=True)

    # Model and trainer
    model = AutoModelForCausalLM.from_pretrained(config["base"], dtype=torch.float32)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(run / "trainer"),
            seed=config["seed"],
            num_train_epochs=config["epochs"],
            per_device_train_batch_size=config["batch"],
            learning_rate=config["learning_rate"],
            lr_scheduler_type="linear",
            warmup_steps=config["warmup_steps"],
            max_length=config["max_length"] + 1,
            assistant_only_loss=True,
            bf16=True,
            use_cpu=not torch.cuda.is_available(),
            gradient_checkpointing=False,
            logging_steps=20,
            save_strategy="epoch",
            save_total_limit=1,
            report_to="none",
        ),
        train_dataset=Dataset.from_list([{"messages": row} for row in rows]),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", **config["lora"]),
    )
    if len(trainer.train_dataset) != len(rows):
        raise SystemExit(f"{len(rows) - len(trainer.train_dataset)} windows were dropped by the trainer; mend the data")
    began = time.time()
    trainer.train(resume_from_checkpoint=any((run / "trainer").glob("checkpoint-*")) or None)

    # What came of it
    tuned: Any = trainer.model.eval()
    scores = {}
    for name, dialogues in held.items():
        cut = [w for d in dialogues for w in windows(d, length, config["max_length"])[0]]
        with tuned.disable_adapter():
            before = perplexity(tuned, tokenizer, cut)
        scores[name] = {"base": before, "tuned": perplexity(tuned, tokenizer, cut)}
        print(f"held out {name}: perplexity {before['perplexity']:.2f} -> {scores[name]['tuned']['perplexity']:.2f}")
    record = {
        "config": config | {"base": Path(config["base"]).name},
        "data_sha256": {"esconv-part": corpora.file_hash(args.corpora / "esconv-part.jsonl.gz")},
        "windows": len(rows),
        "supporter_turns_left_out": lost,
        "held_out_seeds": [d.id for d in held["seeds"]],
        "held_out": scores,
        "minutes_since_start_or_resume": round((time.time() - began) / 60, 1),
    }
    run.mkdir(parents=True, exist_ok=True)
    (run / "run.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    (run / "log.jsonl").write_text("".join(json.dumps(e) + "\n" for e in logs), encoding="utf-8")
    staging = run / "adapter.tmp"
    if config["base_name"]:
        tuned.peft_config["default"].base_model_name_or_path = config["base_name"]
    tuned.save_pretrained(staging)
    staging.rename(run / "adapter")
    print(f"wrote {run / 'adapter'}")


if __name__ == "__main__":
    main()
