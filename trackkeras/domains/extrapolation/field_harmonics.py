"""Vacuum fields in a box, without any symmetry: gradients of products of waves that obey Laplace's equation.

The potential of a harmonic is `X(kx x) Y(k y) Z(kz z)` with X and Z each a cosine or a sine, Y a hyperbolic
sine or cosine, and `k² = kx² + kz²`. The wave numbers are multiples of pi / half-width of the box, which must
be wider than the region of interest: the field need not repeat there. Such products are complete, so any
field that is free of divergence and curl in the region is met as well as their number allows; a magnet that
is displaced, turned, or has quadrants that differ needs all eight parities.

Far beyond `reach` in y the short waves grow exponentially, and none of it means anything outside the box.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Harmonics:
    """Harmonics of a box.

    Attributes:
        waves_x: Number of half waves along x.
        waves_z: Number of half waves along z.
        half_x: Half-width of the box [mm].
        half_z: Half of its length [mm].
        centre_z: Its middle [mm].
        reach: |y| at which the strongest component of each harmonic is of order 1 T [mm].
    """

    waves_x: int = 5
    waves_z: int = 9
    half_x: float = 4500.0
    half_z: float = 5000.0
    centre_z: float = 5245.0
    reach: float = 1500.0

    def __len__(self) -> int:
        """Return the number of harmonics."""
        return 2 * (2 * self.waves_x + 1) * (2 * self.waves_z + 1)

    def __call__(self, x: Array, y: Array, z: Array) -> Array:
        """Return the field of every harmonic.

        Args:
            x: `(n,)` [mm], like `y` and `z`.
            y: See `x`.
            z: See `x`.

        Returns:
            Bx, By, Bz [T] per unit of coefficient, `(n, 3, len(self))`.
        """
        kx, wave_x, slope_x = _waves(x, self.waves_x, self.half_x)
        kz, wave_z, slope_z = _waves(z - self.centre_z, self.waves_z, self.half_z)
        # Without waves the potential is y, the limit of a tiny wave number.
        k = np.maximum(np.hypot(kx[:, None], kz[None, :]), 1e-7)
        scale = 1.0 / (k * np.cosh(k * self.reach))
        grown = k * y[:, None, None]
        even, odd = np.cosh(grown) * scale, np.sinh(grown) * scale
        even_slope, odd_slope = even * k, odd * k
        odd_slope[:, 0, 0] = 0.0  # a constant potential, for which there is no such limit
        # A potential that is odd in y, and one that is even.
        families = ((odd, even_slope), (even, odd_slope))
        components = [
            (
                slope_x[:, :, None] * wave_y * wave_z[:, None, :],
                wave_x[:, :, None] * slope_y * wave_z[:, None, :],
                wave_x[:, :, None] * wave_y * slope_z[:, None, :],
            )
            for wave_y, slope_y in families
        ]
        together = [np.stack(parts, axis=1).reshape(len(x), 3, -1) for parts in components]
        return np.concatenate(together, axis=2)


def _waves(position: Array, count: int, half: float) -> tuple[Array, Array, Array]:
    """Return wave numbers `(m,)`, and cosines and sines with their derivatives, `(n, m)`."""
    numbers = np.pi / half * np.arange(count + 1)
    phase = position[:, None] * numbers
    cosine, sine = np.cos(phase), np.sin(phase)
    return (
        np.concatenate([numbers, numbers[1:]]),
        np.concatenate([cosine, sine[:, 1:]], axis=1),
        np.concatenate([-numbers * sine, numbers[1:] * cosine[:, 1:]], axis=1),
    )
