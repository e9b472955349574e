"""Arithmetic operations of a network, counted from its layers."""

from __future__ import annotations

from math import prod
from typing import Any

import keras

FREE = (keras.layers.InputLayer, keras.layers.Reshape, keras.layers.Flatten, keras.layers.Concatenate)
"""Layers that compute nothing."""


def counted_operations(model: keras.Model, length: int = 1) -> float:
    """Return the operations of a functional network per row.

    A product and a sum in convolutions, dense layers and attention count as two; every other layer counts one
    for each number that it gives, unless it has a method `operations(length)` that counts for itself.

    Args:
        model: The network.
        length: Numbers along axes whose length differs from row to row.
    """
    return float(sum(_of_layer(layer, length) for layer in model.layers))


def _of_layer(layer: Any, length: int) -> int:
    if isinstance(layer, FREE):
        return 0
    if hasattr(layer, "operations"):
        return int(layer.operations(length))
    shapes = [
        tuple(length if size is None else size for size in node.outputs[0].shape[1:])
        for node in layer._inbound_nodes
    ]
    if isinstance(layer, keras.layers.Conv2D):
        return sum(2 * prod(layer.kernel.shape[:-1]) * prod(shape) for shape in shapes)
    if isinstance(layer, keras.layers.Dense):
        return sum(2 * layer.kernel.shape[0] * prod(shape) for shape in shapes)
    if isinstance(layer, keras.layers.MultiHeadAttention):
        return sum(_of_attention(layer, shape) for shape in shapes)
    return sum(prod(shape) for shape in shapes)


def _of_attention(layer: keras.layers.MultiHeadAttention, shape: tuple[int, ...]) -> int:
    """Return the operations of self-attention along one axis; every place makes query, key, value, output."""
    width = layer.num_heads * layer.key_dim
    places, length = prod(shape[:-1]), shape[layer._attention_axes[0] - 1]
    return places * (4 * 2 * shape[-1] * width + 2 * 2 * length * width)
