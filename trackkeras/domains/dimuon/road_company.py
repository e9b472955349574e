"""Tracks of an event judged in each other's company.

A background track that lost hits may look complete, because other tracks fired the same elements; a hit that no
other track explains is the track's own. So each track is told, plane by plane, how much of it others explain.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

SAME = 0.6
"""Share of common hits above which two tracks are taken for one that was found twice."""

SHARP = 16.0


@keras.saving.register_keras_serializable(package="trackkeras.dimuon")
class SharedHits(keras.layers.Layer):
    """How much of a track's hits others explain.

    Call arguments:
        reality: `(n, c)`: how likely each track is one, signal or not, 0 to 1.
        places: `(n, c, 62)` [elements].
        own: `(n, c, 62)`: 1 where the track has a hit, 0 to 1 at the edges.

    Returns:
        `(n, c, 62)`, 0 to 1, and 0 where a track has no hit.
    """

    def call(self, reality: Any, places: Any, own: Any) -> Any:
        distance = ops.abs(places[:, :, None] - places[:, None])
        common = ops.sigmoid((0.75 - distance) * 8.0) * own[:, :, None] * own[:, None]
        hits = ops.sum(own, axis=-1)
        share = ops.sum(common, axis=-1) / ops.maximum(ops.minimum(hits[:, :, None], hits[:, None]), 1.0)
        other = ops.sigmoid((SAME - share) * SHARP) * reality[:, None]
        return 1.0 - ops.exp(-ops.sum(common * other[..., None], axis=2))

    def compute_output_shape(self, reality_shape: Any, places_shape: Any, own_shape: Any) -> Any:
        return places_shape
