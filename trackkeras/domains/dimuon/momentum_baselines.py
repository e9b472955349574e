"""What a momentum network has to beat: the mean of the training rows, and a ridge regression on the hits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from trackkeras.domain import Baseline, Rows

Floats = NDArray[np.float64]
Predict = Callable[[Rows], Rows]

WHOLE = (*range(1, 7), *range(13, 19), *range(47, 55))
"""Detectors that cover all of the aperture: chambers of stations 1 and 2, and tubes."""

UPPER, LOWER = tuple(range(19, 25)), tuple(range(25, 31))
"""Chambers of station 3."""

PENALTY = 3.0
"""Weight of the squared coefficients."""


class HitFeatures:
    """Standardised elements and drift distances of chambers and tubes; station 3 by the half that fired.

    A plane without a hit, and those of the half of station 3 that has fewer hits, give 0.

    Args:
        rows: Muons whose mean and spread standardise, see `muon_columns`.
    """

    def __init__(self, rows: Rows) -> None:
        values, there = self._columns(rows)
        count = np.maximum(there.sum(axis=0), 1)
        self.mean = np.where(there, values, 0.0).sum(axis=0) / count
        spread = np.sqrt((np.where(there, values - self.mean, 0.0) ** 2).sum(axis=0) / count)
        self.scale = np.where(spread > 0, spread, 1.0)

    def __call__(self, rows: Rows) -> Floats:
        """Return `(n, 64)`: elements of all planes, then their drift distances."""
        values, there = self._columns(rows)
        return np.where(there, (values - self.mean) / self.scale, 0.0)

    @staticmethod
    def _columns(rows: Rows) -> tuple[Floats, NDArray[np.bool_]]:
        fired = rows["elements"] > 0
        upper, lower = (fired[:, slots(numbers)].sum(axis=1, keepdims=True) for numbers in (UPPER, LOWER))
        in_upper = upper >= lower
        chosen = slots((*WHOLE, *UPPER, *LOWER))
        used = fired.copy()
        used[:, slots(UPPER)] &= in_upper
        used[:, slots(LOWER)] &= ~in_upper
        there = np.tile(used[:, chosen], (1, 2))
        values = np.concatenate([rows["elements"][:, chosen], rows["drift"][:, chosen]], axis=1)
        return values.astype(float), there


def slots(numbers: Sequence[int]) -> NDArray[np.int64]:
    """Return the places of detectors in a hit array."""
    return np.array(numbers) - 1


def ridge(rows: Rows) -> Predict:
    """Return a ridge regression for each charge; its uncertainty is the spread of the rows of the fit.

    Args:
        rows: Muons to fit, see `muon_columns`; a charge without a muon gets the mean of all.
    """
    fits = {}
    for sign in (1.0, -1.0):
        own = _charge(rows) == sign
        if own.any():
            part = {name: column[own] for name, column in rows.items()}
            features = HitFeatures(part)
            fit = Ridge(alpha=PENALTY).fit(features(part), part["momentum"].astype(float))
            fits[sign] = features, fit, (fit.predict(features(part)) - part["momentum"]).std(axis=0)
    otherwise = mean_momentum(rows)

    def predict(rows: Rows) -> Rows:
        found = otherwise(rows)
        for sign, (features, fit, spread) in fits.items():
            own = _charge(rows) == sign
            if own.any():
                part = {name: column[own] for name, column in rows.items()}
                found["momentum"][own] = fit.predict(features(part))
                found["sigma"][own] = spread
        return found

    return predict


def mean_momentum(rows: Rows) -> Predict:
    """Return the mean momentum of each charge, or of all rows where it has none, and its spread."""
    known = {}
    for sign in (1.0, -1.0):
        own = _charge(rows) == sign
        momentum = rows["momentum"][own if own.any() else slice(None)].astype(float)
        known[sign] = momentum.mean(axis=0), momentum.std(axis=0)

    def predict(rows: Rows) -> Rows:
        positive = _charge(rows)[:, None] > 0
        columns = zip(known[1.0], known[-1.0], strict=True)
        momentum, sigma = (np.where(positive, plus, minus) for plus, minus in columns)
        return {"momentum": momentum, "sigma": sigma}

    return predict


def _charge(rows: Rows) -> NDArray[np.float32]:
    return np.sign(rows["charge"][:, 0])


def fitted(rows: Rows) -> tuple[Baseline, ...]:
    """Return mean and ridge regression, fitted on some muons."""
    columns = 2 * len((*WHOLE, *UPPER, *LOWER))
    return (
        Baseline("mean", "mean of the training rows", mean_momentum(rows), 0.0),
        Baseline("ridge", "ridge regression", ridge(rows), (2.0 + 3 * 2.0) * columns),
    )
