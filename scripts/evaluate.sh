#!/usr/bin/env bash
# trackkeras evaluate: accuracy beside the baselines, plots and report
# Example: scripts/evaluate.sh runs/first
set -euo pipefail
source "$(dirname "$0")/environment.sh"
exec trackkeras evaluate "$@"
