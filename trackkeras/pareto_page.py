"""The Pareto page: what `bench pareto` measured as JSON, as a picture, as one HTML file and as Markdown.

Everything is drawn and said from the measured report alone; no name of a detector occurs here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tfrecords_tools.files import new_file, write_json
from trackkeras import plots
from trackkeras.errors import UserError
from trackkeras.pages import render_page, render_text, write_page
from trackkeras.pareto import Point, frontier

Row = Mapping[str, Any]

SMALL_DPI = 76
"""Resolution of the picture beside the page, small enough to be kept with a project's results."""

DRAWN_MM = 1000.0
"""Errors [mm] from here on are left to the tables: a network far from its sample would set the scale."""

_MARKERS = {"Numba": "o", "C++": "s"}


def check_folder(folder: Path) -> None:
    """Refuse a place where no page can be written, before anything is measured.

    Raises:
        UserError: A file stands there, or the folder around it does not exist.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder for the page")
    if not folder.resolve().parent.is_dir():
        raise UserError(f"no such folder: {folder.resolve().parent}")


def write(report: Row, machine: str, command: str, folder: Path) -> dict[str, Path]:
    """Write `pareto.json`, `.png`, `.html` and `.md`, each complete or not at all.

    Args:
        report: What `pareto_bench.measure` returns, with the `machine` that it ran on.
        machine: The same machine as one line.
        command: The command that made it.
        folder: Where; it is made if it is not there.

    Returns:
        The four paths by their kind.
    """
    check_folder(folder)
    folder.mkdir(exist_ok=True)
    paths = {kind: folder / f"pareto.{kind}" for kind in ("json", "png", "html", "md")}
    write_json(paths["json"], {"command": command, **report})
    with new_file(paths["png"]) as stream:
        stream.write(plots.render(draw(report["samples"], report["limit_mm"]), "png", SMALL_DPI))
    write_page(paths["html"], page(report, machine, command))
    write_page(paths["md"], tables(report, machine, command))
    return paths


def page(report: Row, machine: str, command: str) -> str:
    """Return the HTML page."""
    sections = []
    for sample in report["samples"]:
        svg = plots.render(draw([sample], report["limit_mm"]), "svg").decode()
        name = f"pareto-{sample['name']}"
        text = f"p95 position error against time per track, {sample['name']}"
        sections.append(
            {
                **sample,
                "title": sample["name"].replace("_", " "),
                "figure": plots.inline_svg(svg, name, text),
                "answer": answer(sample["verdict"]),
                "statements": [statement(network) for network in sample["networks"]],
                "best": _by_time(point for point in sample["points"] if point["frontier"]),
                "sorted": _by_time(sample["points"]),
            }
        )
    return render_page("pareto.html.j2", report=report, sections=sections, machine=machine, command=command)


def tables(report: Row, machine: str, command: str) -> str:
    """Return the tables of the page as Markdown, the shortest form that can be kept with a project."""
    sections = [
        {
            **sample,
            "answer": answer(sample["verdict"]),
            "best": _by_time(point for point in sample["points"] if point["frontier"]),
            "best_on_map": _by_time(_frontier_on_map(sample["points"])),
        }
        for sample in report["samples"]
    ]
    return render_text("pareto.md.j2", report=report, sections=sections, machine=machine, command=command)


def _by_time(points: Iterable[Row]) -> list[Row]:
    return sorted(points, key=lambda point: float(point["us_per_track"]))


def _frontier_on_map(points: Sequence[Row]) -> list[Row]:
    on_map = {point["name"]: point for point in points if point["field"].endswith("map")}
    best = frontier(
        Point(name, point["us_per_track"], math.inf if point["p95_mm"] is None else point["p95_mm"])
        for name, point in on_map.items()
    )
    return [on_map[point.name] for point in best]


# -- sentences ---------------------------------------------------------------------------------------------


def answer(verdict: Row) -> str:
    """Return whether a network is ahead of every Runge-Kutta point on the map, and by how much."""
    best, rival, limit = verdict["best"], verdict["rival"], verdict["limit_mm"]
    question = f"Ahead of every Runge-Kutta point on the map at p95 ≤ {limit:g} mm: "
    if verdict["ahead"]:
        text = f"yes, by {_described(best)}."
        if rival is None:
            return f"{question}{text} No Runge-Kutta point on the map keeps {limit:g} mm."
        ratio = rival["us_per_track"] / best["us_per_track"]
        other = f"The fastest Runge-Kutta point within the limit, {_described(rival)}"
        return f"{question}{text} {other}, takes {ratio:.2g} times as long."
    if verdict["within"]:
        ratio = best["us_per_track"] / rival["us_per_track"]
        kept = f"{_described(best)} keeps it, but takes {ratio:.2g} times as long as"
        return f"{question}no. {kept} {_described(rival)}."
    if best["p95_mm"] is None:
        return f"{question}no. No network has a p95 at all."
    over = best["p95_mm"] / limit
    return (
        f"{question}no. The most accurate network, {_described(best)}, is {over:.3g} times over the limit. "
        f"{ratios(verdict['standing'])}"
    )


def ratios(standing: Row) -> str:
    """Return where a network stands among rivals: time at equal p95, and p95 at equal time."""
    first, second = standing["equal_error"], standing["equal_time"]
    if first is None:
        text = "No rival reaches its p95"
    else:
        ratio = f"{standing['time_ratio']:.2g} times its time"
        text = f"At equal p95 the fastest rival ({first['name']}) takes {ratio}"
    if second is None:
        return f"{text}; no rival is as fast."
    ratio = f"{standing['error_ratio']:.2g} times its p95"
    return f"{text}; at equal time the best rival's p95 ({second['name']}) is {ratio}."


def statement(network: Row) -> dict[str, Any]:
    """Return what is said of one network: `worth` it or not, and why."""
    beaten = network["all"]["beaten_by"]
    if beaten is None:
        text = "No classical point is both faster and more accurate."
    else:
        text = f"Not worth it: {_described(beaten)} is both faster and more accurate."
    return {**network, "worth": beaten is None, "text": text, "ratios": ratios(network["on_map"])}


def _described(point: Row) -> str:
    error = "no p95" if point["p95_mm"] is None else f"p95 {point['p95_mm']:.3g} mm"
    return f"{point['name']} ({point['us_per_track']:.2g} µs, {error})"


# -- the picture -------------------------------------------------------------------------------------------


def draw(samples: Sequence[Row], limit: float) -> Figure:
    """Draw p95 against time, one panel per sample: hollow classical points, filled networks.

    Args:
        samples: As in the report.
        limit: Error [mm] that is marked by a line.
    """
    with plots.style():
        width = 7.4 if len(samples) == 1 else 4.3 * len(samples)
        figure = Figure(figsize=(width, 5.0 if len(samples) == 1 else 4.4), layout="constrained")
        panels = figure.subplots(1, len(samples), sharey=True, squeeze=False)[0]
        for axes, sample in zip(panels, samples, strict=True):
            _panel(axes, sample, limit)
        panels[0].set_ylabel("position error, 95th percentile [mm]")
        entries: dict[str, Any] = {}
        for axes in panels:
            handles, labels = axes.get_legend_handles_labels()
            entries = dict(zip(labels, handles, strict=True)) | entries
        figure.legend(
            list(entries.values()),
            list(entries),
            loc="outside upper center",
            ncols=4 if len(samples) > 1 else 3,
        )
    return figure


def _panel(axes: Axes, sample: Row, limit: float) -> None:
    points = [point for point in sample["points"] if (point["p95_mm"] or DRAWN_MM) < DRAWN_MM]
    classical = [point for point in points if point["kind"] == "classical"]
    for index, field in enumerate(dict.fromkeys(point["field"] for point in classical)):
        colour = plots.BASELINE_COLOURS[(index + 1) % len(plots.BASELINE_COLOURS)]
        for engine, marker in _MARKERS.items():
            some = [point for point in classical if (point["field"], point["engine"]) == (field, engine)]
            if some:
                label = f"Runge-Kutta, {field}, {engine}"
                look: dict[str, Any] = {
                    "color": colour,
                    "marker": marker,
                    "markerfacecolor": "none",
                    "linestyle": "none",
                }
                axes.plot(*_columns(some), label=label, markersize=4, markeredgewidth=0.9, **look)
    for index, engine in enumerate(
        dict.fromkeys(point["engine"] for point in points if point["kind"] == "network")
    ):
        some = [point for point in points if point["kind"] == "network" and point["engine"] == engine]
        colour = plots.NETWORK_COLOURS[index % len(plots.NETWORK_COLOURS)]
        marker = plots.NETWORK_MARKERS[index % len(plots.NETWORK_MARKERS)]
        axes.plot(
            *_columns(some),
            label=f"network, {engine}",
            color=colour,
            marker=marker,
            linestyle="none",
            markersize=8,
        )
    networks = [point for point in points if point["kind"] == "network"]
    fastest = {
        point["method"]: point for point in sorted(networks, key=lambda point: -float(point["us_per_track"]))
    }
    for name, point in fastest.items():  # one label for a network, at its fastest engine
        place = (point["us_per_track"], point["p95_mm"])
        text = name.replace("$", r"\$")
        axes.annotate(text, place, xytext=(5, 5), textcoords="offset points", fontsize=7, rotation=25)
    best = _by_time(point for point in points if point["frontier"])
    axes.plot(*_columns(best), color=plots.INK, linewidth=0.9, drawstyle="steps-post", label="frontier")
    axes.axhline(limit, color=plots.INK, linewidth=0.9, linestyle=":", label=f"{limit:g} mm")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(top=10.0 * axes.get_ylim()[1])  # room for names
    axes.set_xlabel("time per track, one core [µs]")
    axes.set_title(f"{sample['name'].replace('_', ' ')}, {sample['rows']:,} tracks, simulated", loc="left")
    axes.grid(True, which="major")


def _columns(points: Sequence[Row]) -> tuple[list[float], list[float]]:
    return [point["us_per_track"] for point in points], [point["p95_mm"] for point in points]


def headline(report: Row) -> list[str]:
    """Return the answers of all samples, one line each."""
    return [f"{sample['name']}: {answer(sample['verdict'])}" for sample in report["samples"]]
