"""Magnetic fields by name: what a field is, and `make_field`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import AfterValidator, BeforeValidator, FiniteFloat
from pydantic import Field as Option

from trackkeras.config import Options, load_yaml, merge, validate
from trackkeras.domains.extrapolation import kernels, lhcb
from trackkeras.domains.extrapolation.field_protocol import FieldProtocol
from trackkeras.domains.extrapolation.grid import read_grid
from trackkeras.domains.extrapolation.grid_allen import read_allen
from trackkeras.domains.extrapolation.grid_mask import Mask, flags, trusted_volume
from trackkeras.domains.extrapolation.grid_nodes import CUBIC_NODES, FIELD_UNITS, LENGTH_UNITS, Grid, Report
from trackkeras.domains.extrapolation.maxwell import check_terms, maxwell_params
from trackkeras.errors import UserError

VOLUME = (-5000.0, 5000.0, -5000.0, 5000.0, -500.0, 14000.0)
"""Default valid volume [mm]: xmin, xmax, ymin, ymax, zmin, zmax; wider than the detector's acceptance."""


@dataclass(frozen=True, eq=False)
class Field:
    """A magnetic field as data; see `FieldProtocol`.

    Attributes:
        name: Name that `make_field` knows.
        kind: Which kernel reads it.
        params: `(m,)` float64, laid out as the kind says.
        values: `(nx, ny, nz, 4)` float32 nodes of a grid, `(1, 1, 1, 4)` zeros otherwise.
        volume: `(6,)` float64 [mm]: xmin, xmax, ymin, ymax, zmin, zmax.
        description: Origin and validity in words, for manifests and reports.
        options: JSON-like; `make_field(**options)` makes the same field again.
        restriction: What is left out of the volume, in words; empty if nothing is.
    """

    name: str
    kind: int
    params: NDArray[np.float64]
    values: NDArray[np.float32]
    volume: NDArray[np.float64]
    description: str
    options: dict[str, Any]
    restriction: str = ""

    def __post_init__(self) -> None:
        """Refuse arrays that compiled code would read beyond their ends."""
        wanted = "(nx, ny, nz, 4) float32"
        if self.values.ndim != 4 or self.values.shape[3] != 4 or self.values.dtype != np.float32:
            raise UserError(
                f"the values of field {self.name!r} must be {wanted}, received {self.values.shape} "
                f"{self.values.dtype}; `grid_nodes.Grid.values` makes them"
            )

    def inside(self, x: ArrayLike, y: ArrayLike, z: ArrayLike) -> NDArray[np.bool_]:
        """Return whether each point lies in the volume and outside what is left out of it; NaN does not.

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
        if self.restriction:
            allowed = np.ones(px.size)
            kernels.allowed_points(self.kind, self.params, self.values, px, py, pz, allowed)
            within &= allowed > 0.0
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
            UserError: A point lies outside the volume, where the field is not to be used, or is not finite.
        """
        px, py, pz = _points(x, y, z)
        outside = np.flatnonzero(~self.inside(px, py, pz))
        if outside.size:
            first = outside[0]
            raise UserError(
                f"field {self.name!r} is valid for {known_text(self)}; received {outside.size} of "
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


def known_text(field: FieldProtocol) -> str:
    """Return where a field is known, in words."""
    return volume_text(field.volume) + (f", {field.restriction}" if field.restriction else "")


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


class TwoDipoleOptions(FieldOptions):
    """Two point dipoles above and below the axis; the default is the map known as twodip."""

    moment: FiniteFloat = Option(-16.512, description="Moment of each along y [T m³].")
    half_distance: FiniteFloat = Option(4000.0, gt=0, description="|y| of both [mm].")
    centre: FiniteFloat = Option(5000.0, description="z of both [mm].")
    exclusion: FiniteFloat = Option(
        600.0, ge=1, description="Radius around each within which the field is not to be used [mm]."
    )


class MaskOptions(Options):
    """Nodes that are not to be trusted."""

    edge: FiniteFloat = Option(Mask.edge, gt=0, description="Largest |x| and |y| [mm].")
    strength: FiniteFloat = Option(Mask.strength, gt=0, description="Largest |B| of a node [T].")


def _mask_word(value: Any) -> Any:
    """Let `true` and `false` stand for the default limits and for none."""
    return ({} if value else None) if isinstance(value, bool) else value


class GridOptions(Options):
    """A map: a field on a grid, read from a file."""

    path: Path = Option(description="The file.")
    format: Literal["text", "allen"] | None = Option(
        None, description="`text`: x y z Bx By Bz; `allen`: binary; default: by the suffix, .bin is allen."
    )
    length: Literal[tuple(LENGTH_UNITS)] | None = Option(  # type: ignore[valid-type]
        None, description="Unit of x, y, z; default: as the file says."
    )
    field: Literal[tuple(FIELD_UNITS)] | None = Option(  # type: ignore[valid-type]
        None, description="Unit of Bx, By, Bz; default: as the file says, for allen tesla."
    )
    interpolation: Literal["linear", "cubic", "nearest"] = "linear"
    mask: Annotated[MaskOptions | None, BeforeValidator(_mask_word)] = Option(
        None, description="Refuse suspicious nodes; `true` takes the default limits."
    )
    polarity: Literal[1, -1] = Option(1, description="-1 negates the field exactly.")


def _field(
    name: str,
    options: Options,
    kind: int,
    params: NDArray[np.float64],
    volume: ArrayLike,
    description: str,
    values: NDArray[np.float32] | None = None,
    restriction: str = "",
) -> Field:
    polarity = getattr(options, "polarity", 1)
    return Field(
        name=name,
        kind=kind,
        params=params,
        values=np.zeros((1, 1, 1, 4), np.float32) if values is None else values,
        volume=np.array(volume, dtype=np.float64),
        description=description if polarity == 1 else f"{description}; polarity reversed",
        options={"name": name, **options.model_dump(mode="json")},
        restriction=restriction,
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


def _two_dipole(options: TwoDipoleOptions) -> Field:
    moment = options.polarity * options.moment * 1e9  # from T m³ to T mm³
    params = np.array([moment, options.half_distance, options.centre, options.exclusion])
    places = f"(0, ±{options.half_distance:g}, {options.centre:g}) mm"
    text = f"two point dipoles of {options.moment:g} T m³ along y at {places}; the field of no real magnet"
    restriction = f"at least {options.exclusion:g} mm from {places}"
    return _field("two_dipole", options, kernels.TWO_DIPOLE, params, options.volume, text, None, restriction)


_GRID_KINDS = {
    "linear": (kernels.GRID, kernels.VARIABLE_GRID),
    "cubic": (kernels.GRID_CUBIC, kernels.VARIABLE_GRID_CUBIC),
    "nearest": (kernels.GRID_NEAREST, kernels.VARIABLE_GRID_NEAREST),
}
_GRID_WORDS = {"linear": "trilinear", "cubic": "tricubic", "nearest": "nearest of"}


def _grid(options: GridOptions, report: Report | None = None) -> Field:
    grid = read_map(options, report)
    if options.interpolation == "cubic" and min(grid.nodes.shape[:3]) < CUBIC_NODES:
        raise UserError(
            f"{options.path}: cubic interpolation needs at least {CUBIC_NODES} nodes along each axis, "
            f"received {' x '.join(map(str, grid.nodes.shape[:3]))}"
        )
    volume, flagged, restriction = grid.volume, None, ""
    if options.mask is not None:
        mask = Mask(**options.mask.model_dump())
        volume = trusted_volume(grid, mask)
        flagged = flags(grid, mask, options.interpolation)
        restriction = f"away from nodes with |B| > {mask.strength:g} T" if flagged.any() else ""
    text = (
        f"{_GRID_WORDS[options.interpolation]} on {' x '.join(map(str, grid.nodes.shape[:3]))} nodes of "
        f"{options.path.name}"
    )
    return _field(
        "grid",
        options,
        _GRID_KINDS[options.interpolation][grid.variable],
        grid.params(masked=bool(restriction)),
        volume,
        text,
        grid.values(flagged, options.polarity),
        restriction,
    )


def read_map(options: GridOptions, report: Report | None = None) -> Grid:
    """Return the nodes of a map as its file gives them.

    Args:
        options: The file, its format and units.
        report: Called with the bytes read and the bytes in all.

    Raises:
        UserError: The file cannot be used.
    """
    if (options.format or ("allen" if options.path.suffix == ".bin" else "text")) == "text":
        return read_grid(options.path, options.length, options.field, report)
    if options.length not in (None, "mm"):
        raise UserError(f"{options.path}: Allen's layout is in mm, received length {options.length!r}")
    return read_allen(options.path, options.field or "T")


_FIELDS: dict[str, tuple[type[Options], Callable[[Any], Field]]] = {
    "lhcb": (FieldOptions, _lhcb),
    "maxwell": (MaxwellOptions, _maxwell),
    "gaussian": (GaussianOptions, _gaussian),
    "two_dipole": (TwoDipoleOptions, _two_dipole),
    "grid": (GridOptions, _grid),
}


def field_names() -> list[str]:
    """Return the names that `make_field` knows."""
    return list(_FIELDS)


def make_field(name: str, report: Report | None = None, **options: Any) -> Field:
    """Return a field by name.

    Args:
        name: `lhcb`, `maxwell`, `gaussian`, `two_dipole` or `grid`.
        report: Called with the work done and the work in all while a large file is read.
        **options: `polarity` (1, or -1 for the exact negation) for all; `volume` [mm] for those in closed
            form; `terms` for `maxwell`; `peak` [T], `centre` [mm], `width` [mm] for `gaussian`; `moment`
            [T m³], `half_distance`, `centre`, `exclusion` [mm] for `two_dipole`; for `grid` `path`, `format`
            (`text`, `allen`), `length` (`mm`, `cm`, `m`), `field` (`T`, `mT`, `kG`, `G`, `Gaudi`),
            `interpolation` (`linear`, `cubic`, `nearest`) and `mask` (`true`, or its `edge` [mm] and
            `strength` [T]).

    Raises:
        UserError: Unknown name or option, a value out of range, or a grid file that cannot be used.

    Example:
        >>> make_field("lhcb", polarity=-1).field(0.0, 0.0, 5000.0)[0, 1] > 0
        True
    """
    checked = check_options(name, options)
    if isinstance(checked, GridOptions):
        return _grid(checked, report)
    return _FIELDS[name][1](checked)


def check_options(name: str, options: Mapping[str, Any]) -> Options:
    """Return the checked options of a field without making it.

    Raises:
        UserError: Unknown name or option, or a value out of range.
    """
    if name not in _FIELDS:
        near = difflib.get_close_matches(name, _FIELDS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"no field named {name!r}; {hint}there are: {', '.join(_FIELDS)}")
    return validate(_FIELDS[name][0], options, f"field {name!r}")


def field_options(source: str, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what `make_field` needs, from a name or a file.

    Args:
        source: The name of a field; a YAML file of options with `name` among them, as `field fit` writes it;
            or a map, whose name must end in .txt, .rtf, .dat or .bin.
        changes: Options that differ.

    Raises:
        UserError: The YAML file cannot be used.
    """
    suffix = Path(source).suffix
    if suffix in (".yaml", ".yml"):
        base = load_yaml(Path(source))
        if "name" not in base:
            raise UserError(f"{source}: field options need a name, such as 'name: maxwell'")
    elif suffix in (".txt", ".rtf", ".dat", ".bin"):
        base = {"name": "grid", "path": source}
    else:
        base = {"name": source}
    return merge(base, changes or {})
