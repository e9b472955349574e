"""Files and folders that appear complete or not at all.

Everything is made under a hidden temporary name in the same folder and renamed when it is complete and on
disk. The maker holds a lock on it, so that what a killed process left behind can be told from what another
process is making just now.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from tfrecords_tools.errors import RecordError

_SUFFIX = ".partial"

_STORAGE_ERRORS = {
    errno.ENOSPC: "the disk is full; free space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free space and run the same command again",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "permission denied; choose a folder that you may write to",
    errno.EPERM: "not permitted; choose a folder that you may write to",
    errno.ENOTDIR: "a file stands where a folder is needed; choose another folder",
    errno.EIO: "the disk reports an input/output error",
}


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write into one sentence.

    Raises:
        RecordError: The disk is full, read-only, protected or broken.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _STORAGE_ERRORS:
            raise
        raise RecordError(f"cannot write {path}: {_STORAGE_ERRORS[error.errno]}") from None


@contextlib.contextmanager
def new_file(path: Path, *, replace: bool = True) -> Iterator[BinaryIO]:
    """Open a new file that becomes `path` when the block ends, and vanishes when it raises.

    Args:
        path: The file.
        replace: Take the place of what stands there; otherwise the older file stays as it is.

    Raises:
        RecordError: It cannot be written: the disk is full, read-only or protected.
    """
    with writing(path):
        temporary, descriptor = _claim(path, folder=False)
        try:
            with os.fdopen(descriptor, "wb", buffering=1 << 20) as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
                if replace:
                    temporary.replace(path)
                else:
                    with contextlib.suppress(FileExistsError):
                        os.link(temporary, path)  # unlike a look and a rename, one step for the first of many
                    temporary.unlink()
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a new folder that becomes `path` when the block ends, and vanishes when it raises.

    Raises:
        RecordError: `path` exists and is not an empty folder, or it cannot be written.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise RecordError(f"{path} exists already: choose another folder, or remove it first")
    path = path.resolve()
    with writing(path):
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


def write_json(path: Path, value: Any, *, replace: bool = True) -> None:
    """Write `value` as indented JSON, atomically; without `replace`, a file that exists stays as it is."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    with new_file(path, replace=replace) as stream:
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


def expand(patterns: Sequence[str]) -> list[Path]:
    """Return the paths that patterns such as `batch_*.npz` match, `batch_2` before `batch_10`, each once.

    Raises:
        RecordError: A pattern matches nothing, or a plain name does not exist.
    """
    paths: list[Path] = []
    for pattern in patterns:
        found = [Path(name) for name in glob.glob(pattern)] or [Path(pattern)]  # noqa: PTH207 (absolute ones too)
        if not found[0].exists():
            what = "nothing matches" if glob.has_magic(pattern) else "no such file or folder:"
            raise RecordError(f"{what} {pattern}")
        paths += sorted(found, key=_natural)
    return list(dict.fromkeys(paths))


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def _claim(path: Path, *, folder: bool) -> tuple[Path, int]:
    """Make and lock a temporary file or folder beside `path`."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}{_SUFFIX}")
        if folder:
            temporary.mkdir()
            descriptor = os.open(temporary, os.O_RDONLY)
        else:
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
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
