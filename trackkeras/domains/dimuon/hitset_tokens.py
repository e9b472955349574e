"""The hits of an event as a set: which elements fired, and what each says by itself.

Of 12,462 elements some 30 to 1,200 fire. As many rows are made as the fullest event of a batch has hits, so
that no hit is ever left out; rows that an event does not need are marked. Places of the planes and of their
elements are constants of the geometry, looked up by hit.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from trackkeras.domains.dimuon.detectors import DETECTORS, ELEMENTS, PLANES
from trackkeras.domains.dimuon.road_fit import straight
from trackkeras.domains.dimuon.road_tables import BY_NUMBER, KICK_PER_BEND, KMAG_CENTRE, Z_2

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

CELLS = PLANES * ELEMENTS

TYPICAL_HITS = 640
"""Hits of a mean event with 0 to 50 background tracks; counted operations are those for so many."""

OCTAVES = 6
"""Sine and cosine of a hit's place have wavelengths of 4 m, and of one half, a quarter .. of it."""

REACH = 2
"""Elements to each side that a hit is told of, in its own plane and in the one that goes with it."""

SCALE = np.array([50.0, 0.03, 50.0, 0.003, 0.003], dtype=np.float32)
"""Units of a track's five numbers: x at station 2 [cm], bend, y there [cm], its slope less that of a line
from the origin, kick less the one that goes with the bend."""


@lru_cache
def track_basis() -> Floats:
    """Return the matrix `(5, 5)` from a track's numbers in units of `SCALE` to those of `road_fit`.

    In these five numbers tracks from the dump fill a box, so that two of them, the last, stay small.
    """
    matrix = np.zeros((5, 5))
    matrix[0, :2] = 1.0, 1.0 / Z_2
    matrix[1, 1], matrix[1, 4] = KMAG_CENTRE / Z_2, KICK_PER_BEND
    matrix[2, 2:4] = 1.0, 1.0 / Z_2
    matrix[3, 3] = matrix[4, 4] = 1.0
    return (SCALE[:, None] * matrix).astype(np.float32)


@lru_cache
def crossings() -> Floats:
    """Return how fast a track's numbers, in units of `SCALE`, move its place on each plane, `(62, 5)`."""
    return np.ascontiguousarray((track_basis() @ straight().place).T.astype(np.float32))


@lru_cache
def pitches() -> Floats:
    """Return the distance of elements of each detector, `(62,)` [cm]; 1 where there is none."""
    return np.array(
        [BY_NUMBER[d.number].pitch if d.number in BY_NUMBER else 1.0 for d in DETECTORS], np.float32
    )


@lru_cache
def cell_features() -> Floats:
    """Return what the geometry says of each element of each detector, `(12462, features)`."""
    table = np.zeros((PLANES, ELEMENTS, 6 + 2 * OCTAVES))
    for number, plane in BY_NUMBER.items():
        place = plane.origin + plane.pitch * np.arange(ELEMENTS)
        angle = np.radians(plane.angle)
        table[number - 1, :, 0] = place / 100.0
        table[number - 1, :, 1:3] = np.cos(angle), np.sin(angle)
        table[number - 1, :, 3:6] = (
            place[:, None] / 100.0 * np.array([np.cos(angle), np.sin(angle), (plane.z - Z_2) / 1000.0])
        )
        phase = 2.0 * np.pi * place[:, None] / 400.0 * 2.0 ** np.arange(OCTAVES)
        table[number - 1, :, 6 : 6 + OCTAVES] = np.sin(phase)
        table[number - 1, :, 6 + OCTAVES :] = np.cos(phase)
    return table.reshape(CELLS, -1).astype(np.float32)


def partner(number: int) -> int | None:
    """Return the plane whose elements stand behind or before those of a chamber or tube plane."""
    if DETECTORS[number - 1].kind == "hodoscope" or number not in BY_NUMBER:
        return None
    return number + 1 if number % 2 else number - 1


@lru_cache
def neighbours() -> Ints:
    """Return the cells about each element, in its own plane and in its partner, `(12462, 9)`.

    Where there is none, it is element 0 of the plane, which never fires.
    """
    offsets = np.arange(-REACH, REACH + 1)
    own = np.array([offset for offset in offsets if offset])
    elements = np.arange(ELEMENTS)
    found = np.zeros((PLANES, ELEMENTS, len(own) + len(offsets)), dtype=np.int64)
    for row in range(PLANES):
        around = [elements[:, None] + own]
        other = partner(row + 1)
        if other is None:
            around.append(np.zeros((ELEMENTS, len(offsets)), dtype=np.int64))
            rows = np.full(found.shape[2], row)
        else:
            first, second = BY_NUMBER[row + 1], BY_NUMBER[other]
            place = (first.origin + first.pitch * elements - second.origin) / second.pitch
            around.append(np.round(place).astype(np.int64)[:, None] + offsets)
            rows = np.repeat([row, other - 1], [len(own), len(offsets)])
        numbers = np.concatenate(around, axis=1)
        inside = (numbers > 0) & (numbers < ELEMENTS) & (elements > 0)[:, None]
        found[row] = np.where(inside, numbers, 0) + rows * ELEMENTS
    return found.reshape(CELLS, -1).astype(np.int32)


@keras.saving.register_keras_serializable(package="trackkeras")
class FiredCells(keras.layers.Layer):
    """The elements that fired.

    Call arguments:
        hits: float32 `(n, 62, 201)`: 1 where an element fired.

    Returns:
        `(n, k)`: detector's row times 201 plus element, ascending, with k the largest number of hits of an
        event, or 1; `(n, k)`: 1 for these, 0 for rows that are left over.
    """

    def call(self, hits: Any) -> tuple[Any, Any]:
        """Return what the class says, from its call arguments."""
        flat = ops.cast(ops.reshape(hits, (-1, CELLS)) > 0.5, "float32")
        most = ops.cast(ops.maximum(ops.max(ops.sum(flat, axis=1)), 1.0), "int32")
        # Different integers below 2^24: exact, and without ties that engines might break differently.
        keys, _ = ops.top_k(flat * (CELLS - np.arange(CELLS, dtype=np.float32)), most)
        there = ops.cast(keys > 0.5, "float32")
        return (CELLS - keys) * there, there

    def compute_output_shape(self, hits_shape: Any) -> Any:
        """Return the shapes of what `call` returns."""
        return (hits_shape[0], None), (hits_shape[0], None)


@keras.saving.register_keras_serializable(package="trackkeras")
class HitFeatures(keras.layers.Layer):
    """What each hit says by itself, `(n, k, features)`.

    Its place, which elements about it fired, how many hits its plane has and, learnt, which plane it is.

    Args:
        width: Learnt numbers of each plane.

    Call arguments:
        hits: `(n, 62, 201)`.
        cells: `(n, k)`, of `FiredCells`.
    """

    def __init__(self, width: int = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = width

    def build(self, *shapes: Any) -> None:
        """Make the weights."""
        self.planes = self.add_weight(
            (PLANES, self.width), keras.initializers.RandomNormal(stddev=0.5), name="planes"
        )

    def call(self, hits: Any, cells: Any) -> Any:
        """Return what the class says, from its call arguments."""
        index = ops.cast(cells, "int32")
        row = index // ELEMENTS
        around = ops.take(neighbours(), index, axis=0)
        event = ops.arange(ops.shape(hits)[0], dtype="int32")
        fired = ops.take(ops.reshape(hits, (-1,)), around + event[:, None, None] * CELLS, axis=0)
        counts = ops.log(1.0 + ops.sum(hits, axis=2))
        own = ops.take(ops.reshape(counts, (-1,)), row + event[:, None] * PLANES, axis=0)
        columns = [ops.take(cell_features(), index, axis=0), fired, own[:, :, None]]
        columns = [ops.cast(column, self.compute_dtype) for column in columns]
        return ops.concatenate([*columns, ops.take(self.planes, row, axis=0)], axis=-1)

    def compute_output_shape(self, hits_shape: Any, cells_shape: Any) -> Any:
        """Return the shape of what `call` returns."""
        features = cell_features().shape[1] + neighbours().shape[1] + 1 + self.width
        return (*cells_shape, features)

    def get_config(self) -> dict[str, Any]:
        """Return what the layer is made from."""
        return {**super().get_config(), "width": self.width}


@keras.saving.register_keras_serializable(package="trackkeras")
class HitGeometry(keras.layers.Layer):
    """What tracks need to know of each hit.

    Call arguments:
        cells: `(n, k)`, of `FiredCells`.

    Returns:
        `(n, k)`: element less the place of a track whose five numbers are 0; `(n, k, 5)`: how fast these
        move that place; `(n, k, 62)`: 1 at the hit's detector.
    """

    def call(self, cells: Any) -> tuple[Any, Any, Any]:
        """Return what the class says, from its call arguments."""
        index = ops.cast(cells, "int32")
        row = index // ELEMENTS
        element = ops.cast(index - row * ELEMENTS, self.compute_dtype)
        tables = (straight().zero, crossings(), np.eye(PLANES, dtype=np.float32))
        zero, slope, plane = (ops.cast(ops.take(table, row, axis=0), self.compute_dtype) for table in tables)
        return element - zero, slope, plane

    def compute_output_shape(self, cells_shape: Any) -> Any:
        """Return the shapes of what `call` returns."""
        return cells_shape, (*cells_shape, 5), (*cells_shape, PLANES)
