"""Muons on their way through the spectrometer, and the hits that they leave.

Each muon draws its own numbers one after the other: the result is a function of the stream alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from trackkeras.domains.dimuon.detectors import PLANES
from trackkeras.domains.dimuon.motion import LOWEST_MOMENTUM, cross
from trackkeras.domains.dimuon.planes import MODULE_TUBES, OVERLAP
from trackkeras.domains.dimuon.reach import aim_of
from trackkeras.domains.dimuon.spectrometer import (
    BARS,
    ELEMENTS,
    END,
    KEPT,
    KIND,
    OFFSET,
    PER_X,
    PER_Y,
    PITCH,
    PLANE_Z,
    SLOT,
    WIRES,
    X_MAX,
    X_MIN,
    Y_MAX,
    Y_MIN,
    Layout,
    Response,
    layout,
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Transported:
    """What became of some muons.

    Attributes:
        kept: bool `(n,)`: those that got as far as asked for; the rest of a row is meaningless otherwise.
        element: int32 `(n, 62)`: element of detector d at d - 1, 0 without a hit.
        neighbour: int32 `(n, 62)`: second bar of a hodoscope, fired where two overlap; else 0.
        drift: float64 `(n, 62)`: signed distance from the wire [cm].
        states: float64 `(n, 3, 6)`: position [cm] and momentum [GeV] at the planes `spectrometer.KEPT`, NaN
            where a muon did not get there.
    """

    kept: NDArray[np.bool_]
    element: NDArray[np.int32]
    neighbour: NDArray[np.int32]
    drift: Floats
    states: Floats

    def take(self, rows: slice | NDArray[np.int64]) -> Transported:
        """Return some of the muons."""
        return Transported(
            self.kept[rows], self.element[rows], self.neighbour[rows], self.drift[rows], self.states[rows]
        )

    @staticmethod
    def stack(parts: list[Transported], places: NDArray[np.int64]) -> Transported:
        """Return k muons of n events as arrays `(n, k, ...)`.

        Args:
            parts: One entry of n muons for each of the k.
            places: `(n, k)`: which of the k muons of its event each of them is.
        """
        back = places.argsort(axis=1)

        def stacked(name: str) -> NDArray[Any]:
            columns = np.stack([getattr(part, name) for part in parts], axis=1)
            return columns[np.arange(len(back))[:, None], back]

        return Transported(*(stacked(entry.name) for entry in fields(Transported)))


def transport(
    rng: np.random.Generator,
    charge: NDArray[np.int32],
    vertex: Floats,
    momentum: Floats,
    response: Response,
    setup: Layout | None = None,
) -> Transported:
    """Send muons through the spectrometer.

    Args:
        rng: Source of randomness.
        charge: `(n,)`, +1 or -1.
        vertex: `(n, 3)` where each starts [cm], upstream of station 1.
        momentum: `(n, 3)` [GeV], forward.
        response: Material, detectors, selection.
        setup: Slabs and planes; the spectrometer's if None.
    """
    setup = setup or layout()
    n = len(charge)
    element, neighbour = np.zeros((n, PLANES), np.int32), np.zeros((n, PLANES), np.int32)
    drift, states = np.zeros((n, PLANES)), np.full((n, len(KEPT), 6), np.nan)
    kept = np.zeros(n, np.bool_)
    _transport(
        rng,
        setup.slabs,
        setup.planes,
        setup.places,
        setup.shifts,
        setup.bounds,
        setup.least if response.all_stations else np.zeros_like(setup.least),
        response.efficiencies(setup.places[:, SLOT] + 1),
        aim_of(response, setup),
        response.scatter,
        response.lose,
        response.all_stations,
        response.resolution,
        np.ascontiguousarray(charge, dtype=np.float64),
        np.ascontiguousarray(vertex, dtype=np.float64),
        np.ascontiguousarray(momentum, dtype=np.float64),
        element,
        neighbour,
        drift,
        states,
        kept,
    )
    return Transported(kept, element, neighbour, drift, states)


@njit(cache=True, nogil=True, error_model="numpy")
def _transport(
    rng,
    slabs,
    planes,
    places,
    shifts,
    bounds,
    least,
    efficiency,
    aim,
    scatter,
    lose,
    strict,
    resolution,
    charge,
    vertex,
    momentum,
    element,
    neighbour,
    drift,
    states,
    kept,
):
    """Fill the last five arguments; see `transport` and `Layout`."""
    fired = np.zeros(least.shape[0] + 1, np.int64)  # hits of each group, and in which half
    for i in range(charge.shape[0]):
        x, y, z = vertex[i, 0], vertex[i, 1], vertex[i, 2]
        start = z
        px, py, pz = momentum[i, 0], momentum[i, 1], momentum[i, 2]
        fired[:] = 0
        alive = pz > LOWEST_MOMENTUM
        for slab in range(slabs.shape[0]):
            end = slabs[slab, END]
            if end <= z:
                continue
            if alive and bounds[slab] < bounds[slab + 1]:
                alive = answer(
                    rng,
                    planes,
                    places,
                    shifts,
                    bounds[slab],
                    bounds[slab + 1],
                    least,
                    efficiency,
                    resolution,
                    x,
                    y,
                    z,
                    px,
                    py,
                    pz,
                    i,
                    element,
                    neighbour,
                    drift,
                    states,
                    fired,
                )
            if not alive:
                break
            watched = strict and z < aim[0]
            x, y, px, py, pz, alive = cross(
                rng, slabs, slab, scatter, lose, aim, watched, start, z, charge[i], x, y, px, py, pz
            )
            z = end
        kept[i] = alive or not strict


@njit(cache=True, nogil=True, error_model="numpy")
def answer(
    rng,
    planes,
    places,
    shifts,
    first,
    last,
    least,
    efficiency,
    resolution,
    x,
    y,
    z,
    px,
    py,
    pz,
    muon,
    element,
    neighbour,
    drift,
    states,
    fired,
):
    """Write the hits of a muon in planes on its straight way; return False for one that is lost.

    A helper for each plane would be easier to read, but Numba counts the references to every array that it
    is given, which takes longer than all that is done here.
    """
    slope_x, slope_y = px / pz, py / pz
    for row in range(first, last):
        there = planes[row, PLANE_Z]
        if there <= z:
            continue
        at_x, at_y = x + slope_x * (there - z), y + slope_y * (there - z)
        slot, state, group, closes, half = places[row]
        if state >= 0:
            for column, value in enumerate((at_x, at_y, there, px, py, pz)):
                states[muon, state, column] = value
        inside = planes[row, X_MIN] <= at_x <= planes[row, X_MAX]
        inside = inside and planes[row, Y_MIN] <= at_y <= planes[row, Y_MAX]
        place = planes[row, PER_X] * at_x + planes[row, PER_Y] * at_y + planes[row, OFFSET]
        nearest = math.floor(place + 0.5)
        inside = inside and 1 <= nearest <= planes[row, ELEMENTS]
        if inside and (efficiency[row] >= 1.0 or rng.random() < efficiency[row]):
            element[muon, slot] = nearest
            pitch, off = planes[row, PITCH], place - nearest
            if planes[row, KIND] == BARS:
                if abs(off) * pitch > 0.5 * (pitch - OVERLAP):
                    other = nearest + (1 if off > 0.0 else -1)
                    neighbour[muon, slot] = other if 1 <= other <= planes[row, ELEMENTS] else 0
            elif planes[row, KIND] == WIRES:
                module = min(max(int(place / MODULE_TUBES), 0), shifts.shape[1] - 1)
                drift[muon, slot] = off * pitch + shifts[row, module] + resolution * rng.standard_normal()
            if group >= 0:
                fired[group] += 1
            if half != 0:
                if fired[-1] == -half and least[group] > 0:
                    return False
                fired[-1] = half
        if closes >= 0 and fired[closes] < least[closes]:
            return False
    return True
