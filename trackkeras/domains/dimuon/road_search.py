"""A search for tracks in a hit matrix: the most likely of all tracks of a grid, as tensors inside a network.

Each plane counts with the logarithm of how much likelier a fired element is on a track than beside one, which
the event's own occupancy tells. Nothing is learnt here: what the search finds, `finder_roads` judges.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from trackkeras.domains.dimuon.detectors import DETECTORS, ELEMENTS, PLANES
from trackkeras.domains.dimuon.road_tables import (
    QUARTERS,
    ROW,
    HalfTables,
    front_shifts,
    half_tables,
)

EFFICIENCY = 0.97
"""Chance that a plane fires on a track within the search's tolerance; the rest is geometry and noise."""

TOLERANT = 0.7
"""Weight of an element that fired within a quarter of an element of a place; what is missing to 1 is that of
one at the place itself, so that of neighbours on the grid the closest wins."""

LARGEST_OCCUPANCY = 0.95


@lru_cache
def hit_weights() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return what a hit adds to the score of a miss, and that of a miss, `(62, 202)` by fired elements.

    Scores are logarithms of the chance on a track over that beside one. They are rounded to 1/64, so that
    sums of them are exact.
    """
    elements = np.array([max(plane.elements, 1) for plane in DETECTORS])[:, None]
    occupancy = np.clip(np.arange(ELEMENTS + 1) / elements, 0.5 / elements, LARGEST_OCCUPANCY)
    hit = np.log(EFFICIENCY / occupancy)
    miss = np.log((1 - EFFICIENCY) / (1 - occupancy))
    rounded = [np.round(value * 64.0) / 64.0 for value in (hit - miss, miss)]
    return rounded[0].astype(np.float32), rounded[1].astype(np.float32)


@keras.saving.register_keras_serializable(package="trackkeras")
class RoadSearch(keras.layers.Layer):
    """The likeliest tracks of an event.

    Args:
        pairs: Lines in x that are looked at in y, in each half.
        lines: Lines in x and y that are looked at before KMAG, in each half.
        tracks: Tracks that are given on.

    Call arguments:
        hits: float32 `(n, 62, 201)`: 1 where an element fired.

    Returns:
        `(n, tracks, 6)`: x and its slope, y and its slope at station 2 behind KMAG, kick, log likelihood
        ratio; `(n, tracks)`: 0 where the track goes through the upper half of station 3, 1 for the lower.
    """

    def __init__(self, pairs: int = 192, lines: int = 64, tracks: int = 64, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pairs, self.lines, self.tracks = pairs, lines, tracks

    def call(self, hits: Any) -> tuple[Any, Any]:
        """Return what the class says, from its call arguments."""
        table = weighted_table(hits)
        n = ops.shape(hits)[0]
        flat = ops.reshape(table, (-1, PLANES * ROW))
        turned = ops.transpose(flat)
        every = ops.reshape(table, (-1,))
        event = ops.arange(n, dtype="int32") * (PLANES * ROW)
        found = [self._half(half, flat, turned, every, event) for half in (0, 1)]
        tracks = ops.concatenate(found, axis=1)
        _, best = ops.top_k(tracks[:, :, 5], self.tracks)
        tracks = _rows(tracks, best)
        return tracks, ops.cast(best >= self.lines, "float32")

    def _half(self, half: int, flat: Any, turned: Any, every: Any, event: Any) -> Any:
        tables = half_tables(half)
        score_x, pair = ops.top_k(_sum_of_rows(turned, tables.x_lookups), self.pairs)
        score_y = self._in_y(tables, flat, every, event, pair)
        best_y, line = _largest(score_y)
        score, chosen = ops.top_k(score_x + best_y, self.lines)
        pair, line = _rows(pair, chosen), _rows(line, chosen)
        kicks, shifts = front_shifts(half)
        place = ops.take(tables.front_x, pair, axis=0) + ops.take(tables.front_y, line, axis=0)
        front = sum(
            _look_up(every, place[:, :, None, k] + shifts[:, k], event[:, None, None] + row)
            for k, row in enumerate(tables.front_row)
        )
        best_front, choice = _largest(front)
        score = score + best_front
        kick = ops.take(tables.kick, pair, axis=0) + ops.take(kicks, choice, axis=0)
        columns = [ops.take(column, pair, axis=0) for column in (tables.x, tables.slope_x)]
        columns += [ops.take(column, line, axis=0) for column in (tables.y, tables.slope_y)]
        return ops.stack([*columns, kick, score], axis=-1)

    @staticmethod
    def _in_y(tables: HalfTables, flat: Any, every: Any, event: Any, pair: Any) -> Any:
        """Return the scores of all lines in y for each pair, `(n, pairs, lines)`."""
        stereo_x = ops.take(tables.stereo_x, pair, axis=0)
        score = sum(
            _look_up(every, stereo_x[:, :, None, k] + tables.stereo_y[:, k], event[:, None, None] + row)
            for k, row in enumerate(tables.stereo_row)
        )
        score = score + ops.sum(ops.take(flat, tables.y_lookups, axis=1), axis=-1)[:, None]
        left = ops.take(tables.left, pair, axis=0)
        sides = ops.take(flat, tables.side_lookups, axis=1)
        for k in range(sides.shape[1]):
            share = left[:, :, k, None]
            score = score + share * sides[:, None, k, 0] + (1.0 - share) * sides[:, None, k, 1]
        return score

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shapes of what `call` returns."""
        return (input_shape[0], self.tracks, 6), (input_shape[0], self.tracks)

    def get_config(self) -> dict[str, Any]:
        """Return what the layer is made from."""
        return {
            **super().get_config(),
            "pairs": self.pairs,
            "lines": self.lines,
            "tracks": self.tracks,
        }


def weighted_table(hits: Any) -> Any:
    """Return what each quarter of an element says of a track there, `(n, 62, 804)`."""
    hit, _ = hit_weights()
    counts = ops.cast(ops.sum(hits, axis=2), "int32")
    first = np.arange(PLANES, dtype=np.int32) * (ELEMENTS + 1)
    weight = ops.take(hit.reshape(-1), counts + first, axis=0)
    exact = ops.repeat(hits, QUARTERS, axis=2)
    tolerant = ops.max_pool(ops.reshape(exact, (-1, ROW, 1)), 3, 1, padding="same")
    tolerant = ops.reshape(tolerant, (-1, PLANES, ROW))
    # Multiples of 1/64 times these two weights stay sums of few binary digits.
    rounded = TOLERANT_BITS * tolerant + (1.0 - TOLERANT_BITS) * exact
    return rounded * weight[:, :, None]


TOLERANT_BITS = round(TOLERANT * 8) / 8


def _sum_of_rows(turned: Any, lookups: NDArray[np.int32]) -> Any:
    """Return sums of table entries that are the same places for all events, `(n, m)`."""
    total = sum(ops.take(turned, lookups[:, k], axis=0) for k in range(lookups.shape[1]))
    return ops.transpose(total)


def _look_up(every: Any, place: Any, start: Any) -> Any:
    """Return table entries at places [quarters of an element] of one plane, which starts at `start`."""
    inside = ops.clip(ops.floor(place), 0.0, ROW - 1.0)
    return ops.take(every, ops.cast(inside, "int32") + start, axis=0)


def _largest(values: Any) -> tuple[Any, Any]:
    """Return the largest of `(n, m, c)` and where it is; ONNX lacks what `argmax` is made of."""
    largest, index = ops.top_k(values, 1)
    return largest[:, :, 0], index[:, :, 0]


def _rows(values: Any, chosen: Any) -> Any:
    """Return rows `chosen` `(n, k)` of `(n, m)` or `(n, m, c)`."""
    if len(values.shape) == 2:
        return ops.take_along_axis(values, chosen, axis=1)
    return ops.take_along_axis(values, chosen[:, :, None], axis=1)
