"""What the folder of an evaluated run holds, read and checked for the pages that are made of it."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfrecords_tools.errors import RecordError
from tfrecords_tools.files import read_json
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


def metric_definitions(all_metrics: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return unit, quantity, statistic and target of every metric that occurs."""
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


def headline_metrics(definitions: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the metrics that get figures: those with a target, else the first."""
    return [name for name, item in definitions.items() if item.get("target") is not None] or list(
        definitions
    )[:1]
