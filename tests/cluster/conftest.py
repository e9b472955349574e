"""A place from which jobs are submitted, with a `trackkeras` command that runs this source tree."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def submit_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with `logs/`, `scripts/`, and `trackkeras` on the PATH."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    command = tmp_path / "bin" / "trackkeras"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m trackkeras.cli "$@"\n')
    command.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    for name in ("SLURM_ARRAY_TASK_ID", "TRACKKERAS_INDEX"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path
