"""Figures of reports and comparisons: convergence, parts of the loss, maps and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from trackkeras import plots, study_plots
from trackkeras.convergence import SHARE, Convergence
from trackkeras.pages import saved_figure, slug
from trackkeras.run_files import RunFiles


def convergence_section(progress: Sequence[Convergence], label: str) -> dict[str, Any] | None:
    """Return table and figures of the trainings; None if no run has a history.

    Args:
        progress: The trainings.
        label: Label of the headline metric.
    """
    if not progress:
        return None
    if any(run.error == "loss" for run in progress):
        label = "validation loss"
    errors = {run.run: run.errors if label != "validation loss" else run.val["loss"] for run in progress}
    gaps = {run.run: run.val["loss"] / run.train["loss"] for run in progress}
    titles = {
        "errors": f"{label} per epoch; a point marks {SHARE:.0%} of the final accuracy",
        "gaps": "validation loss over training loss per epoch; well above 1 is overfitting",
    }
    return {
        "curves": _inline(
            study_plots.epoch_lines(progress, errors, label, None), "convergence", titles["errors"]
        ),
        "gaps": _inline(
            study_plots.epoch_lines(progress, gaps, "val / train loss", 1.0), "gaps", titles["gaps"]
        ),
        "parts": [
            _inline(study_plots.loss_parts(run), f"parts_{run.run}", f"parts of the loss of {run.run}")
            for run in progress
            if "physics_loss" in run.val
        ],
    }


def chart_section(
    runs: Sequence[RunFiles], metric: str, definitions: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return error maps of the best run of each kind, and the curves of all runs that have some.

    Args:
        runs: The runs.
        metric: The headline metric, which decides what is best.
        definitions: Unit, quantity and statistic of the metrics.
    """
    best = _best_of_each_kind(runs, metric)
    charts = [
        (run, chart, name)
        for run in best
        for chart in run.metrics["samples"][0].get("maps", [])
        for name in chart["values"]
        if run.metrics["samples"][0]["estimators"][name].get("kind") == "network"
    ]
    maps = []
    if charts:
        limits = study_plots.map_limits(
            {"values": {name: chart["values"][name]}} for _, chart, name in charts
        )
        for run, chart, name in charts:
            label = plots.metric_label(chart["metric"], definitions.get(chart["metric"], {}))
            axes = " and ".join(axis["label"] for axis in chart["axes"])
            key = "_".join(axis["name"] for axis in chart["axes"])
            figure = study_plots.error_map(chart, run.metrics["run"], name, label, limits)
            maps.append(_inline(figure, f"map_{run.metrics['run']}_{key}", f"{label} against {axes}"))
    return {"maps": maps, "curves": _curves(runs, best)}


def map_figures(
    run: RunFiles, sample: Mapping[str, Any], definitions: Mapping[str, Mapping[str, Any]]
) -> list[Markup]:
    """Save and return the error maps of a run's network on one sample."""
    figures = []
    for chart in sample.get("maps", []):
        label = plots.metric_label(chart["metric"], definitions.get(chart["metric"], {}))
        key = "_".join(axis["name"] for axis in chart["axes"])
        own = {"values": {"network": chart["values"]["network"]}}
        figure = study_plots.error_map(chart, sample["name"], "network", label, study_plots.map_limits([own]))
        figures.append(saved_figure(run, figure, f"{sample['name']}_map_{key}", f"{label}: map in {key}"))
    return figures


def curve_figures(run: RunFiles) -> list[Markup]:
    """Save and return what else a run has to show of its network."""
    return [
        saved_figure(
            run, study_plots.curve(curve["lines"], curve, curve["title"]), curve["name"], curve["title"]
        )
        for curve in run.metrics.get("curves", [])
    ]


def _best_of_each_kind(runs: Sequence[RunFiles], metric: str) -> list[RunFiles]:
    def value(run: RunFiles) -> float:
        cell = run.metrics["samples"][0]["metrics"].get("network", {}).get(metric) or {}
        found = cell.get("value")
        return float("inf") if found is None else float(found)

    best: dict[str, RunFiles] = {}
    for run in runs:
        kind = str(((run.config or {}).get("model") or {}).get("kind"))
        if kind not in best or value(run) < value(best[kind]):
            best[kind] = run
    return list(best.values())


def _curves(runs: Sequence[RunFiles], best: Sequence[RunFiles]) -> list[Markup]:
    """Draw curves of one name together; those with a reference of their own apart, for the best runs."""
    found: dict[str, list[tuple[RunFiles, Mapping[str, Any]]]] = {}
    for run in runs:
        for curve in run.metrics.get("curves", []):
            found.setdefault(curve["name"], []).append((run, curve))
    figures = []
    for name, members in found.items():
        if any(line["kind"] == "reference" for _, curve in members for line in curve["lines"]):
            for run, curve in members:
                if run in best:
                    title = f"{run.metrics['run']}: {curve['title']}"
                    figure = study_plots.curve(curve["lines"], curve, title)
                    figures.append(_inline(figure, f"curve_{name}_{run.metrics['run']}", title))
            continue
        lines: list[Mapping[str, Any]] = []
        for run, curve in members:
            # the first line of each network; all of them would not be told apart
            first = next(line for line in curve["lines"] if line["kind"] == "network")
            lines.append({**first, "label": first["label"].replace("network", run.metrics["run"])})
        like = members[0][1]
        lines += [line for line in like["lines"] if line["kind"] == "baseline"]
        figures.append(_inline(study_plots.curve(lines, like, like["title"]), f"curve_{name}", like["title"]))
    return figures


def _inline(figure: Figure, name: str, description: str) -> Markup:
    return plots.inline_svg(plots.render(figure, "svg").decode(), slug(name), description)
