"""Random start states: the acceptance and the law of the generated sample.

|dz| is uniform between its limits, forward and backward equally likely, and z0 is then uniform over the
planes that keep z0 and z0 + dz between `z_start` and `z_end`. Momentum is uniform in its logarithm, charge +1
or -1. Slopes are uniform in their ranges. A share `pv_fraction` of the draws points to the primary vertex:
the straight line through the state crosses z = 0 at x and y drawn from a Gaussian of width `pv_spread`, so

    x = x_vertex + tx z0,    y = y_vertex + ty z0.

This is exact before the magnet and, behind it, a way to make slope and position go together as they do in the
experiment. The other draws have x and y uniform in the box, independent of the slopes.

All inputs are rounded to float32, the precision of the records, before anything is computed from them. Draws
outside the box of |x|, |y| or outside the range of planes after rounding are flagged, not moved: the shares
above hold for draws, and the acceptance is counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trackkeras.domains.extrapolation.generation_options import GenerateOptions
from trackkeras.units import GEV


@dataclass(frozen=True)
class Draws:
    """Drawn start states, rounded.

    Attributes:
        state: `(n, 5)` float32: x [mm], y [mm], tx, ty, q/p [1/MeV].
        z0: `(n,)` float32 [mm].
        dz: `(n,)` float32 [mm], signed.
        inside: `(n,)` bool; False for a draw outside the box or the range of planes.
    """

    state: NDArray[np.float32]
    z0: NDArray[np.float32]
    dz: NDArray[np.float32]
    inside: NDArray[np.bool_]


def draw_tracks(options: GenerateOptions, rng: np.random.Generator, n: int) -> Draws:
    """Draw `n` start states.

    Args:
        options: Ranges and shares.
        rng: Source of randomness; the draws depend on nothing else.
        n: Number of draws, those outside the box included.
    """
    forward = {"forward": True, "backward": False}.get(options.direction, rng.random(n) < 0.5)
    distance = rng.uniform(options.dz_min, options.dz_max, n)
    near_end = rng.uniform(options.z_start, options.z_end - distance)
    z0 = np.where(forward, near_end, near_end + distance)
    dz = np.where(forward, distance, -distance)

    tx = rng.uniform(-options.tx_max, options.tx_max, n)
    ty = rng.uniform(-options.ty_max, options.ty_max, n)
    pointing = rng.random(n) < options.pv_fraction
    vertex = rng.normal(0.0, options.pv_spread, (2, n))
    x = np.where(pointing, vertex[0] + tx * z0, rng.uniform(-options.x_max, options.x_max, n))
    y = np.where(pointing, vertex[1] + ty * z0, rng.uniform(-options.y_max, options.y_max, n))

    momentum = np.exp(rng.uniform(np.log(options.p_min), np.log(options.p_max), n)) * GEV
    charge = {"positive": 1.0, "negative": -1.0}.get(options.charge, rng.choice([-1.0, 1.0], n))

    state = np.stack([x, y, tx, ty, charge / momentum], axis=1).astype(np.float32)
    z0, dz = z0.astype(np.float32), dz.astype(np.float32)
    z1 = z0.astype(np.float64) + dz
    inside = (
        (np.abs(state[:, 0]) <= options.x_max)
        & (np.abs(state[:, 1]) <= options.y_max)
        & (np.minimum(z0, z1) >= options.z_start)
        & (np.maximum(z0, z1) <= options.z_end)
    )
    return Draws(state, z0, dz, inside)
