#!/usr/bin/env bash
# trackkeras export: SavedModel and ONNX with parity gate
# Example: scripts/export.sh runs/first --out bundles
set -euo pipefail
source "$(dirname "$0")/environment.sh"
exec trackkeras export "$@"
