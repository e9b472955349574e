"""How well scores order and probabilities hold, as one number per row whose mean is the known measure.

Written so, such a measure is a metric like any other: it has bands and a bootstrap interval. In a band it
says how the band's rows stand among all rows, not among themselves.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]

BINS = 10
"""Bins of probability."""


def misordered(score: Floats, positive: NDArray[np.bool_]) -> Floats:
    """Return the share of rows of the other class that a row is on the wrong side of; ties count half.

    The mean over the rows is 1 less the area under the ROC curve. Source: the structural components of
    E. DeLong, D. DeLong, Clarke-Pearson, Biometrics 44 (1988) 837. If all rows are of one class it is 0.5:
    nothing is known.

    Args:
        score: `(n,)`, larger for positive rows.
        positive: `(n,)`.
    """
    high, low = score[positive], score[~positive]
    wrong = np.full(len(score), 0.5)
    if high.size and low.size:
        # a rank among all less that among its own class counts the rows of the other class below
        below_high = rankdata(np.concatenate([high, low]))[: high.size] - rankdata(high)
        above_low = rankdata(-np.concatenate([low, high]))[: low.size] - rankdata(-low)
        wrong[positive] = 1.0 - below_high / low.size
        wrong[~positive] = 1.0 - above_low / high.size
    return wrong


def rank_distance(one: Floats, other: Floats) -> Floats:
    """Return half the squared difference of standardised ranks, `(n,)`; its mean is 1 less Spearman's rho.

    If all values of one of the two are equal, nothing is ordered and it is 1.

    Args:
        one: `(n,)`.
        other: `(n,)`.
    """
    ranks = np.stack([rankdata(one), rankdata(other)])
    spread = ranks.std(axis=1, keepdims=True)
    if not spread.all():
        return np.ones(len(one))
    standard = (ranks - ranks.mean(axis=1, keepdims=True)) / spread
    return np.asarray(0.5 * (standard[0] - standard[1]) ** 2)


def reliability(
    probability: Floats, happened: NDArray[np.bool_], bins: int = BINS
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Return mean probability and observed share in bins of equal width, `(bins,)`, NaN in empty ones.

    Args:
        probability: `(n,)`.
        happened: `(n,)`.
        bins: How many.

    Returns:
        Both, and the bin of every row, `(n,)`.
    """
    index = np.minimum((probability * bins).astype(np.int64), bins - 1)
    rows = np.bincount(index, minlength=bins).astype(float)
    rows[rows == 0] = np.nan
    said = np.bincount(index, weights=probability, minlength=bins) / rows
    share = np.bincount(index, weights=happened, minlength=bins) / rows
    return said, share, index


def miscalibration(probability: Floats, happened: NDArray[np.bool_], bins: int = BINS) -> Floats:
    """Return |mean probability - observed share| of the bin of each row, `(n,)`.

    The mean over the rows is the expected calibration error (Naeini, Cooper, Hauskrecht, AAAI 2015).

    Args:
        probability: `(n,)`.
        happened: `(n,)`.
        bins: Bins of equal width.
    """
    said, share, index = reliability(probability, happened, bins)
    return np.abs(said - share)[index]


def roc(score: Floats, positive: NDArray[np.bool_], points: int = 101) -> tuple[Floats, Floats]:
    """Return the share of negative and of positive rows above some thresholds, each `(points,)`.

    Args:
        score: `(n,)`, larger for positive rows.
        positive: `(n,)`; both classes are there.
        points: How many, at equal steps of the share of positive rows.
    """
    share = np.linspace(0.0, 1.0, points)
    limits = np.quantile(score[positive], 1.0 - share)
    above = [(score[~positive] >= limit).mean() for limit in limits]
    return np.concatenate([[0.0], above, [1.0]]), np.concatenate([[0.0], share, [1.0]])
