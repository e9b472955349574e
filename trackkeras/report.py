"""The HTML report of a run and the comparison of several, from nothing but the files in their folders.

Both pages are one file each: figures are inline SVG, there is no script and no reference to anything outside.
What a folder lacks is named on the page.
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
import re
import shlex
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from pydantic_core import to_jsonable_python

from tfrecords_tools.errors import RecordError
from tfrecords_tools.files import new_file, read_json
from trackkeras import plots
from trackkeras.config import DataOptions, Options, TrainingOptions, load_run
from trackkeras.domain import find_domain
from trackkeras.errors import UserError


@dataclass(frozen=True)
class RunFiles:
    """What a run folder holds; a part that is not there is None (`residuals`: empty)."""

    path: Path
    metrics: dict[str, Any]
    config: dict[str, Any] | None
    history: dict[str, Any] | None
    environment: dict[str, Any] | None
    dataset: dict[str, Any] | None
    residuals: dict[str, NDArray[Any]] = field(default_factory=dict)


def read_run(run_dir: Path) -> RunFiles:
    """Read the files of a run that a report is made of.

    Raises:
        UserError: The folder is no run folder, was not evaluated yet, or a file in it is damaged.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise UserError(f"no such run folder: {run_dir}")
    if not any((run_dir / name).is_file() for name in ("config.json", "metrics.json")):
        raise UserError(f"{run_dir} is not a run folder: it holds neither config.json nor metrics.json")
    metrics = _read_json(run_dir / "metrics.json")
    if metrics is None:
        raise UserError(f"{run_dir} has no metrics.json; run `trackkeras evaluate {run_dir}` first")
    _check_metrics(metrics, run_dir / "metrics.json")
    return RunFiles(
        run_dir,
        metrics,
        _read_json(run_dir / "config.json"),
        _read_json(run_dir / "history.json"),
        _read_json(run_dir / "environment.json"),
        _read_json(run_dir / "dataset.json"),
        _read_residuals(run_dir / "residuals.npz"),
    )


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
    definitions = _definitions([run.metrics])
    samples = [_sample_section(run, sample, definitions) for sample in run.metrics["samples"]]
    page = _render(
        "report.html.j2",
        metrics=run.metrics,
        samples=samples,
        verdict=_verdict(samples),
        configuration=_configuration(run.config),
        training=_training(run),
        environment=_flatten(run.environment or {}),
        dataset=_flatten({**run.metrics["dataset"], **(run.dataset or {})}),
        commands=_commands(run),
        missing=[
            name for name in ("config", "dataset", "history", "environment") if getattr(run, name) is None
        ],
    )
    return _write_page(run.path / "report.html", page)


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
    definitions = _definitions([run.metrics for run in runs])
    sections = []
    for sample in runs[0].metrics["samples"]:
        rows = [row for row in table if row["sample"] == sample["name"]]
        if rows:
            sections.append(_comparison_section(sample, rows, definitions, sort))
    page = _render(
        "comparison.html.j2",
        runs=[run.metrics for run in runs],
        sections=sections,
        unshared=_unshared(runs),
        sort=sort or next(iter(definitions)),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    return _write_page(out, page)


# -- reading -------------------------------------------------------------------------------------------------


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = read_json(path)
    except RecordError as error:
        raise UserError(f"{error}; restore it or remove it") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object, received {type(content).__name__}")
    return content


def _read_residuals(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is damaged ({error}); run `trackkeras evaluate {path.parent}` again"
        ) from None


def _check_metrics(metrics: Mapping[str, Any], path: Path) -> None:
    needed = ("run", "preset", "domain", "parameters", "dataset", "metric_definitions", "samples")
    absent = [key for key in needed if key not in metrics]
    for sample in metrics.get("samples", []):
        absent += [
            f"samples.{key}"
            for key in ("name", "rows", "simulated", "estimators", "metrics")
            if key not in sample
        ]
    if absent or not metrics["samples"]:
        what = f"lacks {', '.join(absent)}" if absent else "has no sample"
        raise UserError(f"{path} {what}; run `trackkeras evaluate {path.parent}` again")


def _definitions(all_metrics: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    # A metric without a definition is shown all the same, by its name.
    definitions: dict[str, dict[str, Any]] = {}
    for metrics in all_metrics:
        for name, definition in metrics["metric_definitions"].items():
            definitions.setdefault(name, dict(definition))
    for metrics in all_metrics:
        for sample in metrics["samples"]:
            for values in sample["metrics"].values():
                for name in values:
                    definitions.setdefault(name, {})
    return definitions


def _headline(definitions: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the metrics worth a figure: those with a target, else the first."""
    return [name for name, item in definitions.items() if item.get("target") is not None] or list(
        definitions
    )[:1]


# -- the sections of a report --------------------------------------------------------------------------------


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
        cells = _emphasise([sample["metrics"][column["name"]].get(name) for column in columns])
        baselines = [
            (cell, column) for cell, column in zip(cells, columns, strict=True) if column["kind"] != "network"
        ]
        accuracy.append(
            {
                "metric": name,
                "label": plots.metric_label(name, definitions[name]),
                "target": sample.get("targets", {}).get(name),
                "cells": cells,
                "best_baseline": min(baselines, key=lambda pair: _magnitude(pair[0]), default=None),
            }
        )
    return {
        **sample,
        "columns": columns,
        "accuracy": accuracy,
        "worse": _worse(sample),
        "residuals": _residual_figure(run, sample),
        "axes": [_axis_section(run, sample, band, definitions) for band in sample.get("bands", [])],
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
                    "cells": _emphasise(cells),
                    "worse": (metric, *limits) in worse,
                }
            )
        tables.append({"metric": metric, "label": label, "rows": rows})
        if metric in _headline({name: definitions[name] for name in present}):
            figure = plots.error_in_bands(sample, band, metric, definitions[metric])
            name = f"{sample['name']}_{metric}_in_{band['axis']}"
            figures.append(_figure(run, figure, name, f"{label} in bands of {axis}"))
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
    return _figure(run, figure, f"{sample['name']}_residuals", f"residuals of {', '.join(arrays)}")


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
    compared = all(sample["worse"] is not None for sample in samples)
    return {
        "targets": len(targets),
        "met": met,
        "worse": worse,
        "compared": compared,
        "good": met == len(targets) and not worse and compared,
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
        drawn = _figure(
            run, figure, "loss_curves", "training and validation loss and learning rate per epoch"
        )
    return {"facts": facts, "figure": drawn}


def _configuration(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Split a configuration into what differs from the defaults and what does not."""
    if config is None:
        return None
    defaults = {"data": _defaults(DataOptions), "training": _defaults(TrainingOptions)}
    try:
        defaults["model"] = _defaults(find_domain(str(config.get("domain"))).ModelOptions)
        note = None
    except UserError as error:
        note = f"The model's defaults are not known here: {error}."
    default, values = _flatten(defaults), _flatten(config)
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
        preset = _flatten(load_run(str(run.config["preset"])).model_dump(mode="json"))
    except (UserError, KeyError):
        note = "The preset is not among the shipped ones; config.json holds the complete configuration."
        return {"lines": later, "note": note}
    folder = (run.dataset or {}).get("path", "DIR")
    line = ["trackkeras", "train", str(run.config["preset"]), "--data", str(folder), "--name", name]
    for key, value in _flatten(run.config).items():
        if value != preset.get(key):
            line += ["--set", f"{key}={json.dumps(value)}"]
    note = f"{folder} holds the data set of configuration {run.metrics['dataset'].get('config_hash')}."
    return {"lines": [" ".join(map(shlex.quote, line)), *later], "note": note}


# -- the comparison ------------------------------------------------------------------------------------------


def _tabulate(runs: Sequence[RunFiles], sort: str | None) -> list[dict[str, Any]]:
    names = [run.metrics["run"] for run in runs]
    if len(runs) < 2:
        raise UserError(f"a comparison needs at least two runs, received {len(runs)}")
    if len(set(names)) < len(names):
        raise UserError(f"each run may be given once, received {', '.join(names)}")
    found = sorted({run.metrics["domain"] for run in runs})
    if len(found) > 1:
        raise UserError(f"runs of one domain can be compared, received {', '.join(found)}")
    definitions = _definitions([run.metrics for run in runs])
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
        table += sorted(rows, key=lambda row: _magnitude(row["metrics"].get(key)))
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
    important = dict.fromkeys([*([sort] if sort else []), *_headline(found)])
    shown = list(dict.fromkeys([*important, *found]))
    cells = {name: _emphasise([row["metrics"].get(name) for row in rows]) for name in shown}
    figures = []
    for metric in important:
        for amount, label in plots.AMOUNTS.items():
            if not any(row["kind"] == "network" and row[amount] for row in rows):
                continue
            figure = plots.comparison(rows, metric, definitions[metric], amount)
            name = _slug(f"{sample['name']}_{metric}_{amount}")
            title = f"{plots.metric_label(metric, definitions[metric])} against {label}"
            figures.append(plots.inline_svg(plots.render(figure, "svg").decode(), name, title))
    return {
        **sample,
        "columns": [{"metric": name, "label": plots.metric_label(name, definitions[name])} for name in shown],
        "table": [{**row, "cells": [cells[name][index] for name in shown]} for index, row in enumerate(rows)],
        "figures": figures,
    }


# -- small things --------------------------------------------------------------------------------------------


def _figure(run: RunFiles, figure: Any, name: str, description: str) -> Markup:
    name = _slug(name)
    _, svg = plots.save(figure, run.path / "plots" / name)
    return plots.inline_svg(svg.read_text(), name, description)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _magnitude(cell: Mapping[str, Any] | None) -> float:
    """Return what orders cells: smaller is better, no value comes last."""
    value = None if cell is None else cell.get("value")
    return math.inf if value is None or not math.isfinite(value) else abs(value)


def _emphasise(cells: Sequence[Mapping[str, Any] | None]) -> list[dict[str, Any]]:
    best = min(map(_magnitude, cells), default=math.inf)
    return [
        {**(cell or {"value": None}), "best": math.isfinite(best) and _magnitude(cell) == best}
        for cell in cells
    ]


def _write_page(path: Path, page: str) -> Path:
    with new_file(path) as stream:
        stream.write(page.encode())
    return path


def _render(template: str, **context: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trackkeras", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": format_number,
        "limit": _format_limit,
        "interval": _format_interval,
        "plain": _plain_value,
    }
    return environment.get_template(template).render(**context)


def format_number(value: float | None) -> Markup:
    """Return a number for HTML: a count in full, else three digits; a dash for no value."""
    if value is None or not math.isfinite(value):
        return Markup("–")
    if isinstance(value, int):
        return Markup(f"{value:,}")
    if abs(value) >= 1000:
        return Markup(f"{value:,.0f}" if abs(value) < 1e7 else _power(value))
    if value == 0 or abs(value) >= 1e-3:
        return Markup(f"{value:#.3g}".rstrip("."))
    return Markup(_power(value))


def _format_limit(value: float) -> Markup:
    """Return a number that somebody chose, without added digits."""
    return Markup(_power(value, "g") if "e" in f"{value:g}" else f"{value:g}")


def _format_interval(cell: Mapping[str, Any]) -> Markup:
    """Return `low … high`, a common power of ten written once; nothing where there is no interval."""
    low, high = cell.get("low"), cell.get("high")
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return Markup("")
    largest = max(abs(low), abs(high))
    if largest == 0 or 1e-3 <= largest < 1e7:
        return Markup("{} … {}").format(format_number(low), format_number(high))
    exponent = Decimal(largest).adjusted()
    low, high = (f"{Decimal(value).scaleb(-exponent):.2f}".replace("-", "−") for value in (low, high))
    return Markup("({} … {}) × 10<sup>{}</sup>").format(low, high, str(exponent).replace("-", "−"))


def _power(value: float, digits: str = ".2e") -> str:
    mantissa, _, exponent = f"{value:{digits}}".partition("e")
    return f"{mantissa} × 10<sup>{int(exponent)}</sup>".replace("-", "−")


def _plain_value(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)
