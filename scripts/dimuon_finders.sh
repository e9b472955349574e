#!/usr/bin/env bash
# All track finders, each trained for the same processor time on the same events, and judged in one table: our
# own simulation, and with the files of the experiment its J/psi too, under background tracks that lost hits and
# under whole ones. A second run goes on where the first was stopped.
# Example: SECONDS_EACH=200 scripts/dimuon_finders.sh finders/ ../shared/data/spinquest      (7 x 200 s of one core)
# Without a folder of JPsi_Dump.root, MUP_Dump_10K.root and MUM_Dump_10K.root only the simulation is judged on.
# EVENTS (300) is the number of events that each finder is judged on, per row.
set -euo pipefail
if [ "${1:-}" = --help ]; then
    sed -n '2,7s/^# //p' "$0"
    exit
fi
source "$(dirname "$0")/environment.sh"
FOLDER=${1:-$ROOT/finders} FILES=${2:-}
BUDGET=${SECONDS_EACH:-200} EVENTS=${EVENTS:-300}
DATA=$FOLDER/data RUNS=$FOLDER/runs
export OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1
mkdir -p "$FOLDER"

step() { printf '\n== %s\n' "$*" >&2; }

finder() {
    local name=$1 preset=$2 rows=$3
    shift 3
    step "$name: $BUDGET s of processor time"
    trackkeras train "$preset" --data "$DATA" --runs "$RUNS" --name "$name" --resume \
        --set training.clock=processor --set training.time_budget_s="$BUDGET" --set training.schedule=budget \
        --set training.epochs=1000 --set training.patience=1000 --set training.warmup_epochs=0.1 \
        --set data.train_rows="$rows" --set data.validation_rows=64 "$@"
}

# One table of all runs; the rest of the arguments say on what.
table() {
    local runs=()
    for run in "$RUNS"/*/; do
        runs+=(--run "${run%/}")
    done
    "$PYTHON" "$ROOT/scripts/dimuon_finder_study.py" "${runs[@]}" --events "$EVENTS" \
        --only "0 to 50 tracks" --only "0 to 50 whole tracks" "$@"
}

step "Simulate J/psi under 0 to 50 tracks"
trackkeras generate dimuon --preset messy --n 40000 --shards 40 --seed 31 --workers 2 --out "$DATA"
finder roads finder_roads 1024
finder hitset_small finder_hitset_small 1024
finder basic_small finder_basic_small 1024
finder prod_small finder_prod 512 --set model.size=small --set training.learning_rate=5e-4
finder acc_small finder_acc 512 --set model.size=small --set training.learning_rate=1e-3
finder attention_small finder_attention 512 --set model.size=small --set training.learning_rate=1e-3
finder flagship_small finder_flagship_small 256

step "Own simulation"
[ -f "$FOLDER/jpsi.root" ] || trackkeras dimuon simulate --n 2000 --seed 901 --out "$FOLDER/jpsi.root"
[ -f "$FOLDER/singles.root" ] ||
    trackkeras dimuon simulate --preset singles --n 8000 --seed 902 --out "$FOLDER/singles.root"
table --signal "$FOLDER/jpsi.root" --background "$FOLDER/singles.root"
if [ -n "$FILES" ]; then
    step "J/psi of the experiment's simulation"
    table --signal "$FILES/JPsi_Dump.root" --background "$FILES/MUP_Dump_10K.root" \
        --background "$FILES/MUM_Dump_10K.root"
fi
