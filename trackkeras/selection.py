"""Which of several runs to export: the best one by a metric of its validation rows.

The choice goes by validation rows, at the epoch whose weights were kept: the smallest of several numbers on
test rows would be too good to be true of new data, and could no longer judge the chosen network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trackkeras.errors import UserError
from trackkeras.run_files import RunFiles, read_run


@dataclass(frozen=True)
class Choice:
    """The best of some runs.

    Attributes:
        path: Its folder.
        metric: What was compared.
        values: The metric of every run that was compared, by name, smallest first.
        skipped: Why other runs were not compared, by name.
    """

    path: Path
    metric: str
    values: dict[str, float]
    skipped: dict[str, str]

    @property
    def reason(self) -> str:
        """One line: which run, and why."""
        name, *others = self.values
        text = (
            f"{self.path}: {self.metric} {self.values[name]:.4g} on the validation rows at its best epoch, "
            f"the smallest of {len(self.values)} evaluated runs"
        )
        if others:
            text += f" (next: {others[0]} with {self.values[others[0]]:.4g})"
        return text + "".join(f"; {run} left out: {why}" for run, why in self.skipped.items())

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {"metric": self.metric, "values": self.values, "skipped": self.skipped, "reason": self.reason}


def best_run(folder: Path, metric: str) -> Choice:
    """Return the evaluated run with the smallest value of a metric.

    Args:
        folder: Folder of run folders.
        metric: A metric of the domain, such as `pos_95_mm`.

    Raises:
        UserError: There is no evaluated run, the metric is unknown, or the runs learnt from different
            datasets, whose validation rows say nothing about each other.
    """
    if not folder.is_dir():
        raise UserError(f"no such folder of runs: {folder}")
    found: dict[str, RunFiles] = {}
    skipped: dict[str, str] = {}
    for path in sorted(entry.parent for entry in folder.glob("*/config.json")):
        if (path / "metrics.json").is_file() and (path / "best.keras").is_file():
            found[path.name] = read_run(path)
        else:
            skipped[path.name] = "not evaluated"
    if not found:
        raise UserError(
            f"{folder} holds no evaluated run; `trackkeras evaluate RUN` makes one of a trained run"
        )
    datasets = {(files.dataset or {}).get("config_hash") for files in found.values()}
    if len(datasets) > 1:
        raise UserError(
            f"the {len(found)} evaluated runs in {folder} learnt from {len(datasets)} datasets; a metric "
            "compares runs of one: put the others elsewhere, or name the run to export"
        )
    values = {name: _value(files, metric) for name, files in found.items()}
    ordered = dict(sorted(values.items(), key=lambda item: item[1]))
    return Choice(folder / next(iter(ordered)), metric, ordered, skipped)


def kept_record(history: Mapping[str, Any]) -> dict[str, Any]:
    """Return loss and metrics of the validation rows at the epoch whose weights were kept."""
    (record,) = [entry for entry in history["val"] if entry["epoch"] == history["best_epoch"]]
    return dict(record)


def _value(files: RunFiles, metric: str) -> float:
    """Return a metric at the epoch whose weights were kept."""
    history = files.history
    if history is None:
        raise UserError(f"{files.path} has no history.json; train it again")
    record = kept_record(history)
    known = [name for name in files.metrics["metric_definitions"] if name in record]
    if metric not in known:
        raise UserError(f"{files.path} has no metric {metric!r}; there are: {', '.join(known)}")
    return float(record[metric])
