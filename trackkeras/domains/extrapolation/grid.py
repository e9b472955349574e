"""Field maps as text: any regular grid of `x y z Bx By Bz`, read with checks and written atomically."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trackkeras.errors import UserError

if TYPE_CHECKING:
    from trackkeras.domains.extrapolation.fields import FieldProtocol

LENGTH_UNITS = {"mm": 1.0, "cm": 10.0, "m": 1000.0}
"""Accepted units of length, each in mm."""

FIELD_UNITS = {"T": 1.0, "mT": 1e-3, "kG": 0.1, "G": 1e-4}
"""Accepted units of the magnetic field, each in tesla."""

COLUMNS = ("x", "y", "z", "Bx", "By", "Bz")

NODES = ((-4000.0, 4000.0, 100.0), (-4000.0, 4000.0, 100.0), (-500.0, 14000.0, 100.0))
"""Default grid of `write_grid`: first node, last node and step of x, y and z [mm]; 81 x 81 x 146 nodes."""

_SAME_NODE_MM = 1e-3


@dataclass(frozen=True, eq=False)
class Grid:
    """A field on a regular grid.

    Attributes:
        params: `(6,)`: origin and step of x, y and z [mm], interleaved.
        values: `(nx, ny, nz, 3)` float64 [T].
        volume: `(6,)` hull of the nodes [mm]: xmin, xmax, ymin, ymax, zmin, zmax.
    """

    params: NDArray[np.float64]
    values: NDArray[np.float64]
    volume: NDArray[np.float64]


def read_grid(path: Path, length: str, field: str) -> Grid:
    """Read a text file of `x y z Bx By Bz`, one node per line, in any order; `#` starts a comment.

    Args:
        path: The file.
        length: Unit of x, y, z: a key of `LENGTH_UNITS`.
        field: Unit of Bx, By, Bz: a key of `FIELD_UNITS`.

    Raises:
        UserError: An unknown unit, no such file, a line that is not six finite numbers, or nodes that do not
            form one complete regular grid; the message names the line or the node.
    """
    for unit, units in ((length, LENGTH_UNITS), (field, FIELD_UNITS)):
        if unit not in units:
            raise UserError(f"unknown unit {unit!r}; use one of {', '.join(units)}")
    table = _read_table(Path(path))
    positions = table[:, :3] * LENGTH_UNITS[length]
    axes, indices = zip(*(_regular_axis(path, COLUMNS[k], positions[:, k]) for k in range(3)), strict=True)
    shape = tuple(len(axis) for axis in axes)
    nodes = np.ravel_multi_index(indices, shape)
    _check_complete(path, axes, shape, nodes)
    values = np.empty((len(nodes), 3))
    values[nodes] = table[:, 3:] * FIELD_UNITS[field]
    steps = [(axis[-1] - axis[0]) / (len(axis) - 1) for axis in axes]
    return Grid(
        params=np.array(
            [number for axis, step in zip(axes, steps, strict=True) for number in (axis[0], step)]
        ),
        values=values.reshape(*shape, 3),
        volume=np.array([number for axis in axes for number in (axis[0], axis[-1])]),
    )


def _read_table(path: Path) -> NDArray[np.float64]:
    try:
        with path.open() as lines:
            table = np.loadtxt(lines, dtype=np.float64, ndmin=2)
    except OSError as error:
        raise UserError(f"cannot read field file {path}: {error.strerror}") from None
    except ValueError:
        _raise_bad_line(path)
        raise
    if table.size == 0:
        raise UserError(f"field file {path} holds no nodes")
    if table.shape[1] != len(COLUMNS) or not np.isfinite(table).all():
        _raise_bad_line(path)
    return table


def _raise_bad_line(path: Path) -> None:
    """Name the first line that is not six finite numbers, which the fast reader does not tell."""
    with path.open(errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            if len(words) != len(COLUMNS):
                raise UserError(
                    f"{path}, line {number}: needs {len(COLUMNS)} columns ({' '.join(COLUMNS)}), "
                    f"received {len(words)}"
                )
            for column, word in zip(COLUMNS, words, strict=True):
                try:
                    finite = np.isfinite(float(word))
                except ValueError:
                    finite = False
                if not finite:
                    raise UserError(
                        f"{path}, line {number}: {column} must be a finite number, received {word[:40]!r}"
                    )


def _regular_axis(
    path: Path, name: str, positions: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the equally spaced coordinates of one axis and, for every node, its index."""
    distinct, index = np.unique(np.round(positions / _SAME_NODE_MM), return_inverse=True)
    axis = distinct * _SAME_NODE_MM
    if len(axis) < 2:
        raise UserError(f"field file {path}: needs at least two different {name}, received {len(axis)}")
    expected = np.linspace(axis[0], axis[-1], len(axis))
    irregular = np.flatnonzero(np.abs(axis - expected) > 2 * _SAME_NODE_MM)
    if irregular.size:
        first = irregular[0]
        raise UserError(
            f"field file {path}: {name} must be equally spaced; received {len(axis)} values from "
            f"{axis[0]:g} to {axis[-1]:g} mm, but {axis[first]:g} mm where {expected[first]:g} mm is expected"
        )
    return expected, index


def _check_complete(
    path: Path, axes: Sequence[NDArray[np.float64]], shape: tuple[int, ...], nodes: NDArray[np.int64]
) -> None:
    counts = np.bincount(nodes, minlength=int(np.prod(shape)))
    for what, wrong in (("is given more than once", counts > 1), ("is missing", counts == 0)):
        found = np.flatnonzero(wrong)
        if found.size:
            place = [axis[i] for axis, i in zip(axes, np.unravel_index(found[0], shape), strict=True)]
            raise UserError(
                f"field file {path}: node x={place[0]:g}, y={place[1]:g}, z={place[2]:g} mm {what} "
                f"({found.size} such nodes in a grid of {' x '.join(map(str, shape))})"
            )


def write_grid(
    field: FieldProtocol, path: Path, nodes: Sequence[Sequence[float]] = NODES, *, overwrite: bool = False
) -> int:
    """Write a field as text in mm and tesla, readable by `read_grid`; the file appears when it is complete.

    Args:
        field: Any field whose volume holds the grid.
        path: The file to write.
        nodes: First node, last node and step of x, y and z [mm].
        overwrite: Whether to replace a file of this name.

    Returns:
        The number of nodes.

    Raises:
        UserError: The file exists, the steps do not fit the range, or the grid exceeds the field's volume.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists; choose another name or ask for it to be overwritten")
    if not path.parent.is_dir():
        raise UserError(f"no such folder: {path.parent}")
    x, y, z = (_axis(name, *limits) for name, limits in zip("xyz", nodes, strict=True))
    corners = np.array(np.meshgrid(x[[0, -1]], y[[0, -1]], z[[0, -1]])).reshape(3, -1)
    field.field(*corners)  # a volume is a box: a grid whose corners it holds fits
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("w") as out:
            out.write(f"# {' '.join(COLUMNS)}  [mm, T]  {field.name}\n")
            plane_y, plane_z = (axis.ravel() for axis in np.meshgrid(y, z, indexing="ij"))
            line = "%.10g %.10g %.10g %.9e %.9e %.9e\n" * len(plane_y)
            for position in x:
                plane_x = np.full_like(plane_y, position)
                table = np.column_stack([plane_x, plane_y, plane_z, field.field(plane_x, plane_y, plane_z)])
                out.write(line % tuple(table.ravel().tolist()))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return len(x) * len(y) * len(z)


def _axis(name: str, first: float, last: float, step: float) -> NDArray[np.float64]:
    cells = (last - first) / step if step > 0 else 0.0
    if not (cells >= 1 and abs(cells - round(cells)) < 1e-6):
        raise UserError(f"{name} from {first:g} to {last:g} mm cannot be divided into steps of {step:g} mm")
    return np.linspace(first, last, round(cells) + 1)
