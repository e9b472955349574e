"""Normalisation inside the graph, with its numbers as weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from trackkeras.tangents import chain


@keras.saving.register_keras_serializable(package="trackkeras")
class Standardize(keras.layers.Layer):
    """Subtract a mean and divide by a scale, component by component.

    Mean and scale are non-trainable weights: they survive saving, and SavedModel and ONNX carry them as
    constants (`keras.layers.Normalization` turns them into required inputs of the ONNX file). The layer
    computes in float32 under any precision policy.

    Args:
        mean: `(components,)`, in the unit of the input.
        scale: `(components,)`, positive, in the unit of the input.

    Raises:
        ValueError: Shapes differ, or a scale is not positive and finite.
    """

    def __init__(self, mean: Sequence[float], scale: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.mean_values = np.asarray(mean, dtype="float64")
        self.scale_values = np.asarray(scale, dtype="float64")
        if self.mean_values.shape != self.scale_values.shape or self.mean_values.ndim != 1:
            raise ValueError(
                f"mean and scale must have one common length. Received: {self.mean_values.shape} "
                f"and {self.scale_values.shape}"
            )
        if not (np.isfinite(self.mean_values).all() and (self.scale_values > 0).all()):
            raise ValueError(f"scale must be positive and mean finite. Received: scale={scale}, mean={mean}")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the two weights."""
        shape = self.mean_values.shape
        self.mean = self._constant("mean", self.mean_values, shape)
        self.inverse_scale = self._constant("inverse_scale", 1.0 / self.scale_values, shape)

    def _constant(self, name: str, values: np.ndarray, shape: tuple[int, ...]) -> keras.Variable:
        initializer = keras.initializers.Constant(0.0)
        weight = self.add_weight(shape=shape, initializer=initializer, trainable=False, name=name)
        weight.assign(values)
        return weight

    def call(self, inputs: Any) -> Any:
        """Return `(inputs - mean) / scale`, same shape as `inputs`."""
        return (inputs - self.mean) * self.inverse_scale

    def push_forward(self, inputs: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
        """Return output and tangent, see `trackkeras.tangents`."""
        return self.call(inputs[0]), chain((self.inverse_scale[None], tangents[0]))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the input's shape."""
        return input_shape

    def get_config(self) -> Mapping[str, Any]:
        """Return the arguments of the constructor."""
        numbers = {"mean": self.mean_values.tolist(), "scale": self.scale_values.tolist()}
        return {**super().get_config(), **numbers}
