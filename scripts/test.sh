#!/usr/bin/env bash
# Formatting, lint, types and tests, as the continuous integration runs them. Options go to pytest.
# Example: scripts/test.sh
# Example: scripts/test.sh -k resume tests/training
set -euo pipefail
if [ "${1:-}" = --help ]; then
    sed -n '2,4s/^# //p' "$0"
    exit
fi
EXTRAS=dev,tfds
source "$(dirname "$0")/environment.sh"
cd "$ROOT"
for script in scripts/*.sh; do bash -n "$script"; done
ruff format --check .
ruff check .
mypy
pytest -n "${TRACKKERAS_TEST_WORKERS:-2}" --dist loadfile "$@"
