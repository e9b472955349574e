#!/usr/bin/env bash
# Dimuons from end to end: simulate J/psi among background in the SpinQuest-like spectrometer, train networks for
# tracks, momentum and quality, reconstruct new events with them, and fit the J/psi in their mass. About six
# minutes on 2 cores after the installation, without any file from outside; a second run reuses what exists.
# Example: scripts/dimuon.sh [FOLDER]       (default: dimuon/)
set -euo pipefail
if [ "${1:-}" = --help ]; then
    sed -n '2,6s/^# //p' "$0"
    exit
fi
source "$(dirname "$0")/environment.sh"
FOLDER=${1:-$ROOT/dimuon}
DATA=$FOLDER/data RUNS=$FOLDER/runs BUNDLES=$FOLDER/bundles
EVENTS=$FOLDER/events.root RECO=$FOLDER/qtracker_reco.root
FINDER=${FINDER:-finder_roads} MOMENTUM=${MOMENTUM:-momentum_medium} QUALITY=${QUALITY:-quality_medium}
mkdir -p "$FOLDER"

step() { printf '\n== %s\n' "$*"; }

newest_bundle() { find "$BUNDLES/$1" -maxdepth 1 -name '[0-9]*' 2>/dev/null | sort -V | tail -n 1; }

# Train a preset for some seconds, and export it: run NAME, bundle PRESET-NAME.
network() {
    local name=$1 preset=$2 seconds=$3 run=$RUNS/$1 newest
    shift 3
    trackkeras train "$preset" --data "$DATA" --runs "$RUNS" --name "$name" --resume \
        --set training.schedule=budget --set training.time_budget_s="$seconds" "$@"
    newest=$(newest_bundle "$preset-$name" || true)
    if [ -n "$newest" ] && [ "$newest/bundle.json" -nt "$run/best.keras" ]; then
        echo "already exported: $newest"
    else
        trackkeras export "$run" --out "$BUNDLES"
    fi
}

step "1. Simulate events for training: J/psi with up to 5 other tracks"
trackkeras generate dimuon --n 20000 --set background.upper=5 --out "$DATA" --seed 1 --workers 2 --shards 20

step "2. Train the track finder"
network finder "$FINDER" 150 --set data.train_rows=4000 --set training.epochs=10

step "3. Train the momentum network"
network momentum "$MOMENTUM" 60 --set training.epochs=20

step "4. Train the quality network"
network quality "$QUALITY" 30

step "5. Simulate events to reconstruct"
if [ -f "$EVENTS" ]; then
    echo "already there: $EVENTS"
else
    trackkeras dimuon simulate --n 2000 --set background.upper=5 --seed 2 --out "$EVENTS"
fi

step "6. Reconstruct"
finder=$(newest_bundle "$FINDER-finder")
momentum=$(newest_bundle "$MOMENTUM-momentum")
quality=$(newest_bundle "$QUALITY-quality")
fresh() {
    local source
    [ -f "$1" ] || return 1
    for source in "${@:2}"; do [ "$1" -nt "$source" ] || return 1; done
}
if fresh "$RECO" "$EVENTS" "$finder/bundle.json" "$momentum/bundle.json" "$quality/bundle.json"; then
    echo "already reconstructed: $RECO"
else
    trackkeras dimuon reconstruct "$EVENTS" --finder "$finder" --momentum "$momentum" --quality "$quality" \
        --out "$RECO" --overwrite
fi

step "7. Compare with the truth"
trackkeras dimuon evaluate "$RECO" --out "$FOLDER/reconstruction.html" --overwrite

step "8. Fit the mass"
trackkeras dimuon mass "$RECO" --min-p-right 0.5 --out "$FOLDER/mass.png" --overwrite

step "Done"
echo "muons:   $RECO"
echo "report:  $FOLDER/reconstruction.html"
echo "picture: $FOLDER/mass.png"
