"""Where straight lines with one kick cross the planes, as tables for a search that only adds and looks up.

Behind KMAG a muon flies straight; before it, it flies straight in another direction. The search tries a grid
of such tracks: `x` at station 2 and `x` at station 3, then `y` at both, then the kick and what `y` is off at
station 1. A plane is crossed at a place that is a sum of one number for each of these choices. The numbers
are kept in quarters of an element, as multiples of 1/256, so that float32 adds them without rounding and
every engine looks up the same element. Lengths are in cm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from trackkeras.domains.dimuon.detectors import ELEMENTS
from trackkeras.domains.dimuon.planes import PLANES
from trackkeras.domains.dimuon.spectrometer import KMAG

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

QUARTERS = 4
"""Parts into which an element is divided."""

ROW = ELEMENTS * QUARTERS
"""Places of a detector."""

KMAG_CENTRE = 0.5 * (KMAG.start + KMAG.end)
"""z at which a muon is taken to be kicked [cm]."""

BY_NUMBER = {plane.number: plane for plane in PLANES}

STATION_1 = (1, 2, 3, 4, 5, 6)
STATION_2 = (13, 14, 15, 16, 17, 18)
STATION_3 = (19, 20, 21, 22, 23, 24), (25, 26, 27, 28, 29, 30)
"""Chambers of the upper and of the lower half."""

X_PLANES = (15, 16, 21, 22, 38, 40, 46, 49, 50, 51, 52), (15, 16, 27, 28, 37, 39, 45, 49, 50, 51, 52)
"""Planes behind KMAG with vertical elements, by half: chambers, hodoscopes, tubes."""

STEREO_PLANES = (13, 14, 17, 18, 19, 20, 23, 24), (13, 14, 17, 18, 25, 26, 29, 30)
Y_PLANES = (47, 48, 53, 54)
SIDE_PLANES = ((35, 36), (41, 42), (43, 44))
"""Pairs of hodoscopes with horizontal elements, left (x > 0) and right."""

FRONT_PLANES = (*STATION_1, 32), (*STATION_1, 31)
"""Planes before KMAG, by half."""

X_STEP, Y_STEP = 1.0, 3.0
LARGEST_BEND = 0.085
"""Largest slope behind KMAG against that of a line from the face of the dump to the kick: 7 GeV and more."""

Y_OFFSETS = (-4.0, 0.0, 4.0)
"""Of y at station 3 from where a line from the dump goes on [cm]: scattering in the dump."""

KICK_PER_BEND = -0.46
"""Kick over that bend. Both are inverse to the momentum: FMAG's field has done the one, KMAG's does the
other."""

KICKS = tuple(0.000_75 * step for step in range(-8, 9))
"""Change of slope in KMAG beside the expected one, which scattering in the dump makes uncertain by 1.7e-3
[rad]; a step is half a cell at station 1."""

FRONT_OFFSETS = tuple(range(-6, 7))
"""Of y at station 1 from the line through stations 2 and 3, whose y is known to a few cm [cm]."""


def middle(numbers: Sequence[int]) -> float:
    """Return the mean z of some planes [cm]."""
    return float(np.mean([BY_NUMBER[number].z for number in numbers]))


Z_2 = middle((15, 16))
Z_3 = middle((21, 22)), middle((27, 28))


@dataclass(frozen=True)
class Geometry:
    """Columns of some planes, `(k,)`: z, cosine and sine over the pitch, and the place of w = 0."""

    z: NDArray[np.float64]
    cos: NDArray[np.float64]
    sin: NDArray[np.float64]
    zero: NDArray[np.float64]
    row: Ints

    @classmethod
    def of(cls, numbers: Sequence[int]) -> Geometry:
        """Return the columns of the planes with these numbers."""
        planes = [BY_NUMBER[number] for number in numbers]
        pitch = np.array([plane.pitch for plane in planes])
        angle = np.radians([plane.angle for plane in planes])
        origin = np.array([plane.origin for plane in planes])
        return cls(
            z=np.array([plane.z for plane in planes]),
            cos=np.cos(angle) / pitch,
            sin=np.sin(angle) / pitch,
            zero=-origin / pitch,
            row=np.array([number - 1 for number in numbers], dtype=np.int32),
        )


def fixed(elements: NDArray[np.float64]) -> Floats:
    """Return numbers of elements in quarters, as multiples of 1/256."""
    return np.asarray(np.round(elements * QUARTERS * 256.0) / 256.0, dtype=np.float32)


def lookups(geometry: Geometry, elements: NDArray[np.float64]) -> Ints:
    """Return places in a flattened `(62, ROW)` table for elements `(.., k)`."""
    place = np.clip(np.floor(fixed(elements + 0.5)), 0, ROW - 1)
    return (place + geometry.row * ROW).astype(np.int32)


@dataclass(frozen=True)
class HalfTables:
    """What the search needs for one half of station 3.

    Attributes:
        x: `(pairs,)` at station 2 [cm].
        slope_x: `(pairs,)` behind KMAG.
        y: `(lines,)` at station 2 [cm].
        slope_y: `(lines,)`.
        kick: `(pairs,)`: expected from the slope.
        x_lookups: int32 `(pairs, k)`, of `X_PLANES`.
        y_lookups: int32 `(lines, k)`, of `Y_PLANES`.
        side_lookups: int32 `(3, 2, lines)`, of `SIDE_PLANES`.
        left: float32 `(pairs, 3)`: 1 where a pair crosses these on the left.
        stereo_x: `(pairs, k)`: share of x in the place on `STEREO_PLANES`, like the next ones.
        stereo_y: `(lines, k)`.
        front_x: `(pairs, k)`, on `FRONT_PLANES`.
        front_y: `(lines, k)`.
        stereo_row: int32 `(k,)`: first place of each plane in the flattened table.
        front_row: Alike.
    """

    x: Floats
    slope_x: Floats
    y: Floats
    slope_y: Floats
    kick: Floats
    x_lookups: Ints
    y_lookups: Ints
    side_lookups: Ints
    left: Floats
    stereo_x: Floats
    stereo_y: Floats
    front_x: Floats
    front_y: Floats
    stereo_row: Ints
    front_row: Ints


@lru_cache
def half_tables(half: int) -> HalfTables:
    """Return the tables of the upper (0) or lower (1) half."""
    x, slope_x, kick = _pairs(half)
    y, slope_y = _lines(half)
    across, up = Geometry.of(X_PLANES[half]), Geometry.of(Y_PLANES)
    stereo, front = Geometry.of(STEREO_PLANES[half]), Geometry.of(FRONT_PLANES[half])
    sides = [[Geometry.of((number,)) for number in pair] for pair in SIDE_PLANES]
    side_z = np.array([middle(pair) for pair in SIDE_PLANES])

    def x_share(geometry: Geometry) -> NDArray[np.float64]:
        return (x[:, None] + slope_x[:, None] * (geometry.z - Z_2)) * geometry.cos

    def y_share(geometry: Geometry) -> NDArray[np.float64]:
        return (y[:, None] + slope_y[:, None] * (geometry.z - Z_2)) * geometry.sin

    return HalfTables(
        x=x.astype(np.float32),
        slope_x=slope_x.astype(np.float32),
        y=y.astype(np.float32),
        slope_y=slope_y.astype(np.float32),
        kick=kick.astype(np.float32),
        x_lookups=lookups(across, x_share(across) + across.zero),
        y_lookups=lookups(up, y_share(up) + up.zero),
        side_lookups=np.array(
            [[lookups(plane, y_share(plane) + plane.zero)[:, 0] for plane in pair] for pair in sides]
        ),
        left=(x[:, None] + slope_x[:, None] * (side_z - Z_2) > 0).astype(np.float32),
        stereo_x=fixed(x_share(stereo) + stereo.zero + 0.5),
        stereo_y=fixed(y_share(stereo)),
        front_x=fixed(x_share(front) + _kicked(kick, front) + front.zero + 0.5),
        front_y=fixed(y_share(front)),
        stereo_row=stereo.row * ROW,
        front_row=front.row * ROW,
    )


@lru_cache
def front_shifts(half: int) -> tuple[Floats, Floats]:
    """Return kicks `(m,)`, and what a kick and an offset in y add to the places on `FRONT_PLANES`, `(m, k)`.

    The m choices are all `KICKS` with all of `FRONT_OFFSETS`, the offsets inside.
    """
    front = Geometry.of(FRONT_PLANES[half])
    kicks, offsets = (axis.ravel() for axis in np.meshgrid(KICKS, FRONT_OFFSETS, indexing="ij"))
    return kicks.astype(np.float32), fixed(_kicked(kicks, front) + offsets[:, None] * front.sin)


def _kicked(kick: NDArray[np.float64], front: Geometry) -> NDArray[np.float64]:
    return kick[:, None] * (front.z - KMAG_CENTRE) * front.cos


def _pairs(half: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return x at station 2, slope and expected kick of all lines that may come from the dump."""
    ends = [_span((15, 16)), _span(X_PLANES[half][2:4])]
    x, x_3 = (axis.ravel() for axis in np.meshgrid(*(np.arange(*end, X_STEP) for end in ends), indexing="ij"))
    slope = (x_3 - x) / (Z_3[half] - Z_2)
    bend = slope - (x - slope * (Z_2 - KMAG_CENTRE)) / KMAG_CENTRE
    possible = np.abs(bend) < LARGEST_BEND
    return x[possible], slope[possible], KICK_PER_BEND * bend[possible]


def _span(numbers: Sequence[int]) -> tuple[float, float]:
    planes = [BY_NUMBER[number] for number in numbers]
    return (
        min(plane.origin + 0.5 * plane.pitch for plane in planes),
        max(plane.origin + (plane.detector.elements + 0.5) * plane.pitch for plane in planes),
    )


def _lines(half: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return y at station 2 and slopes of lines that pass near the dump."""
    reach = BY_NUMBER[X_PLANES[half][2]].y_max if half == 0 else -BY_NUMBER[X_PLANES[half][2]].y_min
    height = np.arange(0.0, reach * Z_2 / Z_3[half] + Y_STEP, Y_STEP) * (1.0 if half == 0 else -1.0)
    y, offset = (axis.ravel() for axis in np.meshgrid(height, Y_OFFSETS, indexing="ij"))
    return y, (y * Z_3[half] / Z_2 + offset - y) / (Z_3[half] - Z_2)
