"""The HTML report of a search: one page beside `search.json`, in the frame of all reports."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tfrecords_tools.files import read_json
from trackkeras import plots
from trackkeras.config import validate
from trackkeras.pages import render_page, slug, write_page
from tuner import figures
from tuner.objectives import PARAMETERS, TIME
from tuner.plan import Plan
from tuner.records import COMPLETED, trial_folder
from tuner.space import leaves

LARGEST_SLICES = 12


def write_search_report(folder: Path, summary: Mapping[str, Any]) -> Path:
    """Write `report.html` and the figures in `plots/` of a search.

    Args:
        folder: Search folder.
        summary: Content of its `search.json`.

    Returns:
        The path of the report.
    """
    plan = validate(Plan, summary["plan"], "search.json")
    drawn = {}
    for name, (figure, text) in _figures(folder, plan, summary):
        _, svg = plots.save(figure, folder / "plots" / name)
        drawn[name] = plots.inline_svg(svg.read_text(), slug(name), text)
    shown = list(dict.fromkeys([*plan.objectives, PARAMETERS, TIME]))
    page = render_page(
        "search.html.j2",
        name=folder.name,
        plan=plan,
        domain=plan.parent.domain,
        summary=summary,
        columns=[plan.known[name] for name in shown],
        keys=list(leaves(plan.parsed_space)),
        rows=sorted(summary["trials"], key=lambda row: row.get("score", float("inf"))),
        first=summary["trials"][0] if summary["trials"] else None,
        front=set(summary["pareto"]["trials"]),
        figures=drawn,
        parent=_parent_values(plan, summary["winner"]),
        preset_text=(folder / "best.yaml").read_text() if summary["winner"] else None,
        command=_command(folder, plan),
    )
    return write_page(folder / "report.html", page)


def _figures(
    folder: Path, plan: Plan, summary: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[Figure, str]]]:
    quantity = plan.known[plan.lead]
    done = [row["trial"] for row in summary["trials"] if row["status"] == COMPLETED]
    if not done:
        return
    yield "progress", (figures.progress(summary, quantity), f"{quantity.label} of each trial")
    histories = {name: read_json(trial_folder(folder, name) / "history.json") for name in done}
    yield "curves", (figures.curves(summary, histories, quantity), f"{quantity.label} per epoch and trial")
    text = f"{quantity.label} against parameters and inference time"
    yield "pareto", (figures.pareto(summary, quantity, plan.known), text)
    if summary["importance"]:
        yield "importance", (figures.bars(summary["importance"]), "importance of each hyperparameter")
    parameters = leaves(plan.parsed_space)
    shown = [parameters[key] for key in summary["importance"] or parameters][:LARGEST_SLICES]
    yield (
        "slices",
        (figures.slices(summary, shown, quantity), f"{quantity.label} against each hyperparameter"),
    )


def _parent_values(plan: Plan, winner: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what the winner's parent has where the winner differs."""
    if winner is None:
        return {}
    parent = plan.resolved(winner["extends"])
    return {key: parent.get(key) for key in winner["changes"]}


def _command(folder: Path, plan: Plan) -> str:
    words = ["trackkeras", "tune", plan.preset, "--data", plan.data, "--search", plan.search]
    words += ["--oracle", plan.oracle, "--seed", str(plan.seed), "--epochs", str(plan.epochs)]
    words += [] if plan.trials is None else ["--trials", str(plan.trials)]
    for name, weight in plan.objectives.items():
        words += ["--objective", f"{name}={weight:g}"]
    for name, value in plan.limits.items():
        words += ["--limit", f"{name}={value:g}"]
    for key, value in plan.assignments.items():
        words += ["--set", f"{key}={value}"]
    if plan.trial_budget_s is not None:
        words += ["--trial-budget", f"{plan.trial_budget_s:g}s"]
    return shlex.join([*words, "--out", str(folder)])
