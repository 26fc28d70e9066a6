#!/usr/bin/env bash
# Which strategy? The starter base tuned with all eleven, on the same data, for the same steps, and compared.
#   bash training/runs/strategies.sh CORPORA_DIR RUN_DIR [BASE [NAME]]
# Every run resumes if killed and does nothing if finished. STEPS=130 (one pass) and BATCH=8 by default.
set -euo pipefail
cd "$(dirname "$0")/../.."
corpora=$1 runs=$2 base=${3:-models/starter-base}
name=${4:-$base}   # what the adapters and cards call the base
steps=${STEPS:-130} batch=${BATCH:-8}

# The recipes' learning rates are those of the field, for models of billions of parameters. A model of some millions
# takes larger steps: 2 to 50 times the recipe's here, set by hand, not searched for.
common=(--set "base=$base" --set "base_name=$name" --set licence=cc-by-nc-4.0
    --set "max_steps=$steps" --set "batch=$batch" --set warmup_steps=20 --set gradient_checkpointing=false
    --set "data.train=[\"seeds\",\"esconv:$corpora/esconv-part.jsonl.gz\"]" --set data.max_length=512 --set data.held_out.per_mille=100
    --set log_steps=13 --set eval_steps=65 --set save_steps=65)

tune() {
    local strategy=$1
    shift
    python training/finetune.py --config "training/recipes/$strategy.toml" --output "$runs/$strategy" \
        "${common[@]}" "$@"
}

tune full --set learning_rate=1e-3
tune lora --set learning_rate=4e-3
tune rslora --set learning_rate=2e-3
tune dora --set learning_rate=4e-3
tune qlora --set learning_rate=4e-3
tune ia3 --set learning_rate=3e-2
tune prompt --set learning_rate=1e-1
tune prefix --set learning_rate=3e-2
tune p_tuning --set learning_rate=3e-3
tune llama_adapter --set learning_rate=2e-2 --set adapter.adapter_layers=6
tune oft --set learning_rate=4e-3

python training/compare.py --out eval_results/strategies.md "$runs"/{full,lora,rslora,dora,qlora,ia3,prompt,prefix,p_tuning,llama_adapter,oft}
