"""Where tracks begin, and how they settle where hits agree.

A track is five numbers in units of `hitset_tokens.SCALE`. It attends to hits by their distance from where it
crosses their plane: weight 1 at the crossing, falling as the fourth power of the distance further out than
the window's width. Distances are linear in the five numbers, one product of matrices for all hits; no two
hits are compared, and the order of hits does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from trackkeras.domains.dimuon.detectors import PLANES
from trackkeras.domains.dimuon.hitset_tokens import pitches
from trackkeras.domains.dimuon.road_fit import straight

CELL = 0.5
"""Least width of a track's window [elements]: within an element a hit says nothing of where it is."""

NUMBERS = 5
"""Numbers of a track."""

MIDDLE, HALF_WIDTH = np.array([1.45, 0.98, 0.0]), np.array([0.75, 0.4, 1.35])
"""Box of bend, x and y of the mu+ of J/psi from the dump, in units of `SCALE`."""

KICK = 0.64
"""By how much the kick of a mu+ is usually larger than `road_tables` has it, in units of `SCALE`."""

CROWD = 10.0
"""How fast hits lose weight with the number that a window in their plane has by chance; of 0, 2 and 10 the
one whose tracks settled on most muons."""

RIDGE = 0.3
"""Weight of a track's numbers before the step, against those of hits."""


def nearness(tracks: Any, offset: Any, slope: Any, narrow: Any) -> tuple[Any, Any]:
    """Return weights of hits for tracks, and their distances in widths, each `(n, q, k)`.

    Args:
        tracks: `(n, q, 5)`.
        offset: `(n, k)`, and
        slope: `(n, k, 5)`, of `HitGeometry`.
        narrow: `(n, k)`: one over the window's width at each hit [1/elements].
    """
    columns = ops.concatenate([-slope, offset[:, :, None]], axis=-1) * narrow[:, :, None]
    numbers = ops.concatenate([tracks, ops.ones_like(tracks[:, :, :1])], axis=-1)
    distance = ops.matmul(numbers, ops.transpose(columns, (0, 2, 1)))
    return ops.square(1.0 / (1.0 + ops.square(distance))), distance


def at_hits(plane: Any, values: Any) -> Any:
    """Return the value of each hit's detector, `(n, k)`, of values `(62,)`."""
    return ops.matmul(plane, values[:, None])[:, :, 0]


@keras.saving.register_keras_serializable(package="trackkeras")
class SettledTracks(layers.Layer):
    """Tracks that begin spread evenly over what muons do, and are fitted to the hits about them.

    A fit is a least squares step in which hits count the less, the further off they are and the more of them
    a window in their plane would have by chance. Windows become narrower from step to step, so that tracks
    settle where many planes agree. Nothing is learnt here.

    Args:
        tracks: How many; every other one is for a mu-.
        reach: Half widths of the windows, step by step [cm].

    Call arguments:
        there: `(n, k)`, of `FiredCells`, and what `HitGeometry` returns.

    Returns:
        `(n, tracks, 5)`.
    """

    def __init__(self, tracks: int, reach: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tracks, self.reach = tracks, tuple(reach)

    def call(self, there: Any, offset: Any, slope: Any, plane: Any) -> Any:
        """Return what the class says, from its call arguments."""
        kind = self.compute_dtype
        first = ops.convert_to_tensor(first_tracks(self.tracks), dtype=kind)
        tracks = first * ops.ones_like(offset[:, :1, None])
        occupancy = ops.matmul(there[:, None], plane)[:, 0] / ops.cast(_elements(), kind)
        for reach in self.reach:
            width = np.sqrt((reach / pitches()) ** 2 + CELL**2)
            narrow = at_hits(plane, ops.cast(1.0 / width, kind))
            share = ops.matmul(plane, (1.0 / (1.0 + CROWD * occupancy * ops.cast(width, kind)))[:, :, None])
            weight, distance = nearness(tracks, offset, slope, narrow)
            weight = ops.square(weight)  # or hits of other tracks, which are many, draw from afar
            moved = slope * narrow[:, :, None]
            own = moved * share * there[:, :, None]
            products = ops.reshape(
                own[:, :, :, None] * moved[:, :, None], (-1, ops.shape(own)[1], NUMBERS**2)
            )
            matrix = ops.reshape(ops.matmul(weight, products), (-1, self.tracks, NUMBERS, NUMBERS))
            right = ops.matmul(weight * distance, own)
            tracks = tracks + solved(matrix + RIDGE * ops.eye(NUMBERS, dtype=kind), right)
        return ops.stop_gradient(tracks)

    def compute_output_shape(self, there_shape: Any, *shapes: Any) -> Any:
        """Return the shape of what `call` returns."""
        return (there_shape[0], self.tracks, NUMBERS)

    def get_config(self) -> dict[str, Any]:
        """Return what the layer is made from."""
        return {**super().get_config(), "tracks": self.tracks, "reach": self.reach}

    def operations(self, length: int) -> int:
        """Return the counted operations of an event with so many hits."""
        of_pair = 2 * (NUMBERS + 1) + 6 + 2 * (NUMBERS**2 + NUMBERS)
        return len(self.reach) * (self.tracks * length * of_pair + length * (NUMBERS**2 + 4 * PLANES))


def first_tracks(count: int) -> NDArray[np.float32]:
    """Return tracks `(count, 5)` of an additive sequence, which leaves no gaps, in the box of muons.

    A muon that comes from the dump and reaches the last station has been bent away from the beam, so that
    bend and x have the sign of its charge; mu+ and mu- take turns.

    Source of the sequence: M. Roberts, "The unreasonable effectiveness of quasirandom sequences" (2018):
    steps are powers of the inverse of the root of g^4 = g + 1, about 1.2207.
    """
    steps = 1.220744 ** -np.arange(1.0, 4.0)
    unit = 2.0 * ((0.5 + np.arange(1, count + 1)[:, None] * steps) % 1.0) - 1.0
    sign = np.where(np.arange(count) % 2, -1.0, 1.0)
    bend, x, y = (MIDDLE + HALF_WIDTH * unit).T
    return np.stack([sign * x, sign * bend, y, np.zeros(count), sign * KICK], axis=1).astype(np.float32)


def solved(matrix: Any, right: Any) -> Any:
    """Return the solutions `(.., 5)` of symmetric, positive definite equations, by Gauss and Jordan.

    The engines of exported networks lack a solver; in this order pivots are never 0.
    """
    whole = ops.concatenate([matrix, right[..., None]], axis=-1)
    for k in range(NUMBERS):
        own = ops.convert_to_tensor(np.eye(NUMBERS)[:, k : k + 1], dtype=whole.dtype)
        row = whole[..., k : k + 1, :] / whole[..., k : k + 1, k : k + 1]
        whole = whole - (whole[..., k : k + 1] - own) * row
    return whole[..., NUMBERS]


def _elements() -> NDArray[np.float32]:
    return np.maximum(straight().elements, 1.0)
