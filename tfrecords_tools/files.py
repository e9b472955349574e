"""Files and folders that appear complete or not at all.

Everything is made under a hidden temporary name in the same folder and renamed when it is complete and on
disk. The maker holds a lock on it, so that what a killed process left behind can be told from what another
process is making just now.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tfrecords_tools.errors import RecordError

_SUFFIX = ".partial"


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` when the block ends, and vanishes when it raises."""
    temporary, descriptor = _claim(path, folder=False)
    try:
        with os.fdopen(descriptor, "wb", buffering=1 << 20) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a new folder that becomes `path` when the block ends, and vanishes when it raises.

    Raises:
        RecordError: `path` exists and is not an empty folder.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise RecordError(f"{path} exists already: choose another folder, or remove it first")
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, path.name)
    temporary, descriptor = _claim(path, folder=True)
    try:
        yield temporary
        _sync_folder(temporary)
        temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        os.close(descriptor)
    _sync_folder(path.parent)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left of `name` (a glob pattern) in `folder`; work in progress is kept."""
    for path in folder.glob(f".{name}.*{_SUFFIX}"):
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # in use, or a file system without locks: not ours to remove
            continue
        else:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    with new_file(path) as stream:
        stream.write(text.encode())


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        RecordError: It is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise RecordError(f"no such file: {path}") from None
    except (ValueError, OSError) as error:
        raise RecordError(f"{path} is not readable as JSON: {error}") from None


def _claim(path: Path, *, folder: bool) -> tuple[Path, int]:
    """Make and lock a temporary file or folder beside `path`."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}{_SUFFIX}")
        if folder:
            temporary.mkdir()
            descriptor = os.open(temporary, os.O_RDONLY)
        else:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with contextlib.suppress(OSError):  # a file system without locks keeps leftovers, nothing else
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if temporary.exists():  # not taken for a leftover between its making and its lock
            return temporary, descriptor
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Put a rename on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
