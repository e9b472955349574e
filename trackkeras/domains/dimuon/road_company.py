"""Tracks of an event judged in each other's company.

A background track that lost hits may look complete, because other tracks fired the same elements; a hit that
no other track explains is the track's own. So each track is told, plane by plane, how much of it others
explain (`SharedHits`). And the two muons of an event come from one decay: `PairJudge` weighs pairs.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from trackkeras.domains.dimuon.road_fit import nearest_elements
from trackkeras.domains.dimuon.road_tables import Z_2
from trackkeras.domains.dimuon.spectrometer import KMAG

SAME = 0.6
"""Share of common hits above which two tracks are taken for one that was found twice."""

SHARP = 16.0
"""How fast that decision goes over from one to the other."""

COMMON = 0.75
"""Distance at which two tracks are taken to have the same hit [elements]."""

OTHER_CHARGE = -1e4
"""Added to the score of a track whose kick is that of the other charge."""

LOST = 6.0
"""Energy that a muon leaves in the dump, roughly [GeV]."""

LEVER = 5.9
"""Slope at the vertex against that behind KMAG, in kicks: both magnets bend alike, FMAG 4.9 times as much."""

MASSES = (0.4, 0.9)
"""Widths of the windows about the J/psi's mass in which a pair is seen [GeV]; the resolution is 0.2 GeV."""

JPSI = 3.1


@keras.saving.register_keras_serializable(package="trackkeras")
class OwnHits(layers.Layer):
    """Where tracks have a hit, 0 to 1, `(n, c, 62)`.

    Call arguments:
        places, fired, within: As `RoadFit` returns them.
    """

    def call(self, places: Any, fired: Any, within: Any) -> Any:
        """Return what the class says, from its call arguments."""
        distance = ops.abs(nearest_elements(places) - places[..., None])
        return within * ops.max(fired * ops.sigmoid((0.7 - distance) * 12.0), axis=-1)

    def compute_output_shape(self, places_shape: Any, fired_shape: Any, within_shape: Any) -> Any:
        """Return the shapes of what `call` returns."""
        return places_shape


@keras.saving.register_keras_serializable(package="trackkeras")
class SharedHits(layers.Layer):
    """How much of a track's hits others explain, 0 to 1, `(n, c, 62)`.

    Call arguments:
        reality: `(n, c)`: how likely each track is one, signal or not, 0 to 1.
        places: `(n, c, 62)` [elements].
        own: `(n, c, 62)`, of `OwnHits`.
    """

    def call(self, reality: Any, places: Any, own: Any) -> Any:
        """Return what the class says, from its call arguments."""
        distance = ops.abs(places[:, :, None] - places[:, None])
        common = ops.sigmoid((COMMON - distance) * 8.0) * own[:, :, None] * own[:, None]
        hits = ops.sum(own, axis=-1)
        share = ops.sum(common, axis=-1) / ops.maximum(ops.minimum(hits[:, :, None], hits[:, None]), 1.0)
        other = ops.sigmoid((SAME - share) * SHARP) * reality[:, None]
        return 1.0 - ops.exp(-ops.sum(common * other[..., None], axis=2))

    def compute_output_shape(self, reality_shape: Any, places_shape: Any, own_shape: Any) -> Any:
        """Return the shapes of what `call` returns."""
        return places_shape


@keras.saving.register_keras_serializable(package="trackkeras")
class Best(layers.Layer):
    """The tracks of highest score, and what belongs to them.

    Args:
        count: Tracks that are given on.
        sign: Of the kick that the wanted charge gets; 0 for both charges.

    Call arguments:
        score: `(n, c)`.
        tracks: `(n, c, 5)`.
        others: Further `(n, c, ..)`.

    Returns:
        All of them, with `count` in place of c.
    """

    def __init__(self, count: int, sign: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.count, self.sign = count, sign

    def call(self, score: Any, tracks: Any, *others: Any) -> Any:
        """Return what the class says, from its call arguments."""
        if self.sign:
            score = score + OTHER_CHARGE * ops.cast(tracks[:, :, 4] * self.sign <= 0.0, score.dtype)
        best, rank = ops.top_k(score, self.count)

        def taken(values: Any) -> Any:
            index = ops.reshape(rank, (-1, self.count, *(1 for _ in values.shape[2:])))
            return ops.take_along_axis(values, index, axis=1)

        return [best, *(taken(values) for values in (tracks, *others))]

    def get_config(self) -> dict[str, Any]:
        """Return what the layer is made from."""
        return {**super().get_config(), "count": self.count, "sign": self.sign}


@keras.saving.register_keras_serializable(package="trackkeras")
class PairJudge(layers.Layer):
    """Scores of tracks of both charges, given each other.

    All pairs of a mu+ and a mu- are scored; what is returned are the logarithms of a track's share of all
    pairs.

    Args:
        units: Widths of the network that scores a pair.

    Call arguments:
        plus_score `(n, k)`, plus_tracks `(n, k, 5)`, plus_hidden `(n, k, h)`, and the same of the mu-.

    Returns:
        Scores `(n, k)` of the mu+ and of the mu-.
    """

    def __init__(self, units: tuple[int, int] = (64, 32), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = tuple(units)
        first, second = self.units
        self.of_plus, self.of_minus, self.of_both = (
            layers.Dense(first, dtype=self.dtype_policy, name=name)
            for name in ("of_plus", "of_minus", "of_both")
        )
        self.deep = layers.Dense(second, dtype=self.dtype_policy, name="deep")
        # Pairs count from where tracks alone have come.
        self.last = layers.Dense(1, kernel_initializer="zeros", dtype=self.dtype_policy, name="last")

    def build(
        self,
        plus_score_shape: Any,
        plus_tracks_shape: Any,
        plus_hidden_shape: Any,
        minus_score_shape: Any,
        minus_tracks_shape: Any,
        minus_hidden_shape: Any,
    ) -> None:
        """Make the weights."""
        self.of_plus.build((None, plus_hidden_shape[-1]))
        self.of_minus.build((None, minus_hidden_shape[-1]))
        self.of_both.build((None, PAIR_FEATURES))
        self.deep.build((None, self.units[0]))
        self.last.build((None, self.units[1]))

    def call(
        self,
        plus_score: Any,
        plus_tracks: Any,
        plus_hidden: Any,
        minus_score: Any,
        minus_tracks: Any,
        minus_hidden: Any,
    ) -> Any:
        """Return what the class says, from its call arguments."""
        hidden = self.of_plus(plus_hidden)[:, :, None] + self.of_minus(minus_hidden)[:, None]
        hidden = ops.gelu(hidden + self.of_both(pair_features(plus_tracks, minus_tracks)))
        score = self.last(ops.gelu(self.deep(hidden)))[..., 0]
        score = score + plus_score[:, :, None] + minus_score[:, None]
        k = score.shape[1]
        share = ops.reshape(ops.softmax(ops.reshape(score, (-1, k * k)), axis=-1), (-1, k, k))
        return ops.log(ops.sum(share, axis=2) + 1e-9), ops.log(ops.sum(share, axis=1) + 1e-9)

    def compute_output_shape(
        self,
        plus_score_shape: Any,
        plus_tracks_shape: Any,
        plus_hidden_shape: Any,
        minus_score_shape: Any,
        minus_tracks_shape: Any,
        minus_hidden_shape: Any,
    ) -> Any:
        """Return the shapes of what `call` returns."""
        return plus_score_shape, minus_score_shape

    def get_config(self) -> dict[str, Any]:
        """Return what the layer is made from."""
        return {**super().get_config(), "units": self.units}


PAIR_FEATURES = 11


def pair_features(plus: Any, minus: Any) -> Any:
    """Return mass, momentum and distance at the vertex of pairs of tracks `(n, k, 5)`, `(n, k, k, 11)`."""
    first = [value[:, :, None] for value in _at_vertex(plus)]
    second = [value[:, None, :] for value in _at_vertex(minus)]
    (p, slope_x, slope_y, height), (q, other_x, other_y, other_height) = first, second
    across, up = slope_x - other_x, slope_y - other_y
    mass = ops.sqrt(p * q * (ops.square(across) + ops.square(up)) + 0.05)
    columns = [
        ops.log(mass),
        (mass - JPSI) / 0.5,
        *(ops.exp(-ops.square((mass - JPSI) / width)) for width in MASSES),
        (p + q) / 50.0,
        ops.log(p / q),
        0.5 * (p * slope_x + q * other_x),
        0.5 * (p * slope_y + q * other_y),
        0.25 * (height - other_height),
        20.0 * across,
        20.0 * up,
    ]
    return ops.stack(columns, axis=-1)


def _at_vertex(tracks: Any) -> tuple[Any, Any, Any, Any]:
    """Return momentum [GeV], slopes, and y at the face of the dump [cm], as if there were no scattering."""
    slope_x, y, slope_y, kick = (tracks[:, :, k] for k in (1, 2, 3, 4))
    momentum = KMAG.kick / (ops.abs(kick) + 0.002) + LOST
    return momentum, slope_x + LEVER * kick, slope_y, y - Z_2 * slope_y
