"""Figures of a search, in the look of all figures; every function takes the content of `search.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator, NullLocator

from trackkeras.plots import BASELINE_COLOURS, INK, NETWORK_COLOURS, PAPER, style
from tuner.objectives import PARAMETERS, TIME, Quantity
from tuner.records import COMPLETED
from tuner.space import Parameter

GREY, WINNER, PRESET = BASELINE_COLOURS[0], NETWORK_COLOURS[0], BASELINE_COLOURS[1]
COLUMNS, RATIO = 3, 4.0


def progress(summary: Mapping[str, Any], quantity: Quantity) -> Figure:
    """Draw the first objective of each trial in the order of their start, and the best one so far."""
    trials = summary["trials"]
    values = np.array([_value(row, quantity.name) for row in trials])
    with style():
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        numbers = np.arange(len(trials))
        finished = np.isfinite(values)
        axes.plot(numbers[finished], values[finished], "o", color=GREY, label="trial")
        if finished.any():
            better = np.fmin if quantity.better == "less" else np.fmax
            best = better.accumulate(values)
            axes.step(numbers, best, where="post", color=WINNER, linewidth=1.8, label="best so far")
            _mark(axes, summary, numbers, values)
        _log(axes.yaxis, values)
        for number, row in enumerate(trials):
            if row["status"] != COMPLETED:
                axes.axvline(number, color=INK, linewidth=0.8, linestyle=":", zorder=1)
        if not finished.all():
            axes.plot([], [], color=INK, linewidth=0.8, linestyle=":", label="not trained, or failed")
        axes.set_xlabel("trial")
        axes.set_ylabel(quantity.label)
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.xaxis.set_minor_locator(NullLocator())
        _legend(figure, axes)
    return figure


def curves(
    summary: Mapping[str, Any], histories: Mapping[str, Mapping[str, Any]], quantity: Quantity
) -> Figure:
    """Draw a quantity of the validation rows per epoch, one line per trial.

    Args:
        summary: Names the winner.
        histories: `history.json` by trial.
        quantity: A metric; the loss where the histories do not have it.
    """
    key, label = quantity.name, quantity.label
    if not any(key in row for history in histories.values() for row in history["val"]):
        key, label = "loss", "validation loss"
    special = _special(summary)
    with style():
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        every: list[float] = []
        for name, history in histories.items():
            epochs = [row["epoch"] for row in history["val"]]
            values = [row.get(key, math.nan) for row in history["val"]]
            colour, text = special.get(name, (GREY, None))
            look: dict[str, Any] = {
                "color": colour,
                "linewidth": 2.0 if text else 1.0,
                "zorder": 4 if text else 2,
            }
            axes.plot(epochs, values, label=text, marker="o" if len(epochs) < 25 else None, ms=3, **look)
            every += values
        axes.plot([], [], color=GREY, linewidth=1.0, label="other trials")
        _log(axes.yaxis, np.array(every))
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
        axes.xaxis.set_minor_locator(NullLocator())
        _legend(figure, axes)
    return figure


def pareto(summary: Mapping[str, Any], quantity: Quantity, known: Mapping[str, Quantity]) -> Figure:
    """Draw the first objective against parameters and inference time; trials that none beats are filled."""
    front = set(summary["pareto"]["trials"])
    rows = [row for row in summary["trials"] if row["status"] == COMPLETED]
    with style():
        figure = Figure(figsize=(9.6, 4.0), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, amount in zip(panels, (PARAMETERS, TIME), strict=True):
            for row in rows:
                first = row["trial"] in front
                x, y = row["metrics"][amount], row["metrics"][quantity.name]
                colour = WINNER if first else GREY
                axes.plot(x, y, "o", color=colour, mfc=colour if first else PAPER, zorder=4 if first else 3)
                if first:
                    axes.annotate(
                        row["trial"], (x, y), (0, 7), textcoords="offset points", ha="center", fontsize=8.5
                    )
            _log(axes.xaxis, np.array([row["metrics"][amount] for row in rows]))
            axes.set_xlabel(known[amount].label)
            axes.margins(0.08, 0.1)
            axes.grid()
        _log(panels[0].yaxis, np.array([row["metrics"][quantity.name] for row in rows]))
        panels[0].set_ylabel(quantity.label)
        panels[0].plot([], [], "o", color=WINNER, label="on the Pareto list, with its trial")
        panels[0].plot([], [], "o", color=GREY, mfc=PAPER, label="beaten by another trial")
        _legend(figure, panels[0])
    return figure


def bars(shares: Mapping[str, float]) -> Figure:
    """Draw the share of each hyperparameter in what decided the score."""
    with style():
        figure = Figure(figsize=(6.4, 0.9 + 0.34 * len(shares)), layout="constrained")
        axes = figure.subplots()
        names = list(shares)[::-1]
        axes.barh(names, [100 * shares[name] for name in names], color=WINNER, height=0.62)
        axes.set_xlabel("share of what decided the score [%]")
        axes.set_xlim(0, 100)
        axes.grid(axis="x")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.tick_params(axis="y", length=0)
    return figure


def slices(summary: Mapping[str, Any], parameters: Sequence[Parameter], quantity: Quantity) -> Figure:
    """Draw the first objective against each hyperparameter, one panel each, choices in their given order."""
    keys = [parameter.key for parameter in parameters]
    rows = [row for row in summary["trials"] if row["status"] == COMPLETED]
    lines = math.ceil(len(keys) / COLUMNS)
    special = _special(summary)
    with style():
        figure = Figure(figsize=(3.5 * min(COLUMNS, len(keys)), 3.0 * lines), layout="constrained")
        panels = figure.subplots(lines, min(COLUMNS, len(keys)), squeeze=False, sharey=True).flatten()
        for axes, parameter in zip(panels, parameters, strict=False):
            key = parameter.key
            asked = [row for row in rows if row["settings"].get(key) is not None]
            values = [row["settings"][key] for row in asked]
            if parameter.kind in ("int", "float"):
                places: Sequence[Any] = values
                _log(axes.xaxis, np.array(values, float))
            else:
                texts = [_short(value) for value in parameter.values]
                if parameter.kind == "list":
                    texts = sorted({_short(value) for value in values})
                places = [texts.index(_short(value)) for value in values]
                axes.set_xticks(range(len(texts)), texts, rotation=25, ha="right", fontsize=8.5)
                axes.xaxis.set_minor_locator(NullLocator())
                axes.set_xlim(-0.6, len(texts) - 0.4)
            for place, row in zip(places, asked, strict=True):
                colour = special.get(row["trial"], (GREY, None))[0]
                axes.plot(place, row["metrics"][quantity.name], "o", color=colour)
            axes.set_xlabel(key, loc="center")
            axes.grid(axis="y")
        _log(panels[0].yaxis, np.array([row["metrics"][quantity.name] for row in rows]))
        for axes in panels[:: min(COLUMNS, len(keys))]:
            axes.set_ylabel(quantity.label)
        for axes in panels[len(keys) :]:
            axes.remove()
    return figure


def _special(summary: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return colour and text of the trials that a reader looks for: the preset itself and the winner."""
    found: dict[str, tuple[str, str]] = {}
    if summary["trials"]:
        found[summary["trials"][0]["trial"]] = (PRESET, "first trial, the preset")
    if summary["winner"] is not None:
        name = summary["winner"]["trial"]
        found[name] = (WINNER, f"winner, trial {name}")
    return found


def _mark(axes: Axes, summary: Mapping[str, Any], numbers: Any, values: Any) -> None:
    special = _special(summary)
    for number, row, value in zip(numbers, summary["trials"], values, strict=True):
        if row["trial"] in special and math.isfinite(value):
            colour, text = special[row["trial"]]
            axes.plot(number, value, "o", color=colour, label=text, zorder=5)


def _value(row: Mapping[str, Any], name: str) -> float:
    return float(row["metrics"][name]) if row["status"] == COMPLETED else math.nan


def _log(axis: Axis, values: Any) -> None:
    """Make an axis logarithmic where its values span more than a factor of `RATIO`."""
    finite = values[np.isfinite(values)]
    if finite.size and finite.min() > 0 and finite.max() >= RATIO * finite.min():
        (axis.axes.set_xscale if axis is axis.axes.xaxis else axis.axes.set_yscale)("log")
        plain = _PlainNumbers(labelOnlyBase=False, minor_thresholds=(1.2, 0.4))
        axis.set_major_formatter(plain)
        axis.set_minor_formatter(plain)


class _PlainNumbers(LogFormatter):
    """Ticks of a logarithmic axis as one writes them: 0.02, 3,000."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Return the text of a tick; empty where there are too many."""
        if not super().__call__(x, pos):
            return ""
        return f"{x:,.0f}" if x >= 1 else f"{x:g}"


def _short(value: Any) -> str:
    return str(value).replace(" ", "")


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=2 if len(labels) == 4 else min(3, len(labels)),
        columnspacing=1.4,
    )
