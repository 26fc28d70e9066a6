#!/usr/bin/env bash
# What size, vocabulary, learning rate and mixture? Short runs of equal compute (parameters x tokens), one table.
#   bash training/runs/trials.sh CORPORA_DIR RUN_DIR > table.md
# A killed run begins again; a finished one does nothing. Short runs favour small models, so the sizes that matter run
# again with four times the compute: what counts is where the gap goes.
set -euo pipefail
cd "$(dirname "$0")/../.."
corpora=$1 runs=$2
mixed=empathetic-dialogues:1,self-dialogue:1,topical-chat:1,counsel-chat:1

trial() {  # NAME STEPS FLAGS...
    name=$1 steps=$2
    shift 2
    python training/pretrain.py --corpora "$corpora" --output "$runs/$name" --max-steps "$steps" --batch 4 \
        --lr 6e-3 --decay 0.5 --eval-every 100000 "$@" >&2
}

trial reference 300 --mixture $mixed
trial narrower 669 --mixture $mixed --hidden 192 --layers 4
trial wider 142 --mixture $mixed --hidden 384
trial small-vocabulary 330 --mixture $mixed --vocab-size 2048
trial large-vocabulary 255 --mixture $mixed --vocab-size 8192
trial emotional-only 300 --mixture empathetic-dialogues:1,counsel-chat:1
trial slower 300 --mixture $mixed --lr 3e-3
trial faster 300 --mixture $mixed --lr 1.2e-2
trial reference-4x 1200 --mixture empathetic-dialogues:2,counsel-chat:2
trial large-vocabulary-4x 1024 --mixture empathetic-dialogues:2,counsel-chat:2 --vocab-size 8192
trial narrower-4x 2676 --mixture empathetic-dialogues:3,counsel-chat:3 --hidden 192 --layers 4
python training/trials.py \
    "$runs"/{reference,narrower,wider,small-vocabulary,large-vocabulary,emotional-only,slower,faster,reference-4x,large-vocabulary-4x,narrower-4x}
