"""Muons on their way through the spectrometer, and the hits that they leave.

In a vertical field `dpx/dz = charge * bend` whatever the momentum, so px after a step is exact, and so is x:
`dx = dz (px0 + px1) / (pz0 + pz1)`. Nothing but material changes p or py. In the middle of each step through
material the muon loses energy and is turned by a Gaussian angle in two planes; the step is short enough
that the sideways displacement follows from the turns. The width is Highland's for the whole slab ahead, so
that the sum over its steps has the width of the slab.

Each muon draws its own numbers one after the other: the result is a function of the stream alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from trackkeras.domains.dimuon.detectors import PLANES
from trackkeras.domains.dimuon.iron import LOSSES, MUON, draw_loss
from trackkeras.domains.dimuon.planes import MODULE_TUBES, OVERLAP
from trackkeras.domains.dimuon.spectrometer import BARS, KEPT, STATION_3, WIRES, Layout, Response, layout

Floats = NDArray[np.float64]

STEP = 40.0
"""Longest step in iron [cm]."""

LOWEST_MOMENTUM = 1.0
"""A muon of less momentum [GeV] is stopped: it would not reach the last plane."""

AIM = 15.0
"""Margin of the aim at station 3 [cm], wider than light material moves a muon: those that are lost there
anyway need not be followed."""

_COS, _SIN, _PITCH, _ORIGIN, _XMIN, _XMAX, _YMIN, _YMAX, _ELEMENTS, _KIND = range(10)


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
        setup.legs,
        setup.leg_plane,
        setup.planes,
        setup.shifts,
        setup.numbers,
        setup.kept,
        setup.group,
        setup.closes,
        setup.least if response.all_stations else np.zeros_like(setup.least),
        setup.aim,
        response.efficiencies(setup.numbers),
        LOSSES,
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


@njit(cache=True, nogil=True)
def _transport(
    rng,
    legs,
    leg_plane,
    planes,
    shifts,
    numbers,
    kept_at,
    group,
    closes,
    least,
    aim,
    efficiency,
    losses,
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
    fired = np.zeros(least.shape[0], np.int64)
    for i in range(charge.shape[0]):
        x, y, z = vertex[i, 0], vertex[i, 1], vertex[i, 2]
        start = z
        px, py, pz = momentum[i, 0], momentum[i, 1], momentum[i, 2]
        fired[:] = 0
        alive = pz > LOWEST_MOMENTUM
        for leg in range(legs.shape[0]):
            if not alive:
                break
            end = legs[leg, 1]
            if end <= z:
                continue
            x, y, px, py, pz, alive = cross(
                rng, legs, leg, losses, scatter, lose, start, z, charge[i], x, y, px, py, pz
            )
            z = end
            if strict and z == aim[0] and alive:
                alive = aims(aim, charge[i], x, y, px, py, pz)
            if not alive:
                break
            row = leg_plane[leg]
            if row < 0:
                continue
            if kept_at[row] >= 0:
                for column, value in enumerate((x, y, z, px, py, pz)):
                    states[i, kept_at[row], column] = value
            hit = answer(
                rng,
                planes,
                shifts,
                row,
                efficiency[row],
                resolution,
                x,
                y,
                i,
                numbers[row] - 1,
                element,
                neighbour,
                drift,
            )
            if hit and group[row] >= 0:
                fired[group[row]] += 1
            if closes[row] >= 0 and fired[closes[row]] < least[closes[row]]:
                alive = False
                break
        kept[i] = alive or not strict


@njit(cache=True, nogil=True, inline="always")
def cross(rng, legs, leg, losses, scatter, lose, start, z, charge, x, y, px, py, pz):
    """Return x, y and momentum at the end of a leg, and False for a muon that is lost on the way.

    Args:
        rng: Source of randomness.
        legs: See `Layout`.
        leg: Which.
        losses: Table of the losses in iron.
        scatter: Width of the scattering angle over Highland's.
        lose: Whether material takes energy.
        start: z at which the muon was made [cm].
        z: Where it is [cm].
        charge: +1.0 or -1.0.
        x: Position [cm], like the next.
        y: See `x`.
        px: Momentum [GeV], like the next two.
        py: See `px`.
        pz: See `px`.
    """
    bend, radiation_length = charge * legs[leg, 2], legs[leg, 4]
    alive = True
    if radiation_length == math.inf:
        x, y, px, pz, alive = advance(x, y, px, py, pz, bend, legs[leg, 1] - z)
    else:
        iron = legs[leg, 3] > 0.0
        steps = math.ceil((legs[leg, 1] - z) / STEP)
        dz = (legs[leg, 1] - z) / steps
        # Highland's logarithm belongs to all of the slab that the muon crosses, not to one step.
        share = (legs[leg, 7] - max(start, legs[leg, 6])) / radiation_length
        factor = scatter * max(1.0 + 0.038 * math.log(share), 0.5)
        for _ in range(steps):
            x, y, px, pz, alive = advance(x, y, px, py, pz, bend, 0.5 * dz)
            length = dz * math.sqrt(px * px + py * py + pz * pz) / pz
            if lose and alive:
                px, py, pz, alive = slow_down(rng, losses, iron, legs[leg, 5], length, px, py, pz)
            if not alive:
                break
            if scatter > 0.0:
                px, py, pz = turn(rng, factor * math.sqrt(length / radiation_length), px, py, pz)
            x, y, px, pz, alive = advance(x, y, px, py, pz, bend, 0.5 * dz)
            if not alive:
                break
    return x, y, px, py, pz, alive and abs(x) <= legs[leg, 8] and abs(y) <= legs[leg, 9]


@njit(cache=True, nogil=True)
def aims(aim, charge, x, y, px, py, pz):
    """Return whether a muon that leaves the dump flies to station 3, give or take `AIM`."""
    there, half_x, half_y = STATION_3
    far = there - aim[0]
    at_x = x + (px * far + charge * aim[1] * (there - aim[2])) / pz
    at_y = y + py * far / pz
    return abs(at_x) < half_x + AIM and abs(at_y) < half_y + AIM


@njit(cache=True, nogil=True)
def advance(x, y, px, py, pz, bend, dz):
    """Return x, y, px, pz after dz in a vertical field, and False where the muon turns back."""
    after = px + bend * dz
    square = pz * pz + px * px - after * after
    if square <= 0.0:
        return x, y, px, pz, False
    forward = math.sqrt(square)
    mean = 2.0 * dz / (pz + forward)
    return x + 0.5 * mean * (px + after), y + mean * py, after, forward, True


@njit(cache=True, nogil=True)
def slow_down(rng, losses, iron, rate, length, px, py, pz):
    """Return the momentum behind some material, and False for a muon that is stopped."""
    square = px * px + py * py + pz * pz
    energy = math.sqrt(square + MUON * MUON)
    energy -= draw_loss(rng, losses, energy, length) if iron else rate * length
    left = energy * energy - MUON * MUON
    if left < LOWEST_MOMENTUM * LOWEST_MOMENTUM:
        return px, py, pz, False
    scale = math.sqrt(left / square)
    return px * scale, py * scale, pz * scale, True


@njit(cache=True, nogil=True)
def turn(rng, width, px, py, pz):
    """Turn a momentum by Gaussian angles in two planes of width 13.6 MeV * `width` / (beta p)."""
    square = px * px + py * py + pz * pz
    p = math.sqrt(square)
    theta = 0.0136 * width * math.sqrt(square + MUON * MUON) / square
    flat = math.sqrt(px * px + pz * pz)
    first, second = theta * rng.standard_normal(), theta * rng.standard_normal()
    # Unit vectors across: (pz, 0, -px) / flat, and the direction times it.
    qx = px + p * first * pz / flat - second * px * py / flat
    qy = py + second * flat
    qz = pz - p * first * px / flat - second * pz * py / flat
    scale = 1.0 / math.sqrt(1.0 + first * first + second * second)
    return qx * scale, qy * scale, qz * scale


@njit(cache=True, nogil=True, inline="always")
def answer(rng, planes, shifts, row, efficiency, resolution, x, y, muon, slot, element, neighbour, drift):
    """Write the hit of a muon in one plane; return whether there is one."""
    if x < planes[row, _XMIN] or x > planes[row, _XMAX] or y < planes[row, _YMIN] or y > planes[row, _YMAX]:
        return False
    pitch, elements = planes[row, _PITCH], planes[row, _ELEMENTS]
    place = (planes[row, _COS] * x + planes[row, _SIN] * y - planes[row, _ORIGIN]) / pitch
    nearest = math.floor(place + 0.5)
    if nearest < 1 or nearest > elements:
        return False
    if efficiency < 1.0 and rng.random() >= efficiency:
        return False
    element[muon, slot] = nearest
    off = place - nearest
    if planes[row, _KIND] == BARS:
        if abs(off) * pitch > 0.5 * (pitch - OVERLAP):
            other = nearest + (1 if off > 0.0 else -1)
            neighbour[muon, slot] = other if 1 <= other <= elements else 0
    elif planes[row, _KIND] == WIRES:
        module = min(max(int(place / MODULE_TUBES), 0), shifts.shape[1] - 1)
        drift[muon, slot] = off * pitch + shifts[row, module] + resolution * rng.standard_normal()
    return True
