"""Padded hits of events as matrices of fired elements, and as hits for refinement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trackkeras.domain import Rows
from trackkeras.domains.dimuon.detectors import ELEMENTS, PLANES
from trackkeras.domains.dimuon.events import Ints
from trackkeras.domains.dimuon.ragged import offsets

CELLS = PLANES * ELEMENTS
COLUMNS = ("hit_detector", "hit_element", "elements", "background_tracks")


def compact(rows: Rows) -> Rows:
    """Return the columns of records that a finder's rows have, hits in one byte per number.

    The matrices of 20,000 events would take a gigabyte, their padded hits some 80 MB.
    """
    return {
        "hit_detector": rows["hit_detector"].astype(np.uint8),
        "hit_element": rows["hit_element"].astype(np.uint8),
        "elements": rows["elements"].astype(np.int32),
        "background_tracks": rows["background_tracks"].astype(np.int32),
    }


def row_matrices(rows: Rows) -> NDArray[np.float32]:
    """Return 1 where an element fired, `(n, 62, 201)`: row d - 1 is detector d, as in hit arrays."""
    event, place = np.nonzero(rows["hit_detector"])
    detector = rows["hit_detector"][event, place].astype(np.int64)
    element = rows["hit_element"][event, place].astype(np.int64)
    matrices = np.zeros((len(rows["hit_detector"]), PLANES, ELEMENTS), dtype=np.float32)
    matrices[event, detector - 1, element] = 1.0
    return matrices


def batch_matrices(batch: Mapping[str, Any]) -> Any:
    """Return the same as `row_matrices` of a batch of records as TensorFlow tensors."""
    import tensorflow as tf

    detector, element = batch["hit_detector"], batch["hit_element"]
    count = tf.shape(detector, out_type=tf.int64)[0]
    place = tf.where(detector > 0)
    cell = (tf.gather_nd(detector, place) - 1) * ELEMENTS + tf.gather_nd(element, place)
    fired = tf.scatter_nd(
        (place[:, 0] * CELLS + cell)[:, None],
        tf.ones(tf.shape(cell), tf.float32),
        (count * CELLS,)[0][None],
    )
    # Two hits in one element count once
    return tf.reshape(tf.minimum(fired, 1.0), (-1, PLANES, ELEMENTS))


def refine_rows(rows: Rows, elements: NDArray[np.integer], window: int | None = None) -> Ints:
    """Move predicted elements to hits, as `refinement.refine` does.

    Args:
        rows: The finder's rows.
        elements: Predicted elements `(n, 2, 62)`.
        window: Farthest distance from prediction to hit, in elements; None for any.

    Returns:
        int32 `(n, 2, 62)`.
    """
    from trackkeras.domains.dimuon.hit_kernels import refine_events

    there = rows["hit_detector"] > 0
    predicted = np.ascontiguousarray(elements, dtype=np.int32)
    refined = np.zeros_like(predicted)
    detector, element = (rows[name][there].astype(np.int32) for name in ("hit_detector", "hit_element"))
    reach = ELEMENTS if window is None else window
    refine_events(offsets(there.sum(axis=1)), detector, element, predicted, reach, refined)
    return refined
