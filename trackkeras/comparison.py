"""Several evaluated runs, and their baselines, on the rows that they share: a table and a page."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trackkeras import plots
from trackkeras.errors import UserError
from trackkeras.pages import emphasise, magnitude, render_page, slug, write_page
from trackkeras.run_files import RunFiles, headline_metrics, metric_definitions, read_run


def comparison_table(run_dirs: Iterable[Path], sort: str | None = None) -> list[dict[str, Any]]:
    """Return the metrics of several runs on the rows that they share.

    A sample is shared when every run has it with the same rows: the same `rows_digest` where `metrics.json`
    gives one, else the same data set, description and number of rows. Samples that only some runs have, or
    have with other rows, are left out.

    Args:
        run_dirs: Run folders.
        sort: Metric whose value orders the rows of a sample, smallest first; default: the first one defined.

    Returns:
        One mapping per sample and estimator, all with the same keys: `sample`, `rows`, `simulated`, `run`
        (None for a baseline), `label`, `kind`, `preset`, `parameters`, `cost` and the value of each metric by
        its name. A baseline that is equal in all runs occurs once.

    Raises:
        UserError: As `read_run`; fewer than two runs, two of one name, several domains, no shared sample, or
            an unknown metric.
    """
    table = _tabulate([read_run(Path(run_dir)) for run_dir in run_dirs], sort)
    metrics = dict.fromkeys(name for row in table for name in row["metrics"])
    flat = []
    for row in table:
        values = {name: (row["metrics"].get(name) or {}).get("value") for name in metrics}
        flat.append({key: value for key, value in row.items() if key != "metrics"} | values)
    return flat


def write_comparison(run_dirs: Iterable[Path], out: Path, sort: str | None = None) -> Path:
    """Write one HTML page that compares several runs on the rows that they share.

    Args:
        run_dirs: Run folders.
        out: The HTML file to write.
        sort: As for `comparison_table`.

    Returns:
        The path of the page.

    Raises:
        UserError: As `comparison_table`, or `out` is a folder.
    """
    out = Path(out)
    if out.is_dir():
        raise UserError(f"{out} is a folder; name the HTML file to write, such as {out / 'comparison.html'}")
    runs = [read_run(Path(run_dir)) for run_dir in run_dirs]
    table = _tabulate(runs, sort)
    definitions = metric_definitions([run.metrics for run in runs])
    sections = []
    for sample in runs[0].metrics["samples"]:
        rows = [row for row in table if row["sample"] == sample["name"]]
        if rows:
            sections.append(_comparison_section(sample, rows, definitions, sort))
    page = render_page(
        "comparison.html.j2",
        runs=[run.metrics for run in runs],
        sections=sections,
        unshared=_unshared(runs),
        sort=sort or next(iter(definitions)),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    return write_page(out, page)


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
    shared = _shared(runs)
    if not shared:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in _unshared(runs).items())
        raise UserError(
            f"{', '.join(names)} share no sample with the same rows ({reasons}); evaluate them alike"
        )
    table = []
    for name in shared:
        rows: list[dict[str, Any]] = []
        for run in runs:
            for row in _estimator_rows(run, _samples(run)[name]):
                if row["run"] is not None or row not in rows:
                    rows.append(row)
        table += sorted(rows, key=lambda row: magnitude(row["metrics"].get(key)))
    return table


def _estimator_rows(run: RunFiles, sample: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    for name, estimator in sample["estimators"].items():
        network = estimator.get("kind") == "network"
        yield {
            "sample": sample["name"],
            "rows": sample["rows"],
            "simulated": sample["simulated"],
            "run": run.metrics["run"] if network else None,
            "label": estimator.get("label", name),
            "kind": estimator.get("kind", "baseline"),
            "preset": run.metrics["preset"] if network else None,
            "parameters": run.metrics["parameters"] if network else None,
            "cost": estimator.get("cost"),
            "metrics": sample["metrics"].get(name, {}),
        }


def _samples(run: RunFiles) -> dict[str, dict[str, Any]]:
    return {sample["name"]: sample for sample in run.metrics["samples"]}


def _rows_identity(run: RunFiles, sample: Mapping[str, Any]) -> Any:
    if "rows_digest" in sample:
        return sample["rows_digest"]
    return run.metrics["dataset"].get("config_hash"), sample.get("description"), sample["rows"]


def _shared(runs: Sequence[RunFiles]) -> list[str]:
    return [name for name in _samples(runs[0]) if name not in _unshared(runs)]


def _unshared(runs: Sequence[RunFiles]) -> dict[str, str]:
    """Return the samples that cannot be compared, with the reason."""
    reasons = {}
    for name in dict.fromkeys(name for run in runs for name in _samples(run)):
        absent = [run.metrics["run"] for run in runs if name not in _samples(run)]
        if absent:
            reasons[name] = f"not evaluated by {', '.join(absent)}"
            continue
        first = _rows_identity(runs[0], _samples(runs[0])[name])
        other = [run.metrics["run"] for run in runs if _rows_identity(run, _samples(run)[name]) != first]
        if other:
            reasons[name] = f"other rows in {', '.join(other)} than in {runs[0].metrics['run']}"
    return reasons


def _comparison_section(
    sample: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    definitions: Mapping[str, Mapping[str, Any]],
    sort: str | None,
) -> dict[str, Any]:
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
            name = slug(f"{sample['name']}_{metric}_{amount}")
            title = f"{plots.metric_label(metric, definitions[metric])} against {label}"
            figures.append(plots.inline_svg(plots.render(figure, "svg").decode(), name, title))
    return {
        **sample,
        "columns": [{"metric": name, "label": plots.metric_label(name, definitions[name])} for name in shown],
        "table": [{**row, "cells": [cells[name][index] for name in shown]} for index, row in enumerate(rows)],
        "figures": figures,
    }
