"""Networks from an image to an image of the same size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from trackkeras.layers.conv import residual


def unet_plus_plus(inputs: Any, filters: Sequence[int], name: str) -> Any:
    """Apply a U-Net++ of residual blocks: every level is refined by the one below, as often as there are any.

    Node (i, j) joins nodes (i, 0) to (i, j - 1) with node (i + 1, j - 1), enlarged.
    Source: Zhou, Siddiquee, Tajbakhsh, Liang, "UNet++: A nested U-Net architecture" (2018).

    Args:
        inputs: `(batch, rows, columns, channels)`; rows and columns must be divisible by two as often as
            there are levels but one.
        filters: Channels of each level.
        name: Beginning of the layers' names.

    Returns:
        `(batch, rows, columns, filters[0])`.

    Raises:
        ValueError: The image cannot be halved so often.
    """
    halvings = len(filters) - 1
    if any(size % 2**halvings for size in inputs.shape[1:3]):
        raise ValueError(
            f"rows and columns must be divisible by {2**halvings}. Received: {inputs.shape[1:3]}"
        )
    nodes: dict[tuple[int, int], Any] = {}
    for level, width in enumerate(filters):
        if level:
            inputs = keras.layers.MaxPooling2D(name=f"{name}_down_{level}")(nodes[level - 1, 0])
        nodes[level, 0] = residual(inputs, width, f"{name}_{level}_0")
        for step in range(1, level + 1):
            above = level - step
            label = f"{name}_{above}_{step}"
            below = keras.layers.UpSampling2D(interpolation="bilinear", name=f"{label}_up")(
                nodes[above + 1, step - 1]
            )
            before = [nodes[above, index] for index in range(step)]
            together = keras.layers.Concatenate(name=f"{label}_joined")([*before, below])
            nodes[above, step] = residual(together, filters[above], label)
    return nodes[0, halvings]
