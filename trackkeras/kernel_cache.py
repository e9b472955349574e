"""Where Numba keeps compiled kernels: by host, and by the source of all kernels together.

Numba notices a change in the file of a function, not in the files of the functions that it calls. A cache
named after all sources cannot serve a kernel that was compiled against an older version of another. Machines
that share a home directory, as on a batch farm, have different processors and so caches of their own.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path


def use_own_cache() -> None:
    """Name the cache folder, unless `NUMBA_CACHE_DIR` does so already or no folder can be made."""
    if "NUMBA_CACHE_DIR" in os.environ:
        return
    sources = hashlib.sha256()
    for path in sorted((Path(__file__).parent / "domains").glob("*/*.py")):
        sources.update(path.read_bytes())
    base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "trackkeras"
    folder = base / f"numba-{socket.gethostname()}-{sources.hexdigest()[:12]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that cannot be written to: Numba looks for a place of its own
        return
    os.environ["NUMBA_CACHE_DIR"] = str(folder)
    if "numba" in sys.modules:
        import numba

        numba.config.CACHE_DIR = str(folder)  # type: ignore[attr-defined]


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Let one process of this host compile kernels while the others wait for its cache."""
    folder = Path(os.environ.get("NUMBA_CACHE_DIR", tempfile.gettempdir()))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "trackkeras.lock").open("w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks: each process compiles for itself
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
