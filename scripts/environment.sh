# Sourced by the other scripts: makes .venv once, installs the pinned set, and defines $PYTHON.
# EXTRAS names optional parts to install too, e.g. `dev,tfds`.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV="$ROOT/.venv"
PYTHON="$VENV/bin/python"
export PATH="$VENV/bin:$PATH"
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-3}

find_python() {
    local candidate
    for candidate in "${TRACKKERAS_PYTHON:-}" python3 python3.13 python3.12 python3.11; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: no Python 3.11, 3.12 or 3.13 found; install one or name it in TRACKKERAS_PYTHON" >&2
    return 1
}

install_environment() {
    local extras=$1 wanted stamp python
    wanted=$(cat "$ROOT/setup.cfg" "$ROOT/pyproject.toml" "$ROOT/scripts/constraints.txt" | cksum)
    stamp="$VENV/installed-${extras:-core}"
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
        return
    fi
    if [ ! -x "$PYTHON" ]; then
        python=$(find_python) || return 1
        echo "making .venv with $("$python" --version)"
        "$python" -m venv "$VENV" || return 1
    fi
    echo "installing trackkeras${extras:+[$extras]} from scripts/constraints.txt (about two minutes)"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check \
        --constraint "$ROOT/scripts/constraints.txt" --editable "$ROOT${extras:+[$extras]}" || return 1
    echo "$wanted" > "$stamp"
}

install_environment "${EXTRAS:-}" || exit 1
