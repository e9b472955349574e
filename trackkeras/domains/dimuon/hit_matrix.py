"""Events as images: one row per detector, one column per element."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trackkeras.domains.dimuon.detectors import ELEMENTS, PLANES
from trackkeras.domains.dimuon.events import Events

BLOCK_EVENTS = 16
"""Events whose three matrices stay in a processor's caches: 1.8 MB."""


class Matrices(NamedTuple):
    """Matrices of the events from `first` on, each `(n, 62, 201)`, with zeros where no hit is.

    Attributes:
        first: Number of the first event.
        fired: bool.
        drift: float32 [cm].
        tdc: float32 [ns].
    """

    first: int
    fired: NDArray[np.bool_]
    drift: NDArray[np.float32]
    tdc: NDArray[np.float32]


def matrix_blocks(events: Events, block: int = BLOCK_EVENTS) -> Iterator[Matrices]:
    """Yield hit, drift and time matrices of all events, some at a time.

    All blocks are in one piece of memory, cleared hit by hit: what is to stay must be copied. An event fires
    some hundred of 12,462 elements, so that most of the time for matrices of all events goes into
    zeros.

    Args:
        events: The events.
        block: Most events at a time.
    """
    from trackkeras.domains.dimuon.hit_kernels import clear_matrices, fill_matrices

    shape = (min(block, len(events)), PLANES, ELEMENTS)
    fired = np.zeros(shape, dtype=bool)
    drift, tdc = (np.zeros(shape, dtype=np.float32) for _ in range(2))
    flat = tuple(matrix.reshape(-1) for matrix in (fired, drift, tdc))
    hits, bounds = events.hits, events.hit_offsets
    for first in range(0, len(events), block):
        last = min(first + block, len(events))
        fill_matrices(bounds, first, last, hits.detector, hits.element, hits.drift, hits.tdc, *flat)
        yield Matrices(first, fired[: last - first], drift[: last - first], tdc[: last - first])
        clear_matrices(bounds, first, last, hits.detector, hits.element, *flat)


def hit_matrices(events: Events) -> NDArray[np.bool_]:
    """Return which elements fired, `(n, 62, 201)`: row d - 1 is detector d, as in hit arrays."""
    matrices = np.zeros((len(events), PLANES, ELEMENTS), dtype=bool)
    matrices[events.hit_event, events.hits.detector - 1, events.hits.element] = True
    return matrices
