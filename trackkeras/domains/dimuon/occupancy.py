"""How much background an event has: tracks per event, and the share of their hits that each detector keeps.

Most background comes from the beam dump and is absorbed or bent away on its way, so that detectors further
down see less of it. The models weigh a detector by its number d, which grows along the beam.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trackkeras.domains.dimuon.detectors import PLANES
from trackkeras.errors import UserError

Model = Literal["gaussian", "linear", "exponential", "flat"]
Counts = Literal["uniform", "skewed"]

SKEW = (2, 3, 4)
"""Weights of the lower, middle and upper third of the allowed numbers of tracks."""


@dataclass(frozen=True)
class Occupancy:
    """Background of an event.

    Attributes:
        model: How the share of kept hits falls with the detector's number d: `gaussian`
            exp(-(d-1)^2 / 2 sigma^2), `linear` 1 - d/100, `exponential` exp(-d / decay), `flat` 1.
        sigma: Width of `gaussian`, in detectors.
        decay: Length of `exponential`, in detectors.
        efficiency: Mean of a track's own share of kept hits, which multiplies the model.
        spread: Its standard deviation from track to track; what falls outside of 0 to 1 is moved to the edge.
        lower: Fewest tracks of an event.
        upper: Most tracks of an event.
        counts: How tracks are drawn between the two: `uniform`, or `skewed` towards many.

    Raises:
        UserError: A value is outside of its range.
    """

    model: Model = "gaussian"
    sigma: float = 60.0
    decay: float = 15.0
    efficiency: float = 0.9
    spread: float = 0.1
    lower: int = 0
    upper: int = 50
    counts: Counts = "uniform"

    def __post_init__(self) -> None:
        if not 0 <= self.lower <= self.upper:
            raise UserError(
                f"tracks must be from 0 <= lower <= upper, received {self.lower} and {self.upper}"
            )
        for name in ("sigma", "decay"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be positive, received {getattr(self, name):g}")
        if not 0 <= self.efficiency <= 1:
            raise UserError(f"efficiency must be from 0 to 1, received {self.efficiency:g}")
        if not self.spread >= 0:
            raise UserError(f"spread must not be negative, received {self.spread:g}")

    def weights(self) -> NDArray[np.float64]:
        """Return the share of a fully efficient track's hits that each detector keeps, `(63,)`."""
        number = np.arange(PLANES + 1.0)
        weights = {
            "gaussian": np.exp(-0.5 * ((number - 1) / self.sigma) ** 2),
            "linear": 1 - number / 100,
            "exponential": np.exp(-number / self.decay),
            "flat": np.ones(PLANES + 1),
        }[self.model]
        weights[0] = 0.0
        return weights

    def draw_counts(self, rng: np.random.Generator, n: int) -> NDArray[np.int64]:
        """Return the number of background tracks of n events."""
        allowed = np.arange(self.lower, self.upper + 1)
        if self.counts == "uniform":
            return rng.choice(allowed, n)
        weights = np.array(SKEW, dtype=float)[np.arange(len(allowed)) * len(SKEW) // len(allowed)]
        return rng.choice(allowed, n, p=weights / weights.sum())

    def draw_efficiency(self, rng: np.random.Generator, tracks: int) -> NDArray[np.float64]:
        """Return the share of hits that each of some tracks keeps, before its detectors are looked at."""
        return np.clip(rng.normal(self.efficiency, self.spread, tracks), 0.0, 1.0)
