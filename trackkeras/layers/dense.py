"""Fully connected stacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras


def dense_stack(
    inputs: Any, widths: Sequence[int], activation: str, name: str = "hidden", dtype: str | None = None
) -> Any:
    """Apply `Dense` layers of the given widths, one after the other.

    Args:
        inputs: `(batch, features)`.
        widths: Units of each layer.
        activation: Keras activation of each layer.
        name: Layers are called `name_0`, `name_1`, ...
        dtype: Number format; the global policy if None.

    Returns:
        `(batch, widths[-1])`.
    """
    for index, units in enumerate(widths):
        inputs = keras.layers.Dense(units, activation=activation, dtype=dtype, name=f"{name}_{index}")(inputs)
    return inputs
