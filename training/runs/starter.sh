#!/usr/bin/env bash
# The starter models, from corpora to shipped weights: about three hours on two CPU cores.
#   bash training/runs/starter.sh CORPORA_DIR RUN_DIR
# Every step resumes if killed and does nothing if finished.
set -euo pipefail
cd "$(dirname "$0")/../.."
corpora=$1 runs=$2

# 1. English conversation, then ever more of it emotional (constant learning rate). All of this mixture is 3,012 steps;
#    the shipped model stopped at 2,250 (11.5 M tokens).
python training/pretrain.py --corpora "$corpora" --output "$runs/base-1" --lr 6e-3 --decay 0 --max-steps 2250 \
    --mixture empathetic-dialogues:3,self-dialogue:1,topical-chat:1,counsel-chat:2

# 2. More of all of it, with EmpatheticDialogues told anew from its situations (2.6 M tokens).
python training/pretrain.py --corpora "$corpora" --output "$runs/base-2" --init "$runs/base-1" --lr 6e-3 --decay 0 \
    --max-steps 500 --seed 20261121 \
    --mixture empathetic-dialogues:1,empathetic-situations:1,self-dialogue:1,topical-chat:1,counsel-chat:1

# 3. Emotional dialogues alone, loss on replies only (4.9 M tokens; learning rate falls to zero).
python training/pretrain.py --corpora "$corpora" --output "$runs/base-3" --init "$runs/base-2" --lr 6e-3 --decay 1 \
    --loss replies --max-steps 950 --seed 20261122 \
    --mixture empathetic-dialogues:2,empathetic-situations:1,counsel-chat:1

# 4. Tuning: ESConv and the seeds, with the best of the eleven strategies (eval_results/strategies.md), and what it changed as
#    an adapter, so that both arms are served from one copy of the base. A small model bears a larger learning rate than
#    one of billions of parameters.
python training/finetune.py --config training/recipes/full.toml --output "$runs/full" \
    --set base="$runs/base-3/model" --set base_name=models/starter-base --set licence=cc-by-nc-4.0 \
    --set "data.train=[\"seeds\",\"esconv:$corpora/esconv-part.jsonl.gz\"]" --set data.max_length=512 \
    --set data.held_out.per_mille=100 --set learning_rate=1e-3 --set schedule=linear --set warmup_steps=40 \
    --set epochs=3 --set batch=8 --set log_steps=20 --set eval_steps=60 --set save_steps=60
python training/extract.py "$runs/full" --rank 64 --output "$runs/tuned"

# 5. What ships: weights, run records, model cards.
rm -rf models/starter-base models/starter-tuned
mkdir -p models
cp -r "$runs/base-3/model" models/starter-base
cp -r "$runs/tuned" models/starter-tuned
mkdir -p models/starter-base/run models/starter-tuned/run
for stage in base-1 base-2 base-3; do
    cp "$runs/$stage/run.json" "models/starter-base/run/$stage.json"
    cp "$runs/$stage/log.jsonl" "models/starter-base/run/$stage.log.jsonl"
done
cp "$runs"/full/{run.json,metrics.json,log.jsonl,curves.png} models/starter-tuned/run/
python training/card.py --runs "$runs" --corpora "$corpora"
