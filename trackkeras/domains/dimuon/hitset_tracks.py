"""Tracks that look at the hits of an event, move, are judged, and share the hits out.

A hit counts however far it is from a track (`hitset_settling.nearness`), so that gradients say where to go.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from trackkeras.domains.dimuon.detectors import ELEMENTS, PLANES
from trackkeras.domains.dimuon.hitset_settling import CELL, NUMBERS, at_hits, nearness
from trackkeras.domains.dimuon.hitset_tokens import CELLS, pitches, track_basis
from trackkeras.domains.dimuon.road_fit import by_kind, inside, places_of

SATURATED = 1.6
"""A plane has a hit where its hits' weights sum up to one over this, as at half an element."""

UNLIKELY = 1e-6
"""Share of a muon that hits have which no track is near."""

IMPOSSIBLE = -1e4


@keras.saving.register_keras_serializable(package="trackkeras")
class HitAttention(layers.Layer):
    """Tracks that look at hits through windows and move.

    Each track learns, plane by plane, how many hits its window has and how far off they are on the mean, and
    what the hits say on the whole. Hits count with a learnt weight of their own.

    Args:
        reach: Half width of the window at first [cm]; it is learnt.
        values: Numbers that hits tell.
        units: Width of the layer that makes new tracks of it.

    Call arguments:
        tracks `(n, q, 5)`, content `(n, q, c)`, tokens `(n, k, w)`, there `(n, k)` of `FiredCells`, and what
        `HitGeometry` returns.

    Returns:
        New tracks and content.
    """

    def __init__(self, reach: float, values: int, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reach, self.values, self.units = reach, values, units
        policy = self.dtype_policy
        self.weigh = layers.Dense(
            1, activation="sigmoid", bias_initializer="ones", dtype=policy, name="weigh"
        )
        self.tell = layers.Dense(values, dtype=policy, name="tell")
        self.think = layers.Dense(units, activation="gelu", dtype=policy, name="think")
        small = keras.initializers.RandomNormal(stddev=0.01)
        self.move = layers.Dense(NUMBERS, kernel_initializer=small, dtype=policy, name="move")
        self.fit = layers.Dense(NUMBERS, use_bias=False, kernel_initializer=small, dtype=policy, name="fit")

    def build(
        self,
        tracks_shape: Any,
        content_shape: Any,
        tokens_shape: Any,
        there_shape: Any,
        offset_shape: Any,
        slope_shape: Any,
        plane_shape: Any,
    ) -> None:
        """Make the weights."""
        self.tracks, width = tracks_shape[1], content_shape[-1]
        self.log_reach = self.add_weight(
            (PLANES,), keras.initializers.Constant(float(np.log(self.reach))), name="log_reach"
        )
        self.weigh.build(tokens_shape)
        self.tell.build(tokens_shape)
        self.think.build((None, width + NUMBERS + 2 * PLANES + self.values))
        self.renew = layers.Dense(width, dtype=self.dtype_policy, name="renew")
        self.renew.build((None, self.units))
        self.norm = layers.LayerNormalization(dtype=self.dtype_policy, name="norm")
        self.norm.build((None, width))
        self.move.build((None, self.units))
        self.fit.build((None, PLANES))

    def call(
        self, tracks: Any, content: Any, tokens: Any, there: Any, offset: Any, slope: Any, plane: Any
    ) -> tuple[Any, Any]:
        """Return what the class says, from its call arguments."""
        reach = ops.exp(self.log_reach) / ops.cast(pitches(), self.compute_dtype)
        narrow = 1.0 / ops.sqrt(ops.square(reach) + CELL**2)
        weight, distance = nearness(tracks, offset, slope, at_hits(plane, narrow))
        own = self.weigh(tokens) * there[:, :, None]
        marks = plane * own
        sums = ops.matmul(weight, ops.concatenate([marks, self.tell(tokens) * own], axis=-1))
        counts, said = sums[:, :, :PLANES], sums[:, :, PLANES:]
        off = ops.matmul(weight * distance, marks) / (counts + 0.2)
        said = said / (1.0 + ops.sum(counts, axis=-1, keepdims=True))
        seen = ops.concatenate([content, tracks, ops.log(1.0 + counts), off, said], axis=-1)
        thought = self.think(seen)
        moved = tracks + self.move(thought) + self.fit(off)
        return moved, self.norm(content + self.renew(thought))

    def compute_output_shape(self, tracks_shape: Any, content_shape: Any, *shapes: Any) -> Any:
        """Return the shapes of what `call` returns."""
        return tracks_shape, content_shape

    def get_config(self) -> dict[str, Any]:
        """Return what the layer is made from."""
        return {**super().get_config(), "reach": self.reach, "values": self.values, "units": self.units}

    def operations(self, length: int) -> int:
        """Return the counted operations of an event with so many hits."""
        of_hits = length * 2 * self.weigh.kernel.shape[0] * (1 + self.values)
        of_pairs = self.tracks * length * (2 * (NUMBERS + 1) + 6 + 2 * (2 * PLANES + self.values))
        dense = (self.think, self.renew, self.move, self.fit)
        return of_hits + of_pairs + self.tracks * sum(2 * int(np.prod(layer.kernel.shape)) for layer in dense)


@keras.saving.register_keras_serializable(package="trackkeras")
class TrackEvidence(layers.Layer):
    """What speaks for tracks, plane by plane.

    Call arguments:
        tracks `(n, q, 5)`, there `(n, k)`, and what `HitGeometry` returns.

    Returns:
        `(n, q, 62)`: whether a hit is near, 0 to 1; `(n, q, 62)`: how far inside of the plane a track
        crosses, 0 to 1; `(n, q, k)`: how near hits are.
    """

    def build(
        self, tracks_shape: Any, there_shape: Any, offset_shape: Any, slope_shape: Any, plane_shape: Any
    ) -> None:
        """Make the weights."""
        self.tracks = tracks_shape[1]
        self.log_width = self.add_weight((PLANES,), "zeros", name="log_width")

    def call(self, tracks: Any, there: Any, offset: Any, slope: Any, plane: Any) -> tuple[Any, Any, Any]:
        """Return what the class says, from its call arguments."""
        weight, _ = nearness(tracks, offset, slope, at_hits(plane, ops.exp(-self.log_width)))
        near = ops.minimum(SATURATED * ops.matmul(weight, plane * there[:, :, None]), 1.0)
        numbers = ops.matmul(tracks, ops.cast(track_basis(), self.compute_dtype))
        within = inside(numbers, places_of(numbers))
        return near, within, weight

    def compute_output_shape(self, tracks_shape: Any, there_shape: Any, *shapes: Any) -> Any:
        """Return the shapes of what `call` returns."""
        n, tracks = tracks_shape[:2]
        return (n, tracks, PLANES), (n, tracks, PLANES), (n, tracks, there_shape[1])

    def operations(self, length: int) -> int:
        """Return the counted operations of an event with so many hits."""
        return self.tracks * length * (2 * (NUMBERS + 1) + 4 + 2 * PLANES)


@keras.saving.register_keras_serializable(package="trackkeras")
class MuonScore(layers.Layer):
    """How likely each track is a muon of one charge, `(n, q)`, as a logarithm.

    It begins with what is known: a muon misses few planes, and is bent to its side.

    Args:
        sign: Of the bend.

    Call arguments:
        tracks: `(n, q, 5)`.
        missed: `(n, q, 62)`: whether a track lacks a hit where it crosses a plane, 0 to 1.
        hidden: `(n, q, h)`: what a network makes of the track.
    """

    def __init__(self, sign: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sign = sign

    def build(self, tracks_shape: Any, missed_shape: Any, hidden_shape: Any) -> None:
        """Make the weights."""
        self.of_missed = self.add_weight((PLANES, 1), keras.initializers.Constant(-0.7), name="of_missed")
        self.of_bend = self.add_weight((), keras.initializers.Constant(4.0), name="of_bend")
        small = keras.initializers.RandomNormal(stddev=0.02)
        self.of_hidden = self.add_weight((hidden_shape[-1], 1), small, name="of_hidden")

    def call(self, tracks: Any, missed: Any, hidden: Any) -> Any:
        """Return what the class says, from its call arguments."""
        side = ops.tanh(4.0 * self.sign * tracks[:, :, 1])
        score = ops.matmul(missed, self.of_missed) + ops.matmul(hidden, self.of_hidden)
        return score[:, :, 0] + self.of_bend * side

    def compute_output_shape(self, tracks_shape: Any, missed_shape: Any, hidden_shape: Any) -> Any:
        """Return the shape of what `call` returns."""
        return tracks_shape[:2]

    def get_config(self) -> dict[str, Any]:
        """Return what the layer is made from."""
        return {**super().get_config(), "sign": self.sign}


@keras.saving.register_keras_serializable(package="trackkeras")
class HitShares(layers.Layer):
    """Scores of all elements, `(n, 62, 201)` of one muon, from its tracks' shares of it.

    Elements that did not fire are impossible; that no element fired, element 0, has a score of its own.

    Call arguments:
        hits: `(n, 62, 201)`.
        share: `(n, q)`: chance that a track is the muon.
        near, within, weight: Of `TrackEvidence`.
        there: `(n, k)`.
        plane: `(n, k, 62)`.
    """

    def build(
        self,
        hits_shape: Any,
        share_shape: Any,
        near_shape: Any,
        within_shape: Any,
        weight_shape: Any,
        there_shape: Any,
        plane_shape: Any,
    ) -> None:
        """Make the weights."""
        self.tracks = share_shape[1]
        self.fire = self.add_weight((PLANES,), keras.initializers.Constant(4.0), name="fire")
        self.steep = self.add_weight((PLANES,), by_kind(chamber=2.0, hodoscope=2.0, tube=1.5), name="steep")
        self.none = self.add_weight((PLANES,), "zeros", name="none")
        self.missed = self.add_weight((PLANES,), keras.initializers.Constant(2.0), name="missed")
        self.outside = self.add_weight((PLANES,), keras.initializers.Constant(4.0), name="outside")

    def call(self, hits: Any, share: Any, near: Any, within: Any, weight: Any, there: Any, plane: Any) -> Any:
        """Return what the class says, from its call arguments."""
        share = share[:, None, :]
        scores = ops.log(ops.matmul(share, weight)[:, 0] + UNLIKELY)
        scores = at_hits(plane, self.steep) * scores + at_hits(plane, self.fire)
        nothing = self.none + self.missed * (1.0 - near) + self.outside * (1.0 - within)
        nothing = ops.log(ops.matmul(share, ops.exp(nothing))[:, 0] + UNLIKELY)
        return _rows(hits, scores * there, nothing)

    def compute_output_shape(self, hits_shape: Any, *shapes: Any) -> Any:
        """Return the shape of what `call` returns."""
        return hits_shape

    def operations(self, length: int) -> int:
        """Return the counted operations of an event with so many hits."""
        return 2 * self.tracks * (length + PLANES) + CELLS


def _rows(hits: Any, scores: Any, nothing: Any) -> Any:
    """Return scores of hits `(n, k)`, in the order of `FiredCells`, at their elements `(n, 62, 201)`."""
    fired = ops.reshape(hits, (-1, CELLS)) > 0.5
    number = ops.cumsum(ops.cast(fired, "float32"), axis=1)  # integers, exact
    n, most = ops.shape(scores)[0], ops.shape(scores)[1]
    event = ops.arange(n, dtype="int32")[:, None] * most
    index = ops.cast(ops.maximum(number - 1.0, 0.0), "int32") + event
    found = ops.where(fired, ops.take(ops.reshape(scores, (-1,)), index, axis=0), IMPOSSIBLE)
    found = ops.reshape(found, (-1, PLANES, ELEMENTS))
    return ops.concatenate([nothing[:, :, None], found[:, :, 1:]], axis=-1)
