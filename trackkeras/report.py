"""The HTML report of a run, from nothing but the files in their folders.

The page is one file: figures are inline SVG, there is no script and no reference to anything outside.
What a folder lacks is named on the page.
"""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from numpy.typing import NDArray
from pydantic_core import to_jsonable_python

from trackkeras import plots
from trackkeras.comparison_figures import curve_figures, map_figures
from trackkeras.config import DataOptions, Options, TrainingOptions, flatten
from trackkeras.domain import find_task
from trackkeras.errors import UserError
from trackkeras.pages import emphasise, magnitude, render_page, saved_figure, write_page
from trackkeras.presets import load_run
from trackkeras.run_files import RunFiles, headline_metrics, metric_definitions, read_run


def write_report(run_dir: Path) -> Path:
    """Write `report.html` and the figures in `plots/` of an evaluated run.

    Args:
        run_dir: A run folder with `metrics.json`; `config.json`, `dataset.json`, `history.json`,
            `environment.json` and `residuals.npz` are used where they are.

    Returns:
        The path of the report.

    Raises:
        UserError: As `read_run`.
    """
    run = read_run(run_dir)
    definitions = metric_definitions([run.metrics])
    samples = [_sample_section(run, sample, definitions) for sample in run.metrics["samples"]]
    page = render_page(
        "report.html.j2",
        metrics=run.metrics,
        samples=samples,
        verdict=_verdict(samples),
        configuration=_configuration(run.config),
        training=_training(run),
        curves=curve_figures(run),
        environment=flatten(run.environment or {}),
        dataset=flatten({**run.metrics["dataset"], **(run.dataset or {})}),
        commands=_commands(run),
        missing=[
            name for name in ("config", "dataset", "history", "environment") if getattr(run, name) is None
        ],
    )
    return write_page(run.path / "report.html", page)


def _sample_section(
    run: RunFiles, sample: Mapping[str, Any], definitions: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    estimators = sample["estimators"]
    columns = [
        {"name": name, **estimators.get(name, {"label": name, "kind": "baseline"})}
        for name in sample["metrics"]
    ]
    shown = [name for name in definitions if any(name in values for values in sample["metrics"].values())]
    accuracy = []
    for name in shown:
        cells = emphasise([sample["metrics"][column["name"]].get(name) for column in columns])
        baselines = [
            (cell, column) for cell, column in zip(cells, columns, strict=True) if column["kind"] != "network"
        ]
        accuracy.append(
            {
                "metric": name,
                "label": plots.metric_label(name, definitions[name]),
                "target": sample.get("targets", {}).get(name),
                "cells": cells,
                "best_baseline": min(baselines, key=lambda pair: magnitude(pair[0]), default=None),
            }
        )
    return {
        **sample,
        "columns": columns,
        "accuracy": accuracy,
        "worse": _worse(sample),
        "floor": _floor(sample),
        "residuals": _residual_figure(run, sample),
        "axes": [_axis_section(run, sample, band, definitions) for band in sample.get("bands", [])],
        "maps": map_figures(run, sample, definitions),
    }


def _axis_section(
    run: RunFiles,
    sample: Mapping[str, Any],
    band: Mapping[str, Any],
    definitions: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    names = [name for name in sample["estimators"] if name in band["metrics"]]
    present = [name for name in definitions if any(name in band["metrics"][column] for column in names)]
    worse = {
        (item["metric"], *item["band"])
        for item in sample.get("worse_than_baseline") or []
        if item["axis"] == band["axis"]
    }
    tables, figures = [], []
    axis = band.get("label", band["axis"])
    for metric in present:
        label = plots.metric_label(metric, definitions[metric])
        rows = []
        for index, limits in enumerate(itertools.pairwise(band["edges"])):
            cells = [
                band["metrics"][name][metric][index] if metric in band["metrics"][name] else None
                for name in names
            ]
            rows.append(
                {
                    "band": f"{limits[0]:g} – {limits[1]:g}",
                    "rows": band["rows"][index],
                    "cells": emphasise(cells),
                    "worse": (metric, *limits) in worse,
                }
            )
        tables.append({"metric": metric, "label": label, "rows": rows})
        if metric in headline_metrics({name: definitions[name] for name in present}):
            figure = plots.error_in_bands(sample, band, metric, definitions[metric])
            name = f"{sample['name']}_{metric}_in_{band['axis']}"
            figures.append(saved_figure(run, figure, name, f"{label} in bands of {axis}"))
    return {
        "label": axis,
        "columns": [sample["estimators"][name] for name in names],
        "tables": tables,
        "figures": figures,
    }


def _residual_figure(run: RunFiles, sample: Mapping[str, Any]) -> Markup | None:
    arrays: dict[str, dict[str, NDArray[Any]]] = {}
    for key, values in run.residuals.items():
        for estimator in sample["estimators"]:
            prefix = f"{sample['name']}/{estimator}/"
            if key.startswith(prefix):
                arrays.setdefault(key.removeprefix(prefix), {})[estimator] = values
    if not arrays:
        return None
    figure = plots.residuals(arrays, run.metrics.get("residual_labels", {}), sample)
    return saved_figure(run, figure, f"{sample['name']}_residuals", f"residuals of {', '.join(arrays)}")


def _worse(sample: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Gather the bands where the network loses, metrics that lose alike together; None if nobody looked."""
    if sample.get("worse_than_baseline") is None:
        return None
    labels = {band["axis"]: band.get("label", band["axis"]) for band in sample.get("bands", [])}
    gathered: dict[tuple[str, str, str], list[list[float]]] = {}
    for item in sample["worse_than_baseline"]:
        gathered.setdefault((item["baseline"], item["metric"], item["axis"]), []).append(item["band"])
    alike: dict[tuple[str, str, str], list[str]] = {}
    cases: dict[tuple[str, str, str], int] = {}
    for (baseline, metric, axis), bands in gathered.items():
        key = (baseline, axis, _joined(bands))
        alike.setdefault(key, []).append(metric)
        cases[key] = cases.get(key, 0) + len(bands)
    return [
        {
            "baseline": sample["estimators"].get(baseline, {}).get("label", baseline),
            "metrics": metrics,
            "axis": labels.get(axis, axis),
            "bands": bands,
            "cases": cases[baseline, axis, bands],
        }
        for (baseline, axis, bands), metrics in alike.items()
    ]


def _floor(sample: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the tables of both values, cell by cell, beside what `error_maps.below_floor` says of them."""
    found = sample.get("floor")
    if not found:
        return None
    floor = found["baseline"]
    tables = []
    for chart, verdict in zip(sample["maps"], found["maps"], strict=True):
        across, along = chart["axes"]
        tables.append(
            {
                **verdict,
                "across": across["label"],
                "along": along["label"],
                "columns": [_joined([list(limits)]) for limits in itertools.pairwise(across["edges"])],
                "lines": [
                    {"band": _joined([list(limits)]), "cells": _with_shares(own, other)}
                    for limits, own, other in zip(
                        itertools.pairwise(along["edges"]),
                        chart["values"]["network"],
                        chart["values"][floor],
                        strict=True,
                    )
                ],
                "named": [
                    {**item, "bands": [_joined([limits]) for limits in item["cell"]]}
                    for item in verdict["worse"]
                ],
            }
        )
    label = sample["estimators"].get(floor, {}).get("label", floor)
    return {"label": label, "tables": tables, "cases": sum(len(table["worse"]) for table in tables)}


def _with_shares(
    own: Sequence[float | None], other: Sequence[float | None]
) -> list[tuple[float, float | None] | None]:
    """Return values with their shares of others; None for a cell without values."""
    return [
        None if a is None or b is None else (a, a / b if b else None) for a, b in zip(own, other, strict=True)
    ]


def _joined(bands: Iterable[list[float]]) -> str:
    """Write bands as text, neighbours as one range."""
    ranges: list[list[float]] = []
    for low, high in sorted(bands):
        if ranges and ranges[-1][1] == low:
            ranges[-1][1] = high
        else:
            ranges.append([low, high])
    return ", ".join(f"{low:g} – {high:g}" for low, high in ranges)


def _verdict(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    targets = [target for sample in samples for target in sample.get("targets", {}).values()]
    met = sum(target.get("met") is True for target in targets)
    worse = sum(group["cases"] for sample in samples for group in sample["worse"] or [])
    floors = [sample["floor"] for sample in samples if sample["floor"]]
    below = sum(floor["cases"] for floor in floors)
    compared = all(sample["worse"] is not None for sample in samples)
    return {
        "targets": len(targets),
        "met": met,
        "worse": worse,
        "compared": compared,
        "floors": sorted({floor["label"] for floor in floors}),
        "below": below,
        "good": met == len(targets) and not worse and not below and compared,
    }


def _training(run: RunFiles) -> dict[str, Any] | None:
    if run.history is None:
        return None
    facts = {
        "epochs": len(run.history.get("train") or []),
        "best epoch": run.history.get("best_epoch"),
        "best validation loss": run.history.get("best_val_loss"),
        "training time [s]": run.history.get("training_time"),
    }
    drawn = None
    if run.history.get("train") or run.history.get("val"):
        figure = plots.loss_curves(run.history, run.metrics["run"])
        drawn = saved_figure(
            run, figure, "loss_curves", "training and validation loss and learning rate per epoch"
        )
    return {"facts": facts, "figure": drawn}


def _configuration(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Split a configuration into what differs from the defaults and what does not."""
    if config is None:
        return None
    defaults = {"data": _defaults(DataOptions), "training": _defaults(TrainingOptions)}
    try:
        task = find_task(str(config.get("domain")), config.get("model", {}).get("kind"))
        defaults["model"] = _defaults(task.options)
        note = None
    except UserError as error:
        note = f"The model's defaults are not known here: {error}."
    default, values = flatten(defaults), flatten(config)
    rows = [
        {"key": key, "value": value, "default": default.get(key), "known": key in default}
        for key, value in values.items()
    ]
    return {
        "changed": [row for row in rows if not row["known"] or row["value"] != row["default"]],
        "kept": [row for row in rows if row["known"] and row["value"] == row["default"]],
        "note": note,
    }


def _defaults(options: type[Options]) -> dict[str, Any]:
    return {
        name: to_jsonable_python(item.get_default(call_default_factory=True))
        for name, item in options.model_fields.items()
        if not item.is_required()
    }


def _commands(run: RunFiles) -> dict[str, Any]:
    """Return the shell lines that give this run again, as far as its configuration tells."""
    name = run.metrics["run"]
    later = [f"trackkeras {verb} {shlex.quote(f'runs/{name}')}" for verb in ("evaluate", "report")]
    if run.config is None:
        return {"lines": later, "note": "Without config.json the training command is not known."}
    try:
        preset = flatten(load_run(str(run.config["preset"])).model_dump(mode="json"))
    except (UserError, KeyError):
        note = "The preset is not among the shipped ones; config.json holds the complete configuration."
        return {"lines": later, "note": note}
    folder = (run.dataset or {}).get("path", "DIR")
    line = ["trackkeras", "train", str(run.config["preset"]), "--data", str(folder), "--name", name]
    for key, value in flatten(run.config).items():
        if value != preset.get(key):
            line += ["--set", f"{key}={json.dumps(value)}"]
    note = f"{folder} holds the data set of configuration {run.metrics['dataset'].get('config_hash')}."
    return {"lines": [" ".join(map(shlex.quote, line)), *later], "note": note}
