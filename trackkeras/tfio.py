"""tensorflow-io where its native library runs: HDF5, Parquet and NumPy files as `tf.data`.

Its binaries are built for one TensorFlow release (0.37 for 2.16); beside another one the package imports and
every operation fails. So one operation is tried, and what was found is said in one line. Where it does not
run, `trackkeras ingest` reads NPZ and Parquet, and h5py, pyarrow and uproot read the rest.
"""

from __future__ import annotations

import importlib
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trackkeras.errors import UserError

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class Finding:
    """What trying one native operation showed.

    Attributes:
        usable: Whether it gave the right result.
        text: One line for the user.
    """

    usable: bool
    text: str


@lru_cache(maxsize=1)
def try_native_operation() -> Finding:
    """Read a small NumPy file through tensorflow-io's native library."""
    numbers = np.arange(4.0)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of every library that it cannot load; the result says so
        path = Path(folder) / "probe.npy"
        np.save(path, numbers)
        try:
            package = importlib.import_module("tensorflow_io")
        except ImportError as error:
            return Finding(False, f"tensorflow-io is not installed (extra `tfio`): {_line(error)}")
        version = getattr(package, "__version__", "of unknown version")
        try:
            rows = list(package.experimental.IODataset.from_numpy_file(str(path)))
        except Exception as error:  # whatever a library for another TensorFlow raises
            beside = f"does not run beside TensorFlow {_tensorflow_version()}"
            return Finding(False, f"tensorflow-io {version} {beside}: {_line(error)}")
    found = np.ravel([np.asarray(row) for row in rows])
    if not np.array_equal(found, numbers):
        return Finding(
            False, f"tensorflow-io {version} reads {found.tolist()} from a file of {numbers.tolist()}"
        )
    return Finding(True, f"tensorflow-io {version} runs beside TensorFlow {_tensorflow_version()}")


def open_source(path: Path, columns: tuple[str, ...] = ()) -> tf.data.Dataset:
    """Open a file through tensorflow-io.

    Args:
        path: `.h5`, `.hdf5`, `.parquet`, `.npy` or `.npz` file.
        columns: Data sets of an HDF5 file, or columns of a Parquet file; needed for HDF5.

    Returns:
        Rows in the order of the file: tensors, tuples of them for several data sets, mappings for Parquet.

    Raises:
        UserError: tensorflow-io does not run here, no such file, or another kind of file.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    if path.suffix not in _READERS:
        raise UserError(f"tensorflow-io reads {', '.join(_READERS)} files, received {path.name}")
    finding = try_native_operation()
    if not finding.usable:
        raise UserError(f"{finding.text}; use `trackkeras ingest`, h5py, pyarrow or uproot")
    if path.suffix in (".h5", ".hdf5") and not columns:
        raise UserError(f"{path}: name the data sets of an HDF5 file to read")
    return _READERS[path.suffix](importlib.import_module("tensorflow_io"), str(path), columns)


def _hdf5(package: Any, path: str, columns: tuple[str, ...]) -> tf.data.Dataset:
    import tensorflow as tf

    parts = tuple(package.IODataset.from_hdf5(path, dataset=f"/{name.lstrip('/')}") for name in columns)
    return parts[0] if len(parts) == 1 else tf.data.Dataset.zip(parts)


def _parquet(package: Any, path: str, columns: tuple[str, ...]) -> tf.data.Dataset:
    return package.IODataset.from_parquet(path, columns=list(columns) or None)


def _numpy(package: Any, path: str, columns: tuple[str, ...]) -> tf.data.Dataset:
    return package.experimental.IODataset.from_numpy_file(path)


_READERS: dict[str, Callable[[Any, str, tuple[str, ...]], Any]] = {
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".parquet": _parquet,
    ".npy": _numpy,
    ".npz": _numpy,
}


def _tensorflow_version() -> str:
    return str(importlib.import_module("tensorflow").__version__)


def _line(error: BaseException) -> str:
    """Return the beginning of an error's text as one line."""
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else f"{text[:157]}..."
