"""Pictures of one event: its hits with both muons, true and found, in space and as matrices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from trackkeras import plots
from trackkeras.domains.dimuon.detectors import DETECTORS
from trackkeras.domains.dimuon.detectors import PLANES as SLOTS
from trackkeras.domains.dimuon.events import Events, Ints
from trackkeras.domains.dimuon.muons import hit_arrays, muon_rows
from trackkeras.domains.dimuon.planes import PLANES, Plane
from trackkeras.domains.dimuon.reconstructed import ELEMENT_BRANCHES, muons_of
from trackkeras.domains.dimuon.spectrometer import FMAG_END, KMAG

Floats = NDArray[np.float64]

NAMES = ("mu+", "mu-")
COLOURS = (plots.NETWORK_COLOURS[0], plots.BASELINE_COLOURS[2])

_STATIONS = tuple(range(first, first + 6) for first in (1, 13, 19, 25))
_BY_NUMBER = {plane.number: plane for plane in PLANES}
_STEREO = 1.0
"""Planes at a larger angle [degree] do not measure x alone."""

_LEAST_SPREAD = 0.1
"""Determinant of the angles' cosines and sines below which one view cannot tell x from y."""

_FAR = 2450.0
"""End of the drawing [cm], behind the last plane."""


@dataclass(frozen=True)
class Shown:
    """One event and its muons; hit arrays are `(2, 62)`, 0 without a hit.

    Attributes:
        event: The event, alone.
        number: Its place in the file.
        true: True hit arrays.
        found: Those that were found, or None if nobody looked.
    """

    event: Events
    number: int
    true: Ints
    found: Ints | None

    @classmethod
    def of(cls, event: Events, number: int, file: object = "the file") -> Shown:
        """Take truth and found muons from an event, `Events` of length 1."""
        true, _ = hit_arrays(event, muon_rows(event))
        looked = ELEMENT_BRANCHES[0] in event.columns
        return cls(event, number, true[0], muons_of(event, file).elements[0] if looked else None)


def draw_tracks(shown: Shown) -> Figure:
    """Draw hits and tracks by z and by position, seen from above and from the side.

    Hits are as long as their element is wide. Lines join where the hits of a muon put it: at each station of
    chambers by their wires in three views, at the tubes by each pair of planes.

    Args:
        shown: The event.

    Returns:
        A figure of two panels with a common z axis.
    """
    with plots.style():
        figure = Figure(figsize=(9.6, 6.6), layout="constrained")
        upper, lower = figure.subplots(2, sharex=True, height_ratios=(1.25, 1))
        for axes, label in ((upper, "x [cm]"), (lower, "y [cm]")):
            for name, start, end in (("FMAG", 0.0, FMAG_END), ("KMAG", KMAG.start, KMAG.end)):
                axes.axvspan(start, end, color=plots.INK, alpha=0.08, linewidth=0)
                axes.annotate(
                    name, (0.5 * (start + end), 0.03), xycoords=("data", "axes fraction"), ha="center",
                    fontsize=9,
                )  # fmt: skip
            axes.set_ylabel(label)
            axes.set_xlim(0.0, _FAR)
        _all_hits(upper, lower, shown.event)
        _tracks(upper, lower, shown)
        lower.set_xlabel("z [cm]", loc="center")
        _legend(figure, upper, shown)
    return figure


def draw_matrix(shown: Shown, softmax: NDArray[np.float32] | None = None) -> Figure:
    """Draw the hit matrix with both muons marked, and what the finder says of each, if it is known.

    Args:
        shown: The event.
        softmax: `(2, 62, 201)`, as `read_softmax` gives it.

    Returns:
        A figure of one panel, or of three.
    """
    panels = 1 if softmax is None else 3
    with plots.style():
        figure = Figure(figsize=(9.6, 0.6 + 4.6 * panels), layout="constrained")
        every = figure.subplots(panels, sharex=True, squeeze=False)[:, 0]
        _hit_matrix(every[0], shown)
        _legend(figure, every[0], shown)
        if softmax is not None:
            for axes, name, likely in zip(every[1:], NAMES, softmax, strict=True):
                image = axes.imshow(
                    np.maximum(likely, 1e-4), aspect="auto", origin="lower", cmap="viridis", norm="log",
                    vmin=1e-4, vmax=1.0, extent=(-0.5, likely.shape[1] - 0.5, 0.5, SLOTS + 0.5),
                    interpolation="nearest",
                )  # fmt: skip
                axes.set_ylabel("detector")
                axes.set_title(f"probability of each element, {name}", loc="left", pad=6)
                figure.colorbar(image, ax=axes, pad=0.01)
        every[-1].set_xlabel("element (0: none)", loc="center")
    return figure


def place(number: int, element: float) -> tuple[float, float, float]:
    """Return z, position across the elements and half an element [cm]; the position is x, y or between."""
    plane = _BY_NUMBER[number]
    sign = -1.0 if plane.angle < -45.0 else 1.0
    return plane.z, sign * (plane.origin + element * plane.pitch), 0.5 * plane.pitch


def track_points(elements: Ints) -> tuple[Floats, Floats]:
    """Return where the hits of a muon put it: z and x, z and y, each `(n, 2)` [cm], in the order of z.

    Args:
        elements: `(62,)`, 0 without a hit.
    """
    across, up = [], []
    for numbers in _STATIONS:
        fired = [number for number in numbers if elements[number - 1] > 0]
        angle = np.radians([_BY_NUMBER[number].angle for number in fired])
        views = np.stack([np.cos(angle), np.sin(angle)], axis=1).reshape(-1, 2)
        if np.linalg.det(views.T @ views) < _LEAST_SPREAD:
            continue
        wires = [_wire(_BY_NUMBER[number], int(elements[number - 1])) for number in fired]
        (x, y), *_ = np.linalg.lstsq(views, np.array(wires))
        z = float(np.mean([_BY_NUMBER[number].z for number in fired]))
        across.append((z, x))
        up.append((z, y))
    for detector in DETECTORS:
        if detector.kind == "tube" and elements[detector.number - 1] > 0:
            z, where, _ = place(detector.number, int(elements[detector.number - 1]))
            (across if detector.view == "X" else up).append((z, where))
    return np.array(sorted(across)).reshape(-1, 2), np.array(sorted(up)).reshape(-1, 2)


def _wire(plane: Plane, element: int) -> float:
    return plane.origin + element * plane.pitch


def _all_hits(upper: Axes, lower: Axes, event: Events) -> None:
    """Draw each hit in the panel of what its plane measures; stereo planes, which lie between, are faint."""
    for axes, faint, chosen in (
        (upper, False, lambda angle: abs(angle) <= _STEREO),
        (upper, True, lambda angle: _STEREO < abs(angle) < 45.0),
        (lower, False, lambda angle: abs(angle) > 45.0),
    ):
        places = np.array(
            [
                place(int(number), int(element))
                for number, element in zip(event.hits.detector, event.hits.element, strict=True)
                if number in _BY_NUMBER and chosen(_BY_NUMBER[number].angle)
            ]
        ).reshape(-1, 3)
        z, where, half = places.T
        axes.vlines(
            z, where - half, where + half, color=plots.INK, linewidth=1.2, alpha=0.2 if faint else 0.7
        )


def _muons(shown: Shown) -> Iterator[tuple[str, str, str, Ints]]:
    """Yield `true` or `found`, name, colour and hit array of each muon that has a hit; true ones first."""
    for what, arrays in (("true", shown.true), ("found", shown.found)):
        if arrays is not None:
            for name, colour, elements in zip(NAMES, COLOURS, arrays, strict=True):
                if elements.any():
                    yield what, name, colour, elements


def _tracks(upper: Axes, lower: Axes, shown: Shown) -> None:
    looks: dict[str, dict[str, Any]] = {
        "true": {"linewidth": 3.4, "alpha": 0.3},
        "found": {"linewidth": 1.4, "marker": "o", "markersize": 4},
    }
    for what, name, colour, elements in _muons(shown):
        for axes, points in zip((upper, lower), track_points(elements), strict=True):
            axes.plot(*points.T, color=colour, label=f"{name}, {what}", zorder=4, **looks[what])


def _hit_matrix(axes: Axes, shown: Shown) -> None:
    hits = shown.event.hits
    axes.scatter(hits.element, hits.detector, s=7, color=plots.INK, alpha=0.5, linewidth=0, label="hits")
    for what, name, colour, elements in _muons(shown):
        fired = np.flatnonzero(elements)
        look: dict[str, Any] = {"label": f"{name}, {what}", "linewidth": 1.1}
        look |= (
            {"marker": "o", "s": 42, "facecolor": "none", "edgecolor": colour}
            if what == "true"
            else {"marker": "+", "s": 36, "color": colour}
        )
        axes.scatter(elements[fired], fired + 1, **look)
    axes.set_xlim(-0.5, 200.5)
    axes.set_ylim(0.5, SLOTS + 0.5)
    axes.set_ylabel("detector")


def _legend(figure: Figure, axes: Axes, shown: Shown) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=5)
    axes.set_title(f"event {shown.number}, {len(shown.event.hits)} hits", loc="right", fontsize=9.5, pad=6)
