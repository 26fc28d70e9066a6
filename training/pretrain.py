"""Train the starter base from scratch: a small LLaMA on conversations, one stage a call.

    python training/pretrain.py --corpora DIR --output RUN --mixture "empathetic-dialogues:2,topical-chat:1"
    python training/pretrain.py --corpora DIR --output RUN2 --init RUN --loss replies --mixture ...

Reads top to bottom: tokens, model, optimisers, loop, export. A killed run resumes from its last checkpoint; a finished
run does nothing. The whole recipe of the shipped model is ``training/runs/starter.sh``.

Choices: hidden matrices learn by Muon, embeddings and norms by AdamW; bf16 autocast with ``torch.compile`` (on two CPU
cores 1.9 times the speed of plain fp32, measured); warm-up, constant, linear decay over the last ``--decay`` share.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from training import corpora
from training.tokenizer import TEMPLATE, train_tokenizer

IGNORED = -100


def encode(tokenizer: PreTrainedTokenizerFast, dialogue: corpora.Exchanged, loss: str) -> tuple[list[int], list[int]]:
    """Token ids and labels of one dialogue; with ``loss="replies"`` only the supporter's tokens carry labels."""
    out = tokenizer.apply_chat_template(
        [{"role": role, "content": text} for role, text in dialogue.turns],
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    ids = out["input_ids"]
    if loss == "all":
        return ids, ids
    return ids, [i if kept else IGNORED for i, kept in zip(ids, out["assistant_masks"], strict=True)]


def rows(encoded: list[tuple[list[int], list[int]]], length: int) -> np.ndarray:
    """Pack dialogues end to end into rows; shape ``(n, 2, length)``: ids and labels. The ragged end is dropped."""
    ids = np.concatenate([np.array(i, dtype=np.int32) for i, _ in encoded])
    labels = np.concatenate([np.array(x, dtype=np.int32) for _, x in encoded])
    n = len(ids) // length
    return np.stack([ids[: n * length].reshape(n, length), labels[: n * length].reshape(n, length)], axis=1)


def training_rows(sources: dict, mixture: dict[str, int], length: int, seed: int) -> np.ndarray:
    """All passes, shuffled anew each: corpora with more passes appear in more of the rounds."""
    rng = random.Random(seed)
    blocks = []
    for round_ in range(max(mixture.values())):
        pool = [d for name, passes in mixture.items() if round_ < passes for d in sources[name]]
        rng.shuffle(pool)
        blocks.append(rows(pool, length))
    return np.concatenate(blocks)


def held_out_loss(model: LlamaForCausalLM, data: np.ndarray, batch: int, device: str) -> float:
    """Mean negative log-likelihood in nats per labelled token, weighted by tokens."""
    model.eval()
    total = count = 0.0
    with torch.no_grad(), torch.autocast(device, torch.bfloat16):
        for i in range(0, len(data), batch):
            ids, labels = torch.from_numpy(data[i : i + batch]).long().to(device).unbind(1)
            n = int((labels[:, 1:] != IGNORED).sum())
            total += float(model(input_ids=ids, labels=labels).loss) * n
            count += n
    model.train()
    return total / count


def nats_per_character(losses: dict[str, float], data: dict[str, np.ndarray], tokenizer: Any) -> dict[str, float]:
    """The same losses over the characters that the labelled tokens spell, so that vocabularies can be compared."""
    found = {}
    for name, loss in losses.items():
        labels = data[name][:, 1, 1:]
        kept = [row[row != IGNORED].tolist() for row in labels]
        characters = sum(len(text) for text in tokenizer.batch_decode(kept, skip_special_tokens=True))
        found[name] = loss * sum(map(len, kept)) / max(1, characters)
    return found


def optimisers(model: LlamaForCausalLM, lr: float) -> list[torch.optim.Optimizer]:
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=lr / 2, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


def lr_factor(step: int, steps: int, decay: float, warmup: int = 60) -> float:
    rising = min(1.0, (step + 1) / warmup)
    falling = min(1.0, (steps - step) / max(1.0, steps * decay)) if decay else 1.0
    return rising * falling


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True, help="folder with the *.jsonl.gz corpora")
    parser.add_argument("--output", type=Path, required=True, help="run folder")
    parser.add_argument("--mixture", required=True, help="NAME:PASSES,NAME:PASSES,...")
    parser.add_argument("--init", type=Path, help="run folder whose model and tokenizer to go on from")
    parser.add_argument("--loss", choices=["all", "replies"], default="all")
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--length", type=int, default=512, help="tokens a row")
    parser.add_argument("--batch", type=int, default=10, help="rows a step")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--decay", type=float, default=0.5, help="share of the steps over which lr falls to zero")
    parser.add_argument("--max-steps", type=int, default=10**9)
    parser.add_argument("--eval-every", type=int, default=250)
    parser.add_argument("--seed", type=int, default=20261120)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    run: Path = args.output
    run.mkdir(parents=True, exist_ok=True)
    if (run / "model").exists():
        print(f"{run} is finished; nothing to do (remove it to train again)")
        return

    # Data
    mixture = {name: int(passes) for name, passes in (part.split(":") for part in args.mixture.split(","))}
    dialogues = {name: list(corpora.read(args.corpora, name)) for name in mixture}
    if args.init:
        tokenizer = AutoTokenizer.from_pretrained(args.init / "model")
        tokenizer.chat_template = TEMPLATE.read_text(encoding="utf-8")  # it may have become better since
    else:
        texts = (t for ds in dialogues.values() for d in ds if not corpora.held_out(d) for _, t in d.turns)
        tokenizer = train_tokenizer(texts, args.vocab_size)
    args.vocab_size = len(tokenizer)
    train = {
        name: [encode(tokenizer, d, args.loss) for d in ds if not corpora.held_out(d)] for name, ds in dialogues.items()
    }
    held = {
        name: rows([encode(tokenizer, d, args.loss) for d in ds if corpora.held_out(d)], args.length)[:80]
        for name, ds in dialogues.items()
    }
    data = training_rows(train, mixture, args.length, args.seed)
    steps = min(args.max_steps, len(data) // args.batch)
    print(
        f"{steps} steps of {args.batch * args.length} tokens; vocabulary {len(tokenizer)}; device {device}", flush=True
    )

    # Model
    if args.init:
        model = LlamaForCausalLM.from_pretrained(args.init / "model", dtype=torch.float32)
        args.hidden, args.layers = model.config.hidden_size, model.config.num_hidden_layers
    else:
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=args.hidden,
            intermediate_size=(args.hidden * 11 // 4 + 31) // 32 * 32,
            num_hidden_layers=args.layers,
            num_attention_heads=args.hidden // 64,
            num_key_value_heads=args.hidden // 64,
            max_position_embeddings=2 * args.length,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        model = LlamaForCausalLM(config)
    model.config.use_cache = False
    model.to(device).train()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    opts = optimisers(model, args.lr)
    forward = torch.compile(model)

    # Resume
    checkpoint = run / "checkpoint.pt"
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        for opt, saved in zip(opts, state["optimisers"], strict=True):
            opt.load_state_dict(saved)
        first = state["step"]
        print(f"resuming at step {first}", flush=True)

    # Loop
    began, window = time.time(), []
    last: dict[str, float] = {}
    with (run / "log.jsonl").open("a", encoding="utf-8") as log:
        for step in range(first, steps):
            for opt in opts:
                for group in opt.param_groups:
                    base = args.lr if isinstance(opt, torch.optim.Muon) else args.lr / 2
                    group["lr"] = base * lr_factor(step, steps, args.decay)
            chunk = torch.from_numpy(data[step * args.batch : (step + 1) * args.batch]).long().to(device)
            ids, labels = chunk.unbind(1)
            with torch.autocast(device, torch.bfloat16):
                loss = forward(input_ids=ids, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for opt in opts:
                opt.step()
                opt.zero_grad()
            window.append(float(loss.detach()))
            if math.isnan(window[-1]):
                sys.exit(f"loss is NaN at step {step}: lower --lr (it is {args.lr}) and start again in a new folder")
            if (step + 1) % 25 == 0 or step + 1 == steps:
                seconds = time.time() - began
                speed = (step + 1 - first) * args.batch * args.length / seconds
                left = (steps - step - 1) * args.batch * args.length / speed
                entry = {"step": step + 1, "loss": round(sum(window) / len(window), 4), "tokens_per_s": round(speed)}
                print(f"{entry} {left / 60:.0f} min left", flush=True)
                if (step + 1) % args.eval_every == 0 or step + 1 == steps:
                    last = {n: held_out_loss(model, d, args.batch, device) for n, d in held.items() if len(d)}
                    entry["held_out"] = {n: round(loss, 4) for n, loss in last.items()}
                    print(f"  held out: {entry['held_out']}", flush=True)
                    state = {"step": step + 1, "model": model.state_dict()}
                    torch.save(state | {"optimisers": [o.state_dict() for o in opts]}, checkpoint.with_suffix(".tmp"))
                    checkpoint.with_suffix(".tmp").replace(checkpoint)
                log.write(json.dumps(entry) + "\n")
                log.flush()
                window = []

    # Export: fp16 on disk (half the size; the loader casts), shards under 10 MB
    record = {
        "arguments": {k: v.name if isinstance(v, Path) else v for k, v in vars(args).items() if k != "corpora"},
        "data_sha256": {n: corpora.sha256(args.corpora, n) for n in mixture},
        "training_tokens": steps * args.batch * args.length,
        "steps": steps,
        "held_out_nats_per_token": {n: round(v, 4) for n, v in last.items()},
        "held_out_nats_per_character": {n: round(v, 4) for n, v in nats_per_character(last, held, tokenizer).items()},
        "parameters": sum(p.numel() for p in model.parameters()),
        "minutes_since_start_or_resume": round((time.time() - began) / 60, 1),
        "device": device,
        "torch": torch.__version__,
    }
    (run / "run.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    model.config.use_cache = True
    staging = run / "model.tmp"
    model.half().save_pretrained(staging, max_shard_size="9MB")
    tokenizer.save_pretrained(staging)
    staging.rename(run / "model")
    checkpoint.unlink(missing_ok=True)
    print(f"wrote {run / 'model'}")


if __name__ == "__main__":
    main()
