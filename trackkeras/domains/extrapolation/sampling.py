"""Start states: the acceptance and the law of the generated sample.

|dz| is uniform between its limits, forward and backward equally likely, and z0 is then uniform over the
planes that keep z0 and z0 + dz between `z_start` and `z_end`. With `legs`, z0 and dz are a random pair of
their planes instead. Momentum is uniform in its logarithm, charge +1 or -1. Slopes are uniform in their
ranges. A share `pv_fraction` of the draws points to the primary vertex: the straight line through the state
crosses z = 0 at x and y drawn from a Gaussian of width `pv_spread`, so

    x = x_vertex + tx z0,    y = y_vertex + ty z0.

This is exact before the magnet and, behind it, a way to make slope and position go together as they do in the
experiment. The other draws have x and y uniform in the box, independent of the slopes.

Every draw is a function of one point of a unit cube, so that the points can be random or those of a scrambled
Sobol sequence (A. B. Owen, "Scrambling Sobol' and Niederreiter-Xing points", J. Complexity 14, 1998). The
scramble belongs to the shard's own random stream: shards are independent of each other and share no points.

`importance` a > 0 draws ln p with density exp(-a ln p) rather than uniformly; `weight` is the ratio of the
uniform density to this one, so that weighted means are those of the law above. Its mean over draws is 1.

All inputs are rounded to float32, the precision of the records, before anything is computed from them. Draws
outside the box of |x|, |y| or outside the range of planes after rounding are flagged, not moved: the shares
above hold for draws, and the acceptance is counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trackkeras.domains.extrapolation.generation_options import GenerateOptions
from trackkeras.domains.extrapolation.legs import LEGS
from trackkeras.units import GEV

DIMENSIONS = 10
"""Numbers that make one draw."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Draws:
    """Drawn start states, rounded.

    Attributes:
        state: `(n, 5)` float32: x [mm], y [mm], tx, ty, q/p [1/MeV].
        z0: `(n,)` float32 [mm].
        dz: `(n,)` float32 [mm], signed.
        inside: `(n,)` bool; False for a draw outside the box or the range of planes.
        weight: `(n,)` float32, density of the law over that of the draws; 1 without `importance`.
    """

    state: NDArray[np.float32]
    z0: NDArray[np.float32]
    dz: NDArray[np.float32]
    inside: NDArray[np.bool_]
    weight: NDArray[np.float32]


class Points:
    """Points of the unit cube, drawn one after the other.

    Args:
        sampling: `random` or `sobol`.
        rng: Source of randomness; the points depend on nothing else.
    """

    def __init__(self, sampling: str, rng: np.random.Generator) -> None:
        self._rng = rng
        self._sobol: Any = None
        if sampling == "sobol":
            from scipy.stats import qmc

            self._sobol = qmc.Sobol(DIMENSIONS, scramble=True, rng=rng)

    def size(self, wanted: int, most: int) -> int:
        """Return how many points to draw when `wanted` are needed: a power of two keeps a net balanced."""
        return min(most, wanted if self._sobol is None else 1 << (wanted - 1).bit_length())

    def draw(self, n: int) -> NDArray[np.float64]:
        """Return the next `n` points, `(DIMENSIONS, n)`."""
        if self._sobol is None:
            return self._rng.random((DIMENSIONS, n))
        return np.ascontiguousarray(self._sobol.random(n).T)


def draw_tracks(options: GenerateOptions, rng: np.random.Generator | Points, n: int) -> Draws:
    """Draw `n` start states.

    Args:
        options: Ranges and shares.
        rng: Source of randomness, or of points; the draws depend on nothing else.
        n: Number of draws, those outside the box included.
    """
    points = rng if isinstance(rng, Points) else Points(options.sampling, rng)
    turn, length, place, slope_x, slope_y, origin, across, along, energy, sign = points.draw(n)

    forward = {"forward": True, "backward": False}.get(options.direction, turn < 0.5)
    low, high = _pairs(options, length, place) if options.legs else _span(options, length, place)
    z0 = np.where(forward, low, high).astype(np.float32)
    # The difference of the rounded planes: the record's z0 + dz is a plane of the leg.
    dz = np.where(forward, high - low, low - high).astype(np.float32)

    tx = _between(-options.tx_max, options.tx_max, slope_x)
    ty = _between(-options.ty_max, options.ty_max, slope_y)
    pointing = origin < options.pv_fraction
    radius = options.pv_spread * np.sqrt(-2.0 * np.log1p(-across))  # two Gaussians from two uniform numbers
    angle = 2.0 * np.pi * along
    x = np.where(pointing, radius * np.cos(angle) + tx * z0, _between(-options.x_max, options.x_max, across))
    y = np.where(pointing, radius * np.sin(angle) + ty * z0, _between(-options.y_max, options.y_max, along))

    log_p, weight = _log_momentum(options, energy)
    charge = {"positive": 1.0, "negative": -1.0}.get(options.charge, np.where(sign < 0.5, -1.0, 1.0))

    state = np.stack([x, y, tx, ty, charge / (np.exp(log_p) * GEV)], axis=1).astype(np.float32)
    z1 = z0.astype(np.float64) + dz
    inside = (
        (np.abs(state[:, 0]) <= options.x_max)
        & (np.abs(state[:, 1]) <= options.y_max)
        & (np.minimum(z0, z1) >= options.z_start)
        & (np.maximum(z0, z1) <= options.z_end)
    )
    return Draws(state, z0, dz, inside, weight.astype(np.float32))


def _between(low: float, high: float, u: Floats) -> Floats:
    return low + (high - low) * u


def _span(options: GenerateOptions, length: Floats, place: Floats) -> tuple[Floats, Floats]:
    """Return the lower and the upper end of intervals of random length at random places."""
    distance = _between(options.dz_min, options.dz_max, length)
    low = options.z_start + (options.z_end - distance - options.z_start) * place
    return low, low + distance


def _pairs(options: GenerateOptions, which: Floats, place: Floats) -> tuple[Floats, Floats]:
    """Return the planes of random legs: legs are equally likely, and so are the pairs of a leg."""
    table = np.array(
        [
            (first, last, LEGS[name].reach, 1.0 / len(LEGS[name].pairs))
            for name in options.legs
            for first, last in LEGS[name].pairs
        ]
    )
    edges = np.cumsum(table[:, 3]) / len(options.legs)
    chosen = table[np.searchsorted(edges[:-1], which, side="right")]
    return chosen[:, 0] - place * chosen[:, 2], chosen[:, 1]


def _log_momentum(options: GenerateOptions, u: Floats) -> tuple[Floats, Floats]:
    """Return ln p [GeV] and the weight of every draw."""
    low, high = np.log(options.p_min), np.log(options.p_max)
    a, width = options.importance, high - low
    if a == 0 or width == 0:
        return _between(low, high, u), np.ones_like(u)
    whole = -np.expm1(-a * width)  # integral of exp(-a (ln p - low)), times a
    above = -np.log1p(-u * whole) / a
    return low + above, whole / (a * width) * np.exp(a * above)
