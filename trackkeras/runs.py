"""The run folder: every file of a training, by name.

runs/NAME/
  config.json          the resolved run; `load_run_folder` rebuilds it
  dataset.json         folder, hash and rows of the data
  model_config.json    the network's architecture as Keras writes it, with its parameter count
  environment.json     versions and machine
  normalization.json   statistics of the training rows that the network carries
  history.json         train and val per epoch, best_epoch, best_val_loss, training_time, test_final
  checkpoints/         epoch_NNNN.keras every few epochs; the newest is what a resumed run starts from
  state.json           newest checkpoint, early-stopping state; renamed into place after the checkpoint
  best.keras           the weights of the best epoch
  metrics.json, residuals.npz, plots/, report.html
"""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tfrecords_tools.files import read_json, write_json
from trackkeras.config import Run
from trackkeras.errors import UserError
from trackkeras.presets import run_from_values

PACKAGES = (
    "trackkeras",
    "tensorflow",
    "keras",
    "numpy",
    "numba",
    "tf2onnx",
    "onnx",
    "onnxruntime",
    "protobuf",
)


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.path.name

    @property
    def best(self) -> Path:
        """The model of the best epoch."""
        return self.path / "best.keras"

    @property
    def checkpoints(self) -> Path:
        """Folder of numbered checkpoints."""
        return self.path / "checkpoints"

    @property
    def history(self) -> Path:
        """Losses and metrics per epoch."""
        return self.path / "history.json"

    @property
    def state(self) -> Path:
        """What a resumed run needs besides the checkpoint."""
        return self.path / "state.json"

    @property
    def metrics(self) -> Path:
        """Result of the evaluation."""
        return self.path / "metrics.json"

    def read(self, name: str) -> Any:
        """Read one of the folder's JSON files."""
        return read_json(self.path / name)

    def write(self, name: str, value: Any) -> None:
        """Write one of the folder's JSON files in one step."""
        write_json(self.path / name, value)


def open_run(path: Path) -> tuple[RunFolder, Run]:
    """Return an existing run folder and its configuration.

    Raises:
        UserError: The folder is no run.
    """
    folder = RunFolder(path)
    if not (path / "config.json").is_file():
        raise UserError(f"{path} is not a run folder (no config.json); `trackkeras train` makes one")
    return folder, run_from_values(folder.read("config.json"))


def environment() -> dict[str, Any]:
    """Return versions and machine, as far as they can change a result."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "absent"
    return {
        "python": sys.version.split()[0],
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "packages": versions,
    }
