"""A track finder that searches, fits and judges: few weights, made for a CPU.

`RoadSearch` looks up all tracks of a grid in the hit matrix, `RoadFit` fits the likeliest to the hits, a small
network weighs them against each other, for each charge, and each row of the result is the mixture of what the
tracks say of it.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from trackkeras.domains.dimuon.detectors import DETECTORS, ELEMENTS, PLANES
from trackkeras.domains.dimuon.road_fit import RoadFeatures, RoadFit, nearest_elements, straight
from trackkeras.domains.dimuon.road_search import RoadSearch

KEPT = 6
"""Tracks of each charge that make the mixture."""

FLOOR = 0.01
"""Share of the mixture that is given to no hit and to all fired elements, whatever the tracks say."""

OTHER_CHARGE = -1e4
"""Added to the score of a track whose kick is that of the other charge."""


def build_roads(pairs: int, lines: int, tracks: int, units: tuple[int, ...]) -> keras.Model:
    """Return the finder.

    Args:
        pairs: Of `RoadSearch`, like the next two.
        lines: Alike.
        tracks: Alike.
        units: Widths of the network that weighs tracks.

    Returns:
        Model from `hits` `(n, 62, 201)` to `track_mup` and `track_mum`, of the same shape.
    """
    hits = keras.Input((PLANES, ELEMENTS), name="hits")
    found, half = RoadSearch(pairs, lines, tracks, name="search")(hits)
    fitted, places, fired, within = RoadFit(name="fit")(hits, found, half)
    hidden = RoadFeatures(name="features")(hits, found, fitted, places, fired, within)
    for k, width in enumerate(units):
        hidden = layers.Dense(width, activation="gelu", name=f"judge_{k}")(hidden)
    score = layers.Dense(1, name="score")(hidden)[:, :, 0]
    outputs = {}
    for name, sign in (("track_mup", -1.0), ("track_mum", 1.0)):
        outputs[name] = RoadMixture(sign, name=name)(hits, score, fitted, places, fired, within)
    return keras.Model(hits, outputs, name="finder_roads")


@keras.saving.register_keras_serializable(package="trackkeras.dimuon")
class RoadMixture(keras.layers.Layer):
    """Probabilities of the elements of each detector, from scored tracks of one charge.

    Args:
        sign: Of the kick that the charge gets.

    Call arguments:
        hits, scores `(n, c)`, and what `RoadFit` returns.

    Returns:
        `(n, 62, 201)`, sums of 1 over the last axis.
    """

    def __init__(self, sign: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sign = sign

    def build(self, *shapes: Any) -> None:
        widths = {"chamber": 0.5, "hodoscope": 0.5, "tube": 0.6}
        width = np.array([widths[d.kind] for d in DETECTORS], dtype=np.float32)

        def constant(values: Any) -> Any:
            return lambda shape, dtype=None: ops.convert_to_tensor(np.asarray(values, dtype=np.float32))

        self.steep = self.add_weight(shape=(PLANES,), initializer=constant(1.0 / width**2), name="steep")
        self.fire = self.add_weight(shape=(PLANES,), initializer=constant(np.full(PLANES, 4.0)), name="fire")
        self.none = self.add_weight(shape=(PLANES,), initializer=constant(np.full(PLANES, -2.0)), name="none")
        self.outside = self.add_weight(
            shape=(PLANES,), initializer=constant(np.full(PLANES, 1.0)), name="outside"
        )

    def call(self, hits: Any, score: Any, fitted: Any, places: Any, fired: Any, within: Any) -> Any:
        other = ops.cast(fitted[:, :, 4] * self.sign <= 0.0, "float32") * OTHER_CHARGE
        share = ops.softmax(score + other, axis=-1)
        best, rank = ops.top_k(share, KEPT)
        best = best / ops.sum(best, axis=-1, keepdims=True)
        places, within = (ops.take_along_axis(value, rank[:, :, None], axis=1) for value in (places, within))
        fired = ops.take_along_axis(fired, rank[:, :, None, None], axis=1)
        element = nearest_elements(places)
        chance, none = self._chances(element, places, fired, within)
        chance = chance * best[:, :, None, None]
        numbers = np.arange(ELEMENTS, dtype=np.float32)
        rows = sum(
            chance[:, c, :, k, None] * ops.cast(ops.equal(element[:, c, :, k, None], numbers), "float32")
            for c in range(KEPT)
            for k in range(element.shape[-1])
        )
        none = ops.sum(none * best[:, :, None], axis=1)
        first = np.eye(1, ELEMENTS, dtype=np.float32)[0]
        rows = rows + none[:, :, None] * first
        return (1.0 - FLOOR) * rows + FLOOR * _anything(hits, first)

    def _chances(self, element: Any, places: Any, fired: Any, within: Any) -> tuple[Any, Any]:
        """Return chances of the elements about places, `(.., 62, 5)`, and of none, `(.., 62)`."""
        distance = element - places[..., None]
        valid = (element >= 1.0) & (element <= straight().elements[:, None])
        weight = fired * self.fire[:, None] - self.steep[:, None] * ops.square(distance)
        weight = weight + (1.0 - ops.cast(valid, "float32")) * OTHER_CHARGE
        weight = weight + ops.log(within + 1e-6)[..., None]
        none = self.none + self.outside * ops.log(1.0 + 1e-6 - within) + 4.0 * ops.square(1.0 - within)
        chances = ops.softmax(ops.concatenate([weight, none[..., None]], axis=-1), axis=-1)
        return chances[..., :-1], chances[..., -1]

    def compute_output_shape(self, hits_shape: Any, *shapes: Any) -> Any:
        return hits_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "sign": self.sign}


def _anything(hits: Any, first: Any) -> Any:
    """Return rows that give one half to no hit and the other to all fired elements."""
    count = ops.sum(hits, axis=2, keepdims=True)
    share = 0.5 * hits / ops.maximum(count, 1.0)
    return share + first * (1.0 - ops.sum(share, axis=2, keepdims=True))
