"""A dipole field in closed form that obeys Maxwell's equations in vacuum exactly: sums of complex Gaussians.

**One plane.** Let f(w) be analytic and w = z + iy. Then By + i Bz = f(w), Bx = 0 is a vacuum field: with
f = p + iq the Cauchy-Riemann equations dp/dz = dq/dy and dp/dy = -dq/dz read curl B = 0 and div B = 0. If f
is real on the axis, f(z) is the field By on the axis, and the field off the axis follows from it.

**Terms.** f is a Gaussian of a complex argument, `peak * exp(-(w - centre)² / (2 width²))`.

**Rotations.** More generally let F' = f and take the potential Im F(w) of `w = z + a x + i (b x + c y)`. Its
Laplacian is `Im(f' * (1 + (a + ib)² - c²))`, which is zero for `a = 0, b = sin(phi), c = cos(phi)`: the plane
above, rotated about the z axis by phi. It is zero as well for an imaginary angle, `a = sinh(t), b = 0,
c = cosh(t)`. One number, `sin2 = sin²(phi)`, covers both: positive for a real angle, negative for an
imaginary one (`-sinh²(t)`), 0 for no rotation; the field is smooth in it. The gradient of the potential is

    Bx = b Re f + a Im f,   By = c Re f,   Bz = Im f.

**Symmetry.** The rotations by phi and -phi enter with half the amplitude each. Then By is even in x and y, Bx
odd in x and odd in y, Bz even in x and odd in y: a magnet with two planes of symmetry. With b(z) the term's
profile, `By = b - b'' (y² cos²(phi) + x² sin²(phi)) / 2` to second order: `sin2` sets the sextupole.

**Growth.** |f| grows as exp((Im w)² / (2 width²)) away from the axis, so a term narrower than the volume
allows is refused, and a fit must bound the widths.

A term is `(peak, centre, width, sin2)`: By on the axis at the centre [T], mm, mm, 1. The amplitude of f is
peak / c, so that the profile on the axis does not depend on `sin2`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trackkeras.domains.extrapolation.kernels import EXPONENT_MAX, TERM_SIZE
from trackkeras.errors import UserError

Terms = Sequence[Sequence[float]]

SIN2_MAX = 0.9
"""Largest sin²(phi); at 1 a term has no field on the axis."""


def maxwell_params(terms: Terms) -> NDArray[np.float64]:
    """Return the kernel's parameters for these terms: one row for `sin2 = 0`, else one per sign of the angle.

    Args:
        terms: `(n, 4)`: peak [T], centre [mm], width [mm], sin2.

    Returns:
        `(rows * TERM_SIZE,)` float64; a row is amplitude [T], centre [mm], 1 / (2 width²) [1/mm²], a, b, c.
    """
    rows = []
    for peak, centre, width, sin2 in terms:
        c = np.sqrt(1.0 - sin2)
        real, imaginary = np.sqrt(max(sin2, 0.0)), np.sqrt(max(-sin2, 0.0))
        signs = (1.0, -1.0) if sin2 else (1.0,)
        for sign in signs:
            amplitude = peak / (c * len(signs))
            rows.append((amplitude, centre, 0.5 / width**2, sign * imaginary, sign * real, c))
    return np.array(rows, dtype=np.float64).reshape(-1, TERM_SIZE).ravel()


def check_terms(terms: Terms, volume: Sequence[float]) -> None:
    """Refuse terms that are malformed or would grow beyond the kernel's range inside the volume.

    Raises:
        UserError: A term has a width that is not positive, a `sin2` above `SIN2_MAX`, or is too narrow.
    """
    if not len(terms):
        raise UserError("field 'maxwell' needs at least one term, received none")
    x, y = max(abs(volume[0]), abs(volume[1])), max(abs(volume[2]), abs(volume[3]))
    for number, (_, _, width, sin2) in enumerate(terms):
        if not width > 0.0:
            raise UserError(
                f"field 'maxwell', term {number}: the width must be positive, received {width} mm"
            )
        if sin2 > SIN2_MAX:
            raise UserError(f"field 'maxwell', term {number}: sin2 is at most {SIN2_MAX}, received {sin2}")
        reach = np.sqrt(max(sin2, 0.0)) * x + np.sqrt(1.0 - sin2) * y
        narrowest = reach / np.sqrt(2.0 * EXPONENT_MAX)
        if width < narrowest:
            raise UserError(
                f"field 'maxwell', term {number}: a width of {width} mm grows too fast off the axis; "
                f"use at least {np.ceil(narrowest):.0f} mm or a smaller volume"
            )
