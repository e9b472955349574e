"""Events as images: one row per detector, one column per element."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trackkeras.domains.dimuon.detectors import ELEMENTS, PLANES
from trackkeras.domains.dimuon.events import Events


def hit_matrices(events: Events) -> NDArray[np.bool_]:
    """Return which elements fired, `(n, 62, 201)`: row d - 1 is detector d, as in hit arrays."""
    matrices = np.zeros((len(events), PLANES, ELEMENTS), dtype=bool)
    matrices.reshape(-1)[cells(events)] = True
    return matrices


def value_matrices(events: Events, values: NDArray[Any]) -> NDArray[np.float32]:
    """Return one number per hit, such as its drift distance, where it fired, and 0 elsewhere, `(n, 62, 201)`.

    Of two hits in one element the first counts, as in `drift_of`.

    Args:
        events: The events.
        values: `(hits,)`.
    """
    matrices = np.zeros((len(events), PLANES, ELEMENTS), dtype=np.float32)
    # NumPy assigns in order, so that the first hit is to come last
    matrices.reshape(-1)[cells(events)[::-1]] = values[::-1]
    return matrices


def cells(events: Events) -> NDArray[np.int64]:
    """Return the place of each hit in the flattened matrices, `(hits,)`."""
    row = events.hit_event * PLANES + (events.hits.detector - 1)
    return row * ELEMENTS + events.hits.element
