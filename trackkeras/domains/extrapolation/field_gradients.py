"""Derivatives of the field along x and y, for the transport Jacobian.

Closed forms and the trilinear interpolation are differentiated by hand; a kind of field without a formula
here gets central differences, good to about 1e-8 of the gradient where the field varies over a metre.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from trackkeras.domains.extrapolation import kernels
from trackkeras.domains.extrapolation.kernels import (
    EXPONENT_MAX,
    EXPONENT_MIN,
    GAUSSIAN,
    GRID,
    MAXWELL,
    TERM_SIZE,
    exponential,
    sine_cosine,
)

BX_X, BY_X, BZ_X, BX_Y, BY_Y, BZ_Y = range(6)
"""Rows of a gradient: dBx/dx, dBy/dx, dBz/dx, dBx/dy, dBy/dy, dBz/dy [T/mm]."""

DIFFERENCE_MM = 0.1


@njit(cache=True, nogil=True)
def gaussian_gradient(gradient):
    """Fill the gradient of a field that depends on z only."""
    gradient[:] = 0.0


@njit(cache=True, nogil=True, fastmath={"contract"})
def maxwell_gradient(params, x, y, z, gradient):
    """Fill the gradient of a sum of complex Gaussians.

    With f(w) = amplitude exp(-decay (w - centre)²) and dw/dx = a + ib, dw/dy = ic, the derivatives of f are
    g dw/dx and g dw/dy with g = -2 decay (w - centre) f; the components are those of `maxwell_block`.
    """
    gradient[:] = 0.0
    bx_x, by_x, bz_x = gradient[BX_X], gradient[BY_X], gradient[BZ_X]
    bx_y, by_y, bz_y = gradient[BX_Y], gradient[BY_Y], gradient[BZ_Y]
    for row in range(0, params.shape[0], TERM_SIZE):
        amplitude, centre, decay = params[row], params[row + 1], params[row + 2]
        a, b, c = params[row + 3], params[row + 4], params[row + 5]
        for i in range(z.shape[0]):
            d = z[i] - centre + a * x[i]
            u = b * x[i] + c * y[i]
            size = amplitude * exponential(min(max((u * u - d * d) * decay, EXPONENT_MIN), EXPONENT_MAX))
            sine, cosine = sine_cosine(-2.0 * d * u * decay)
            real = -2.0 * decay * size * (d * cosine - u * sine)
            imaginary = -2.0 * decay * size * (d * sine + u * cosine)
            real_x, imaginary_x = a * real - b * imaginary, a * imaginary + b * real
            real_y, imaginary_y = -c * imaginary, c * real
            bx_x[i] += b * real_x + a * imaginary_x
            by_x[i] += c * real_x
            bz_x[i] += imaginary_x
            bx_y[i] += b * real_y + a * imaginary_y
            by_y[i] += c * real_y
            bz_y[i] += imaginary_y


@njit(cache=True, nogil=True, fastmath={"contract"})
def grid_gradient(params, values, x, y, z, gradient):
    """Fill the gradient of the trilinear interpolation; on the border of two cells, that of the upper one."""
    for i in range(z.shape[0]):
        fx = (x[i] - params[0]) / params[1]
        fy = (y[i] - params[2]) / params[3]
        fz = (z[i] - params[4]) / params[5]
        ix = int(min(fx, values.shape[0] - 2.0)) if fx > 0.0 else 0
        iy = int(min(fy, values.shape[1] - 2.0)) if fy > 0.0 else 0
        iz = int(min(fz, values.shape[2] - 2.0)) if fz > 0.0 else 0
        fx -= ix
        fy -= iy
        fz -= iz
        for k in range(6):
            gradient[k, i] = 0.0
        for corner in range(8):
            jx, jy, jz = corner >> 2, (corner >> 1) & 1, corner & 1
            along_z = fz if jz else 1.0 - fz
            weight_x = (1.0 if jx else -1.0) / params[1] * (fy if jy else 1.0 - fy) * along_z
            weight_y = (fx if jx else 1.0 - fx) * (1.0 if jy else -1.0) / params[3] * along_z
            for k in range(3):
                node = values[ix + jx, iy + jy, iz + jz, k]
                gradient[k, i] += weight_x * node
                gradient[3 + k, i] += weight_y * node


@njit(cache=True, nogil=True)
def difference_gradient(kind, params, values, x, y, z, gradient):
    """Fill the gradient by central differences of the field."""
    n = z.shape[0]
    moved, high, low = np.empty(n), np.empty((3, n)), np.empty((3, n))
    for axis in range(2):
        for sign in (1.0, -1.0):
            here = high if sign > 0.0 else low
            for i in range(n):
                moved[i] = (x[i] if axis == 0 else y[i]) + sign * DIFFERENCE_MM
            if axis == 0:
                kernels.field_block(kind, params, values, moved, y, z, here[0], here[1], here[2])
            else:
                kernels.field_block(kind, params, values, x, moved, z, here[0], here[1], here[2])
        for k in range(3):
            for i in range(n):
                gradient[3 * axis + k, i] = (high[k, i] - low[k, i]) / (2.0 * DIFFERENCE_MM)


@njit(cache=True, nogil=True)
def gradient_block(kind, params, values, x, y, z, gradient):
    """Fill `gradient` `(6, n)` [T/mm] at the points `x`, `y`, `z` [mm], each `(n,)`; see `field_block`."""
    if kind == GAUSSIAN:
        gaussian_gradient(gradient)
    elif kind == MAXWELL:
        maxwell_gradient(params, x, y, z, gradient)
    elif kind == GRID:
        grid_gradient(params, values, x, y, z, gradient)
    else:
        difference_gradient(kind, params, values, x, y, z, gradient)
