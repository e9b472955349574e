"""How the trainings of several runs went: numbers from their histories."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trackkeras.run_files import RunFiles

SHARE = 0.9
"""Share of the final accuracy, the inverse of an error, at which a training counts as converged."""
RISE = 0.05
"""Rise of the validation loss above its lowest value that counts as overfitting."""


@dataclass(frozen=True)
class Convergence:
    """One training, epoch by epoch.

    Attributes:
        run: Name of the run.
        kind: Kind of its network.
        size: Size or widths of its network, as text.
        parameters: Trainable weights.
        options: Other options of its network, as text.
        alike: Equal for trainings that differ in nothing but kind, size, seed and the options of the kind.
        error: Name of what `errors` holds: the headline metric where the history has it, else `loss`.
        errors: Validation error per epoch, `(epochs,)`.
        train: Training losses by name, each `(epochs,)`; lists become `NAME 1`, `NAME 2`, ...
        val: The same of the validation rows.
        best_epoch: Epoch of the lowest validation loss, 1 is the first.
        seconds: Time of the whole training.
        stopped: Why it ended.
    """

    run: str
    kind: str
    size: str
    parameters: int
    options: str
    alike: str
    error: str
    errors: NDArray[np.float64]
    train: Mapping[str, NDArray[np.float64]]
    val: Mapping[str, NDArray[np.float64]]
    best_epoch: int
    seconds: float | None
    stopped: str | None

    @property
    def epochs(self) -> int:
        """Number of epochs."""
        return len(self.errors)

    @property
    def converged(self) -> int:
        """First epoch whose error is at most that of the best epoch divided by `SHARE`."""
        return int(np.argmax(self.errors <= self.errors.min() / SHARE)) + 1

    @property
    def improving(self) -> bool:
        """Whether the best epoch is the last one, so that a longer training might have gone on."""
        return self.best_epoch == self.epochs

    @property
    def gap(self) -> float:
        """Validation loss over training loss in the last epoch."""
        return float(self.val["loss"][-1] / self.train["loss"][-1])

    @property
    def rise(self) -> float:
        """Validation loss of the last epoch above the lowest one, as a share of that."""
        return float(self.val["loss"][-1] / self.val["loss"].min()) - 1.0

    @property
    def overfits(self) -> bool:
        """Whether the validation loss rose from its lowest value while the training loss fell on."""
        lowest = int(np.argmin(self.val["loss"]))
        return self.rise > RISE and bool(self.train["loss"][-1] < self.train["loss"][lowest])

    @property
    def physics(self) -> bool:
        """Whether the loss that was trained holds a physics loss."""
        if "physics_loss" not in self.train or "data_loss" not in self.train:
            return "physics_loss" in self.train
        # What is a multiple of the data loss, whatever the weight, holds nothing else.
        share = self.train["loss"] / np.maximum(self.train["data_loss"], 1e-30)
        return not np.allclose(share, 1.0 if len(share) == 1 else share[0], rtol=1e-4)


def convergences(runs: Sequence[RunFiles], metric: str) -> list[Convergence]:
    """Return the trainings of the runs whose history holds losses of training and validation.

    Args:
        runs: Evaluated runs.
        metric: The headline metric.
    """
    return [_convergence(run, metric) for run in runs if _has_losses(run.history or {})]


def _has_losses(history: Mapping[str, Any]) -> bool:
    train, val = history.get("train") or [], history.get("val") or []
    return bool(val) and len(train) == len(val) and all("loss" in row for row in (*train, *val))


def _convergence(run: RunFiles, metric: str) -> Convergence:
    history, config = run.history or {}, run.config or {}
    train, val = _columns(history.get("train") or []), _columns(history["val"])
    model = config.get("model") or {}
    error = metric if metric in val else "loss"
    return Convergence(
        run=run.metrics["run"],
        kind=str(model.get("kind", "network")),
        size=_size(model),
        parameters=run.metrics["parameters"],
        options=json.dumps(
            {key: value for key, value in model.items() if key not in ("size", "hidden")}, sort_keys=True
        ),
        alike=_alike(run),
        error=error,
        errors=val[error],
        train=train,
        val=val,
        best_epoch=history.get("best_epoch") or int(np.argmin(val["loss"])) + 1,
        seconds=history.get("training_time"),
        stopped=history.get("stopped"),
    )


def _size(model: Mapping[str, Any]) -> str:
    hidden = model.get("hidden")
    return "-".join(map(str, hidden)) if hidden else str(model.get("size", "?"))


def _alike(run: RunFiles) -> str:
    """Return data and training options as text, without the seed."""
    config = run.config or {}
    training = {key: value for key, value in (config.get("training") or {}).items() if key != "seed"}
    data = run.metrics["dataset"].get("config_hash")
    return json.dumps([data, config.get("data"), training], sort_keys=True)


def _columns(entries: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[np.float64]]:
    """Turn one mapping per epoch into one array per key; what an epoch lacks is NaN."""
    flat = []
    for entry in entries:
        row: dict[str, float] = {}
        for key, value in entry.items():
            if isinstance(value, list):
                row |= {f"{key} {index + 1}": float(each) for index, each in enumerate(value)}
            elif isinstance(value, int | float):
                row[key] = float(value)
        flat.append(row)
    keys = dict.fromkeys(key for row in flat for key in row)
    return {key: np.array([row.get(key, np.nan) for row in flat]) for key in keys}
