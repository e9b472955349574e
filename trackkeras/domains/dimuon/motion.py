"""How a muon moves: exactly through vertical fields, step by step through material.

In a vertical field `dpx/dz = charge * bend` whatever the momentum, so px after a step is exact, and so is x:
`dx = dz (px0 + px1) / (pz0 + pz1)`. Nothing but material changes p or py. In the middle of each step through
material the muon loses energy and is turned by a Gaussian angle in two planes. The rates of the loss and the
width of the angle are those of the energy in the middle of the loss, so that steps may be long. The width is
Highland's (constants of G. R. Lynch and O. I. Dahl, Nucl. Instrum. Meth. B 58 (1991) 6) for the whole slab
ahead, so that the sum over its steps has the width of the slab.
"""

from __future__ import annotations

import math

from numba import njit

from trackkeras.domains.dimuon.iron import MUON, TYPICAL_LOSS, draw_loss
from trackkeras.domains.dimuon.reach import may_reach
from trackkeras.domains.dimuon.spectrometer import (
    BEND,
    END,
    HALF_X,
    HALF_Y,
    IRON,
    LOSS,
    RADIATION_LENGTH,
    START,
)

STEP = 84.0
"""Longest step in iron [cm]: six in the dump. Steps of 5 cm change energy loss and scattering by less than
0.5 %."""

LOWEST_MOMENTUM = 1.0
"""A muon of less momentum [GeV] is stopped: it would not reach the last plane."""


@njit(cache=True, nogil=True, error_model="numpy")
def cross(rng, slabs, slab, scatter, lose, aim, watched, start, z, charge, x, y, px, py, pz):
    """Return x, y and momentum at the end of a slab, and False for a muon that is lost on the way.

    Args:
        rng: Source of randomness.
        slabs: See `Layout`.
        slab: Which.
        scatter: Width of the scattering angle over Highland's.
        lose: Whether material takes energy.
        aim: See `reach.aim_of`.
        watched: Whether a muon is lost that cannot reach all stations any more.
        start: z at which the muon was made [cm].
        z: Where it is [cm].
        charge: +1.0 or -1.0.
        x: Position [cm], like the next.
        y: See `x`.
        px: Momentum [GeV], like the next two.
        py: See `px`.
        pz: See `px`.
    """
    end, bend, radiation_length = slabs[slab, END], charge * slabs[slab, BEND], slabs[slab, RADIATION_LENGTH]
    iron, rate = slabs[slab, IRON] > 0.0, slabs[slab, LOSS]
    half_x, half_y = slabs[slab, HALF_X], slabs[slab, HALF_Y]
    if radiation_length == math.inf:
        x, y, px, pz, alive = advance(x, y, px, py, pz, bend, end - z)
        return x, y, px, py, pz, alive and abs(x) <= half_x and abs(y) <= half_y
    steps = math.ceil((end - z) / STEP)
    dz = (end - z) / steps
    # Highland's logarithm belongs to all of the slab that the muon crosses, not to one step.
    share = (end - max(start, slabs[slab, START])) / radiation_length
    factor = 0.0136 * scatter * max(1.0 + 0.038 * math.log(share), 0.5) / math.sqrt(radiation_length)
    x, y, px, pz, alive = advance(x, y, px, py, pz, bend, 0.5 * dz)
    for step in range(steps):
        if alive:
            length = dz * math.sqrt(px * px + py * py + pz * pz) / pz
            px, py, pz, alive = go_through(rng, iron, lose, rate, factor, length, px, py, pz)
        if alive and watched:
            alive = may_reach(aim, charge, x, y, z + (step + 0.5) * dz, px, py, pz)
        if alive:
            x, y, px, pz, alive = advance(x, y, px, py, pz, bend, dz if step < steps - 1 else 0.5 * dz)
        if not alive:
            return x, y, px, py, pz, False
    alive = abs(x) <= half_x and abs(y) <= half_y
    return x, y, px, py, pz, alive and (not watched or may_reach(aim, charge, x, y, end, px, py, pz))


@njit(cache=True, nogil=True, error_model="numpy")
def advance(x, y, px, py, pz, bend, dz):
    """Return x, y, px, pz after dz in a vertical field, and False where the muon turns back.

    y grows by more than along the circle: by a twelfth of the squared angle that the muon turns by.
    """
    if bend == 0.0:
        path = dz / pz
        return x + path * px, y + path * py, px, pz, True
    after = px + bend * dz
    square = pz * pz + px * px - after * after
    if square <= 0.0:
        return x, y, px, pz, False
    forward = math.sqrt(square)
    mean = 2.0 * dz / (pz + forward)
    return x + 0.5 * mean * (px + after), y + mean * py, after, forward, True


@njit(cache=True, nogil=True, error_model="numpy")
def go_through(rng, iron, lose, rate, factor, length, px, py, pz):
    """Return the momentum behind some material, and False for a muon that is stopped.

    Args:
        rng: Source of randomness.
        iron: Whether it is iron; else the muon loses `rate` per length.
        lose: Whether the material takes energy.
        rate: See `iron` [GeV/cm].
        factor: Width of the scattering angle in one plane, times beta p, over the root of the length
            [GeV/cm^½].
        length: Path length [cm].
        px: Momentum [GeV], like the next two.
        py: See `px`.
        pz: See `px`.
    """
    square = px * px + py * py + pz * pz
    left = square
    if lose:
        energy = math.sqrt(square + MUON * MUON)
        if iron:
            energy -= draw_loss(rng, max(energy - 0.5 * TYPICAL_LOSS * length, 2.0 * MUON), length)
        else:
            energy -= rate * length
        left = energy * energy - MUON * MUON
        if left < LOWEST_MOMENTUM * LOWEST_MOMENTUM:
            return px, py, pz, False
    if factor == 0.0:
        scale = math.sqrt(left / square)
        return px * scale, py * scale, pz * scale, True
    # Over a steady loss the mean of 1 / p² is 1 over the momenta before and behind.
    theta = factor * math.sqrt(length / math.sqrt(left * square) * (1.0 + MUON * MUON / left))
    first, second = theta * rng.standard_normal(), theta * rng.standard_normal()
    # Unit vectors across: (pz, 0, -px) / flat, and the direction times it.
    flat = math.sqrt(px * px + pz * pz)
    along = first * math.sqrt(square) / flat
    up = 1.0 - second * py / flat
    scale = math.sqrt(left / (square * (1.0 + first * first + second * second)))
    return (
        scale * (px * up + along * pz),
        scale * (py + second * flat),
        scale * (pz * up - along * px),
        True,
    )
