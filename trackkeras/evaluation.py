"""Predictions -> numbers: each metric over all rows and in bands, beside the baselines on the same rows.

The result is plain data (`metrics.json`, `residuals.npz`) that plots, report and comparison read; nothing
here knows a detector.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfrecords_tools.files import new_file
from tfrecords_tools.reader import Dataset
from trackkeras.config import Run
from trackkeras.domain import Axis, Baseline, Metric, Rows, Sample, Task, open_dataset, task_of
from trackkeras.error_maps import below_floor, cell_values, empty_map, plain_curve
from trackkeras.errors import UserError
from trackkeras.runs import RunFolder, open_run

STATISTICS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "mean": lambda values: np.mean(values, axis=-1),
    "std": lambda values: np.std(values, axis=-1),
    "w68": lambda values: np.diff(np.quantile(values, [0.159, 0.841], axis=-1), axis=0)[0] / 2,
    "median": lambda values: np.median(values, axis=-1),
    "p68": lambda values: np.quantile(values, 0.68, axis=-1),
    "p95": lambda values: np.quantile(values, 0.95, axis=-1),
    "p99": lambda values: np.quantile(values, 0.99, axis=-1),
}

RESAMPLES = 100
LARGEST_RESAMPLE = 5_000
FEWEST_ROWS_IN_BAND = 20
RESIDUAL_ROWS = 100_000
FIT_ROWS = 100_000
"""Rows of the training split that baselines are fitted to."""

Estimators = Mapping[str, tuple[dict[str, Any], Callable[[Rows], Rows]]]
"""By name, a description (`label`, `kind`, `cost`) and a function from rows to predictions."""


def predict(model: Any, rows: Rows, task: Task, batch_size: int = 8192) -> Rows:
    """Return what the task keeps of the model's outputs, by name, for these rows."""
    parts = []
    for part in in_chunks(rows, task.chunk_rows):
        parts.append(task.summarise(part, raw_outputs(model, part, task, batch_size)))
    return parts[0] if len(parts) == 1 else joined(parts)


def raw_outputs(model: Any, rows: Rows, task: Task, batch_size: int = 8192) -> Rows:
    """Return the model's outputs, by name, for these rows."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="__array__ implementation doesn't accept a copy keyword")
        size = min(batch_size, task.chunk_rows or batch_size)
        return dict(model.predict(task.inputs(rows), batch_size=size, verbose=0))


def in_chunks(rows: Rows, size: int | None) -> Iterator[Rows]:
    """Yield rows in their order, so many at a time; all at once, or if there are none, for None."""
    count = len(next(iter(rows.values())))
    for start in range(0, max(count, 1), size or max(count, 1)):
        yield {name: column[start : start + size] if size else column for name, column in rows.items()}


def joined(parts: Sequence[Rows]) -> Rows:
    """Return the rows of all parts, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def metric_values(task: Task, rows: Rows, pred: Rows) -> dict[str, float]:
    """Return each metric of the domain as one number."""
    errors = task.errors(rows, pred)
    return {
        metric.name: float(STATISTICS[metric.statistic](errors[metric.quantity])) for metric in task.metrics()
    }


def intervals(values: NDArray[Any], statistics: Iterable[str], seed: int = 0) -> dict[str, dict[str, float]]:
    """Return some statistics of a sample, each with its 95 % bootstrap interval.

    Large samples are resampled in subsets of 5,000 rows and the spread is scaled by the square root of the
    size ratio (m-out-of-n bootstrap; Bickel, Goetze, van Zwet, Statistica Sinica 7, 1997).

    Args:
        values: `(n,)`, n >= 1.
        statistics: Keys of `STATISTICS`.
        seed: Seed of the resampling.

    Returns:
        `value`, `low` and `high` by statistic.
    """
    size = min(values.size, LARGEST_RESAMPLE)
    drawn = values[np.random.default_rng(seed).integers(values.size, size=(RESAMPLES, size))]
    shrink = np.sqrt(size / values.size)
    result = {}
    for name in statistics:
        value = float(STATISTICS[name](values))
        low, high = np.quantile(STATISTICS[name](drawn) - value, [0.025, 0.975]) * shrink
        result[name] = {"value": value, "low": value + float(low), "high": value + float(high)}
    return result


def all_intervals(metrics: tuple[Metric, ...], errors: Rows) -> dict[str, dict[str, float]]:
    """Return every metric with its interval; the statistics of one quantity share their resamples."""
    wanted: dict[str, list[Metric]] = {}
    for metric in metrics:
        wanted.setdefault(metric.quantity, []).append(metric)
    found: dict[str, dict[str, float]] = {}
    for quantity, group in wanted.items():
        values = intervals(errors[quantity], [metric.statistic for metric in group])
        found |= {metric.name: values[metric.statistic] for metric in group}
    return {metric.name: found[metric.name] for metric in metrics}


def evaluate_sample(
    task: Task, sample: Sample, estimators: Estimators
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Evaluate several estimators on the rows of one sample.

    Args:
        task: Gives errors, metrics and bands.
        sample: The rows.
        estimators: What is evaluated.

    Returns:
        The sample's entry of `metrics.json`, and signed residuals by `sample/estimator/quantity`.
    """
    metrics, axes = task.metrics(), task.axes()
    result: dict[str, Any] = {
        "name": sample.name,
        "description": sample.description,
        "simulated": sample.simulated,
        "rows": len(next(iter(sample.rows.values()))),
        "rows_digest": rows_digest(sample.rows),
        "estimators": {name: description for name, (description, _) in estimators.items()},
        "metrics": {},
        "bands": [_empty_band(axis, sample.rows) for axis in axes],
    }
    mapped = next((metric for metric in metrics if metric.target is not None), metrics[0])
    pairs = [(pair, tuple(band_index(axis, sample.rows) for axis in pair)) for pair in task.maps()]
    result["maps"] = [empty_map(pair, bands, mapped.name) for pair, bands in pairs]
    residuals = {}
    for name, (_, function) in estimators.items():
        pred = function(sample.rows)
        errors = task.errors(sample.rows, pred)
        bad = {key: int((~np.isfinite(value)).sum()) for key, value in errors.items()}
        if any(bad.values()):
            raise UserError(
                f"{name} gives {max(bad.values())} non-finite predictions on sample {sample.name!r}"
            )
        result["metrics"][name] = all_intervals(metrics, errors)
        for axis, band in zip(axes, result["bands"], strict=True):
            band["metrics"][name] = _in_bands(
                metrics, errors, band_index(axis, sample.rows), len(band["rows"])
            )
        for (pair, bands), chart in zip(pairs, result["maps"], strict=True):
            chart["values"][name] = cell_values(
                pair, bands, errors[mapped.quantity], STATISTICS[mapped.statistic], FEWEST_ROWS_IN_BAND
            )
        for key, values in task.residuals(sample.rows, pred).items():
            residuals[f"{sample.name}/{name}/{key}"] = values[:RESIDUAL_ROWS].astype("float32")
    result["targets"] = {
        metric.name: _target(metric.target, result["metrics"]["network"][metric.name]["value"])
        for metric in metrics
        if metric.target is not None
    }
    result["worse_than_baseline"] = _worse_bands(result, metrics)
    result["floor"] = below_floor(result["maps"], task.floor)
    return result, residuals


def rows_digest(rows: Rows) -> str:
    """Return a hash of the rows; two evaluations can be compared where it is equal."""
    whole = hashlib.sha256()
    for name in sorted(rows):
        whole.update(f"{name} {rows[name].shape} {rows[name].dtype}".encode())
        whole.update(np.ascontiguousarray(rows[name]).tobytes())
    return whole.hexdigest()[:16]


def _target(limit: float, value: float) -> dict[str, Any]:
    return {"limit": limit, "value": value, "met": value < limit}


def band_index(axis: Axis, rows: Rows) -> NDArray[Any]:
    """Return `(n,)` band numbers; the upper edge of the last band belongs to it, -1 is outside."""
    values, edges = axis.values(rows), np.asarray(axis.edges)
    # float32 columns put 0.5 GeV a rounding error below its edge; such rows belong to the band
    values = np.clip(values, edges[0], edges[-1]) if _just_outside(values, edges) else values
    index = np.searchsorted(edges, values, side="right") - 1
    index[values == edges[-1]] = len(edges) - 2
    index[(values < edges[0]) | (values > edges[-1])] = -1
    return index


def _just_outside(values: NDArray[Any], edges: NDArray[Any]) -> bool:
    tolerance = 1e-5
    return bool(values.min() >= edges[0] * (1 - tolerance) and values.max() <= edges[-1] * (1 + tolerance))


def _empty_band(axis: Axis, rows: Rows) -> dict[str, Any]:
    index = band_index(axis, rows)
    counts = [int((index == number).sum()) for number in range(len(axis.edges) - 1)]
    return {
        "axis": axis.name,
        "label": axis.label,
        "log": axis.log,
        "edges": list(axis.edges),
        "rows": counts,
        "metrics": {},
    }


def _in_bands(
    metrics: tuple[Metric, ...], errors: Rows, index: NDArray[Any], bands: int
) -> dict[str, list[dict[str, float] | None]]:
    table: dict[str, list[dict[str, float] | None]] = {metric.name: [] for metric in metrics}
    for number in range(bands):
        inside = index == number
        enough = inside.sum() >= FEWEST_ROWS_IN_BAND
        cut = {name: values[inside] for name, values in errors.items()}
        found = all_intervals(metrics, cut) if enough else dict.fromkeys(table)
        for name, entries in table.items():
            entries.append(found[name])
    return table


def _worse_bands(result: Mapping[str, Any], metrics: tuple[Metric, ...]) -> list[dict[str, Any]]:
    """List the bands in which the network's value of a metric with a target exceeds a baseline's."""
    found = []
    compared = [metric.name for metric in metrics if metric.target is not None]
    baselines = [name for name, entry in result["estimators"].items() if entry["kind"] == "baseline"]
    for band in result["bands"]:
        for metric in compared:
            for name in baselines:
                for number, value in enumerate(band["metrics"]["network"][metric]):
                    other = band["metrics"][name][metric][number]
                    if value and other and value["value"] > other["value"]:
                        limits = band["edges"][number : number + 2]
                        found.append(
                            {"axis": band["axis"], "band": limits, "metric": metric, "baseline": name}
                        )
    return found


def evaluate(
    path: Path,
    data: Path | None = None,
    split: str = "test",
    limit: int | None = None,
    also: Mapping[str, Path] | None = None,
) -> dict[str, Any]:
    """Evaluate the best model of a run and write `metrics.json` and `residuals.npz` into its folder.

    Args:
        path: Run folder.
        data: Dataset folder; by default the one that the run was trained on.
        split: Split whose rows are evaluated.
        limit: Use only the first rows of the split.
        also: Further datasets by name; the same split of each becomes a sample of this name.

    Returns:
        The content of `metrics.json`.

    Raises:
        UserError: The run has no model, or a dataset is missing, of another kind, or named like the split.
    """
    from trackkeras.checkpoints import load_model, trainable_parameters

    folder, run = open_run(path)
    task = task_of(run)
    source = open_dataset(data or Path(folder.read("dataset.json")["path"]), run)
    others = {name: open_dataset(directory, run) for name, directory in (also or {}).items()}
    if split in others:
        raise UserError(f"a further dataset is named {split!r} as the run's own rows are; name it otherwise")
    model = load_model(folder.best, task)
    sample = dataset_sample(task, source, split, limit)
    config = source.manifest.config
    fitted = task.fitted_baselines(lambda: training_rows(folder, run, task))
    own = _estimators(task, run, model, task.baselines(config, run) + fitted)
    wanted: list[tuple[Sample, Estimators]] = [(sample, own)]
    for name, other in others.items():
        # in the field of the other rows
        estimators = _estimators(task, run, model, task.baselines(other.manifest.config, run) + fitted)
        wanted.append((replace(dataset_sample(task, other, split, limit), name=name), estimators))
    wanted += [(each, own) for each in task.extra_samples(run)]
    samples: list[dict[str, Any]] = []
    residuals: dict[str, NDArray[Any]] = {}
    for each, estimators in wanted:
        entry, arrays = evaluate_sample(task, each, estimators)
        samples.append(entry)
        residuals |= arrays
    result = {
        "run": folder.name,
        "preset": run.preset,
        "domain": run.domain,
        "parameters": trainable_parameters(model),
        "dataset": {"description": sample.description, "config_hash": source.manifest.config_hash},
        "metric_definitions": {
            metric.name: {
                "unit": metric.unit,
                "quantity": metric.quantity,
                "statistic": metric.statistic,
                "target": metric.target,
            }
            for metric in task.metrics()
        },
        "residual_labels": task.residual_labels(),
        "curves": [plain_curve(curve) for curve in task.curves(path, sample.rows, config)],
        "samples": samples,
    }
    with new_file(folder.path / "residuals.npz") as stream:
        np.savez_compressed(stream, allow_pickle=False, **residuals)
    folder.write("metrics.json", result)
    _record_test_result(folder, samples[0])
    return result


def dataset_sample(task: Task, source: Dataset, split: str, limit: int | None = None) -> Sample:
    """Return the task's rows of a split with a description of their origin."""
    rows = task.read_rows(source, split, limit)
    manifest = source.manifest
    description = (
        f"{split} rows of {manifest.generator}, configuration {manifest.config_hash}, seed {manifest.seed}"
    )
    return Sample(split, description, rows)


def training_rows(folder: RunFolder, run: Run, task: Task) -> Rows:
    """Return rows on which a run was trained, not those of another dataset that it is evaluated on."""
    source = open_dataset(Path(folder.read("dataset.json")["path"]), run)
    return task.read_rows(source, "train", min(FIT_ROWS, run.data.train_rows or FIT_ROWS))


def _estimators(task: Task, run: Run, model: Any, baselines: tuple[Baseline, ...]) -> Estimators:
    network: dict[str, Any] = {"label": run.preset, "kind": "network", "cost": task.cost(run)}
    estimators: dict[str, tuple[dict[str, Any], Callable[[Rows], Rows]]] = {
        "network": (network, lambda rows: predict(model, rows, task))
    }
    for baseline in baselines:
        entry = {"label": baseline.label, "kind": "baseline", "cost": baseline.cost}
        estimators[baseline.name] = (entry, baseline.predict)
    return estimators


def _record_test_result(folder: RunFolder, sample: Mapping[str, Any]) -> None:
    if not folder.history.is_file():  # published weights come without the story of their training
        return
    history = folder.read("history.json")
    history["test_final"] = {name: entry["value"] for name, entry in sample["metrics"]["network"].items()}
    folder.write("history.json", history)
