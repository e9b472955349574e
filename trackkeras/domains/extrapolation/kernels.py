"""Magnetic field kernels: a field is a kind, a parameter array and grid values, read by compiled functions.

One kernel per kind fills blocks of points; `field_block` picks the kernel once per block. Nothing here is a
closure or takes a function as an argument, so the compiled code is found in Numba's cache by every process.
Kernels do not check the volume: the caller does.

The loops hold additions, multiplications and selections only, with an own exponential and an own sine and
cosine, so that the compiler turns them into vector instructions; the math library would be called once per
point. Both agree with it to about 1e-16 in the range that the kernels use.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from trackkeras.domains.extrapolation import grid_kernels

GAUSSIAN, MAXWELL, GRID, TWO_DIPOLE = 0, 1, 2, 3
GRID_CUBIC, GRID_NEAREST = 4, 5
VARIABLE_GRID, VARIABLE_GRID_CUBIC, VARIABLE_GRID_NEAREST = 6, 7, 8
"""Kinds of field.

`GAUSSIAN`: `params` is By at the centre [T], the centre [mm], 1 / (2 width²) [1/mm²].
`MAXWELL`: `params` holds rows of `TERM_SIZE` numbers, see `trackkeras.domains.extrapolation.maxwell`.
`TWO_DIPOLE`: `params` is the moment of each dipole along y [T mm³], half their distance [mm], their plane z
[mm], and the radius around each within which the field is not used [mm].
`GRID` (trilinear), `GRID_CUBIC` and `GRID_NEAREST`, with equal steps or `VARIABLE_`: `values` holds the nodes
and `params` the axes, see `trackkeras.domains.extrapolation.grid_kernels`.
"""

TERM_SIZE = 6
"""Numbers per row of `MAXWELL`: amplitude [T], centre [mm], 1 / (2 width²) [1/mm²], a, b, c."""

EXPONENT_MIN, EXPONENT_MAX = -80.0, 60.0
"""Bounds of the exponent. Below, a term is under 1e-34 of its amplitude; above lies no valid volume."""

BLOCK = 64

_LOG2_E = math.log2(math.e)
_TWO_OVER_PI = 2.0 / math.pi
# Adding and subtracting 1.5 * 2^52 rounds a double to the nearest integer, whose bits are then its low bits.
_ROUND = 6755399441055744.0
# ln 2 and pi / 2 as sums of doubles whose leading parts end in zeros, so that products with small integers
# are exact (W. J. Cody and W. Waite, Software Manual for the Elementary Functions, 1980; values from fdlibm).
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_PIO2_HIGH, _PIO2_MIDDLE, _PIO2_LOW = (
    1.57079632673412561417e00,
    6.07710050630396597660e-11,
    2.02226624879595063154e-21,
)


@njit(cache=True, nogil=True, fastmath={"contract"}, inline="always")
def exponential(v):
    """Return exp(v) for v within the exponent bounds: 2^k times a Taylor polynomial on |r| <= ln(2)/2."""
    shifted = v * _LOG2_E + _ROUND
    k = shifted - _ROUND
    r = (v - k * _LN2_HIGH) - k * _LN2_LOW
    p = 1.0 / 479001600.0
    p = p * r + 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    exponent = np.float64(shifted).view(np.int64) + np.int64(1023)
    return p * np.int64(exponent << np.int64(52)).view(np.float64)


@njit(cache=True, nogil=True, fastmath={"contract"}, inline="always")
def sine_cosine(v):
    """Return sin(v), cos(v) for |v| < 1e5: Taylor polynomials on |r| <= pi/4, quarter turns removed."""
    shifted = v * _TWO_OVER_PI + _ROUND
    k = shifted - _ROUND
    r = ((v - k * _PIO2_HIGH) - k * _PIO2_MIDDLE) - k * _PIO2_LOW
    q = r * r
    s = 1.0 / 355687428096000.0
    s = s * q - 1.0 / 1307674368000.0
    s = s * q + 1.0 / 6227020800.0
    s = s * q - 1.0 / 39916800.0
    s = s * q + 1.0 / 362880.0
    s = s * q - 1.0 / 5040.0
    s = s * q + 1.0 / 120.0
    s = s * q - 1.0 / 6.0
    s = s * q * r + r
    c = 1.0 / 20922789888000.0
    c = c * q - 1.0 / 87178291200.0
    c = c * q + 1.0 / 479001600.0
    c = c * q - 1.0 / 3628800.0
    c = c * q + 1.0 / 40320.0
    c = c * q - 1.0 / 720.0
    c = c * q + 1.0 / 24.0
    c = c * q - 0.5
    c = c * q + 1.0
    turns = np.float64(shifted).view(np.int64)
    odd = (turns & np.int64(1)) != 0
    sine = c if odd else s
    cosine = s if odd else c
    sine = -sine if (turns & np.int64(2)) != 0 else sine
    cosine = -cosine if ((turns + np.int64(1)) & np.int64(2)) != 0 else cosine
    return sine, cosine


@njit(cache=True, nogil=True, fastmath={"contract"})
def gaussian_block(params, x, y, z, bx, by, bz):
    """Fill a field that has By(z) only."""
    peak, centre, decay = params[0], params[1], params[2]
    for i in range(z.shape[0]):
        d = z[i] - centre
        bx[i] = 0.0
        by[i] = peak * exponential(max(-d * d * decay, EXPONENT_MIN))
        bz[i] = 0.0


@njit(cache=True, nogil=True, fastmath={"contract"})
def maxwell_block(params, x, y, z, bx, by, bz):
    """Fill the sum of complex Gaussians that `trackkeras.domains.extrapolation.maxwell` describes."""
    n = z.shape[0]
    for i in range(n):
        bx[i] = 0.0
        by[i] = 0.0
        bz[i] = 0.0
    # Rows outside, points inside: the inner loop is the one the compiler vectorises.
    for row in range(0, params.shape[0], TERM_SIZE):
        amplitude, centre, decay = params[row], params[row + 1], params[row + 2]
        a, b, c = params[row + 3], params[row + 4], params[row + 5]
        for i in range(n):
            d = z[i] - centre + a * x[i]
            u = b * x[i] + c * y[i]
            size = amplitude * exponential(min(max((u * u - d * d) * decay, EXPONENT_MIN), EXPONENT_MAX))
            sine, cosine = sine_cosine(-2.0 * d * u * decay)
            real = size * cosine
            imaginary = size * sine
            bx[i] += b * real + a * imaginary
            by[i] += c * real
            bz[i] += imaginary


@njit(cache=True, nogil=True, fastmath={"contract"})
def two_dipole_block(params, x, y, z, bx, by, bz):
    """Fill the sum of two point dipoles along y, m (3 (y·r) r - y) / r³ each with unit vectors; 0 at them."""
    moment, half, plane = params[0], params[1], params[2]
    for i in range(z.shape[0]):
        bx[i] = 0.0
        by[i] = 0.0
        bz[i] = 0.0
    for centre in (-half, half):
        for i in range(z.shape[0]):
            u, v, w = x[i], y[i] - centre, z[i] - plane
            squared = u * u + v * v + w * w
            inverse = 1.0 / squared if squared >= 1.0 else 0.0
            size = moment * inverse * np.sqrt(inverse)
            along = 3.0 * size * inverse * v
            bx[i] += along * u
            by[i] += along * v - size
            bz[i] += along * w


@njit(cache=True, nogil=True)
def restricted(kind, params):
    """Return whether a field is to be used in a part of its volume only, so that `allowed_block` matters."""
    if kind == TWO_DIPOLE:
        return True
    if kind in (GAUSSIAN, MAXWELL) or params.shape[0] <= grid_kernels.MASKED:
        return False
    return params[grid_kernels.MASKED] != 0.0


@njit(cache=True, nogil=True)
def allowed_block(kind, params, values, x, y, z, flag):
    """Set `flag` `(n,)` to 0 where the field is not to be used: near a dipole, or among masked nodes.

    The volume is not checked here. For a field that is not `restricted` nothing happens.
    """
    if not restricted(kind, params):
        return
    if kind == TWO_DIPOLE:
        half, plane, limit = params[1], params[2], params[3] * params[3]
        for i in range(z.shape[0]):
            across = x[i] * x[i] + (z[i] - plane) * (z[i] - plane)
            below, above = y[i] + half, y[i] - half
            near = (across + below * below < limit) | (across + above * above < limit)
            flag[i] = 0.0 if near else flag[i]
    else:
        nearest = kind in (GRID_NEAREST, VARIABLE_GRID_NEAREST)
        grid_kernels.clear_masked(kind >= VARIABLE_GRID, nearest, params, values, x, y, z, flag)


@njit(cache=True, nogil=True)
def allowed_points(kind, params, values, x, y, z, flag):
    """Do what `allowed_block` does for any number of points."""
    for start in range(0, x.shape[0], BLOCK):
        stop = min(start + BLOCK, x.shape[0])
        part = flag[start:stop]
        allowed_block(kind, params, values, x[start:stop], y[start:stop], z[start:stop], part)


@njit(cache=True, nogil=True)
def field_block(kind, params, values, x, y, z, bx, by, bz):
    """Fill `bx`, `by`, `bz` [T] at the points `x`, `y`, `z` [mm], each `(n,)`, without any volume check.

    Args:
        kind: One of the kinds above.
        params: `(m,)` float64, laid out as the kind says.
        values: `(nx, ny, nz, 4)` float32 nodes of a grid, read for those kinds only.
        x: `(n,)` float64; blocks of `BLOCK` stay in the nearest cache.
        y: `(n,)` float64.
        z: `(n,)` float64.
        bx: `(n,)` float64, overwritten.
        by: `(n,)` float64, overwritten.
        bz: `(n,)` float64, overwritten.
    """
    if kind == GAUSSIAN:
        gaussian_block(params, x, y, z, bx, by, bz)
    elif kind == MAXWELL:
        maxwell_block(params, x, y, z, bx, by, bz)
    elif kind == TWO_DIPOLE:
        two_dipole_block(params, x, y, z, bx, by, bz)
    elif kind in (GRID, VARIABLE_GRID):
        grid_kernels.linear_block(kind == VARIABLE_GRID, params, values, x, y, z, bx, by, bz)
    elif kind in (GRID_CUBIC, VARIABLE_GRID_CUBIC):
        grid_kernels.cubic_block(kind == VARIABLE_GRID_CUBIC, params, values, x, y, z, bx, by, bz)
    else:
        grid_kernels.nearest_block(kind == VARIABLE_GRID_NEAREST, params, values, x, y, z, bx, by, bz)


@njit(cache=True, nogil=True)
def field_points(kind, params, values, x, y, z, components):
    """Fill `components` `(3, n)` [T] at any number of points, block by block."""
    for start in range(0, x.shape[0], BLOCK):
        stop = min(start + BLOCK, x.shape[0])
        field_block(
            kind,
            params,
            values,
            x[start:stop],
            y[start:stop],
            z[start:stop],
            components[0, start:stop],
            components[1, start:stop],
            components[2, start:stop],
        )
