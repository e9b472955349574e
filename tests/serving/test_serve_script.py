"""scripts/serve.sh: which server it starts, and with what."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"

RECORDED = """#!/bin/sh
echo "$(basename "$0") $*" >> "$RECORD"
case "$(basename "$0") $1" in
    "docker info") exit $ENGINE ;;
    "docker run")
        for argument in "$@"; do
            case $argument in *:/models:ro) ls "${argument%%:*}" >> "$RECORD" ;; esac
        done ;;
    "trackkeras serving-config") exec "$TRACKKERAS" "$@" ;;
esac
"""


@pytest.fixture
def start(tmp_path: Path, bundles: Path):
    """Run a copy of the script with programs that write down how they are called; returns their lines."""
    shutil.copy(SCRIPTS / "serve.sh", tmp_path)
    (tmp_path / "environment.sh").write_text("")
    programs, record = tmp_path / "bin", tmp_path / "record"
    programs.mkdir()
    for name in ("docker", "trackkeras"):
        (programs / name).write_text(RECORDED)
        (programs / name).chmod(0o755)
    real = str(Path(sys.executable).with_name("trackkeras"))

    def run(*arguments: str, engine: bool, **variables: str):
        record.write_text("")
        done = subprocess.run(
            ["bash", str(tmp_path / "serve.sh"), *arguments],
            env=os.environ
            | {"PATH": f"{programs}:{os.environ['PATH']}", "RECORD": str(record), "TRACKKERAS": real}
            | {"ENGINE": "0" if engine else "1", "TMPDIR": str(tmp_path)}
            | variables,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done, record.read_text().splitlines()

    return run


def test_the_official_image_where_docker_answers(start, bundles, tmp_path):
    done, calls = start(str(bundles), engine=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "server: tensorflow/serving:latest in Docker\n"
    ran = next(call for call in calls if call.startswith("docker run"))
    assert "--model_config_file=/models/models.config" in ran
    assert "127.0.0.1:8500:8500" in ran
    assert {"models.config", "monitoring.config", "sums", "transport"} <= set(calls)
    assert not list(tmp_path.glob("tmp.*"))


@pytest.mark.parametrize(
    ("arguments", "engine", "variables"),
    [([], False, {}), (["--rest-port", "0"], True, {}), ([], True, {"SERVER": "local"})],
)
def test_the_local_server_otherwise(start, bundles, arguments, engine, variables):
    done, calls = start(str(bundles), *arguments, engine=engine, **variables)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "server: trackkeras serve\n"
    assert calls[-1] == " ".join(["trackkeras serve", str(bundles), *arguments])


def test_a_server_that_there_is_not(start, bundles):
    done, calls = start(str(bundles), engine=True, SERVER="other")
    assert (done.returncode, calls) == (2, [])
    assert "SERVER must be docker or local" in done.stderr
