"""The mass of two muons, and pairs mixed across events: a peak alone cannot tell resolution from shrinkage.

An estimator that answers with the mean of its training sample gives every pair of a resonance the right mass.
Pairs of muons from different events have a broad spectrum of true masses, so that the slope of the
reconstructed mass against the true one shows how far an estimator follows the hits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trackkeras.errors import UserError
from trackkeras.units import GEV, MUON_MASS

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MassResponse:
    """How the reconstructed mass of mixed pairs follows the true one.

    Attributes:
        slope: d(reconstructed) / d(true), least squares.
        bias: Mean difference [GeV].
        width: Half of the central 68.2 % interval of the difference [GeV].
        pairs: Number of pairs.
    """

    slope: float
    bias: float
    width: float
    pairs: int


def pair_mass(plus: Floats, minus: Floats) -> Floats:
    """Return the invariant mass `(n,)` [GeV] of muons with momenta `(n, 3)` [GeV]."""
    momenta = np.stack([plus, minus]).astype(float)
    energy = np.sqrt((momenta**2).sum(axis=-1) + (MUON_MASS / GEV) ** 2).sum(axis=0)
    squared = energy**2 - (momenta.sum(axis=0) ** 2).sum(axis=-1)
    return np.sqrt(np.maximum(squared, 0.0))


def mixed_mass(first: Floats, second: Floats, shifts: int) -> Floats:
    """Return masses [GeV] of muons of different events, `(shifts n,)`.

    The first muon of event i is paired with the second of events i + 1, ..., i + shifts, the last events with
    the first.

    Args:
        first: Momenta of one muon of each event, `(n, 3)` [GeV].
        second: Of another, or of the same.
        shifts: Pairs per muon.
    """
    return np.concatenate(
        [pair_mass(first, np.roll(second, -shift, axis=0)) for shift in range(1, shifts + 1)]
    )


def mixed_response(
    truth: tuple[Floats, Floats], reconstructed: tuple[Floats, Floats], shifts: int = 10
) -> MassResponse:
    """Return how well masses of mixed pairs, see `mixed_mass`, are reconstructed.

    Args:
        truth: True momenta of mu+ and mu-, each `(n, 3)` [GeV], row by row of one event.
        reconstructed: Alike.
        shifts: Pairs per mu+.

    Raises:
        UserError: There are not more events than shifts.
    """
    n = len(truth[0])
    if n <= shifts:
        raise UserError(f"{shifts} mixed pairs per muon need more than {shifts} events, received {n}")
    true, found = (mixed_mass(plus, minus, shifts) for plus, minus in (truth, reconstructed))
    difference = found - true
    low, high = np.quantile(difference, [0.159, 0.841])
    slope = np.cov(true, found)[0, 1] / np.var(true, ddof=1)
    return MassResponse(float(slope), float(difference.mean()), float(high - low) / 2, len(true))
