"""Resident memory of processes."""

from __future__ import annotations

import os
import resource
from pathlib import Path


def resident_mb(pid: int | None = None) -> float:
    """Return the resident memory of a process [MB], this one by default; 0 if it has just ended."""
    try:
        pages = int(Path(f"/proc/{pid or os.getpid()}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * resource.getpagesize() / 1e6
