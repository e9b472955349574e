"""Reading and writing `.keras` files."""

from __future__ import annotations

import importlib
from pathlib import Path

import keras
import numpy as np

from trackkeras.domain import Task
from trackkeras.errors import UserError


def save_model(model: keras.Model, path: Path) -> None:
    """Write a model, with its optimizer, so that `path` never holds half of one."""
    temporary = path.with_name(f".{path.stem}.partial.keras")
    model.save(temporary)
    temporary.replace(path)


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Give one model what another one of the same structure learnt, in its own precision.

    That is its trainable weights, and the means and variances that batch normalisation collected.
    """
    for kind in (_trained, _collected):
        for old, new in zip(kind(source), kind(target), strict=True):
            new.assign(keras.ops.convert_to_numpy(old).astype(new.dtype))


def _trained(model: keras.Model) -> list[keras.Variable]:
    return list(model.trainable_weights)


def _collected(model: keras.Model) -> list[keras.Variable]:
    return [
        weight for weight in model.non_trainable_weights if weight.name in ("moving_mean", "moving_variance")
    ]


def trainable_parameters(model: keras.Model) -> int:
    """Return the number of weights that training changes; stored normalisation does not count."""
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def load_model(path: Path, task: Task) -> keras.Model:
    """Read the model of a task.

    Raises:
        UserError: The file is missing or damaged.
    """
    own = ("trackkeras.layers.standardize", "trackkeras.optimizers", "trackkeras.schedules")
    for module in (*own, *task.keras_modules):
        importlib.import_module(module)  # registers the classes that the file names
    if not path.is_file():
        raise UserError(f"no such model: {path}; `trackkeras train --resume` finishes a training")
    try:
        return keras.models.load_model(path)
    except (ValueError, OSError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()[-1][:200]
        raise UserError(f"{path} cannot be read as a Keras model: {reason}") from None
