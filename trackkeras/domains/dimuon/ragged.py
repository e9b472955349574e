"""Groups of rows that lie one after the other, each from one offset to the next."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Offsets = NDArray[np.int64]


def offsets(counts: ArrayLike) -> Offsets:
    """Return offsets `(n + 1,)` from counts `(n,)`."""
    return np.concatenate([[0], np.cumsum(np.asarray(counts, dtype=np.int64))])


def gather(bounds: Offsets, groups: Offsets) -> tuple[Offsets, Offsets]:
    """Return the rows of some groups one after the other, and how many each has.

    Args:
        bounds: Offsets of all groups.
        groups: The wanted groups, in any order and repetition.
    """
    starts, counts = bounds[:-1][groups], np.diff(bounds)[groups]
    place = np.arange(counts.sum()) + np.repeat(starts - np.cumsum(counts) + counts, counts)
    return place, counts


def count_per_event(bounds: Offsets, kept: NDArray[np.bool_]) -> Offsets:
    """Return how many rows of a mask each group has, `(n,)`."""
    return np.diff(offsets(kept)[bounds])


def interleaved(n: int) -> Offsets:
    """Return 0, n, 1, n + 1, ...: the order that puts two lists of n things into one, in turn."""
    return np.arange(2 * n).reshape(2, n).T.reshape(-1)
