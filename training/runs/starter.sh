#!/usr/bin/env bash
# The starter models, from corpora to shipped weights: about two hours on two CPU cores.
#   bash training/runs/starter.sh CORPORA_DIR RUN_DIR
# Every step resumes if killed and does nothing if finished.
set -euo pipefail
cd "$(dirname "$0")/../.."
corpora=$1 runs=$2

# 1. English conversation, then ever more of it emotional (constant learning rate). All of this mixture is 3,012 steps;
#    the shipped model stopped at 2,250 (11.5 M tokens).
python training/pretrain.py --corpora "$corpora" --output "$runs/base-1" --lr 6e-3 --decay 0 --max-steps 2250 \
    --mixture empathetic-dialogues:3,self-dialogue:1,topical-chat:1,counsel-chat:2

# 2. Emotional dialogues alone, loss on replies only (5 M tokens; learning rate falls to zero).
python training/pretrain.py --corpora "$corpora" --output "$runs/base" --init "$runs/base-1" --lr 6e-3 --decay 1 \
    --loss replies --mixture empathetic-dialogues:2,counsel-chat:1

# 3. The adapter: ESConv and the seeds.
#    A small model bears ten times the learning rate of the recipe, which is meant for billions of parameters.
python training/finetune.py --config training/recipes/lora.toml --output "$runs/lora" \
    --set base="$runs/base/model" --set base_name=models/starter-base --set licence=cc-by-nc-4.0 \
    --set "data.train=[\"seeds\",\"esconv:$corpora/esconv-part.jsonl.gz\"]" --set data.max_length=512 \
    --set learning_rate=2e-3 --set schedule=linear --set warmup_steps=40 --set epochs=4 --set batch=8

# 4. What ships: weights, run records, model cards.
rm -rf models/starter-base models/starter-lora
mkdir -p models
cp -r "$runs/base/model" models/starter-base
cp -r "$runs/lora/adapter" models/starter-lora
mkdir -p models/starter-base/run models/starter-lora/run
for stage in base-1 base; do
    cp "$runs/$stage/run.json" "models/starter-base/run/$stage.json"
    cp "$runs/$stage/log.jsonl" "models/starter-base/run/$stage.log.jsonl"
done
cp "$runs"/lora/{run.json,metrics.json,log.jsonl} models/starter-lora/run/
python training/card.py --runs "$runs" --corpora "$corpora"
