"""A fitted polynomial extrapolator: straight line plus the size of the bend times a polynomial.

The form of the experiment's `TrackParametrizedExtrapolator`: state + dz * slope + q/p * polynomial. Here the
bend is divided by the same label-free estimate of its size as a network's output (`models.BendSize`), so that
fit and network differ in nothing but what corrects that estimate. The polynomial is a sum over products of
Chebyshev polynomials of total degree `degree` in x, y, tx, ty, q/p, times those of total degree
`plane_degree` in the first and the last plane; a plane that is the same for all tracks has no terms.

**Symmetries.** A magnet with two planes of symmetry leaves, of all products, those in x (and tx) that are
even under (x, tx, q) -> -(x, tx, q) and under (y, ty) -> -(y, ty), and in y (and ty) those that are odd under
both: about a quarter each. A map need not have them, and gets all products.

The fit is linear least squares on relative errors, on tracks simulated with the dataset's own configuration
and a seed of its own: deterministic, and independent of the rows on which it is judged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.polynomial.chebyshev import chebvander
from numpy.polynomial.legendre import leggauss
from numpy.typing import NDArray

from trackkeras.domain import Rows
from trackkeras.domains.extrapolation.generation_options import GenerateOptions
from trackkeras.domains.extrapolation.simulate import make_shard
from trackkeras.units import KAPPA

Array = NDArray[np.float64]

FIT_ROWS = 20_000
SEED = 20_260_101
"""Of the tracks of the fit; no dataset is generated with it by default."""

CENTRE, WIDTH, FLOOR = 5000.0, 1700.0, 0.03
"""Of the size of the bend; the defaults of the networks."""

RIDGE = 1e-6
"""Per row; keeps terms apart that the sample does not."""


@dataclass(frozen=True)
class Polynomial:
    """A fitted polynomial extrapolator.

    Attributes:
        middle: Middle of the range of x, y, tx, ty, q/p, first and last plane, `(7,)`.
        half: Half of the range, `(7,)`; 0 for a plane that is the same for all tracks.
        powers: Degrees in x, y, tx, ty, q/p of the terms of x and of y, two arrays `(terms, 5)`.
        plane_powers: Degrees in the planes, `(plane terms, 2)`.
        coefficients: Of position and slope of each, two arrays `(2, terms, plane terms)`.
    """

    middle: Array
    half: Array
    powers: tuple[NDArray[np.int64], NDArray[np.int64]]
    plane_powers: NDArray[np.int64]
    coefficients: tuple[Array, Array]

    def __call__(self, rows: Rows) -> Rows:
        """Return `final_state` `(n, 5)` float64."""
        state, z0, dz = (np.asarray(rows[name], np.float64) for name in ("state", "z0", "dz"))
        shift, turn = bend_size(state[:, 4:5], z0, dz)
        factors = _factors(_variables(state, z0, dz, self.middle, self.half), self._degree)
        planes = _products(factors[5:], self.plane_powers)
        final = state.copy()
        for axis, (powers, coefficients) in enumerate(zip(self.powers, self.coefficients, strict=True)):
            terms = _products(factors[:5], powers)
            position, slope = (np.sum((planes @ c.T) * terms, axis=1) for c in coefficients)
            final[:, axis] += dz[:, 0] * (state[:, 2 + axis] + shift[:, 0] * position)
            final[:, 2 + axis] += turn[:, 0] * slope
        return {"final_state": final}

    @property
    def _degree(self) -> int:
        return int(max(self.plane_powers.max(initial=0), *(powers.max() for powers in self.powers)))

    @property
    def terms(self) -> int:
        """Number of coefficients."""
        return sum(c.size for c in self.coefficients)

    @property
    def operations(self) -> int:
        """Operations per track, beside the size of the bend and the final state.

        Chebyshev polynomials by their recurrence, products of them, and for each output a sum over planes and
        one over the other terms.
        """
        total = 2 * 7 + 2 * 7 * max(self._degree - 1, 0)
        for powers in (*self.powers, self.plane_powers):
            total += int(np.maximum(np.count_nonzero(powers, axis=1) - 1, 0).sum())
        return total + sum(2 * c.size + 2 * c.shape[0] * c.shape[1] for c in self.coefficients)


def fit_polynomial(
    rows: Rows, degree: int | None = None, plane_degree: int = 6, symmetric: bool = True
) -> Polynomial:
    """Fit a polynomial extrapolator.

    Args:
        rows: Tracks with their `final_state`.
        degree: Largest total degree in x, y, tx, ty, q/p; None takes 8 where both planes are fixed, and 4
            where they are not.
        plane_degree: Largest total degree in the planes.
        symmetric: Whether the field has two planes of symmetry.
    """
    state, z0, dz = (np.asarray(rows[name], np.float64) for name in ("state", "z0", "dz"))
    final = np.asarray(rows["final_state"], np.float64)
    columns = np.concatenate([state, z0, z0 + dz], axis=1)
    low, high = columns.min(axis=0), columns.max(axis=0)
    # float32 records of one and the same plane may differ by their rounding
    half = np.where(high - low > 1e-3 * (np.arange(7) >= 5), 0.5 * (high - low), 0.0)
    middle = 0.5 * (low + high)
    if symmetric:  # about zero, or the parities would not hold
        half[:5], middle[:5] = np.abs(columns[:, :5]).max(axis=0), 0.0
    if degree is None:
        degree = 4 if half[5:].any() else 8
    allowed = [range(plane_degree + 1) if size else range(1) for size in half[5:]]
    plane_powers = np.array([p for p in product(*allowed) if sum(p) <= plane_degree])
    every = np.array([p for p in product(range(degree + 1), repeat=5) if sum(p) <= degree])
    powers = tuple(every[_wanted(every, odd)] if symmetric else every for odd in (0, 1))
    shift, turn = bend_size(state[:, 4:5], z0, dz)
    factors = _factors(_variables(state, z0, dz, middle, half), max(degree, plane_degree))
    planes = _products(factors[5:], plane_powers)
    bent = np.flatnonzero(state[:, 4] != 0)  # a neutral track says nothing about the bend
    coefficients = []
    for axis in (0, 1):
        terms = _products(factors[:5], powers[axis])
        design = (terms[:, :, None] * planes[:, None, :]).reshape(len(state), -1)[bent]
        line = state[:, axis : axis + 1] + dz * state[:, 2 + axis : 3 + axis]
        position = (final[:, axis : axis + 1] - line)[bent] / (dz * shift)[bent]
        slope = (final[:, 2 + axis : 3 + axis] - state[:, 2 + axis : 3 + axis])[bent] / turn[bent]
        normal = design.T @ design + RIDGE * len(bent) * np.eye(design.shape[1])
        solved = np.linalg.solve(normal, design.T @ np.concatenate([position, slope], axis=1))
        coefficients.append(solved.T.reshape(2, terms.shape[1], planes.shape[1]))
    return Polynomial(middle, half, (powers[0], powers[1]), plane_powers, (coefficients[0], coefficients[1]))


def polynomial_of(dataset_config: Mapping[str, Any]) -> Polynomial:
    """Return the polynomial for tracks of a generator's configuration; equal ones are fitted once."""
    known = {key: value for key, value in dataset_config.items() if key in GenerateOptions.model_fields}
    return _fitted(json.dumps({**known, "planes": 0}, sort_keys=True))


@lru_cache(maxsize=4)
def _fitted(config: str) -> Polynomial:
    options = json.loads(config)
    shards = [rows for rows, _ in make_shard(options, np.random.default_rng(SEED), FIT_ROWS)]
    rows = {name: np.concatenate([rows[name] for rows in shards]) for name in shards[0]}
    return fit_polynomial(rows, symmetric=options["field"]["name"] != "grid")


def bend_size(qop: Array, z0: Array, dz: Array) -> tuple[Array, Array]:
    """Return what `models.BendSize.sizes` does with its default magnet: two arrays like `qop`."""
    nodes, weights = leggauss(4)
    nodes, weights = (nodes + 1) / 2, weights / 2
    field = np.exp(-0.5 * ((z0 + dz * nodes - CENTRE) / WIDTH) ** 2) + FLOOR
    turn = KAPPA * qop * dz * (field * weights).sum(axis=1, keepdims=True)
    shift = KAPPA * qop * dz * (field * weights * (1.0 - nodes)).sum(axis=1, keepdims=True)
    limit = 1.0 / np.sqrt(1.0 + turn**2)
    return shift * limit, turn * limit


def _wanted(powers: NDArray[np.int64], odd: int) -> NDArray[np.bool_]:
    """Return which products have the parity of x (`odd` 0) or of y (1)."""
    x, y, tx, ty, qop = powers.T
    return np.asarray(((x + tx + qop) % 2 == odd) & ((y + ty) % 2 == odd))


def _variables(state: Array, z0: Array, dz: Array, middle: Array, half: Array) -> Array:
    """Return x, y, tx, ty, q/p and the planes, each in [-1, 1] for the rows of the fit, `(n, 7)`."""
    columns = np.concatenate([state, z0, z0 + dz], axis=1)
    return np.where(half > 0, (columns - middle) / np.where(half > 0, half, 1.0), 0.0)


def _factors(variables: Array, degree: int) -> list[Array]:
    """Return the Chebyshev polynomials of each variable, `(n, degree + 1)`."""
    return [chebvander(column, degree) for column in variables.T]


def _products(factors: list[Array], powers: NDArray[np.int64]) -> Array:
    """Return products of Chebyshev polynomials, `(n, terms)`."""
    result = factors[0][:, powers[:, 0]]
    for factor, column in zip(factors[1:], powers.T[1:], strict=True):
        result = result * factor[:, column]
    return result
