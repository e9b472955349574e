"""Optional logging of a run to MLflow."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from typing import Any

import keras

from trackkeras.config import Run, flatten
from trackkeras.errors import UserError
from trackkeras.runs import RunFolder


def check_installed() -> None:
    """Raise a UserError unless MLflow can be imported."""
    if importlib.util.find_spec("mlflow") is None:
        raise UserError("--mlflow needs MLflow, which is not installed: pip install 'trackkeras[mlflow]'")


class MlflowLogger(keras.callbacks.Callback):
    """Log configuration, losses and metrics per epoch, and the best epoch.

    The server is the one that `MLFLOW_TRACKING_URI` names, or else a local database beside the runs.

    Args:
        folder: The run folder; its name is the name of the MLflow run.
        run: The configuration, logged as parameters.
    """

    def __init__(self, folder: RunFolder, run: Run) -> None:
        super().__init__()
        check_installed()
        self.folder, self.run = folder, run

    def on_train_begin(self, logs: Any = None) -> None:
        """Open the MLflow run."""
        import mlflow

        if "MLFLOW_TRACKING_URI" not in os.environ:
            mlflow.set_tracking_uri(f"sqlite:///{(self.folder.path.parent / 'mlflow.db').resolve()}")
        mlflow.set_experiment(self.run.domain)
        mlflow.start_run(run_name=self.folder.name)
        mlflow.log_params(flatten(self.run.model_dump(mode="json")))

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Log the epoch's losses and metrics."""
        import mlflow

        mlflow.log_metrics({key: float(value) for key, value in (logs or {}).items()}, step=epoch + 1)

    def on_train_end(self, logs: Any = None) -> None:
        """Close the MLflow run."""
        import mlflow

        mlflow.end_run()
