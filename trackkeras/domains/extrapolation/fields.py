"""Magnetic fields by name: what a field is, and `make_field`."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import AfterValidator, FiniteFloat
from pydantic import Field as Option

from trackkeras.config import Options, validate
from trackkeras.domains.extrapolation import kernels, lhcb
from trackkeras.domains.extrapolation.grid import FIELD_UNITS, LENGTH_UNITS, read_grid
from trackkeras.domains.extrapolation.maxwell import check_terms, maxwell_params
from trackkeras.errors import UserError

VOLUME = (-5000.0, 5000.0, -5000.0, 5000.0, -500.0, 14000.0)
"""Default valid volume [mm]: xmin, xmax, ymin, ymax, zmin, zmax; wider than the detector's acceptance."""


class FieldProtocol(Protocol):
    """What propagation, sampling and the networks ask of a field: data for the kernels, and its volume."""

    @property
    def name(self) -> str:
        """Name that `make_field` knows."""

    @property
    def kind(self) -> int:
        """`kernels.GAUSSIAN`, `kernels.MAXWELL` or `kernels.GRID`."""

    @property
    def params(self) -> NDArray[np.float64]:
        """Numbers for the kernel, `(m,)`."""

    @property
    def values(self) -> NDArray[np.float64]:
        """Nodes of a grid [T], `(nx, ny, nz, 3)`; `(1, 1, 1, 3)` zeros for every other kind."""

    @property
    def description(self) -> str:
        """Origin and validity in words."""

    @property
    def options(self) -> dict[str, Any]:
        """JSON-like; `make_field(**options)` makes the same field again."""

    @property
    def volume(self) -> NDArray[np.float64]:
        """Where the field is valid [mm], `(6,)`: xmin, xmax, ymin, ymax, zmin, zmax."""

    def field(self, x: ArrayLike, y: ArrayLike, z: ArrayLike) -> NDArray[np.float64]:
        """Return Bx, By, Bz [T], `(n, 3)`; refuse points outside the volume."""

    def inside(self, x: ArrayLike, y: ArrayLike, z: ArrayLike) -> NDArray[np.bool_]:
        """Return whether each point lies in the volume, `(n,)`."""


@dataclass(frozen=True, eq=False)
class Field:
    """A magnetic field as data; see `FieldProtocol`.

    Attributes:
        name: Name that `make_field` knows.
        kind: Which kernel reads it.
        params: `(m,)` float64, laid out as the kind says.
        values: `(nx, ny, nz, 3)` float64 nodes [T] of a grid, `(1, 1, 1, 3)` zeros otherwise.
        volume: `(6,)` float64 [mm]: xmin, xmax, ymin, ymax, zmin, zmax.
        description: Origin and validity in words, for manifests and reports.
        options: JSON-like; `make_field(**options)` makes the same field again.
    """

    name: str
    kind: int
    params: NDArray[np.float64]
    values: NDArray[np.float64]
    volume: NDArray[np.float64]
    description: str
    options: dict[str, Any]

    def inside(self, x: ArrayLike, y: ArrayLike, z: ArrayLike) -> NDArray[np.bool_]:
        """Return whether each point lies in the volume; NaN does not.

        Args:
            x: Scalar or `(n,)` [mm], like `y` and `z`.
            y: See `x`.
            z: See `x`.

        Returns:
            `(n,)`.
        """
        px, py, pz = _points(x, y, z)
        v = self.volume
        within = (v[0] <= px) & (px <= v[1]) & (v[2] <= py) & (py <= v[3]) & (v[4] <= pz) & (pz <= v[5])
        return np.asarray(within)

    def field(self, x: ArrayLike, y: ArrayLike, z: ArrayLike) -> NDArray[np.float64]:
        """Return the field at points inside the volume.

        Args:
            x: Scalar or `(n,)` [mm], like `y` and `z`.
            y: See `x`.
            z: See `x`.

        Returns:
            Bx, By, Bz [T], `(n, 3)`.

        Raises:
            UserError: A point lies outside the volume or is not finite.
        """
        px, py, pz = _points(x, y, z)
        outside = np.flatnonzero(~self.inside(px, py, pz))
        if outside.size:
            first = outside[0]
            raise UserError(
                f"field {self.name!r} is valid for {volume_text(self.volume)}; received {outside.size} of "
                f"{px.size} points outside it, the first ({px[first]:g}, {py[first]:g}, {pz[first]:g})"
            )
        components = np.empty((3, px.size))
        kernels.field_points(self.kind, self.params, self.values, px, py, pz, components)
        return np.ascontiguousarray(components.T)


def volume_text(volume: ArrayLike) -> str:
    """Return the volume in words, such as `-5000 <= x <= 5000 mm, ...`."""
    limits = np.asarray(volume).reshape(3, 2)
    return (
        ", ".join(f"{low:g} <= {axis} <= {high:g}" for axis, (low, high) in zip("xyz", limits, strict=True))
        + " mm"
    )


def _points(x: ArrayLike, y: ArrayLike, z: ArrayLike) -> tuple[NDArray[np.float64], ...]:
    try:
        points = np.broadcast_arrays(
            *(np.atleast_1d(np.asarray(axis, dtype=np.float64)) for axis in (x, y, z))
        )
    except ValueError:
        shapes = ", ".join(str(np.shape(axis)) for axis in (x, y, z))
        raise UserError(f"x, y and z need one common shape, received {shapes}") from None
    if points[0].ndim != 1:
        raise UserError(f"x, y and z must be scalars or of shape (n,), received {points[0].shape}")
    return tuple(np.ascontiguousarray(axis) for axis in points)


# -- options, one class per name -------------------------------------------------------------------------


def _ascending(volume: tuple[float, ...]) -> tuple[float, ...]:
    if not all(low < high for low, high in zip(volume[::2], volume[1::2], strict=True)):
        raise ValueError("a volume is xmin, xmax, ymin, ymax, zmin, zmax with each minimum below its maximum")
    return volume


Volume = Annotated[
    tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat],
    AfterValidator(_ascending),
]


class FieldOptions(Options):
    """What every analytic field accepts."""

    polarity: Literal[1, -1] = Option(1, description="-1 negates the field exactly.")
    volume: Volume = Option(VOLUME, description="xmin, xmax, ymin, ymax, zmin, zmax [mm].")


class GaussianOptions(FieldOptions):
    """By(z) alone, a Gaussian."""

    peak: FiniteFloat = Option(-1.0182, description="By at the centre [T].")
    centre: FiniteFloat = Option(5007.0, description="[mm].")
    width: FiniteFloat = Option(1744.0, gt=0, description="Standard deviation [mm].")


class MaxwellOptions(FieldOptions):
    """Sums of complex Gaussians; the default is the field in vacuum with the profile of `gaussian`."""

    terms: tuple[tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat], ...] = Option(
        ((-1.0182, 5007.0, 1744.0, 0.0),), description="Rows of peak [T], centre [mm], width [mm], sin2."
    )


class GridOptions(Options):
    """A text file `x y z Bx By Bz` on a regular grid."""

    path: Path = Option(description="The file.")
    length: Literal[tuple(LENGTH_UNITS)] = Option(description="Unit of x, y, z.")  # type: ignore[valid-type]
    field: Literal[tuple(FIELD_UNITS)] = Option(description="Unit of Bx, By, Bz.")  # type: ignore[valid-type]
    polarity: Literal[1, -1] = Option(1, description="-1 negates the field exactly.")


def _field(
    name: str,
    options: Options,
    kind: int,
    params: NDArray[np.float64],
    volume: ArrayLike,
    description: str,
    values: NDArray[np.float64] | None = None,
) -> Field:
    polarity = getattr(options, "polarity", 1)
    return Field(
        name=name,
        kind=kind,
        params=params,
        values=np.zeros((1, 1, 1, 3)) if values is None else values,
        volume=np.array(volume, dtype=np.float64),
        description=description if polarity == 1 else f"{description}; polarity reversed",
        options={"name": name, **options.model_dump(mode="json")},
    )


def _gaussian(options: GaussianOptions) -> Field:
    params = np.array([options.polarity * options.peak, options.centre, 0.5 / options.width**2])
    text = (
        f"By(z) alone, a Gaussian of peak {options.peak:g} T, centre {options.centre:g} mm and width "
        f"{options.width:g} mm; not a vacuum field off the axis"
    )
    return _field("gaussian", options, kernels.GAUSSIAN, params, options.volume, text)


def _maxwell(options: MaxwellOptions) -> Field:
    check_terms(options.terms, options.volume)
    text = f"sum of {len(options.terms)} complex Gaussians, free of divergence and curl"
    params = maxwell_params(options.terms)
    params[:: kernels.TERM_SIZE] *= options.polarity
    return _field("maxwell", options, kernels.MAXWELL, params, options.volume, text)


def _lhcb(options: FieldOptions) -> Field:
    check_terms(lhcb.TERMS, options.volume)
    params = maxwell_params(lhcb.TERMS)
    params[:: kernels.TERM_SIZE] *= options.polarity
    return _field("lhcb", options, kernels.MAXWELL, params, options.volume, lhcb.DESCRIPTION)


def _grid(options: GridOptions) -> Field:
    grid = read_grid(options.path, options.length, options.field)
    values = grid.values * options.polarity
    text = f"trilinear on {' x '.join(map(str, values.shape[:3]))} nodes of {options.path.name}"
    return _field("grid", options, kernels.GRID, grid.params, grid.volume, text, values)


_FIELDS: dict[str, tuple[type[Options], Callable[[Any], Field]]] = {
    "lhcb": (FieldOptions, _lhcb),
    "maxwell": (MaxwellOptions, _maxwell),
    "gaussian": (GaussianOptions, _gaussian),
    "grid": (GridOptions, _grid),
}


def field_names() -> list[str]:
    """Return the names that `make_field` knows."""
    return list(_FIELDS)


def make_field(name: str, **options: Any) -> Field:
    """Return a field by name.

    Args:
        name: `lhcb`, `maxwell`, `gaussian` or `grid`.
        **options: `polarity` (1, or -1 for the exact negation) for all; `volume` [mm] for the analytic ones;
            `terms` for `maxwell`; `peak` [T], `centre` [mm], `width` [mm] for `gaussian`; `path`, `length`
            (`mm`, `cm`, `m`) and `field` (`T`, `mT`, `kG`, `G`) for `grid`.

    Raises:
        UserError: Unknown name or option, a value out of range, or a grid file that cannot be used.

    Example:
        >>> make_field("lhcb", polarity=-1).field(0.0, 0.0, 5000.0)[0, 1] > 0
        True
    """
    if name not in _FIELDS:
        near = difflib.get_close_matches(name, _FIELDS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"no field named {name!r}; {hint}there are: {', '.join(_FIELDS)}")
    options_type, build = _FIELDS[name]
    return build(validate(options_type, options, f"field {name!r}"))
