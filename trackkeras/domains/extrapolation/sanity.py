"""Physics rules that any sample of propagated tracks obeys, whatever made it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trackkeras.domain import Rows
from trackkeras.units import M

FARTHEST = 10 * M
STEEPEST = 1.0
SIGNIFICANCE = 5.0
FEWEST = 100


def check_rows(rows: Rows) -> list[str]:
    """Return one message per violated rule; none for a sane sample.

    The rules: every track has a momentum (q/p is finite and not 0) and keeps it, |x| < 10 m, |tx| <= 1, and
    opposite charges bend to opposite sides.

    Args:
        rows: Columns `state` `(n, 5)`, `dz` `(n, 1)` and `final_state` `(n, 5)`.
    """
    state, final = rows["state"].astype(np.float64), rows["final_state"].astype(np.float64)
    qop = state[:, 4]
    messages = []
    for count, rule in (
        (~(np.isfinite(qop) & (qop != 0)), "no momentum: q/p is 0 or not finite"),
        (final[:, 4] != qop, "q/p at the end that differs from q/p at the start"),
        (_beyond(state, final, 0, FARTHEST), f"|x| of {FARTHEST / M:g} m or more"),
        (_beyond(state, final, 2, np.nextafter(STEEPEST, 2)), f"|tx| above {STEEPEST:g}"),
    ):
        if count.any():
            first = int(np.argmax(count))
            messages.append(
                f"{np.count_nonzero(count)} of {len(qop)} tracks have {rule} (first: row {first})"
            )
    return messages + _charges(qop, np.sign(rows["dz"][:, 0]) * (final[:, 2] - state[:, 2]))


def _beyond(
    state: NDArray[np.float64], final: NDArray[np.float64], column: int, limit: float
) -> NDArray[np.bool_]:
    largest = np.maximum(np.abs(state[:, column]), np.abs(final[:, column]))
    return np.logical_not(largest < limit)  # NaN is beyond every limit


def _charges(qop: NDArray[np.float64], kick: NDArray[np.float64]) -> list[str]:
    """Compare the mean change of tx of the two charges, each only where it is clearly not zero."""
    means = []
    for sign in (1, -1):
        sample = kick[np.sign(qop) == sign]
        if len(sample) < FEWEST or not np.isfinite(sample).all():
            return []
        mean, error = sample.mean(), sample.std() / np.sqrt(len(sample))
        if abs(mean) <= SIGNIFICANCE * error:
            return []
        means.append(mean)
    if np.sign(means[0]) == np.sign(means[1]):
        return [
            "opposite charges bend to the same side: mean change of tx along +z is "
            f"{means[0]:.3g} for positive and {means[1]:.3g} for negative tracks"
        ]
    return []
