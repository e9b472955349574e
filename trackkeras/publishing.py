"""The small part of a run that is kept with a project: its weights, and what says where they come from."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from tfrecords_tools.files import new_file
from trackkeras.checkpoints import load_model, save_model
from trackkeras.domain import task_of
from trackkeras.errors import UserError
from trackkeras.runs import RunFolder, open_run

DESCRIPTIONS = ("config.json", "environment.json", "model_config.json")
"""Files that are kept as they are."""


def publish(path: Path, out: Path, digits: int | None = None) -> RunFolder:
    """Leave what is needed to evaluate and export the best model of a run, and nothing else, as another run.

    History, checkpoints and reports stay behind, and statistics of columns that are neither input nor output.
    The model file is compressed. The dataset is named `data/NAME`, without the place where it was.

    Args:
        path: The run.
        out: Run folder to make.
        digits: Significant binary digits that trained weights keep; None: all. Fewer make a smaller file:
            half precision has 11.

    Returns:
        The new folder.

    Raises:
        UserError: `path` is no run, `out` exists, or `digits` is not in 2 to 53.
    """
    if digits is not None and not 2 <= digits <= 53:
        raise UserError(f"weights keep 2 to 53 binary digits, received {digits}")
    folder, run = open_run(path)
    if out.exists():
        raise UserError(f"{out} exists; choose another folder")
    task = task_of(run)
    model = load_model(folder.best, task)
    if digits is not None:
        for weight in model.trainable_weights:
            weight.assign(rounded(keras.ops.convert_to_numpy(weight), digits))
    temporary = out.with_name(f".{out.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    made = RunFolder(temporary)
    save_model(model, made.best)
    compress(made.best)
    for name in DESCRIPTIONS:
        shutil.copy(folder.path / name, temporary / name)
    if (folder.path / "normalization.json").is_file():  # a network need not carry any
        signature = task.signature()
        kept = {tensor.name for tensor in (*signature.inputs, *signature.outputs)}
        statistics: dict[str, Any] = folder.read("normalization.json")
        made.write("normalization.json", {name: value for name, value in statistics.items() if name in kept})
    dataset = folder.read("dataset.json")
    made.write("dataset.json", {**dataset, "path": f"data/{Path(dataset['path']).name}"})
    temporary.rename(out)
    return RunFolder(out)


def rounded(values: NDArray[Any], digits: int) -> NDArray[Any]:
    """Return numbers rounded to so many significant binary digits, in their own precision."""
    mantissa, exponent = np.frexp(values.astype(np.float64))
    return np.ldexp(np.round(np.ldexp(mantissa, digits)), exponent - digits).astype(values.dtype)


def compress(path: Path) -> None:
    """Write a ZIP file again, such as `.keras`, with its members compressed."""
    with (
        zipfile.ZipFile(path) as old,
        new_file(path) as stream,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(zipfile.ZipInfo(name), old.read(name), zipfile.ZIP_DEFLATED, 9)
