#!/usr/bin/env bash
# trackkeras generate: simulate a dataset as sharded TFRecords
# Example: scripts/generate.sh extrapolation --n 1000000 --out data/tracks --workers 2
set -euo pipefail
source "$(dirname "$0")/environment.sh"
exec trackkeras generate "$@"
