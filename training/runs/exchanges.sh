#!/usr/bin/env bash
# An experiment on top of starter.sh: the starter taught with this project's exchanges (training/exchanges/), so that its
# replies take up what the message says. What came of it: eval_results/starter-trials.md. Not what ships.
#   bash training/runs/exchanges.sh CORPORA_DIR RUN_DIR      # RUN_DIR as starter.sh left it
set -euo pipefail
cd "$(dirname "$0")/../.."
corpora=$1 runs=$2

python training/pretrain.py --corpora "$corpora" --output "$runs/taught-1" --init "$runs/base-3" --lr 6e-3 --decay 0 \
    --max-steps 1200 --seed 20261123 \
    --mixture empathetic-dialogues:1,empathetic-situations:1,counsel-chat:1,exchanges-by-scenario:1
python training/pretrain.py --corpora "$corpora" --output "$runs/taught-2" --init "$runs/taught-1" --lr 6e-3 --decay 1 \
    --loss replies --max-steps 250 --eval-every 125 --seed 20261124 \
    --mixture empathetic-dialogues:1,exchanges-by-scenario:1,exchanges-by-kind:2
python training/finetune.py --config training/recipes/full.toml --output "$runs/taught-full" \
    --set base="$runs/taught-2/model" --set base_name=taught-2 --set licence=cc-by-nc-4.0 \
    --set "data.train=[\"seeds\",\"exchanges\",\"esconv:$corpora/esconv-part.jsonl.gz\"]" --set data.max_length=512 \
    --set data.held_out.per_mille=100 --set learning_rate=1e-3 --set schedule=linear --set warmup_steps=40 \
    --set epochs=1 --set batch=16 --set log_steps=20 --set eval_steps=120 --set save_steps=120
python training/extract.py "$runs/taught-full" --rank 64 --output "$runs/taught-tuned"
