"""Loops over a block of `BLOCK` tracks, one idea each, from which the propagation kernels are made.

Each writes one array and reads few: with more, the compiler gives up proving that they do not overlap and
emits scalar code. A lane's result depends on that lane alone, to the last bit.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from trackkeras.domains.extrapolation.kernels import BLOCK
from trackkeras.domains.extrapolation.status import LEFT_VOLUME, NOT_FINITE, SLOPE_LIMIT


@njit(cache=True, nogil=True, fastmath={"contract"})
def sum_position(out, start, slope, node, h, square, weights, changes, count):
    """`out = start + node h slope + h² sum_j weights[j] changes[j]` over the first `count` stages."""
    if node == 0.0:
        copy(out, start)
    else:
        for lane in range(BLOCK):
            out[lane] = start[lane] + node * h[lane] * slope[lane]
    for j in range(count):
        if weights[j] != 0.0:
            for lane in range(BLOCK):
                out[lane] += weights[j] * square[lane] * changes[j, lane]


@njit(cache=True, nogil=True, fastmath={"contract"})
def sum_slope(out, start, h, weights, changes, count):
    """`out = start + h sum_j weights[j] changes[j]` over the first `count` stages."""
    copy(out, start)
    for j in range(count):
        if weights[j] != 0.0:
            for lane in range(BLOCK):
                out[lane] += weights[j] * h[lane] * changes[j, lane]


@njit(cache=True, nogil=True, fastmath={"contract"})
def bending(out, bend, tx, ty):
    """`out = bend sqrt(1 + tx² + ty²)`."""
    for lane in range(BLOCK):
        out[lane] = bend[lane] * np.sqrt(1.0 + tx[lane] * tx[lane] + ty[lane] * ty[lane])


@njit(cache=True, nogil=True, fastmath={"contract"})
def slope_change_x(out, factor, tx, ty, bx, by, bz):
    """Fill dtx/dz."""
    for lane in range(BLOCK):
        u = tx[lane]
        v = ty[lane]
        out[lane] = factor[lane] * (u * v * bx[lane] - (1.0 + u * u) * by[lane] + v * bz[lane])


@njit(cache=True, nogil=True, fastmath={"contract"})
def slope_change_y(out, factor, tx, ty, bx, by, bz):
    """Fill dty/dz."""
    for lane in range(BLOCK):
        u = tx[lane]
        v = ty[lane]
        out[lane] = factor[lane] * ((1.0 + v * v) * bx[lane] - u * v * by[lane] - u * bz[lane])


@njit(cache=True, nogil=True, fastmath={"contract"})
def keep_within(flag, value, low, high):
    """Clear the flag of lanes whose value is not in [low, high]; NaN is not."""
    for lane in range(BLOCK):
        flag[lane] = flag[lane] if (value[lane] >= low) & (value[lane] <= high) else 0.0


@njit(cache=True, nogil=True)
def clear_outside(flag, value, low, high):
    """Clear the flag of lanes whose value is a number outside [low, high]; infinity and NaN are no places."""
    for lane in range(BLOCK):
        v = value[lane]
        flag[lane] = 0.0 if ((v < low) & (v > -np.inf)) | ((v > high) & (v < np.inf)) else flag[lane]


@njit(cache=True, nogil=True, fastmath={"contract"})
def copy(out, value):
    """`out = value`."""
    for lane in range(BLOCK):
        out[lane] = value[lane]


@njit(cache=True, nogil=True, fastmath={"contract"})
def take(out, value, flag):
    """`out = value` in the lanes whose flag is set."""
    for lane in range(BLOCK):
        out[lane] = value[lane] if flag[lane] == 1.0 else out[lane]


@njit(cache=True, nogil=True, fastmath={"contract"})
def fill(out, value):
    """`out = value`, a number."""
    for lane in range(BLOCK):
        out[lane] = value


@njit(cache=True, nogil=True)
def start_status(volume, max_slope, x, y, tx, ty):
    """Return the status of a track that has not moved yet."""
    if not (volume[0] <= x <= volume[1] and volume[2] <= y <= volume[3]):
        return LEFT_VOLUME
    if not (abs(tx) <= max_slope and abs(ty) <= max_slope):
        return SLOPE_LIMIT
    return 0


@njit(cache=True, nogil=True)
def failure_status(max_slope, inside, x, y, tx, ty):
    """Return why a step that ends in this state is no good; `inside` is 0 if a stage was outside."""
    if inside == 0.0:
        return LEFT_VOLUME
    if not np.isfinite(x + y + tx + ty):
        return NOT_FINITE
    if not (abs(tx) <= max_slope and abs(ty) <= max_slope):
        return SLOPE_LIMIT
    return LEFT_VOLUME
