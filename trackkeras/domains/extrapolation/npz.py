"""Track samples as NPZ files: X, Y, P, Z, the layout that the extrapolation networks' users exchange.

| array | shape | content |
|---|---|---|
| X | `(N, 6)` | x [mm], y [mm], tx, ty, q/p [1/MeV], dz [mm] at z_start |
| Y | `(N, 4)` | x [mm], y [mm], tx, ty at z_end |
| P | `(N,)` | momentum [GeV] |
| Z | `(N, 2)` | z_start, z_end [mm] |
"""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tfrecords_tools.files import new_file
from trackkeras.domain import Rows
from trackkeras.errors import UserError
from trackkeras.units import GEV, MEV, MM

if TYPE_CHECKING:
    from tfrecords_tools.reader import Dataset

CHUNK_ROWS = 65_536
MOMENTUM_TOLERANCE = 1e-3
"""Relative; far above the rounding of float32, far below any confusion of units."""
LENGTH_TOLERANCE = 0.01 * MM
"""Above the rounding of float32 at 13 m."""

Floats = NDArray[np.floating]

_SHAPES: dict[str, tuple[int, ...]] = {"X": (6,), "Y": (4,), "P": (), "Z": (2,)}


def read_seed_npz(path: Path) -> Iterator[Rows]:
    """Yield the tracks of an NPZ file as record columns; the file's arrays are held in memory.

    Args:
        path: File with X, Y, P and Z.

    Yields:
        `state` `(n, 5)`, `z0` `(n, 1)`, `dz` `(n, 1)`, `final_state` `(n, 5)`, float32, at most 65,536 rows.

    Raises:
        UserError: No such file, an array is missing or has another shape, a value is not finite, P is not
            positive or contradicts q/p, or Z contradicts dz.
    """
    inputs, outputs, momenta, planes = _load(path)
    _check(path, inputs, momenta, planes)
    for start in range(0, len(inputs), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        qop = inputs[rows, 4:5]
        yield {
            "state": inputs[rows, :5].astype(np.float32),
            "z0": planes[rows, :1].astype(np.float32),
            "dz": inputs[rows, 5:6].astype(np.float32),
            "final_state": np.concatenate([outputs[rows], qop], axis=1).astype(np.float32),
        }


def write_seed_npz(dataset: Dataset, split: str, path: Path) -> None:
    """Write one split as an NPZ file, in constant memory; the file appears when it is complete.

    Args:
        dataset: An extrapolation dataset.
        split: Its split.
        path: The NPZ file.

    Raises:
        UserError: A track has q/p = 0: it has no momentum to write.
        RecordError: No such split, or a shard is damaged.
    """
    arrays: dict[str, Callable[[Rows], Floats]] = {
        "X": lambda rows: np.concatenate([rows["state"], rows["dz"]], axis=1),
        "Y": lambda rows: rows["final_state"][:, :4],
        "P": lambda rows: _momentum(path, rows["state"][:, 4]),
        "Z": lambda rows: np.concatenate([rows["z0"], rows["z0"] + rows["dz"]], axis=1),
    }
    columns = ("state", "z0", "dz", "final_state")
    dtype = np.dtype("<f4")
    with new_file(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        for name, make in arrays.items():
            with _member(archive, name, dtype, (dataset.rows(split), *_SHAPES[name])) as member:
                for rows in dataset.chunks(split, columns, rows=CHUNK_ROWS):
                    member.write(make(rows).astype(dtype).tobytes())


def merge_seed_npz(files: Sequence[Path], path: Path) -> int:
    """Join NPZ files into one, row after row, in the memory that the largest of them takes.

    Args:
        files: Files with X, Y, P and Z, in the order of the rows.
        path: The new file; float32 if all are, else float64.

    Returns:
        The number of rows.

    Raises:
        UserError: A file is not as `read_seed_npz` wants it, or two hold the same rows.
    """
    rows, types = 0, set()
    seen: dict[bytes, Path] = {}
    for file in files:
        arrays = _load(file)
        _check(file, arrays[0], arrays[2], arrays[3])
        key = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).digest()
        if key in seen:
            raise UserError(f"{file} holds the same rows as {seen[key]}: merge each batch once")
        seen[key] = file
        rows += len(arrays[0])
        types |= {array.dtype for array in arrays}
    dtype = np.dtype("<f4") if all(kind.itemsize <= 4 for kind in types) else np.dtype("<f8")
    with new_file(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        for index, (name, shape) in enumerate(_SHAPES.items()):
            with _member(archive, name, dtype, (rows, *shape)) as member:
                for file in files:
                    member.write(np.ascontiguousarray(_load(file)[index], dtype).tobytes())
    return rows


def verify_merged_npz(files: Sequence[Path], path: Path) -> None:
    """Compare a merged file with its parts, number by number.

    Raises:
        UserError: It differs, or is not a valid file of tracks.
    """
    merged = _load(path)
    _check(path, merged[0], merged[2], merged[3])
    start = 0
    for file in files:
        parts = _load(file)
        rows = slice(start, start + len(parts[0]))
        for name, part, whole in zip(_SHAPES, parts, merged, strict=True):
            if not np.array_equal(part.astype(whole.dtype), whole[rows]):
                raise UserError(f"{path}: {name} differs from {file} in the rows from {start}")
        start = rows.stop
    if start != len(merged[0]):
        raise UserError(f"{path} holds {len(merged[0])} rows, its parts {start}")


@contextlib.contextmanager
def _member(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> Iterator[IO[bytes]]:
    """Open one array of an NPZ file for writing."""
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    # A ZipInfo, unlike a bare name, carries no time of day: equal data make equal files.
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        yield member


def _momentum(path: Path, qop: Floats) -> Floats:
    if not qop.all():
        raise UserError(f"{path}: a track has q/p = 0, so it has no momentum to write")
    return MEV / np.abs(qop.astype(np.float64)) / GEV


def _load(path: Path) -> tuple[Floats, Floats, Floats, Floats]:
    """Return X, Y, P and Z as float arrays of matching shapes."""
    try:
        with path.open("rb") as stream:
            content = np.load(stream)
            if not isinstance(content, np.lib.npyio.NpzFile):
                raise UserError(f"{path} holds a single array, not an NPZ archive of X, Y, P and Z")
            found = {name: content[name] for name in ("X", "Y", "P", "Z") if name in content}
            names = content.files
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except UserError:
        raise
    except (ValueError, EOFError, zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path} is not a readable NPZ file: {error}") from None
    missing = [name for name in ("X", "Y", "P", "Z") if name not in found]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; it holds {', '.join(names) or 'nothing'}")
    rows = len(found["X"]) if found["X"].ndim else 0
    for name, shape in (("X", (rows, 6)), ("Y", (rows, 4)), ("P", (rows,)), ("Z", (rows, 2))):
        array = found[name]
        if array.shape != shape or array.dtype.kind != "f" or not rows:
            wanted = f"({', '.join(['N', *map(str, shape[1:])])})"
            raise UserError(
                f"{path}: {name} must be floats {wanted}, one N for all, received {array.dtype} {array.shape}"
            )
        bad = np.flatnonzero(~np.isfinite(array.reshape(rows, -1)).all(axis=1))
        if bad.size:
            raise UserError(
                f"{path}: {name} holds NaN or infinity in {bad.size} rows, the first is row {bad[0]}"
            )
    return found["X"], found["Y"], found["P"], found["Z"]


def _check(path: Path, inputs: Floats, momenta: Floats, planes: Floats) -> None:
    bad = np.flatnonzero(momenta <= 0)
    if bad.size:
        raise UserError(f"{path}: P must be positive, row {bad[0]} has {momenta[bad[0]]:g} GeV")
    product = np.abs(inputs[:, 4].astype(np.float64)) * momenta * GEV  # 1 where q/p is in 1/MeV
    if np.allclose(product, GEV / MEV, rtol=MOMENTUM_TOLERANCE):
        raise UserError(f"{path}: q/p is in 1/GeV; column 4 of X must be in 1/MeV: divide it by 1000")
    bad = np.flatnonzero(np.abs(product - 1) > MOMENTUM_TOLERANCE)
    if bad.size:
        row = bad[0]
        raise UserError(
            f"{path}: q/p [1/MeV] contradicts P [GeV] in {bad.size} rows, "
            f"the first is row {row}: q/p {inputs[row, 4]:g}, P {momenta[row]:g}"
        )
    planes = planes.astype(np.float64)
    length = planes[:, 1] - planes[:, 0]
    bad = np.flatnonzero(np.abs(length - inputs[:, 5]) > LENGTH_TOLERANCE)
    if bad.size:
        row = bad[0]
        raise UserError(
            f"{path}: dz contradicts Z in {bad.size} rows, "
            f"the first is row {row}: dz {inputs[row, 5]:g} mm, Z {planes[row, 0]:g} to {planes[row, 1]:g} mm"
        )
