"""Convolutions over images, in stages."""

from __future__ import annotations

from typing import Any

import keras


def conv(inputs: Any, filters: int, name: str, *, size: int = 3, normalise: bool = True) -> Any:
    """Apply a convolution, batch normalisation if asked for, and ReLU.

    Args:
        inputs: `(batch, rows, columns, channels)`.
        filters: Channels of the result.
        name: Beginning of the layers' names.
        size: Rows and columns of the kernel.
        normalise: Whether to normalise; the convolution has no bias then.

    Returns:
        `(batch, rows, columns, filters)`.
    """
    found = keras.layers.Conv2D(filters, size, padding="same", use_bias=not normalise, name=name)(inputs)
    if normalise:
        found = keras.layers.BatchNormalization(name=f"{name}_norm")(found)
    return keras.layers.Activation("relu", name=f"{name}_relu")(found)


def residual(inputs: Any, filters: int, name: str) -> Any:
    """Apply two normalised 3x3 convolutions and add the input, by a 1x1 convolution where widths differ.

    Source: He, Zhang, Ren, Sun, "Deep residual learning for image recognition" (2015).

    Args:
        inputs: `(batch, rows, columns, channels)`.
        filters: Channels of the result.
        name: Beginning of the layers' names.

    Returns:
        `(batch, rows, columns, filters)`.
    """
    found = conv(inputs, filters, f"{name}_first")
    second = f"{name}_second"
    found = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False, name=second)(found)
    found = keras.layers.BatchNormalization(name=f"{second}_norm")(found)
    if inputs.shape[-1] != filters:
        inputs = keras.layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_shortcut")(inputs)
        inputs = keras.layers.BatchNormalization(name=f"{name}_shortcut_norm")(inputs)
    total = keras.layers.Add(name=f"{name}_sum")([found, inputs])
    return keras.layers.Activation("relu", name=f"{name}_relu")(total)
