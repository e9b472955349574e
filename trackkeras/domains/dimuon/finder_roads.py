"""A track finder that searches, fits and judges: few weights, made for a CPU.

`RoadSearch` looks up all tracks of a grid in the hit matrix, and `RoadFit` fits the likeliest to the hits.
What is learnt is to judge them: each by itself, then by what of it the other tracks explain, then as a pair
of a mu+ and a mu-. Each row of the result is the mixture of what the tracks say of it.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from trackkeras.domains.dimuon.detectors import ELEMENTS, PLANES
from trackkeras.domains.dimuon.finder_options import FinderOptions, Roads
from trackkeras.domains.dimuon.road_company import Best, OwnHits, PairJudge, SharedHits
from trackkeras.domains.dimuon.road_fit import RoadFeatures, RoadFit, by_kind, nearest_elements, straight
from trackkeras.domains.dimuon.road_search import RoadSearch

KEPT = 6
"""Tracks of each charge that make the mixture."""

FLOOR = 0.01
"""Share of the mixture that is given to no hit and to all fired elements, whatever the tracks say."""

IMPOSSIBLE = -1e4

SIGNS = {"track_mup": -1.0, "track_mum": 1.0}
"""Of the kick that a muon gets, by output; it is the slope before KMAG less that behind."""


def roads(hits: Any, options: FinderOptions, training: bool) -> dict[str, Any]:
    """Return the outputs from `hits`.

    Places on planes need more digits than 16 bits have, whatever the policy of a training.
    """
    size: Roads = options.roads
    exact = "float32" if training else options.precision
    policy = None if training else options.precision

    def dense(hidden: Any, units: tuple[int, ...], name: str) -> Any:
        for number, width in enumerate(units):
            hidden = layers.Dense(width, activation="gelu", dtype=policy, name=f"{name}_{number}")(hidden)
        return hidden

    def number(hidden: Any, name: str, activation: str | None = None) -> Any:
        return layers.Dense(1, activation=activation, dtype=exact, name=name)(hidden)[:, :, 0]

    found, half = RoadSearch(size.pairs, size.lines, size.tracks, dtype="float32", name="search")(hits)
    fitted, places, fired, within = RoadFit(dtype=exact, name="fit")(hits, found, half)
    hidden = RoadFeatures(dtype=exact, name="features")(hits, found, fitted, places, fired, within)
    hidden = dense(hidden, size.units, "alone")
    score = number(hidden, "score_alone")
    reality = number(hidden, "reality", "sigmoid")
    own = OwnHits(dtype=exact, name="own")(places, fired, within)
    score, fitted, hidden, reality, own, places, fired, within = Best(
        size.company, dtype=exact, name="company"
    )(score, fitted, hidden, reality, own, places, fired, within)
    shared = SharedHits(dtype=exact, name="shared")(reality, places, own)
    hidden = layers.Concatenate(dtype=exact, name="with_company")([hidden, shared, own])
    hidden = dense(hidden, (size.units[-1], size.units[-1]), "among")
    score = layers.Add(dtype=exact, name="score")([score, number(hidden, "score_among")])
    muons = {
        name: Best(size.paired, sign, dtype=exact, name=f"{name}_best")(
            score, fitted, hidden, places, fired, within
        )
        for name, sign in SIGNS.items()
    }
    scores = PairJudge(dtype=exact, name="pairs")(*(value for muon in muons.values() for value in muon[:3]))
    return {
        name: RoadMixture(dtype=exact, name=name)(hits, score, *muons[name][3:])
        for name, score in zip(muons, scores, strict=True)
    }


@keras.saving.register_keras_serializable(package="trackkeras")
class RoadMixture(layers.Layer):
    """Probabilities of the elements of each detector, `(n, 62, 201)`, from scored tracks of one charge.

    Call arguments:
        hits: `(n, 62, 201)`.
        score: `(n, c)`.
        places, fired, within: As `RoadFit` returns them.
    """

    def build(self, *shapes: Any) -> None:
        """Make the weights."""
        self.steep = self.add_weight((PLANES,), by_kind(chamber=4.0, hodoscope=4.0, tube=2.8), name="steep")
        self.fire = self.add_weight((PLANES,), keras.initializers.Constant(4.0), name="fire")
        self.none = self.add_weight((PLANES,), keras.initializers.Constant(-2.0), name="none")
        self.outside = self.add_weight((PLANES,), "ones", name="outside")

    def call(self, hits: Any, score: Any, places: Any, fired: Any, within: Any) -> Any:
        """Return what the class says, from its call arguments."""
        share, rank = ops.top_k(ops.softmax(score, axis=-1), KEPT)
        share = share / ops.sum(share, axis=-1, keepdims=True)
        places, within = (ops.take_along_axis(value, rank[:, :, None], axis=1) for value in (places, within))
        fired = ops.take_along_axis(fired, rank[:, :, None, None], axis=1)
        element = nearest_elements(places)
        chance, none = self._chances(element, places, fired, within)
        chance = chance * share[:, :, None, None]
        numbers = ops.arange(ELEMENTS, dtype=element.dtype)
        rows = sum(
            ops.sum(
                chance[..., k, None] * ops.cast(ops.equal(element[..., k, None], numbers), chance.dtype),
                axis=1,
            )
            for k in range(element.shape[-1])
        )
        first = ops.cast(ops.equal(numbers, 0.0), rows.dtype)
        rows = rows + ops.sum(none * share[:, :, None], axis=1)[:, :, None] * first
        return ops.cast((1.0 - FLOOR) * rows + FLOOR * _anything(hits, first), "float32")

    def _chances(self, element: Any, places: Any, fired: Any, within: Any) -> tuple[Any, Any]:
        """Return chances of the elements about places, `(.., 62, 5)`, and of none, `(.., 62)`."""
        distance = element - places[..., None]
        valid = (element >= 1.0) & (element <= straight().elements[:, None])
        weight = fired * self.fire[:, None] - self.steep[:, None] * ops.square(distance)
        weight = weight + (1.0 - ops.cast(valid, weight.dtype)) * IMPOSSIBLE
        weight = weight + ops.log(within + 1e-6)[..., None]
        none = self.none + self.outside * ops.log(1.0 + 1e-6 - within) + 4.0 * ops.square(1.0 - within)
        chances = ops.softmax(ops.concatenate([weight, none[..., None]], axis=-1), axis=-1)
        return chances[..., :-1], chances[..., -1]

    def compute_output_shape(self, hits_shape: Any, *shapes: Any) -> Any:
        """Return the shapes of what `call` returns."""
        return hits_shape


def _anything(hits: Any, first: Any) -> Any:
    """Return rows that give one half to no hit and the other to all fired elements."""
    count = ops.sum(hits, axis=2, keepdims=True)
    share = 0.5 * hits / ops.maximum(count, 1.0)
    return share + first * (1.0 - ops.sum(share, axis=2, keepdims=True))
