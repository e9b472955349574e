"""Pictures of a field: its profile on the axis, and slices through the volume."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from trackkeras.domains.extrapolation.field_protocol import FieldProtocol
from trackkeras.domains.extrapolation.field_report import axis_profile, fit_gaussian, node_profile
from trackkeras.domains.extrapolation.grid_nodes import is_grid
from trackkeras.domains.extrapolation.lhcb import ACCEPTANCE
from trackkeras.errors import UserError
from trackkeras.plots import BASELINE_COLOURS, INK, NETWORK_COLOURS, PAPER, save, style

Array = NDArray[np.float64]
Place = Callable[[Array, Array], tuple[Array, Array, Array]]
"""Turns the two coordinates of a slice into x, y and z [mm]."""


def profile_figure(field: FieldProtocol, against: FieldProtocol | None = None) -> Figure:
    """Draw By on the axis with the Gaussian that fits it, and below what the Gaussian leaves.

    Args:
        field: The field.
        against: Another field, drawn dashed; below then stands the difference to it as well.

    Returns:
        A figure of two panels with a common axis z.
    """
    z, b = axis_profile(field)
    try:
        gaussian = fit_gaussian(*node_profile(field))
    except UserError:
        gaussian = None
    with style():
        figure = Figure(figsize=(7.4, 4.8), layout="constrained")
        upper, lower = figure.subplots(2, sharex=True, height_ratios=(2.6, 1))
        upper.axhline(0.0, color=INK, linewidth=0.6, alpha=0.5)
        lower.axhline(0.0, color=INK, linewidth=0.6, alpha=0.5)
        integral = np.trapezoid(b[:, 1], z) / 1000.0
        upper.plot(
            z / 1000.0,
            b[:, 1],
            color=NETWORK_COLOURS[0],
            linewidth=2.0,
            label=rf"{_word(field)}, $\int B_y\,dz = {integral:.3f}$ T m",
        )
        if gaussian is not None:
            curve = gaussian.peak_T * np.exp(-0.5 * ((z - gaussian.centre_mm) / gaussian.width_mm) ** 2)
            label = (
                f"Gaussian: {gaussian.peak_T:.4f} T, centre {gaussian.centre_mm:.0f} mm, width "
                f"{gaussian.width_mm:.0f} mm"
            )
            look = {"color": BASELINE_COLOURS[2], "linewidth": 1.3, "linestyle": (0, (4, 2))}
            upper.plot(z / 1000.0, curve, label=label, **look)
            lower.plot(
                z / 1000.0, b[:, 1] - curve, label=f"minus Gaussian, RMS {gaussian.rms_T:.4f} T", **look
            )
        if against is not None:
            common = against.inside(0.0, 0.0, z)
            other = against.field(0.0, 0.0, z[common])[:, 1]
            look = {"color": BASELINE_COLOURS[3], "linewidth": 1.3, "linestyle": (0, (1, 1))}
            upper.plot(z[common] / 1000.0, other, label=_word(against), **look)
            lower.plot(z[common] / 1000.0, b[common, 1] - other, label=f"minus {_word(against)}", **look)
        upper.set_ylabel(r"$B_y$ on the axis [T]")
        lower.set_ylabel("difference [T]")
        lower.set_xlabel("z [m]", loc="center")
        upper.set_xlim(z[0] / 1000.0, z[-1] / 1000.0)
        down = b[np.abs(b[:, 1]).argmax(), 1] < 0
        low, high = upper.get_ylim()
        room = 0.42 * (high - low)  # for the legend, on the side that the curve leaves free
        upper.set_ylim(*((low, high + room) if down else (low - room, high)))
        upper.legend(loc="upper left" if down else "lower left", borderaxespad=0.6)
        if lower.get_legend_handles_labels()[1]:
            edge = float(np.abs(lower.get_ylim()).max())
            lower.set_ylim(-edge, 2.0 * edge)
            lower.legend(loc="upper left", ncols=2, borderaxespad=0.4)
        for panel in (upper, lower):
            panel.grid(axis="both")
    return figure


def slices_figure(field: FieldProtocol, limit: float | None = None) -> Figure:
    """Draw By in the planes y = 0, x = 0 and z at the peak; where the field is not known stays hatched.

    Args:
        field: The field.
        limit: End of the colour scale [T]; the default is the largest |By| on the axis, times 1.5.

    Returns:
        A figure of three panels with one colour scale; lines show the acceptance.
    """
    z, b = axis_profile(field)
    peak = z[np.abs(b[:, 1]).argmax()]
    reach = limit if limit is not None else 1.5 * float(np.abs(b[:, 1]).max())
    if not reach > 0.0:
        raise UserError(
            f"field {field.name!r} has no By on its axis to draw, received a limit of {reach:g} T"
        )
    v = field.volume
    across_x, across_y = np.linspace(v[0], v[1], 161), np.linspace(v[2], v[3], 161)
    along = np.linspace(v[4], v[5], 291)
    with style():
        figure = Figure(figsize=(11.4, 5.6), layout="constrained")
        grid = figure.add_gridspec(2, 2, width_ratios=(1.75, 1))
        top, bottom = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0])
        right = figure.add_subplot(grid[:, 1])
        norm = TwoSlopeNorm(0.0, -reach, reach)
        panels: tuple[tuple[Axes, Array, Array, Place, str, str, str], ...] = (
            (top, along, across_x, lambda s, t: (t, 0.0 * s, s), "z [m]", "x [m]", "y = 0"),
            (bottom, along, across_y, lambda s, t: (0.0 * s, t, s), "z [m]", "y [m]", "x = 0"),
            (right, across_x, across_y, lambda s, t: (s, t, 0.0 * s + peak), "x [m]", "y [m]", ""),
        )
        for axes, first, second, place, label, other, title in panels:
            image = _slice(axes, field, first, second, place, norm)
            axes.set_xlabel(label, loc="center")
            axes.set_ylabel(other, loc="center")
            axes.set_title(title or f"z = {peak / 1000:.2f} m", loc="left")
        lines = np.array([ACCEPTANCE.z_min, ACCEPTANCE.z_max])
        for axes, slope, offset in (
            (top, ACCEPTANCE.slope_x, ACCEPTANCE.x),
            (bottom, ACCEPTANCE.slope_y, ACCEPTANCE.y),
        ):
            for side in (-1.0, 1.0):
                axes.plot(lines / 1000.0, side * (slope * lines + offset) / 1000.0, **_EDGE)
        width = (ACCEPTANCE.slope_x * peak + ACCEPTANCE.x) / 1000.0
        height = (ACCEPTANCE.slope_y * peak + ACCEPTANCE.y) / 1000.0
        right.plot(
            np.array([-1, 1, 1, -1, -1]) * width,
            np.array([-1, -1, 1, 1, -1]) * height,
            label="acceptance of tracks",
            **_EDGE,
        )
        right.set_aspect("equal")
        right.legend(loc="lower left", frameon=True, facecolor=PAPER, edgecolor="none", framealpha=0.85)
        bar = figure.colorbar(image, ax=[top, bottom, right], shrink=0.8, pad=0.01, extend="both")
        bar.set_label(r"$B_y$ [T]")
        text = textwrap.fill(f"{field.name}: {field.description}".replace("$", ""), 150)
        figure.suptitle(text, fontsize=10, x=0.01, ha="left")
    return figure


_EDGE: dict[str, Any] = {"color": INK, "linewidth": 1.0, "linestyle": (0, (4, 2))}


def _slice(
    axes: Axes, field: FieldProtocol, first: Array, second: Array, place: Place, norm: TwoSlopeNorm
) -> QuadMesh:
    s, t = np.meshgrid(first, second)
    points = [axis.ravel() for axis in place(s, t)]
    by = np.full(s.size, np.nan)
    inside = field.inside(*points)
    by[inside] = field.field(*(axis[inside] for axis in points))[:, 1]
    axes.set_facecolor("#e8e8ea")
    axes.patch.set_hatch("////")
    axes.patch.set_edgecolor("#b5b5ba")
    image = axes.pcolormesh(
        first / 1000.0,
        second / 1000.0,
        by.reshape(s.shape),
        norm=norm,
        cmap="RdBu_r",
        shading="nearest",
        rasterized=True,
    )
    axes.set_xlim(first[0] / 1000.0, first[-1] / 1000.0)
    axes.set_ylim(second[0] / 1000.0, second[-1] / 1000.0)
    return image


def _word(field: FieldProtocol) -> str:
    """Return a short name without characters that a picture would read as mathematics."""
    name = field.name.replace("_", " ")
    return f"{name} {Path(field.options['path']).name}".replace("$", "") if is_grid(field) else name


def write_plots(
    field: FieldProtocol, folder: Path, against: FieldProtocol | None = None, limit: float | None = None
) -> Sequence[Path]:
    """Write `profile` and `slices` as PNG and SVG into a folder; return the four paths.

    Args:
        field: The field.
        folder: Where to write; made if it is missing.
        against: Another field for the profile.
        limit: End of the colour scale of the slices [T].
    """
    profile, slices = profile_figure(field, against), slices_figure(field, limit)
    return [*save(profile, folder / "profile"), *save(slices, folder / "slices")]
