"""A network as one file that Keras reads, for users who know it by such a name (`track_finder.h5`)."""

from __future__ import annotations

import uuid
from pathlib import Path

import keras
import numpy as np

from trackkeras.checkpoints import load_model
from trackkeras.domain import Rows, Task
from trackkeras.errors import UserError
from trackkeras.evaluation import raw_outputs
from trackkeras.formats import quiet_converters

KERAS_FILES = (".keras", ".h5")


def check_keras_file(path: Path) -> None:
    """Refuse names that Keras would not know how to write.

    Raises:
        UserError: The name has another ending.
    """
    if path.suffix not in KERAS_FILES:
        raise UserError(f"a Keras file must end in {' or '.join(KERAS_FILES)}, received {path.name}")


def write_keras(model: keras.Model, task: Task, path: Path, rows: Rows) -> None:
    """Write a model as one file that Keras reads, `.keras` or the older `.h5`; one that exists is replaced.

    Classes of this package occur in it: `trackkeras.checkpoints.load_model` reads it, as does
    `keras.models.load_model` after an import of the task's modules.

    Args:
        model: The network.
        task: What it is for.
        path: The file.
        rows: Rows on which the file must give what the model gives.

    Raises:
        UserError: It does not, or the file has another ending.
    """
    check_keras_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        with quiet_converters():
            model.save(temporary)
            read = load_model(temporary, task)
        before, after = (raw_outputs(network, rows, task) for network in (model, read))
        differing = [name for name, values in before.items() if not np.array_equal(values, after[name])]
        if differing:
            raise UserError(
                f"{path.name} gives another {', '.join(differing)} than the model; nothing exported"
            )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
