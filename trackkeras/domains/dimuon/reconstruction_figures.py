"""Figures of an evaluated reconstruction, drawn from the plain data of its summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trackkeras import plots
from trackkeras.domains.dimuon.momentum import COMPONENTS

Band = Mapping[str, Any]

_SHARES = (
    ("efficiency", "efficiency", plots.NETWORK_COLOURS[0], "o"),
    ("completeness", "share of true hits found", plots.NETWORK_COLOURS[1], "p"),
    ("fake_rate", "fake rate", plots.BASELINE_COLOURS[2], "s"),
)

_STATISTICS = (
    ("mean", "bias", plots.BASELINE_COLOURS[2], "s"),
    ("std", "standard deviation", plots.BASELINE_COLOURS[1], "^"),
    ("w68", "half width of 68 %", plots.NETWORK_COLOURS[0], "o"),
)

_KINDS = {
    "chamber": (plots.NETWORK_COLOURS[0], "o"),
    "hodoscope": (plots.BASELINE_COLOURS[2], "s"),
    "tube": (plots.BASELINE_COLOURS[1], "^"),
}


def shares(bands: Sequence[Band]) -> Figure:
    """Draw efficiency, fake rate and share of hits found by the number of background tracks."""
    with plots.style():
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.subplots()
        for key, label, colour, marker in _SHARES:
            _points(axes, [band[key] for band in bands], {"label": label, "color": colour, "marker": marker})
        _bands(axes, bands)
        axes.set_ylim(0.0, 1.05)
        axes.set_ylabel("share")
        axes.grid(axis="y")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


def momentum(bands: Sequence[Band]) -> Figure:
    """Draw bias and spread of px, py, pz of right muons by the number of background tracks."""
    with plots.style():
        figure = Figure(figsize=(10.4, 3.9), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(COMPONENTS)), COMPONENTS, strict=True):
            for key, label, colour, marker in _STATISTICS:
                cells = [(band["momentum"]["right"] or {}).get(name, {}).get(key) for band in bands]
                _points(axes, cells, {"label": label, "color": colour, "marker": marker})
            axes.axhline(0.0, color=plots.INK, linewidth=0.8)
            _bands(axes, bands)
            axes.set_ylabel(f"{name} [GeV]")
            axes.grid(axis="y")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=3)
    return figure


def detectors(rows: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> Figure:
    """Draw share of hits found with interval, and mean and rms of the residual in elements, by detector.

    Args:
        rows: One per detector that is present.
        kinds: Kind of each.
    """
    with plots.style():
        figure = Figure(figsize=(10.4, 5.6), layout="constrained")
        upper, lower = figure.subplots(2, sharex=True)
        for kind, (colour, marker) in _KINDS.items():
            at = [index for index, other in enumerate(kinds) if other == kind]
            mean, rms = (
                np.array(
                    [np.nan if rows[index][key] is None else rows[index][key] for index in at], dtype=float
                )
                for key in ("residual_mean", "residual_rms")
            )
            look = {"linestyle": "none", "color": colour, "marker": marker, "label": kind}
            _points(upper, [rows[index]["completeness"] for index in at], look, at)
            lower.errorbar(at, mean, yerr=np.nan_to_num(rms), capsize=2.5, elinewidth=1.2, **look)
        upper.set_ylim(0.0, 1.05)
        upper.set_ylabel("share of true hits found")
        lower.set_ylabel("residual [elements]")
        lower.axhline(0.0, color=plots.INK, linewidth=0.8)
        lower.set_xticks(range(len(rows)), [row["name"] for row in rows], rotation=90, fontsize=7)
        lower.tick_params(axis="x", which="minor", bottom=False, top=False)
        upper.tick_params(axis="x", which="minor", bottom=False, top=False)
        lower.set_xlim(-1, len(rows))
        for axes in (upper, lower):
            axes.grid(axis="y")
        figure.legend(*upper.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


def _points(
    axes: Axes,
    cells: Sequence[Mapping[str, float] | None],
    look: Mapping[str, Any],
    at: Sequence[int] | None = None,
) -> None:
    """Draw a point with its interval for each cell, at 0, 1, ... by default; where there is none, nothing."""
    value, low, high = (
        np.array([np.nan if cell is None else cell[key] for cell in cells], dtype=float)
        for key in ("value", "low", "high")
    )
    with np.errstate(invalid="ignore"):
        bars = np.nan_to_num(np.clip([value - low, high - value], 0, None))
    axes.errorbar(
        np.arange(len(cells)) if at is None else at,
        value,
        yerr=bars,
        **{"linestyle": "--", "linewidth": 0.8, "elinewidth": 1.6, "capsize": 2.5, **look},
    )


def _bands(axes: Axes, bands: Sequence[Band]) -> None:
    axes.set_xticks(range(len(bands)), [band["label"] for band in bands], rotation=35, ha="right", fontsize=9)
    axes.tick_params(axis="x", which="minor", bottom=False, top=False)
    axes.set_xlim(-0.5, len(bands) - 0.5)
    axes.set_xlabel("background tracks", loc="center")
