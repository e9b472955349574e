"""Attention in images: which channels, which places, and between the places of a row or a column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

SPATIAL_MAP = "_spatial_map"
"""End of the name of the layers whose output is a spatial attention map."""


@keras.saving.register_keras_serializable(package="trackkeras")
class AcrossChannels(keras.layers.Layer):
    """Mean and largest value over the channels of each place."""

    def call(self, inputs: Any) -> Any:
        """Return `(batch, rows, columns, 2)` from `(batch, rows, columns, channels)`."""
        mean, largest = ops.mean(inputs, axis=-1, keepdims=True), ops.max(inputs, axis=-1, keepdims=True)
        return ops.concatenate([mean, largest], axis=-1)


@keras.saving.register_keras_serializable(package="trackkeras")
class Positions(keras.layers.Layer):
    """Add a learnt vector to each place along one axis.

    Args:
        axis: 1 for rows, 2 for columns.
    """

    def __init__(self, axis: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = axis

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the vectors."""
        shape = [1] * len(input_shape)
        for axis in (self.axis, -1):
            size = input_shape[axis]
            if size is None:
                raise ValueError(f"axis {axis} must have a fixed length. Received: shape {input_shape}")
            shape[axis] = size
        self.vectors = self.add_weight(
            shape=tuple(shape), initializer=keras.initializers.RandomNormal(stddev=0.02), name="vectors"
        )

    def call(self, inputs: Any) -> Any:
        """Return the same shape as `inputs`, `(batch, rows, columns, channels)`."""
        return inputs + ops.cast(self.vectors, inputs.dtype)

    def get_config(self) -> Mapping[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "axis": self.axis}


def channel_and_spatial(inputs: Any, name: str, *, reduction: int = 8, size: int = 7) -> Any:
    """Weigh channels by what they hold on the whole, then places by what they hold in all channels.

    Source: Woo, Park, Lee, Kweon, "CBAM: Convolutional block attention module" (2018).

    Args:
        inputs: `(batch, rows, columns, channels)`.
        name: Beginning of the layers' names; the map of places is the output of `NAME_spatial_map`.
        reduction: Channels over the units between.
        size: Rows and columns of the kernel that weighs places.

    Returns:
        Same shape as `inputs`.
    """
    channels = inputs.shape[-1]
    squeeze = keras.layers.Dense(
        max(channels // reduction, 1), activation="relu", use_bias=False, name=f"{name}_squeeze"
    )
    expand = keras.layers.Dense(channels, use_bias=False, name=f"{name}_expand")
    mean = keras.layers.GlobalAveragePooling2D(name=f"{name}_mean")(inputs)
    largest = keras.layers.GlobalMaxPooling2D(name=f"{name}_largest")(inputs)
    score = keras.layers.Add(name=f"{name}_score")([expand(squeeze(mean)), expand(squeeze(largest))])
    weight = keras.layers.Activation("sigmoid", name=f"{name}_channel_map")(score)
    weight = keras.layers.Reshape((1, 1, channels), name=f"{name}_everywhere")(weight)
    found = keras.layers.Multiply(name=f"{name}_channels")([inputs, weight])
    place = keras.layers.Conv2D(
        1, size, padding="same", activation="sigmoid", use_bias=False, name=f"{name}{SPATIAL_MAP}"
    )(AcrossChannels(name=f"{name}_across")(found))
    return keras.layers.Multiply(name=f"{name}_places")([found, place])


def axial(inputs: Any, heads: int, name: str) -> Any:
    """Let the places of each column attend to each other, then those of each row; add and normalise.

    Source: Ho, Kalchbrenner, Weissenborn, Salimans, "Axial attention in multidimensional transformers"
    (2019).

    Args:
        inputs: `(batch, rows, columns, channels)`.
        heads: Attention heads; they share the channels.
        name: Beginning of the layers' names.

    Returns:
        Same shape as `inputs`.
    """
    for axis, direction in ((1, "height"), (2, "width")):
        label = f"{name}_{direction}"
        placed = Positions(axis, name=f"{label}_positions")(inputs)
        attended = keras.layers.MultiHeadAttention(
            heads, max(inputs.shape[-1] // heads, 1), attention_axes=(axis,), name=label
        )(placed, placed)
        total = keras.layers.Add(name=f"{label}_sum")([inputs, attended])
        inputs = keras.layers.LayerNormalization(name=f"{label}_norm")(total)
    return inputs
