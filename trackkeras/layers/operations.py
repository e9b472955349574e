"""Arithmetic operations of a network, counted from its layers."""

from __future__ import annotations

from math import prod
from typing import Any

import keras


def counted_operations(model: keras.Model) -> float:
    """Return the operations of a functional network per row.

    A product and a sum of convolutions, dense layers and attention count as two; every other layer that
    computes counts one for each number that it gives.
    """
    return float(sum(_of_layer(layer) for layer in model.layers))


def _of_layer(layer: Any) -> int:
    match layer:
        case keras.layers.Conv2D():
            return 2 * prod(layer.kernel.shape[:-1]) * prod(layer.output.shape[1:])
        case keras.layers.Dense():
            calls = [node.outputs[0].shape[1:] for node in layer._inbound_nodes]
            return sum(2 * layer.kernel.shape[0] * prod(shape) for shape in calls)
        case keras.layers.InputLayer() | keras.layers.Reshape() | keras.layers.Flatten():
            return 0
        case _:
            return prod(layer.output.shape[1:])
