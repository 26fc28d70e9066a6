#!/usr/bin/env bash
# The starter models, from corpora to shipped weights. About two and a half hours on two CPU cores, minutes on a GPU.
#   bash training/runs/starter.sh CORPORA_DIR RUN_DIR
# Every step resumes if killed and does nothing if finished.
set -euo pipefail
cd "$(dirname "$0")/../.."
corpora=$1 runs=$2

# 1. English conversation, then ever more of it emotional (15 M tokens; constant learning rate).
python training/pretrain.py --corpora "$corpora" --output "$runs/base-1" --lr 6e-3 --decay 0 \
    --mixture empathetic-dialogues:3,self-dialogue:1,topical-chat:1,counsel-chat:2

# 2. Emotional dialogues alone, loss on replies only (7 M tokens; learning rate falls to zero).
python training/pretrain.py --corpora "$corpora" --output "$runs/base" --init "$runs/base-1" --lr 6e-3 --decay 1 \
    --loss replies --mixture empathetic-dialogues:3,counsel-chat:1
