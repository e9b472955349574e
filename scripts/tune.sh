#!/usr/bin/env bash
# trackkeras tune: search better options than a preset's
# Example: scripts/tune.sh mlp_medium --data data/tracks --search sizes --trials 20 --budget 30m
set -euo pipefail
source "$(dirname "$0")/environment.sh"
exec trackkeras tune "$@"
