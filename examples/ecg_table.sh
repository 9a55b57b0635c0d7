#!/usr/bin/env bash
# Pretrains on a folder of ECG and prints, for each labels CSV, the scores by subject beside majority, hand-crafted and random-init.
#   examples/ecg_table.sh FOLDER OUT LABELS.csv...          (STEPS=2000 SEED=1 by default)
set -euo pipefail
data=$1 out=$2; shift 2
toolkit pretrain "$data" --recipe csfm --size tiny --steps "${STEPS:-2000}" --seed "${SEED:-1}" --resume --out "$out/run" > /dev/null
for labels in "$@"; do
    toolkit probe "$data" --model "$out/run" --labels "$labels" --quiet --overwrite --out "$out/probe-$(basename "$labels" .csv)"
done
