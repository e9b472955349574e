"""A field on a grid of nodes: axes, completeness, and the arrays that the kernels read.

Files are read and written by `trackkeras.domains.extrapolation.grid` and `grid_allen`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trackkeras.domains.extrapolation import grid_kernels, kernels
from trackkeras.errors import UserError

if TYPE_CHECKING:
    from trackkeras.domains.extrapolation.field_protocol import FieldProtocol

Array = NDArray[np.float64]
Report = Callable[[int, int], None]
"""Called with the work done and the work in all."""

LENGTH_UNITS = {"mm": 1.0, "cm": 10.0, "m": 1000.0}
"""Accepted units of length, each in mm."""

FIELD_UNITS = {"T": 1.0, "mT": 1e-3, "kG": 0.1, "G": 1e-4, "Gaudi": 1000.0}
"""Accepted units of the magnetic field, each in tesla; in the units of Gaudi a tesla is 0.001."""

COLUMNS = ("x", "y", "z", "Bx", "By", "Bz")

NODES = ((-4000.0, 4000.0, 100.0), (-4000.0, 4000.0, 100.0), (-500.0, 14000.0, 100.0))
"""Default grid of `field make`: first node, last node and step of x, y and z [mm]; 81 x 81 x 146 nodes."""

CUBIC_NODES = 4
"""Fewest nodes along an axis for cubic interpolation."""

_SAME_NODE_MM = 1e-3


@dataclass(frozen=True, eq=False)
class Grid:
    """A field on a grid.

    Attributes:
        axes: Coordinates of the nodes along x, y and z [mm], ascending.
        nodes: `(nx, ny, nz, 3)` float32 [T], the precision of the experiments' own maps.
    """

    axes: tuple[Array, Array, Array]
    nodes: NDArray[np.float32]

    @property
    def volume(self) -> Array:
        """Hull of the nodes [mm], `(6,)`: xmin, xmax, ymin, ymax, zmin, zmax."""
        return np.array([end for axis in self.axes for end in (axis[0], axis[-1])])

    @property
    def variable(self) -> bool:
        """Whether the steps along any axis differ from each other."""
        return not all(_equal_steps(axis) for axis in self.axes)

    def params(self, masked: bool = False) -> Array:
        """Return the kernels' parameters, see `grid_kernels`.

        Args:
            masked: Whether any node is flagged.
        """
        steps = [(axis[-1] - axis[0]) / (len(axis) - 1) for axis in self.axes]
        places = [number for axis, step in zip(self.axes, steps, strict=True) for number in (axis[0], step)]
        fixed = np.array([*places, float(masked)])
        return np.concatenate([fixed, *self.axes]) if self.variable else fixed

    def values(self, flags: NDArray[np.bool_] | None = None, polarity: int = 1) -> NDArray[np.float32]:
        """Return the kernels' nodes, `(nx, ny, nz, 4)`.

        Args:
            flags: `(nx, ny, nz)`, where the grid is not to be used.
            polarity: 1 or -1.
        """
        values = np.zeros((*self.nodes.shape[:3], 4), np.float32)
        np.multiply(self.nodes, np.float32(polarity), out=values[..., :3])
        if flags is not None:
            values[..., 3] = flags
        return values


def axes_of(field: FieldProtocol) -> tuple[Array, Array, Array]:
    """Return the coordinates of the nodes [mm] of a field that is a grid."""
    shape = field.values.shape[:3]
    if field.kind >= kernels.VARIABLE_GRID:
        x, y, z = np.split(field.params[grid_kernels.AXES :], np.cumsum(shape)[:2])
    else:
        x, y, z = (
            field.params[2 * k] + field.params[2 * k + 1] * np.arange(count) for k, count in enumerate(shape)
        )
    return x, y, z


def is_grid(field: FieldProtocol) -> bool:
    """Return whether the field is interpolated between nodes."""
    return field.kind not in (kernels.GAUSSIAN, kernels.MAXWELL, kernels.TWO_DIPOLE)


def grid_from_table(path: Path, table: Array, length: str, field: str) -> Grid:
    """Return the grid that rows of `x y z Bx By Bz`, in any order, form.

    Args:
        path: Where the rows come from, for messages.
        table: `(n, 6)` finite numbers.
        length: Unit of x, y, z: a key of `LENGTH_UNITS`.
        field: Unit of Bx, By, Bz: a key of `FIELD_UNITS`.

    Raises:
        UserError: The rows do not form one complete grid; the message names the node.
    """
    positions = table[:, :3] * LENGTH_UNITS[length]
    axes, indices = zip(*(_axis_of(path, COLUMNS[k], positions[:, k]) for k in range(3)), strict=True)
    shape = tuple(len(axis) for axis in axes)
    nodes = np.ravel_multi_index(indices, shape)
    _check_complete(path, axes, shape, nodes)
    values = np.empty((len(nodes), 3), np.float32)
    values[nodes] = table[:, 3:] * FIELD_UNITS[field]
    return Grid((axes[0], axes[1], axes[2]), values.reshape(*shape, 3))


def check_units(length: str, field: str) -> None:
    """Refuse units that are not known.

    Raises:
        UserError: An unknown unit.
    """
    for unit, units in ((length, LENGTH_UNITS), (field, FIELD_UNITS)):
        if unit not in units:
            raise UserError(f"unknown unit {unit!r}; use one of {', '.join(units)}")


def _axis_of(path: Path, name: str, positions: Array) -> tuple[Array, NDArray[np.int64]]:
    """Return the coordinates of one axis and, for every node, its index."""
    distinct, index = np.unique(np.round(positions / _SAME_NODE_MM), return_inverse=True)
    axis = distinct * _SAME_NODE_MM
    if len(axis) < 2:
        raise UserError(f"field file {path}: needs at least two different {name}, received {len(axis)}")
    return (np.linspace(axis[0], axis[-1], len(axis)) if _equal_steps(axis) else axis), index


def _equal_steps(axis: Array) -> bool:
    expected = np.linspace(axis[0], axis[-1], len(axis))
    return bool(np.abs(axis - expected).max() <= 2 * _SAME_NODE_MM)


def _check_complete(
    path: Path, axes: Sequence[Array], shape: tuple[int, ...], nodes: NDArray[np.int64]
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


def node_axes(nodes: Sequence[Sequence[float]]) -> tuple[Array, Array, Array]:
    """Return the coordinates of a regular grid [mm].

    Args:
        nodes: First node, last node and step of x, y and z [mm].

    Raises:
        UserError: The steps do not fit the range.
    """
    x, y, z = (_axis(name, *limits) for name, limits in zip("xyz", nodes, strict=True))
    return x, y, z


def _axis(name: str, first: float, last: float, step: float) -> Array:
    cells = (last - first) / step if step > 0 else 0.0
    if not (cells >= 1 and abs(cells - round(cells)) < 1e-6):
        raise UserError(f"{name} from {first:g} to {last:g} mm cannot be divided into steps of {step:g} mm")
    return np.linspace(first, last, round(cells) + 1)


def check_fits(field: FieldProtocol, axes: Sequence[Array]) -> None:
    """Refuse a grid that exceeds the volume of a field.

    Raises:
        UserError: A node lies outside the volume.
    """
    for name, axis, low, high in zip("xyz", axes, field.volume[::2], field.volume[1::2], strict=True):
        if axis[0] < low or axis[-1] > high:
            raise UserError(
                f"the grid's {name} from {axis[0]:g} to {axis[-1]:g} mm has nodes outside the volume of "
                f"field {field.name!r}, which is known from {low:g} to {high:g} mm"
            )


def at_nodes(field: FieldProtocol, axes: Sequence[Array]) -> Array:
    """Return a field at the nodes of a grid, `(nx, ny, nz, 3)` [T], where it is not to be used as well."""
    x, y, z = (np.ascontiguousarray(axis.ravel()) for axis in np.meshgrid(*axes, indexing="ij"))
    components = np.empty((3, x.size))
    kernels.field_points(field.kind, field.params, field.values, x, y, z, components)
    return np.ascontiguousarray(components.T).reshape(*map(len, axes), 3)
