"""The response of a momentum estimate, and its inverse: the same mean at every true value.

An estimate of least squared error is drawn to the mean of its training sample. On a narrow one, as J/psi are,
the reconstructed px follows the true one with a slope well below 1, and so do masses. Slope and offset
of each component are measured on muons with known truth and taken back; what that costs in squared error is
the spread that the drawing had hidden.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trackkeras.errors import UserError

Floats = NDArray[np.float64]


class LinearResponse:
    """Slope and offset of reconstructed against true px, py, pz, with both charges as mirror images.

    Args:
        truth: `(n, 3)` [GeV].
        reconstructed: `(n, 3)` [GeV].
        charge: `(n, 1)`, +1 or -1.

    Raises:
        UserError: A component is not related to its truth.
    """

    def __init__(self, truth: Floats, reconstructed: Floats, charge: Floats) -> None:
        true, found = mirrored(truth, charge), mirrored(reconstructed, charge)
        self.truth, self.found = true.mean(axis=0), found.mean(axis=0)
        spread = ((true - self.truth) ** 2).sum(axis=0)
        if len(true) < 2 or not spread.all():
            raise UserError(f"a response needs muons of different momenta, received {len(true)} muons")
        self.slope = ((true - self.truth) * (found - self.found)).sum(axis=0) / spread
        if (self.slope <= 0).any():
            raise UserError(f"px, py and pz do not follow the truth: slopes {self.slope.round(3).tolist()}")

    @property
    def offset(self) -> Floats:
        """Reconstructed px, py, pz of a positive muon where the true ones are 0, `(3,)` [GeV]."""
        return self.found - self.slope * self.truth

    def undo(self, reconstructed: Floats, charge: Floats) -> Floats:
        """Return momenta `(n, 3)` [GeV] whose response has slope 1 and offset 0 on the muons of the fit."""
        found = mirrored(reconstructed, charge)
        return mirrored(self.truth + (found - self.found) / self.slope, charge)


def mirrored(momentum: Floats, charge: Floats) -> Floats:
    """Return the momenta `(n, 3)` as those of positive muons: px times the charge."""
    return np.concatenate([momentum[:, :1] * charge, momentum[:, 1:]], axis=1).astype(float)
