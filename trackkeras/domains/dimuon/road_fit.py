"""Tracks of a search fitted to the hits they pass, and what each plane says of them then.

A track is five numbers: x, its slope, y, its slope at station 2 behind KMAG, and the kick in x that it gets
there. Where it crosses the planes is linear in them, so that least squares are one matrix. Lengths are in cm,
places in elements.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from trackkeras.domains.dimuon.detectors import DETECTORS, ELEMENTS, PLANES
from trackkeras.domains.dimuon.road_search import hit_weights
from trackkeras.domains.dimuon.road_tables import (
    BY_NUMBER,
    KICK_PER_BEND,
    KMAG_CENTRE,
    STATION_1,
    STATION_2,
    STATION_3,
    Z_2,
)

Floats = NDArray[np.float32]

WINDOW: Floats = np.arange(-2.0, 3.0, dtype=np.float32)
"""Elements about the one that a track crosses, which are looked at."""

REACH = 1.5
"""Distance of a fired element from a track at which it still draws the fit [elements]."""

SHARP = 30.0
"""How fast one element gives way to another that is nearer [1/element²]."""

ROUNDS = 2

SCALE = np.array([50.0, 0.05, 50.0, 0.05, 0.015], dtype=np.float32)
"""Typical values of the five numbers."""

STATION_ROWS = ((0, 6), (12, 18), (18, 30))
"""First and last row of the chambers of each station."""

EDGE = 1.5
"""Width over which a plane's edge is soft [cm]."""


class Straight(NamedTuple):
    """Where tracks cross all 62 planes: places are `zero + track @ place`; x and y alike.

    `x` and `y` are `(5, 62)`, `limits` `(4, 62)`: x_min, x_max, y_min, y_max; `present` `(62,)`; `elements`
    `(62,)` is the largest element.
    """

    zero: Floats
    place: Floats
    x: Floats
    y: Floats
    limits: Floats
    present: Floats
    elements: Floats


@lru_cache
def straight() -> Straight:
    """Return the crossing of tracks with the planes."""
    z, cos, sin, zero = (np.zeros(PLANES) for _ in range(4))
    limits = np.zeros((4, PLANES))
    for number, plane in BY_NUMBER.items():
        row, angle = number - 1, np.radians(plane.angle)
        z[row], zero[row] = plane.z, -plane.origin / plane.pitch
        cos[row], sin[row] = np.cos(angle) / plane.pitch, np.sin(angle) / plane.pitch
        limits[:, row] = plane.x_min, plane.x_max, plane.y_min, plane.y_max
    present = np.array([float(detector.present) for detector in DETECTORS])
    lever, before = z - Z_2, np.minimum(z - KMAG_CENTRE, 0.0)
    ones, none = np.ones(PLANES), np.zeros(PLANES)
    x = np.stack([ones, lever, none, none, before]) * present
    y = np.stack([none, none, ones, lever, none]) * present
    columns = (zero * present, x * cos + y * sin, x, y, limits, present)
    elements = np.array([detector.elements for detector in DETECTORS])
    return Straight(*(column.astype(np.float32) for column in (*columns, elements)))


@lru_cache
def least_squares() -> tuple[Floats, Floats]:
    """Return matrices `(62, 5)` from residuals to corrections, for both halves of station 3."""
    found = []
    for half in STATION_3:
        rows = [number - 1 for number in (*STATION_1, *STATION_2, *half)]
        matrix = np.zeros((PLANES, 5))
        matrix[rows] = np.linalg.pinv(straight().place[:, rows].T.astype(np.float64)).T
        found.append(matrix.astype(np.float32))
    return found[0], found[1]


@keras.saving.register_keras_serializable(package="trackkeras")
class RoadFit(keras.layers.Layer):
    """Least squares fit of each track to the fired elements next to it.

    Call arguments:
        hits: float32 `(n, 62, 201)`.
        tracks: `(n, c, 6)`, as from `RoadSearch`.
        half: `(n, c)`.

    Returns:
        Tracks `(n, c, 5)`; places `(n, c, 62)` [elements]; `(n, c, 62, 5)`: 1 where an element about the
        place fired; `(n, c, 62)`: how far inside of its plane a track crosses, 0 to 1.
    """

    def call(self, hits: Any, tracks: Any, half: Any) -> tuple[Any, Any, Any, Any]:
        """Return what the class says, from its call arguments."""
        upper, lower = least_squares()
        fitted, half = tracks[:, :, :5], half[:, :, None]
        for _ in range(ROUNDS):
            places = places_of(fitted)
            residual = _to_nearest(*around(hits, places))
            fitted = fitted + (1.0 - half) * (residual @ upper) + half * (residual @ lower)
        places = places_of(fitted)
        fired, _ = around(hits, places)
        return fitted, places, fired, inside(fitted, places)

    def compute_output_shape(self, hits_shape: Any, tracks_shape: Any, half_shape: Any) -> Any:
        """Return the shapes of what `call` returns."""
        n, c = tracks_shape[:2]
        return (n, c, 5), (n, c, PLANES), (n, c, PLANES, len(WINDOW)), (n, c, PLANES)


def _to_nearest(fired: Any, distance: Any) -> Any:
    """Return the distance to the nearest fired element, 0 if there is none within `REACH`, `(n, c, 62)`.

    Going over softly between two that are as near keeps engines together that round differently.
    """
    weight = -SHARP * ops.square(distance) - (1.0 - fired) * 1e4
    nothing = ops.full_like(weight[..., :1], -SHARP * REACH**2)
    share = ops.softmax(ops.concatenate([weight, nothing], axis=-1), axis=-1)
    return ops.sum(share[..., :-1] * distance, axis=-1)


def places_of(tracks: Any) -> Any:
    """Return where tracks `(n, c, 5)` cross the planes, `(n, c, 62)` [elements]."""
    return tracks @ straight().place + straight().zero


def around(hits: Any, places: Any) -> tuple[Any, Any]:
    """Return which elements about places fired, and their distance from there, each `(n, c, 62, 5)`."""
    element = nearest_elements(places)
    n = ops.shape(hits)[0]
    start = ops.arange(n, dtype="int32")[:, None, None, None] * (PLANES * ELEMENTS)
    rows = (np.arange(PLANES, dtype=np.int32) * ELEMENTS)[:, None]
    # Elements are 1 to 200: 0 never fires, and what lies outside of a plane looks there.
    valid = ops.cast((element >= 1.0) & (element <= ELEMENTS - 1.0), element.dtype)
    index = ops.cast(element * valid, "int32") + rows + start
    fired = ops.take(ops.reshape(hits, (-1,)), index, axis=0) * valid
    return fired, element - places[..., None]


def nearest_elements(places: Any) -> Any:
    """Return the elements about places, `(.., 62, 5)`, as floats."""
    return ops.floor(places + 0.5)[..., None] + WINDOW


def inside(tracks: Any, places: Any) -> Any:
    """Return how far inside of the planes tracks cross, 0 to 1, `(n, c, 62)`; 0 where there is no plane."""
    geometry = straight()
    x, y = tracks @ geometry.x, tracks @ geometry.y
    x_min, x_max, y_min, y_max = geometry.limits
    distances = (x - x_min, x_max - x, y - y_min, y_max - y)
    soft = geometry.present
    for distance in distances:
        soft = soft * ops.sigmoid(distance * (3.0 / EDGE))
    return soft * ops.sigmoid(6.0 * (places - 0.5)) * ops.sigmoid(6.0 * (geometry.elements + 0.5 - places))


@keras.saving.register_keras_serializable(package="trackkeras")
class RoadFeatures(keras.layers.Layer):
    """What speaks for and against fitted tracks.

    Two soft boxes of learnt width about each place tell whether an element fired there; what is missing in
    them enters by plane, and as a log likelihood ratio with the event's occupancy; so do squared distances
    from the next fired element. The rest is the track itself: its numbers, how well its kick goes with its
    bend in the dump, and how near it comes to the beam.

    Call arguments:
        hits, tracks (of `RoadSearch`), and what `RoadFit` returns.

    Returns:
        `(n, c, features)`.
    """

    def build(self, *shapes: Any) -> None:
        """Make the weights."""
        self.narrow = self.add_weight((PLANES,), by_kind(chamber=0.6, hodoscope=0.6, tube=0.8), name="narrow")
        self.wide = self.add_weight((PLANES,), by_kind(chamber=1.2, hodoscope=1.2, tube=1.6), name="wide")

    def call(self, hits: Any, tracks: Any, fitted: Any, places: Any, fired: Any, within: Any) -> Any:
        """Return what the class says, from its call arguments."""
        distance = ops.abs(nearest_elements(places) - places[..., None])
        boxes = [
            ops.max(fired * ops.sigmoid((width[:, None] - distance) * 12.0), axis=-1)
            for width in (self.narrow, self.wide)
        ]
        off = ops.square(ops.min(ops.minimum(distance + 10.0 * (1.0 - fired), 1.0), axis=-1))
        counts = ops.sum(hits, axis=2)
        ratios = [ops.sum(self._ratio(counts, box) * within, axis=-1) for box in boxes]
        misses = [within * (1.0 - box) for box in boxes]
        off = within * off
        occupancy = ops.log(1.0 + counts @ _groups())[:, None, :] * ops.ones_like(tracks[:, :, :1])
        x, slope_x, y, slope_y, kick = (fitted[:, :, k] for k in range(5))
        bend = slope_x - (x - slope_x * (Z_2 - KMAG_CENTRE)) / KMAG_CENTRE
        stiffness = 1.0 / (ops.abs(kick) + 0.003)
        track = [
            *(fitted[:, :, k] / SCALE[k] for k in range(5)),
            ops.abs(kick) / SCALE[4],
            stiffness / 60.0,
            (kick - KICK_PER_BEND * bend) / 0.002,
            (kick - KICK_PER_BEND * bend) * stiffness / 0.1,
            (y - slope_y * Z_2) / 2.0,
            ops.sign(kick) * x / 50.0,
            tracks[:, :, 5] / 50.0,
            *(ratio / 50.0 for ratio in ratios),
            *(ops.sum(off[:, :, first:last], axis=-1) for first, last in STATION_ROWS),
        ]
        return ops.concatenate([*misses, off, occupancy, ops.stack(track, axis=-1)], axis=-1)

    @staticmethod
    def _ratio(counts: Any, box: Any) -> Any:
        hit, miss = hit_weights()
        first = np.arange(PLANES, dtype=np.int32) * (ELEMENTS + 1)
        index = ops.cast(counts, "int32") + first
        gain, loss = (
            ops.cast(ops.take(table.reshape(-1), index, axis=0)[:, None], box.dtype) for table in (hit, miss)
        )
        return loss + gain * box

    def compute_output_shape(self, hits_shape: Any, tracks_shape: Any, *shapes: Any) -> Any:
        """Return the shapes of what `call` returns."""
        return (*tracks_shape[:2], 3 * PLANES + _groups().shape[1] + 17)


@lru_cache
def _groups() -> Floats:
    """Return which planes belong to each station and kind, `(62, groups)`."""
    names = sorted({(d.kind, d.station) for d in DETECTORS if d.present})
    return np.array([[float((d.kind, d.station) == name) for name in names] for d in DETECTORS], np.float32)


def by_kind(*, chamber: float, hodoscope: float, tube: float) -> Callable[..., Any]:
    """Return an initialiser of one number per detector."""
    values = {"chamber": chamber, "hodoscope": hodoscope, "tube": tube}
    column = np.array([values[detector.kind] for detector in DETECTORS], dtype=np.float32)
    return lambda shape, dtype=None: ops.convert_to_tensor(column, dtype=dtype)
