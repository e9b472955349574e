#!/usr/bin/env bash
# trackkeras query: ask a server for a prediction, the local one or TF-Serving alike
# Example: scripts/query.sh mlp_medium-first --inputs @tracks.json
set -euo pipefail
source "$(dirname "$0")/environment.sh"
exec trackkeras query "$@"
