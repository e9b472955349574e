#!/usr/bin/env bash
# trackkeras train: fit a preset on a dataset
# Example: scripts/train.sh mlp_medium --data data/tracks --name first
set -euo pipefail
source "$(dirname "$0")/environment.sh"
exec trackkeras train "$@"
