"""Figures of a run, drawn from the plain contents of its files; no name of a detector occurs here.

Every function returns a matplotlib `Figure` that belongs to no window and no global state. The `sample`,
`band` and `definition` arguments are the mappings of `metrics.json`. A domain that draws figures of its own
does so inside `style()`, with the colours of `appearance`, and writes them with `save`.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hist
import matplotlib as mpl
import mplhep
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from tfrecords_tools.files import new_file

INK = "#1f2430"
PAPER = "#ffffff"
NETWORK_COLOURS = ("#5790fc", "#7a21dd")
BASELINE_COLOURS = ("#9c9ca1", "#f89c20", "#e42536", "#964a8b")
"""The six colours of M. A. Petroff, arXiv:2107.02270, chosen for colour-vision deficiencies."""

NETWORK_MARKERS = ("o", "p")
BASELINE_MARKERS = ("s", "^", "D", "v")
_BASELINE_DASHES = ((0, (1, 1)), (0, (4, 1.5)), "-", (0, (4, 1, 1, 1)))

CORE = (15.865, 84.135)
"""Percentiles whose half distance is the core width: one standard deviation of a normal distribution."""

_STYLE: dict[Any, Any] = {
    **mplhep.style.ROOT,
    "font.sans-serif": ["TeX Gyre Heros", "DejaVu Sans"],
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.linewidth": 0.9,
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.labelsize": 11,
    "figure.facecolor": PAPER,
    "figure.autolayout": False,
    "figure.constrained_layout.use": False,
    "grid.alpha": 0.25,
    "grid.color": INK,
    "grid.linestyle": "-",
    "grid.linewidth": 0.5,
    "legend.fontsize": 9.5,
    "legend.labelcolor": INK,
    "lines.markersize": 6,
    "savefig.dpi": 180,
    "svg.fonttype": "path",
    "svg.hashsalt": "trackkeras",
    "text.color": INK,
    "text.usetex": False,
    "xtick.color": INK,
    "xtick.labelsize": 10,
    "xtick.major.size": 6,
    "xtick.minor.size": 3,
    "xtick.major.pad": 5,
    "ytick.color": INK,
    "ytick.labelsize": 10,
    "ytick.major.size": 6,
    "ytick.minor.size": 3,
}


@contextmanager
def style() -> Iterator[None]:
    """Apply the look of all figures; drawing and saving both need it."""
    with mpl.rc_context(_STYLE):
        yield


def appearance(estimators: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return colour, marker and line of each estimator.

    The order within a kind decides, so an estimator looks alike in every figure of a report. Networks are
    filled and drawn last, baselines are hollow, so neither needs colour to be told apart.

    Args:
        estimators: `label` and `kind` (`network` or `baseline`) by name.
    """
    looks, networks, baselines = {}, 0, 0
    for name, estimator in estimators.items():
        if estimator.get("kind") == "network":
            colour = NETWORK_COLOURS[networks % len(NETWORK_COLOURS)]
            marker = NETWORK_MARKERS[networks % len(NETWORK_MARKERS)]
            networks += 1
            looks[name] = {"color": colour, "marker": marker, "markerfacecolor": colour, "linewidth": 1.8}
        else:
            colour = BASELINE_COLOURS[baselines % len(BASELINE_COLOURS)]
            marker = BASELINE_MARKERS[baselines % len(BASELINE_MARKERS)]
            baselines += 1
            looks[name] = {"color": colour, "marker": marker, "markerfacecolor": PAPER, "linewidth": 1.2}
        looks[name]["zorder"] = 4 if estimator.get("kind") == "network" else 3
    return looks


def loss_curves(history: Mapping[str, Any], title: str = "") -> Figure:
    """Draw training and validation loss per epoch, with the learning rate below.

    Args:
        history: `train` and `val` lists of one mapping per epoch with `epoch` and `loss`; `lr` and any other
            `*loss*` of the training rows are drawn where they occur, and `best_epoch` is marked.
        title: Text above the left corner, such as the name of the run.

    Returns:
        A figure of two panels with a common epoch axis.
    """
    train, val = history.get("train") or [], history.get("val") or []
    keys = dict.fromkeys(key for row in train for key in row)
    parts = [key for key in keys if "loss" in key and key != "loss"]
    curves = [("training", *_column(train, "loss"), {"color": INK, "linewidth": 1.4})]
    curves.append(("validation", *_column(val, "loss"), {"color": NETWORK_COLOURS[0], "linewidth": 2.0}))
    for index, key in enumerate(parts):
        if not _column(train, key)[1].any():
            continue  # a part that is 0 by construction would take the logarithm from all others
        colour = BASELINE_COLOURS[index % len(BASELINE_COLOURS)]
        look = {"color": colour, "linestyle": "--", "linewidth": 1.0}
        curves.append((f"training, {key}", *_column(train, key), look))
    rate = _column(train, "lr")
    with style():
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        upper, lower = figure.subplots(2, sharex=True, height_ratios=(3.2, 1))
        for label, epoch, loss, look in curves:
            if len(epoch):
                marker = "o" if len(epoch) < 25 else None
                upper.plot(epoch, loss, label=_plain(label), marker=marker, markersize=3, **look)
        _scale_y(upper, np.concatenate([loss for _, _, loss, _ in curves]))
        best = history.get("best_epoch")
        if best is not None:
            for panel in (upper, lower):
                panel.axvline(best, color=INK, linewidth=0.8, linestyle=":", zorder=1)
            upper.plot([], [], color=INK, linewidth=0.8, linestyle=":", label=f"best epoch, {best}")
        upper.set_ylabel("loss")
        if upper.get_legend_handles_labels()[1]:
            upper.legend(loc="upper right", frameon=True, facecolor=PAPER, edgecolor="none", framealpha=0.85)
        lower.plot(*rate, color=INK, linewidth=1.4, marker="o" if len(rate[0]) < 25 else None, markersize=3)
        _scale_y(lower, rate[1])
        lower.set_ylabel("learning rate", fontsize=9.5)
        lower.set_xlabel("epoch")
        lower.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
        lower.xaxis.set_minor_locator(NullLocator())
        _corners(upper, title, "")
    return figure


def residuals(
    arrays: Mapping[str, Mapping[str, NDArray[Any]]], labels: Mapping[str, str], sample: Mapping[str, Any]
) -> Figure:
    """Draw histograms of signed residuals, one panel per quantity, with the core width of each estimator.

    The range is set by the networks (1.5 times the 95th percentile of their absolute residuals), so that a
    wide baseline does not flatten them; the share of rows outside it, non-finite ones included, is stated
    from 1 % on. The core width is half the distance between the percentiles of `CORE`.

    Args:
        arrays: Residuals `(n,)` by quantity and estimator.
        labels: Axis label with unit by quantity.
        sample: The sample of `metrics.json` that the residuals belong to.

    Returns:
        A figure with up to two panels per line.
    """
    estimators: dict[str, Mapping[str, Any]] = {
        name: {} for of_quantity in arrays.values() for name in of_quantity
    }
    estimators |= sample["estimators"]
    looks, legend = appearance(estimators), _legend_labels(estimators)
    networks = [name for name, estimator in estimators.items() if estimator.get("kind") == "network"]
    baselines = [name for name in estimators if name not in networks]
    columns = min(2, len(arrays))
    lines = math.ceil(len(arrays) / columns)
    with style():
        figure = Figure(
            figsize=(0.4 + 4.4 * columns, 0.3 + (3.1 + 0.2 * len(estimators)) * lines), layout="constrained"
        )
        panels = figure.subplots(lines, columns, squeeze=False).flatten()
        for axes, (quantity, of_quantity) in zip(panels, arrays.items(), strict=False):
            label = labels.get(quantity, quantity)
            drawn = [name for name in baselines + networks if name in of_quantity]
            deciding = [name for name in drawn if name in networks] or drawn
            reach = _reach([of_quantity[name] for name in deciding])
            top, bottom = 0.0, 1.0
            for name in drawn:
                values = np.asarray(of_quantity[name], dtype=float)
                counts = hist.Hist.new.Reg(61, -reach, reach).Int64().fill(values[np.isfinite(values)])
                shares = counts.values() / max(1, values.size)
                top, bottom = max(top, shares.max()), min(bottom, 0.5 / max(1, values.size))
                mplhep.histplot(
                    shares,
                    counts.axes[0].edges,
                    ax=axes,
                    histtype="step",
                    yerr=False,
                    color=looks[name]["color"],
                    linewidth=looks[name]["linewidth"],
                    linestyle="-" if name in networks else _BASELINE_DASHES[baselines.index(name) % 4],
                    zorder=looks[name]["zorder"],
                    label=_width_label(legend[name], values, reach, label),
                )
            axes.set_yscale("log")
            axes.set_ylim(bottom, 1.5 * max(top, bottom))
            axes.set_xlim(-reach, reach)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
            axes.ticklabel_format(axis="x", style="sci", scilimits=(-2, 4), useMathText=True)
            axes.set_xlabel(_plain(label), loc="center")
            axes.set_ylabel("share of rows per bin")
            handles, texts = axes.get_legend_handles_labels()
            axes.legend(
                handles[::-1], texts[::-1], loc="lower left", bbox_to_anchor=(-0.02, 0.99), fontsize=9,
                handlelength=1.3, borderaxespad=0,
            )  # fmt: skip
        for axes in panels[len(arrays) :]:
            axes.remove()
        origin = _origin(sample["name"], sample["rows"], sample["simulated"])
        figure.suptitle(_plain(origin), fontsize=9.5, ha="right", x=0.995)
    return figure


def error_in_bands(
    sample: Mapping[str, Any], band: Mapping[str, Any], metric: str, definition: Mapping[str, Any]
) -> Figure:
    """Draw one metric in the bands of one axis, a point with its 95 % interval per estimator.

    Args:
        sample: The sample of `metrics.json`.
        band: One of its `bands`; a band without a value stays empty.
        metric: Name of the metric.
        definition: `unit` and `target` of the metric.

    Returns:
        A figure of one panel; both axes are logarithmic where the band's axis is and all values are positive.
    """
    estimators, edges = sample["estimators"], np.asarray(band["edges"], dtype=float)
    looks, legend = appearance(estimators), _legend_labels(estimators)
    log = bool(band.get("log")) and bool(np.all(edges > 0))
    scale = np.log if log else np.asarray
    lower, upper = scale(edges[:-1]), scale(edges[1:])
    drawn = [name for name in estimators if metric in band["metrics"].get(name, {})]
    every: list[NDArray[Any]] = []
    with style():
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.subplots()
        for index, name in enumerate(drawn):
            values, low, high = _intervals(band["metrics"][name][metric])
            every.append(np.concatenate([values, low, high]))
            # Points of one band stand beside each other, so that no interval hides another.
            centre = lower + (upper - lower) * (0.5 + 0.1 * (index - (len(drawn) - 1) / 2))
            if log:
                centre = np.exp(centre)
            with np.errstate(invalid="ignore"):
                bars = np.clip([values - low, high - values], 0, None)
            axes.hlines(values, edges[:-1], edges[1:], color=looks[name]["color"], linewidth=1.0, alpha=0.55)
            axes.errorbar(
                centre,
                values,
                yerr=np.nan_to_num(bars),
                linestyle="none",
                elinewidth=1.6,
                capsize=2.5,
                label=legend[name],
                **looks[name] | {"linewidth": 0},
            )
        _scale_y(axes, np.concatenate(every) if every else np.empty(0), target=definition.get("target"))
        _scale_bands(axes, edges, log)
        _target(axes, definition)
        axes.set_xlabel(_plain(band.get("label", band["axis"])))
        axes.set_ylabel(_plain(metric_label(metric, definition)))
        _legend_above(figure, axes)
        _corners(axes, "", _origin(sample["name"], sample["rows"], sample["simulated"]))
    return figure


AMOUNTS = {"parameters": "trainable parameters", "cost": "operations per row"}
"""What a run may be compared against, with the axis label."""


KIND_COLOURS = (NETWORK_COLOURS[0], BASELINE_COLOURS[2], BASELINE_COLOURS[1], NETWORK_COLOURS[1])
KIND_MARKERS = ("o", "s", "^", "D", "v", "p")
MOST_NAMED = 6
"""Runs that a figure names one by one; the names of more would cover each other."""


def _kind(row: Mapping[str, Any]) -> str:
    return str((row.get("model") or {}).get("kind", "network"))


def comparison(
    table: Sequence[Mapping[str, Any]], metric: str, definition: Mapping[str, Any], amount: str = "parameters"
) -> Figure:
    """Draw a metric of several runs against what they cost, each kind of network in a colour of its own.

    Args:
        table: Rows of one sample as from `trackkeras.report.comparison_table`.
        metric: Name of the metric.
        definition: `unit` and `target` of the metric.
        amount: A key of `AMOUNTS`. A baseline without that amount becomes a horizontal line, a run without
            it is left out. Runs carry their names while they are few.

    Returns:
        A figure of one panel with logarithmic axes where the values are positive.
    """
    rows = [row for row in table if math.isfinite(_number(row["metrics"].get(metric), "value"))]
    networks = [row for row in rows if row["kind"] == "network" and row.get(amount)]
    baselines = sorted((row for row in rows if row["kind"] != "network"), key=lambda row: row["cost"] or 0)
    amounts = [row[amount] for row in rows if row.get(amount)]
    # Runs of a kind share one look; a baseline looks as in the report of a run.
    looks = appearance({str(i): row for i, row in enumerate(baselines)})
    kinds = list(dict.fromkeys(_kind(row) for row in networks))
    legend = _legend_labels({str(i): row for i, row in enumerate(baselines)})
    with style():
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.subplots()
        if amounts:
            axes.set_xscale("log")
            axes.set_xlim(0.6 * min(amounts), max(amounts) / 0.6)  # never a single point wide
        for index, row in enumerate(baselines):
            look, label = looks[str(index)], legend[str(index)]
            if row.get(amount):
                _point(axes, row[amount], row["metrics"][metric], look, label)
            else:
                value = row["metrics"][metric]["value"]
                dash = "--" if index < len(BASELINE_COLOURS) else ":"
                axes.axhline(value, linestyle=dash, linewidth=1.4, color=look["color"], label=label)
        named = set()
        for row in sorted(networks, key=lambda row: row[amount]):
            kind = _kind(row)
            look = {"color": KIND_COLOURS[kinds.index(kind) % len(KIND_COLOURS)], "zorder": 4}
            look["marker"] = KIND_MARKERS[kinds.index(kind) % len(KIND_MARKERS)]
            text = _plain(kind) if len(kinds) > 1 and kind not in named else None
            _point(axes, row[amount], row["metrics"][metric], look, text)
            named.add(kind)
            if len(networks) > MOST_NAMED:
                continue
            axes.annotate(
                _plain(row["run"]),
                (row[amount], row["metrics"][metric]["value"]),
                (0, 8),
                textcoords="offset points",
                ha="center",
                fontsize=8.5,
            )
        values = [part for row in rows for part in _intervals([row["metrics"][metric]])]
        _scale_y(axes, np.concatenate(values) if values else np.empty(0), target=definition.get("target"))
        _target(axes, definition)
        axes.set_xlabel(AMOUNTS[amount])
        axes.set_ylabel(_plain(metric_label(metric, definition)))
        _legend_above(figure, axes)
        _corners(axes, "", _origin(table[0]["sample"], table[0]["rows"], table[0]["simulated"]))
    return figure


def save(figure: Figure, path: Path) -> tuple[Path, Path]:
    """Write a figure as `path` + `.png` and `path` + `.svg`, each complete or not at all.

    Returns:
        The paths of the PNG and of the SVG file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    png, svg = path.with_name(f"{path.name}.png"), path.with_name(f"{path.name}.svg")
    for target, kind in ((png, "png"), (svg, "svg")):
        content = render(figure, kind)
        with new_file(target) as stream:
            stream.write(content)
    return png, svg


_NO_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Creator": None, "Date": None, "Format": None, "Type": None},
}


def render(figure: Figure, kind: str, dpi: float | None = None) -> bytes:
    """Return a figure as the content of a `png` or `svg` file; equal figures give equal bytes.

    Args:
        figure: What was drawn.
        kind: `png` or `svg`.
        dpi: Pixels per inch of a `png`; None for that of the style.
    """
    stream = io.BytesIO()
    with style():
        if figure.get_layout_engine() is not None:
            # The layout is found once, not once per file: it costs as much as the drawing.
            figure.draw_without_rendering()
            figure.set_layout_engine(None)
        figure.savefig(
            stream, format=kind, metadata=_NO_METADATA[kind], dpi=dpi or mpl.rcParams["savefig.dpi"]
        )
    return stream.getvalue()


def inline_svg(svg: str, name: str, description: str) -> Markup:
    """Return the text of a figure's SVG file as an `<svg>` element for an HTML page.

    Ink and paper become the page's own colours (`currentColor` and the CSS variable `--paper`), so the figure
    follows a dark page; the ids carry `name`, so several figures share a page; nothing refers outside.

    Args:
        svg: What `render` or `save` wrote.
        name: Unique on the page; letters, digits, `-` and `_`.
        description: Text for readers who do not see the figure.
    """
    text = svg[svg.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", text, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    opening = Markup('<svg {} role="img" aria-label="{}">').format(Markup(box[0]), description)
    body = text[text.index(">") + 1 :]
    body = body.replace("xlink:href", "href").replace(INK, "currentColor").replace(PAPER, "var(--paper)")
    body = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", body)
    return opening + Markup(re.sub(r"\n\s*", "\n", body))


def metric_label(metric: str, definition: Mapping[str, Any]) -> str:
    """Return `quantity, statistic [unit]`, or the name of a metric that has no definition."""
    if not {"quantity", "statistic"} <= set(definition):
        return metric
    unit = definition.get("unit") or "1"
    statistic = re.sub(r"^p(\d+)$", r"\1th percentile", str(definition["statistic"]))
    statistic = re.sub(r"^w(\d+)$", r"half width of \1 %", statistic)
    return f"{definition['quantity']} error, {statistic}" + ("" if unit == "1" else f" [{unit}]")


def _tex(value: float, digits: str = "g") -> str:
    mantissa, _, exponent = f"{value:{digits}}".partition("e")
    return rf"${mantissa}\times10^{{{int(exponent)}}}$" if exponent else mantissa


def _plain(text: object) -> str:
    # Names come from files: a dollar sign is no formula, and a leading underscore would hide a legend entry.
    plain = str(text).replace("$", r"\$")
    return f" {plain}" if plain.startswith("_") else plain


def _origin(name: str, rows: int, simulated: bool) -> str:
    return f"{name}: {rows:,} rows, {'simulated' if simulated else 'external data'}"


def _corners(axes: Axes, left: str, right: str) -> None:
    axes.set_title(_plain(left), loc="left", fontweight="bold", pad=6)
    axes.set_title(_plain(right), loc="right", fontsize=9.5, pad=6)


def _legend_above(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        longest = max(len(line) for label in labels for line in label.splitlines())
        columns = min(len(labels), max(1, 84 // (longest + 6)))  # 84 characters fill the line
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, columnspacing=1.4)


def _point(
    axes: Axes, amount: float, cell: Mapping[str, Any], look: Mapping[str, Any], label: str | None
) -> None:
    values, low, high = _intervals([cell])
    bars = np.nan_to_num(np.clip([values - low, high - values], 0, None))
    dressed = {**look, "linewidth": 0, "linestyle": "none", "elinewidth": 1.6, "capsize": 2.5}
    axes.errorbar(amount, values, yerr=bars, label=label, **dressed)


def _target(axes: Axes, definition: Mapping[str, Any]) -> None:
    target = definition.get("target")
    if target is not None:
        axes.axhline(target, color=INK, linewidth=1, linestyle=(0, (5, 3)), zorder=2)
        axes.annotate(
            f"target {_tex(target)}", (0.01, target), (0, 3), xycoords=("axes fraction", "data"),
            textcoords="offset points", fontsize=9,
        )  # fmt: skip


def _number(cell: Mapping[str, Any] | None, key: str) -> float:
    value = None if cell is None else cell.get(key)
    return math.nan if value is None else float(value)


def _intervals(cells: Iterable[Mapping[str, Any] | None]) -> tuple[NDArray[Any], ...]:
    cells = list(cells)
    return tuple(np.array([_number(cell, key) for cell in cells]) for key in ("value", "low", "high"))


def _column(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[NDArray[Any], NDArray[Any]]:
    found = [(row["epoch"], row[key]) for row in rows if isinstance(row.get(key), int | float)]
    table = np.array(found, dtype=float).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _scale_y(axes: Axes, values: NDArray[Any], target: float | None = None) -> None:
    values = values[np.isfinite(values)]
    axes.grid(axis="y")
    if not values.size or values.min() <= 0:
        return
    low, high = values.min(), values.max()
    if target is not None and target > 0:
        low, high = min(low, target), max(high, target)
    axes.set_yscale("log")
    # At least one decade, so that the axis always carries labelled ticks.
    room = max(high / low, 10.0) ** 0.08
    middle = math.sqrt(low * high)
    axes.set_ylim(min(low, middle / 10**0.5) / room, max(high, middle * 10**0.5) * room)


def _scale_bands(axes: Axes, edges: NDArray[Any], log: bool) -> None:
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(edges.tolist()))
        axes.xaxis.set_major_formatter(FixedFormatter([f"{edge:g}" for edge in edges]))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(edges[0], edges[-1])


def _reach(arrays: Iterable[NDArray[Any]]) -> float:
    finite = np.concatenate([np.abs(values[np.isfinite(values)]) for values in map(np.asarray, arrays)])
    reach = 1.5 * float(np.percentile(finite, 95)) if finite.size else 0.0
    return reach or 1.0


def _legend_labels(estimators: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return labels that fit a legend: without a final bracket, unless two labels become equal."""
    full = {name: str(estimator.get("label", name)) for name, estimator in estimators.items()}
    short = {name: re.sub(r" \([^()]*\)$", "", label) for name, label in full.items()}
    unique = len(set(short.values())) == len(short)
    return {name: _plain(textwrap.fill(label, 32)) for name, label in (short if unique else full).items()}


def _width_label(name: str, values: NDArray[Any], reach: float, label: str) -> str:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return f"{name}: no finite value"
    low, high = np.percentile(finite, CORE)
    unit = re.search(r"\[([^\]]*)\]", label)
    outside = 1 - np.count_nonzero(np.abs(finite) <= reach) / values.size
    text = f"{name}: σ = {_tex((high - low) / 2, '.3g')}" + (f" {_plain(unit[1])}" if unit else "")
    return text + (f", {outside:.0%} outside" if outside >= 0.01 else "")
