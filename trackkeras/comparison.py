"""Several evaluated runs, and their baselines, on the rows that they share: a table, a page, or Markdown."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trackkeras import plots
from trackkeras.comparison_figures import chart_section, convergence_section
from trackkeras.convergence import Convergence, convergences
from trackkeras.errors import UserError
from trackkeras.pages import emphasise, magnitude, render_page, render_text, slug, write_page
from trackkeras.questions import answers
from trackkeras.run_files import RunFiles, headline_metrics, metric_definitions, read_run


@dataclass(frozen=True)
class SharedRows:
    """Rows on which several runs were evaluated.

    Attributes:
        name: The sample's name, or its names where runs call it differently.
        members: Each run with its entry of `metrics.json`.
    """

    name: str
    members: tuple[tuple[RunFiles, Mapping[str, Any]], ...]


def comparison_table(paths: Iterable[Path], sort: str | None = None) -> list[dict[str, Any]]:
    """Return the metrics of several runs on the rows that they share.

    Runs share rows when the `rows_digest` of a sample is the same, whatever its name, and where
    `metrics.json` gives none when data set, description and number of rows are. Rows that one run alone was
    evaluated on are left out.

    Args:
        paths: Run folders, or folders of runs, of which all that are evaluated are taken.
        sort: Metric whose value orders the rows of a sample, smallest first; default: the first one defined.

    Returns:
        One mapping per sample and estimator, all with the same keys: `sample`, `rows`, `simulated`, `run`
        (None for a baseline), `label`, `kind`, `preset`, `parameters`, `training_time` [s], `cost` and the
        value of each metric by its name. A baseline that is equal in all runs occurs once.

    Raises:
        UserError: As `read_run`; fewer than two runs, two of one name, several domains, no shared rows, or
            an unknown metric.
    """
    runs, _ = read_runs(paths)
    table = _tabulate(runs, sort)
    metrics = dict.fromkeys(name for row in table for name in row["metrics"])
    flat = []
    for row in table:
        values = {name: (row["metrics"].get(name) or {}).get("value") for name in metrics}
        flat.append({key: value for key, value in row.items() if key not in ("metrics", "model")} | values)
    return flat


def write_comparison(paths: Iterable[Path], out: Path, sort: str | None = None) -> Path:
    """Write a file that compares several runs: accuracy on shared rows, convergence, answers.

    Args:
        paths: As for `comparison_table`.
        out: The file to write: one HTML page, or with the ending `.md` its main tables as Markdown.
        sort: As for `comparison_table`.

    Returns:
        The path of the file.

    Raises:
        UserError: As `comparison_table`, or `out` is a folder.
    """
    out = Path(out)
    if out.is_dir():
        raise UserError(f"{out} is a folder; name the HTML file to write, such as {out / 'comparison.html'}")
    runs, passed_over = read_runs(paths)
    out.parent.mkdir(parents=True, exist_ok=True)
    render = _markdown if out.suffix == ".md" else _page
    return write_page(out, render(runs, passed_over, sort))


def _page(runs: Sequence[RunFiles], passed_over: Mapping[str, str], sort: str | None) -> str:
    table = _tabulate(runs, sort)
    definitions = metric_definitions([run.metrics for run in runs])
    headline = sort or next(iter(definitions))
    groups = shared_rows(runs)
    sections = [
        _comparison_section(group, [row for row in table if row["sample"] == group.name], definitions, sort)
        for group in groups
    ]
    networks = [row for row in table if row["sample"] == groups[0].name and row["run"]]
    progress = convergences(runs, headline)
    return render_page(
        "comparison.html.j2",
        runs=[run.metrics for run in runs],
        sections=sections,
        unshared={**_unshared(runs), **passed_over},
        sort=headline,
        convergence=convergence_section(progress, plots.metric_label(headline, definitions[headline])),
        charts=chart_section(runs, headline, definitions),
        answers=answers(networks, progress, headline, groups[0].name),
    )


def _markdown(runs: Sequence[RunFiles], passed_over: Mapping[str, str], sort: str | None) -> str:
    table = _tabulate(runs, sort)
    definitions = metric_definitions([run.metrics for run in runs])
    headline = sort or next(iter(definitions))
    groups = shared_rows(runs)
    progress = {each.run: each for each in convergences(runs, headline)}
    shown = {
        name: plots.metric_label(name, definitions[name])
        for name in dict.fromkeys([headline, *headline_metrics(definitions)])
    }
    by_group = {group.name: [row for row in table if row["sample"] == group.name] for group in groups}
    first = groups[0].name
    return render_text(
        "comparison.md.j2",
        runs=len(runs),
        sections=[_tables_section(group, by_group[group.name], shown, progress) for group in groups],
        answers=answers(
            [row for row in by_group[first] if row["run"]], list(progress.values()), headline, first
        ),
        unshared={**_unshared(runs), **passed_over},
    )


def _tables_section(
    group: SharedRows,
    rows: Sequence[Mapping[str, Any]],
    shown: Mapping[str, str],
    progress: Mapping[str, Convergence],
) -> dict[str, Any]:
    sample = group.members[0][1]
    floors = {run.metrics["run"]: each["floor"] for run, each in group.members if each.get("floor")}
    floor: Mapping[str, Any] = next(iter(floors.values()), {"baseline": None, "maps": []})
    return {
        **{key: sample[key] for key in ("rows", "simulated", "description")},
        "name": group.name,
        "labels": list(shown.values()),
        "floor": floor["baseline"],
        "axes": " and ".join(f"({', '.join(chart['axes'])})" for chart in floor["maps"]),
        "metric": ", ".join(dict.fromkeys(chart["metric"] for chart in floor["maps"])),
        "table": [
            {
                **row,
                "epochs": progress[row["run"]].epochs if row["run"] in progress else "",
                "converged": progress[row["run"]].converged if row["run"] in progress else "",
                "cells": [_NO_VALUE | row["metrics"].get(name, {}) for name in shown],
                "worse": _worse(floors[row["run"]]) if row["run"] in floors else "",
            }
            for row in rows
        ],
    }


_NO_VALUE = {"value": None, "low": None, "high": None}


def _worse(floor: Mapping[str, Any]) -> str:
    return ", ".join(f"{len(chart['worse'])} of {chart['cells']}" for chart in floor["maps"])


def read_runs(paths: Iterable[Path]) -> tuple[list[RunFiles], dict[str, str]]:
    """Return evaluated runs, and why others in the same folders were passed over, by name.

    Raises:
        UserError: A path is neither a run folder nor a folder of runs, or as `read_run`.
    """
    found, passed_over = [], {}
    for path in map(Path, paths):
        inside = [folder for folder in sorted(path.glob("*/")) if (folder / "config.json").is_file()]
        if not inside or (path / "config.json").is_file() or (path / "metrics.json").is_file():
            found.append(read_run(path))
            continue
        for folder in inside:
            if (folder / "metrics.json").is_file():
                found.append(read_run(folder))
            else:
                passed_over[folder.name] = f"not evaluated; run `trackkeras evaluate {folder}`"
    return found, passed_over


def shared_rows(runs: Sequence[RunFiles]) -> list[SharedRows]:
    """Return the rows that at least two runs share, those of most runs first."""
    found: dict[Any, list[tuple[RunFiles, Mapping[str, Any]]]] = {}
    for run in sorted(runs, key=lambda run: str(run.metrics["run"])):
        for sample in run.metrics["samples"]:
            found.setdefault(_rows_identity(run, sample), []).append((run, sample))
    groups = sorted((group for group in found.values() if len(group) > 1), key=lambda group: -len(group))
    names = [" = ".join(dict.fromkeys(sample["name"] for _, sample in group)) for group in groups]
    # Two groups may have one name: the test rows of two datasets.
    return [
        SharedRows(
            f"{name} ({names[:index].count(name) + 1})" if names.count(name) > 1 else name, tuple(group)
        )
        for index, (name, group) in enumerate(zip(names, groups, strict=True))
    ]


def _tabulate(runs: Sequence[RunFiles], sort: str | None) -> list[dict[str, Any]]:
    names = [run.metrics["run"] for run in runs]
    if len(runs) < 2:
        raise UserError(f"a comparison needs at least two runs, received {len(runs)}")
    if len(set(names)) < len(names):
        raise UserError(f"each run may be given once, received {', '.join(names)}")
    found = sorted({run.metrics["domain"] for run in runs})
    if len(found) > 1:
        raise UserError(f"runs of one domain can be compared, received {', '.join(found)}")
    definitions = metric_definitions([run.metrics for run in runs])
    key = sort or next(iter(definitions))
    if key not in definitions:
        near = difflib.get_close_matches(key, definitions, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(definitions)}"
        raise UserError(f"no metric named {key!r}; {hint}")
    groups = shared_rows(runs)
    if not groups:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in _unshared(runs).items())
        raise UserError(
            f"{', '.join(names)} share no sample with the same rows ({reasons}); evaluate them alike"
        )
    table = []
    for group in groups:
        rows: list[dict[str, Any]] = []
        for run, sample in group.members:
            for row in _estimator_rows(run, sample, group.name):
                if row["run"] is not None or row not in rows:
                    rows.append(row)
        table += sorted(rows, key=lambda row: magnitude(row["metrics"].get(key)))
    return table


def _estimator_rows(run: RunFiles, sample: Mapping[str, Any], name: str) -> Iterable[dict[str, Any]]:
    model = (run.config or {}).get("model") or {}
    for key, estimator in sample["estimators"].items():
        network = estimator.get("kind") == "network"
        yield {
            "sample": name,
            "rows": sample["rows"],
            "simulated": sample["simulated"],
            "run": run.metrics["run"] if network else None,
            "label": estimator.get("label", key),
            "kind": estimator.get("kind", "baseline"),
            "preset": run.metrics["preset"] if network else None,
            "model": model if network else None,
            "parameters": run.metrics["parameters"] if network else None,
            "training_time": (run.history or {}).get("training_time") if network else None,
            "cost": estimator.get("cost"),
            "metrics": sample["metrics"].get(key, {}),
        }


def _rows_identity(run: RunFiles, sample: Mapping[str, Any]) -> Any:
    if "rows_digest" in sample:
        return sample["rows_digest"]
    return run.metrics["dataset"].get("config_hash"), sample.get("description"), sample["rows"]


def _unshared(runs: Sequence[RunFiles]) -> dict[str, str]:
    """Return the rows that one run alone was evaluated on, with the reason."""
    shared = {_rows_identity(run, sample) for group in shared_rows(runs) for run, sample in group.members}
    reasons: dict[str, str] = {}
    for run in runs:
        for sample in run.metrics["samples"]:
            if _rows_identity(run, sample) in shared:
                continue
            others = [
                other.metrics["run"]
                for other in runs
                if other is not run
                and any(sample["name"] == each["name"] for each in other.metrics["samples"])
            ]
            known = f"other rows than in {', '.join(others)}" if others else "evaluated by no other run"
            reasons[f"{sample['name']} of {run.metrics['run']}"] = known
    return reasons


def _comparison_section(
    group: SharedRows,
    rows: Sequence[Mapping[str, Any]],
    definitions: Mapping[str, Mapping[str, Any]],
    sort: str | None,
) -> dict[str, Any]:
    sample = group.members[0][1]
    found = {name: item for name, item in definitions.items() if any(name in row["metrics"] for row in rows)}
    important = dict.fromkeys([*([sort] if sort else []), *headline_metrics(found)])
    shown = list(dict.fromkeys([*important, *found]))
    cells = {name: emphasise([row["metrics"].get(name) for row in rows]) for name in shown}
    figures = []
    for metric in important:
        for amount, label in plots.AMOUNTS.items():
            if not any(row["kind"] == "network" and row[amount] for row in rows):
                continue
            figure = plots.comparison(rows, metric, definitions[metric], amount)
            name = slug(f"{group.name}_{metric}_{amount}")
            title = f"{plots.metric_label(metric, definitions[metric])} against {label}"
            figures.append(plots.inline_svg(plots.render(figure, "svg").decode(), name, title))
    return {
        **sample,
        "name": group.name,
        "runs": len(group.members),
        "columns": [{"metric": name, "label": plots.metric_label(name, definitions[name])} for name in shown],
        "table": [{**row, "cells": [cells[name][index] for name in shown]} for index, row in enumerate(rows)],
        "figures": figures,
    }
