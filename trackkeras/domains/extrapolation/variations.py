"""Variational equations: how a track's derivatives along its initial state move with it.

With `V = d(x, y, tx, ty) / d(x0, y0, tx0, ty0, qop)` and `f` the slope changes of the track, `V` obeys
`V'' = f_x V_x + f_y V_y + f_tx V_tx + f_ty V_ty (+ f_qop in the last column)`. It is integrated with the
tableau and the steps of the track, so that it is the exact derivative of the discrete path; steps chosen by
error control count as fixed.

Arrays: `values` `(4, COLUMNS, BLOCK)` are rows x, y, tx, ty; `changes` `(2, stages, COLUMNS, BLOCK)` are the
second derivatives of x and y; `partials` `(10, BLOCK)` holds f_x, f_y, f_tx, f_ty, f_qop of tx, then of ty.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from trackkeras.domains.extrapolation.blocks import bending, slope_change_x, slope_change_y
from trackkeras.domains.extrapolation.field_gradients import BX_X, BX_Y, BY_X, BY_Y, BZ_X, BZ_Y
from trackkeras.domains.extrapolation.kernels import BLOCK

COLUMNS = 5
PARTIALS = 10


@njit(cache=True, nogil=True, fastmath={"contract"})
def _x_along_tx(out, bend, tx, ty, bx, by, bz):
    for lane in range(BLOCK):
        u, v = tx[lane], ty[lane]
        length = np.sqrt(1.0 + u * u + v * v)
        change = u * v * bx[lane] - (1.0 + u * u) * by[lane] + v * bz[lane]
        out[lane] = bend[lane] * (u / length * change + length * (v * bx[lane] - 2.0 * u * by[lane]))


@njit(cache=True, nogil=True, fastmath={"contract"})
def _x_along_ty(out, bend, tx, ty, bx, by, bz):
    for lane in range(BLOCK):
        u, v = tx[lane], ty[lane]
        length = np.sqrt(1.0 + u * u + v * v)
        change = u * v * bx[lane] - (1.0 + u * u) * by[lane] + v * bz[lane]
        out[lane] = bend[lane] * (v / length * change + length * (u * bx[lane] + bz[lane]))


@njit(cache=True, nogil=True, fastmath={"contract"})
def _y_along_tx(out, bend, tx, ty, bx, by, bz):
    for lane in range(BLOCK):
        u, v = tx[lane], ty[lane]
        length = np.sqrt(1.0 + u * u + v * v)
        change = (1.0 + v * v) * bx[lane] - u * v * by[lane] - u * bz[lane]
        out[lane] = bend[lane] * (u / length * change - length * (v * by[lane] + bz[lane]))


@njit(cache=True, nogil=True, fastmath={"contract"})
def _y_along_ty(out, bend, tx, ty, bx, by, bz):
    for lane in range(BLOCK):
        u, v = tx[lane], ty[lane]
        length = np.sqrt(1.0 + u * u + v * v)
        change = (1.0 + v * v) * bx[lane] - u * v * by[lane] - u * bz[lane]
        out[lane] = bend[lane] * (v / length * change + length * (2.0 * v * bx[lane] - u * by[lane]))


@njit(cache=True, nogil=True)
def fill_partials(partials, factor, bend, kappa, tx, ty, bx, by, bz, gradient):
    """Fill `partials` at a stage; `kappa` is the bending constant in every lane, `factor` is scratch."""
    bending(factor, bend, tx, ty)
    slope_change_x(partials[0], factor, tx, ty, gradient[BX_X], gradient[BY_X], gradient[BZ_X])
    slope_change_x(partials[1], factor, tx, ty, gradient[BX_Y], gradient[BY_Y], gradient[BZ_Y])
    slope_change_y(partials[5], factor, tx, ty, gradient[BX_X], gradient[BY_X], gradient[BZ_X])
    slope_change_y(partials[6], factor, tx, ty, gradient[BX_Y], gradient[BY_Y], gradient[BZ_Y])
    _x_along_tx(partials[2], bend, tx, ty, bx, by, bz)
    _x_along_ty(partials[3], bend, tx, ty, bx, by, bz)
    _y_along_tx(partials[7], bend, tx, ty, bx, by, bz)
    _y_along_ty(partials[8], bend, tx, ty, bx, by, bz)
    bending(factor, kappa, tx, ty)
    slope_change_x(partials[4], factor, tx, ty, bx, by, bz)
    slope_change_y(partials[9], factor, tx, ty, bx, by, bz)


@njit(cache=True, nogil=True, fastmath={"contract"})
def _combine(out, fx, fy, fu, fv, x, y, u, v):
    for lane in range(BLOCK):
        out[lane] = fx[lane] * x[lane] + fy[lane] * y[lane] + fu[lane] * u[lane] + fv[lane] * v[lane]


@njit(cache=True, nogil=True, fastmath={"contract"})
def _add(out, value):
    for lane in range(BLOCK):
        out[lane] += value[lane]


@njit(cache=True, nogil=True)
def reset_variations(values):
    """Set every lane to the identity."""
    values[:] = 0.0
    for k in range(4):
        values[k, k] = 1.0


@njit(cache=True, nogil=True)
def reset_variation(values, lane):
    """Set one lane to the identity."""
    for k in range(4):
        for column in range(COLUMNS):
            values[k, column, lane] = 1.0 if k == column else 0.0


@njit(cache=True, nogil=True, fastmath={"contract"})
def sum_variations(out, values, node, h, square, position_weights, slope_weights, changes, count):
    """Advance `values` to a node as the state is advanced; see `sum_position` and `sum_slope`."""
    for axis in range(2):
        for column in range(COLUMNS):
            place, slope = values[axis, column], values[axis + 2, column]
            new_place, new_slope = out[axis, column], out[axis + 2, column]
            for lane in range(BLOCK):
                new_place[lane] = place[lane] + node * h[lane] * slope[lane]
            for lane in range(BLOCK):
                new_slope[lane] = slope[lane]
            for j in range(count):
                change = changes[axis, j, column]
                if position_weights[j] != 0.0:
                    for lane in range(BLOCK):
                        new_place[lane] += position_weights[j] * square[lane] * change[lane]
                if slope_weights[j] != 0.0:
                    for lane in range(BLOCK):
                        new_slope[lane] += slope_weights[j] * h[lane] * change[lane]


@njit(cache=True, nogil=True)
def change_variations(changes, stage, partials, places, values):
    """Fill the second derivatives of a stage from the variations there.

    `places` `(2 or more, COLUMNS, BLOCK)` are those of x and y where the field was looked up.
    """
    for axis in range(2):
        f = partials[COLUMNS * axis : COLUMNS * (axis + 1)]
        for column in range(COLUMNS):
            out = changes[axis, stage, column]
            _combine(
                out,
                f[0],
                f[1],
                f[2],
                f[3],
                places[0, column],
                places[1, column],
                values[2, column],
                values[3, column],
            )
        _add(changes[axis, stage, COLUMNS - 1], f[4])


@njit(cache=True, nogil=True)
def take_variations(values, new, flag):
    """Accept `new` in the lanes whose flag is set."""
    for k in range(4):
        for column in range(COLUMNS):
            for lane in range(BLOCK):
                values[k, column, lane] = (
                    new[k, column, lane] if flag[lane] == 1.0 else values[k, column, lane]
                )


@njit(cache=True, nogil=True)
def store_jacobian(out, track, values, lane):
    """Write the `(5, 5)` Jacobian of one track; q/p does not change."""
    for k in range(4):
        for column in range(COLUMNS):
            out[track, k, column] = values[k, column, lane]
    for column in range(COLUMNS):
        out[track, 4, column] = 1.0 if column == 4 else 0.0
