#!/usr/bin/env bash
# trackkeras serve: TF-Serving's REST and gRPC protocol on this machine
# Example: scripts/serve.sh bundles
set -euo pipefail
source "$(dirname "$0")/environment.sh"
exec trackkeras serve "$@"
