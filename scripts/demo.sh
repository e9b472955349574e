#!/usr/bin/env bash
# The main job from end to end: simulate tracks in the LHCb-like dipole, train a network that extrapolates them,
# evaluate it, export it, serve it and query it. About six minutes on 2 cores after the installation; a second
# run reuses what exists.
# Example: scripts/demo.sh [FOLDER]       (default: demo/)
set -euo pipefail
if [ "${1:-}" = --help ]; then
    sed -n '2,5s/^# //p' "$0"
    exit
fi
source "$(dirname "$0")/environment.sh"
FOLDER=${1:-$ROOT/demo}
DATA=$FOLDER/data RUN=$FOLDER/runs/demo NAME=mlp_medium-demo BUNDLES=$FOLDER/bundles
mkdir -p "$FOLDER"

step() { printf '\n== %s\n' "$*"; }

step "1. Generate a million tracks"
trackkeras generate extrapolation --n 1000000 --out "$DATA" --seed 1 --workers 2 --shards 16

step "2. Train"
trackkeras train mlp_medium --data "$DATA" --runs "$FOLDER/runs" --name demo --resume \
    --set training.epochs=40 --set training.jit_compile=true --time-budget 360

step "3. Evaluate beside the baselines"
if [ "$RUN/metrics.json" -nt "$RUN/best.keras" ]; then
    echo "already evaluated: $RUN/metrics.json"
else
    trackkeras evaluate "$RUN"
fi

step "4. Export"
newest_bundle() { find "$BUNDLES/$NAME" -maxdepth 1 -name '[0-9]*' 2>/dev/null | sort -V | tail -n 1; }
newest=$(newest_bundle || true)
if [ -n "$newest" ] && [ "$newest/bundle.json" -nt "$RUN/metrics.json" ]; then
    echo "already exported: $newest"
else
    trackkeras export "$RUN" --out "$BUNDLES"
fi

step "5. Serve"
READY=$FOLDER/server.json
rm -f "$READY"
trackkeras serve "$BUNDLES" --rest-port 0 --grpc-port 0 --ready-file "$READY" > "$FOLDER/server.log" 2>&1 &
SERVER=$!
trap 'kill $SERVER 2>/dev/null; wait $SERVER 2>/dev/null || true' EXIT
for _ in $(seq 100); do
    [ -f "$READY" ] && break
    kill -0 $SERVER 2>/dev/null || { cat "$FOLDER/server.log" >&2; exit 1; }
    sleep 0.2
done
port() { "$PYTHON" -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$READY" "$1"; }
GRPC=127.0.0.1:$(port grpc_port) REST=http://127.0.0.1:$(port rest_port)
echo "listening on $GRPC (gRPC) and $REST (REST)"

step "6. Query: a 10 GeV track across the magnet"
TRACK='{"state": [[100, -50, 0.05, -0.02, 1e-4]], "z0": [[2665]], "dz": [[5161]]}'
for address in "$GRPC" "$REST"; do
    echo "-- $address"
    trackkeras query "$NAME" --address "$address" --inputs "$TRACK"
done

step "Done"
echo "report: $RUN/report.html"
echo "plots:  $RUN/plots"
echo "bundle: $(newest_bundle)"
