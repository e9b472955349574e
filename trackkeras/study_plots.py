"""Figures of several trainings beside each other, and of what one kind of network has to show of its own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from trackkeras.convergence import Convergence
from trackkeras.plots import BASELINE_COLOURS, INK, KIND_COLOURS, PAPER, style

DASHES = ("-", (0, (5, 1.5)), (0, (2, 1)), (0, (5, 1, 1, 1)), (0, (1, 1)))
MAP_COLOURS = colormaps["viridis"].resampled(24)
"""So few that the scale beside a map is drawn as paths; of more, matplotlib makes a picture."""
LONGEST_MARKED = 25
"""Epochs up to which each one gets a point."""


def epoch_lines(
    progress: Sequence[Convergence],
    values: Mapping[str, NDArray[np.float64]],
    label: str,
    level: float | None,
) -> Figure:
    """Draw one line per run against the epoch, a panel for each kind of network, with common scales.

    Args:
        progress: The runs.
        values: What is drawn, `(epochs,)`, by name of the run.
        label: Label of the vertical axis.
        level: A horizontal line for the eye, or None.

    Returns:
        A figure of panels below each other; circles mark where a run has converged.
    """
    kinds = _by_kind(progress)
    with style():
        figure = Figure(figsize=(6.8, 0.5 + 2.9 * len(kinds)), layout="constrained")
        panels = figure.subplots(len(kinds), sharex=True, sharey=True, squeeze=False)[:, 0]
        for axes, (kind, runs) in zip(panels, kinds.items(), strict=True):
            for (colour, dash), run in zip(_looks(len(runs)), runs, strict=True):
                epochs = np.arange(1, run.epochs + 1)
                axes.plot(epochs, values[run.run], color=colour, linestyle=dash, linewidth=1.6, label=run.run)
                mark = run.converged
                axes.plot(mark, values[run.run][mark - 1], "o", color=colour, markersize=5)
            if level is not None:
                axes.axhline(level, color=INK, linewidth=0.8, linestyle=":")
            axes.set_yscale("log")
            axes.set_title(kind, loc="left", fontweight="bold")
            axes.set_ylabel(label)
            axes.grid(axis="y")
            _outside_legend(axes)
        panels[-1].set_xlabel("epoch")
        _whole_numbers(panels[-1])
    return figure


def loss_parts(run: Convergence) -> Figure:
    """Draw the parts of a validation loss per epoch: data, initial condition, equation and stages."""
    shown = {name: values for name, values in run.val.items() if "loss" in name and name != "loss"}
    shown = {name: values for name, values in shown.items() if name != "physics_loss" and np.any(values > 0)}
    whole = [name for name in shown if not name[-1].isdigit()]
    with style():
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        for name, values in shown.items():
            epochs = np.arange(1, len(values) + 1)
            look: dict[str, Any]
            if name in whole:
                look = {"color": KIND_COLOURS[whole.index(name) % len(KIND_COLOURS)], "linewidth": 1.8}
            else:
                look = {
                    "color": INK,
                    "linewidth": 0.9,
                    "linestyle": DASHES[(int(name[-1]) - 1) % len(DASHES)],
                }
            marker = "o" if len(values) <= LONGEST_MARKED and name in whole else None
            axes.plot(epochs, values, label=name, marker=marker, markersize=3, **look)
        axes.set_yscale("log")
        axes.grid(axis="y")
        axes.set_title(run.run, loc="left", fontweight="bold")
        axes.set_xlabel("epoch")
        axes.set_ylabel("validation loss, unweighted")
        _whole_numbers(axes)
        _outside_legend(axes)
    return figure


def error_map(
    chart: Mapping[str, Any], title: str, name: str, label: str, limits: tuple[float, float]
) -> Figure:
    """Draw a metric over two truth variables.

    Args:
        chart: One of the `maps` of a sample.
        title: Text above.
        name: The estimator.
        label: Label of the colours.
        limits: Values of the first and the last colour, so that several maps can share them.

    Returns:
        A figure of one panel; cells with too few rows stay empty.
    """
    (x, y), values = chart["axes"], _numbers(chart["values"][name])
    with style():
        figure = Figure(figsize=(6.0, 4.4), layout="constrained")
        axes = figure.subplots()
        cells = np.ma.masked_invalid(np.where(values > 0, values, np.nan))
        image = axes.pcolormesh(x["edges"], y["edges"], cells, norm=LogNorm(*limits), cmap=MAP_COLOURS)
        for axis, set_scale in ((x, axes.set_xscale), (y, axes.set_yscale)):
            if axis["log"]:
                set_scale("log")
        axes.set_facecolor("#8882")
        axes.set_xlabel(x["label"])
        axes.set_ylabel(y["label"])
        axes.set_title(title, loc="left", fontweight="bold")
        figure.colorbar(image, label=label)
    return figure


def map_limits(charts: Iterable[Mapping[str, Any]]) -> tuple[float, float]:
    """Return the smallest and the largest positive value of some maps; a decade if there is none."""
    values = np.concatenate(
        [_numbers(line) for chart in charts for of in chart["values"].values() for line in of]
    )
    values = values[values > 0]
    return (float(values.min()), float(values.max())) if len(values) and np.ptp(values) else (1.0, 10.0)


def curve(lines: Sequence[Mapping[str, Any]], like: Mapping[str, Any], title: str) -> Figure:
    """Draw lines of one or several runs: networks, baselines in grey, and references as points.

    A reference has the colour of the network's line before it.

    Args:
        lines: Entries of `lines` of a curve in `metrics.json`.
        like: A curve that has the axes.
        title: Text above.
    """
    with style():
        figure = Figure(figsize=(6.8, 4.4), layout="constrained")
        axes = figure.subplots()
        networks = [line for line in lines if line["kind"] == "network"]
        looks, drawn = _looks(len(networks)), 0
        colour: Any = INK
        for line in lines:
            x, y = _numbers(line["x"]), _numbers(line["y"])
            if line["kind"] == "network":
                colour, dash = looks[drawn]
                drawn += 1
                axes.plot(x, y, color=colour, linestyle=dash, linewidth=1.7, label=line["label"])
            elif line["kind"] == "baseline":
                axes.plot(x, y, color=BASELINE_COLOURS[0], linestyle="--", linewidth=1.4, label=line["label"])
            else:
                # of the network's line before it
                axes.plot(
                    x, y, linestyle="none", marker="o", markersize=4, color=colour, markerfacecolor=PAPER
                )
        if like["log"]:
            axes.set_yscale("log")
        axes.grid(axis="y")
        axes.set_xlabel(like["x_label"])
        axes.set_ylabel(like["y_label"])
        axes.set_title(title, loc="left", fontweight="bold", fontsize=10)
        _outside_legend(axes, below=True)
    return figure


def _by_kind(progress: Sequence[Convergence]) -> dict[str, list[Convergence]]:
    ordered = sorted(progress, key=lambda run: (run.kind, run.parameters, run.run))
    return {kind: list(runs) for kind, runs in itertools.groupby(ordered, lambda run: run.kind)}


def _looks(count: int) -> list[tuple[Any, Any]]:
    """Return colours from dark to light, as many as there are lines, with alternating dashes."""
    shades = colormaps["viridis"](np.linspace(0.0, 0.85, max(count, 1)))
    return [(tuple(shade), DASHES[index % len(DASHES)]) for index, shade in enumerate(shades)]


def _outside_legend(axes: Axes, *, below: bool = False) -> None:
    _, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    if below:
        columns = max(1, min(len(labels), 90 // (max(map(len, labels)) + 6)))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=columns, fontsize=8.5)
        return
    columns = math.ceil(len(labels) / 14)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), ncols=columns, fontsize=8, borderaxespad=0)


def _whole_numbers(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))


def _numbers(values: Iterable[Any]) -> NDArray[np.float64]:
    return np.array(values, dtype=float)  # None becomes NaN
