"""The quality network: how well the hits of a track fit one muon, and what its momentum is worth."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from trackkeras.domains.dimuon.detectors import PLANES as DETECTORS
from trackkeras.domains.dimuon.momentum_models import FEATURES, FirstEstimate
from trackkeras.domains.dimuon.planes import PLANES
from trackkeras.domains.dimuon.quality_options import QualityOptions
from trackkeras.domains.dimuon.quality_rows import SMALLEST_ERROR
from trackkeras.domains.dimuon.tracklets import KMAG_CENTRE, SIDES, STATIONS, Tracklets
from trackkeras.layers.dense import dense_stack
from trackkeras.layers.standardize import Standardize

MIDDLE_ERROR, WIDEST = -3.0, 8.0
"""The network gives errors of e^(-3 ± 8): whatever its hits, a finite positive number."""

MOST_CERTAIN = 12.0
"""Largest logarithm of the odds: no track is right or wrong by more than 160,000 to 1."""

HUBER = 1.0
"""Where the loss of an error's logarithm turns from a parabola to a line."""

NEAR = 0.1
"""Distance in which the chambers' residuals are told [cm]."""

SLOTS = np.array([plane.number - 1 for plane in PLANES])
"""Places of the planes in a hit array; those of the chambers come first."""

CHAMBERS = sum(plane.detector.kind == "chamber" for plane in PLANES)

STATION_Z = [np.mean([plane.z for plane in PLANES if plane.number in numbers]) for numbers in STATIONS[:2]]
"""Where the tracklets give positions: the middles of stations 1 and 2 [cm]."""

TO_VERTEX = (-2.6, 0.0, 7.0)
"""Typical px, py, pz of a positive muon at the vertex less those at station 1 [GeV]."""

SIZE = (0.3, 0.3, 2.0)
"""Typical error of a right track's px, py, pz [GeV], in which its features are told."""

X_1, Y_1, TX_1, TY_1, X_2, Y_2, TX_2, TY_2 = range(8)
"""Columns of `Tracklets`."""


@keras.saving.register_keras_serializable(package="trackkeras")
class TrackResiduals(keras.layers.Layer):
    """How far the hits of a track are from where its tracklets pass, in all planes.

    The two straight lines of the tracklets, which meet in KMAG, were fitted to the chambers' hits; hodoscopes
    and tubes had no say.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        angle = np.radians([plane.angle for plane in PLANES])
        numbers = (
            np.cos(angle),
            np.sin(angle),
            [plane.pitch for plane in PLANES],
            [plane.origin for plane in PLANES],
            [plane.z - STATION_Z[0] for plane in PLANES],
            [plane.z - STATION_Z[1] for plane in PLANES],
            [plane.z < KMAG_CENTRE for plane in PLANES],
        )
        self.cos, self.sin, self.pitch, self.origin, self.from_1, self.from_2, self.before = (
            np.asarray(values, dtype=np.float32) for values in numbers
        )

    def call(self, elements: Any, drift: Any, charge: Any, tracklets: Any) -> Any:
        """Return presence and residuals.

        Args:
            elements: `(n, 62)` fired element of each detector, 0 for none.
            drift: `(n, 62)` absolute drift distance [cm].
            charge: `(n, 1)`, +1 or -1.
            tracklets: `(n, 14)`, see `Tracklets`.

        Returns:
            `(n, 2 * 52 + 24)`: 1 for each plane with a hit; their distances from the line, in elements; and
            those of the chambers, on whichever side of the wire, less the drift distances, in `NEAR`. The
            distances are inverse hyperbolic sines, and 0 for planes without a hit.
        """
        fired = ops.cast(ops.take(elements, SLOTS, axis=1), "float32")
        seen = ops.minimum(fired, 1.0)
        x, y = self._line(charge, tracklets)
        place = (x * self.cos + y * self.sin - self.origin) / self.pitch
        distance = seen * (fired - place)
        near, present = distance[:, :CHAMBERS], seen[:, :CHAMBERS]
        drift = ops.take(ops.abs(drift), SLOTS[:CHAMBERS], axis=1)
        beyond = present * (ops.abs(near) * self.pitch[:CHAMBERS] - drift) / NEAR
        return ops.concatenate([seen, ops.arcsinh(distance), ops.arcsinh(beyond)], axis=-1)

    def _line(self, charge: Any, tracklets: Any) -> tuple[Any, Any]:
        """Return x and y [cm] of the line before or behind KMAG at all planes, each `(n, planes)`."""

        def along(position: int, slope: int, distance: Any) -> Any:
            return tracklets[:, position : position + 1] + tracklets[:, slope : slope + 1] * distance

        x = self.before * along(X_1, TX_1, self.from_1) + (1 - self.before) * along(X_2, TX_2, self.from_2)
        y = self.before * along(Y_1, TY_1, self.from_1) + (1 - self.before) * along(Y_2, TY_2, self.from_2)
        return charge * x, y


@keras.saving.register_keras_serializable(package="trackkeras")
class MomentumFeatures(keras.layers.Layer):
    """The momentum to judge: its size, and how far it is from the one that the bend alone gives."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})

    def call(self, momentum: Any, station: Any, charge: Any) -> Any:
        """Return the features, `(n, 7)`.

        Args:
            momentum: `(n, 3)` [GeV].
            station: `(n, 3)` [GeV], that of a positive muon at station 1 from the bend.
            charge: `(n, 1)`, +1 or -1.

        Returns:
            px of a positive muon, py, pz, their differences from the bend's at the vertex, all as inverse
            hyperbolic sines, and the logarithm of |p|.
        """
        scale, shift = (ops.convert_to_tensor([numbers], dtype="float32") for numbers in (SIZE, TO_VERTEX))
        mirror = ops.concatenate([charge, ops.ones_like(charge), ops.ones_like(charge)], axis=-1)
        positive = mirror * momentum
        size = ops.sum(ops.square(momentum), axis=-1, keepdims=True)
        return ops.concatenate(
            [
                ops.arcsinh(positive / (4.0 * scale)),
                ops.arcsinh((positive - station - shift) / scale),
                0.5 * ops.log(size + 1.0),
            ],
            axis=-1,
        )


@keras.saving.register_keras_serializable(package="trackkeras")
class Bounded(keras.layers.Layer):
    """Inverse hyperbolic sines: a wrong track's features may be a thousand times those of right ones."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})

    def call(self, features: Any) -> Any:
        """Return the same shape."""
        return ops.arcsinh(features)


@keras.saving.register_keras_serializable(package="trackkeras")
class Probability(keras.layers.Layer):
    """A number as a probability that is never quite 0 or 1."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})

    def call(self, odds: Any) -> Any:
        """Return the same shape."""
        return ops.sigmoid(MOST_CERTAIN * ops.tanh(ops.cast(odds, "float32") / MOST_CERTAIN))


@keras.saving.register_keras_serializable(package="trackkeras")
class PositiveError(keras.layers.Layer):
    """A number as an error: positive, with the number as its logarithm."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})

    def call(self, logarithm: Any) -> Any:
        """Return the same shape."""
        return ops.exp(MIDDLE_ERROR + WIDEST * ops.tanh(ops.cast(logarithm, "float32") / WIDEST))


@keras.saving.register_keras_serializable(package="trackkeras")
class QualityModel(keras.Model):
    """A quality network in training: cross-entropy of `p_right`, Huber loss of the logarithm of `error`."""

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the mean over rows of both losses.

        Args:
            x: Not used.
            y: `p_right`, 1 or 0, and `error`, each `(n, 1)`.
            y_pred: The same.
            sample_weight: `(n,)`; rows of weight 0 count for nothing.
            training: Not used.
        """
        right, said = y["p_right"][:, 0], y_pred["p_right"][:, 0]
        entropy = -tf.where(right > 0.5, tf.math.log(said), tf.math.log1p(-said))
        truth = tf.math.log(tf.maximum(y["error"][:, 0], SMALLEST_ERROR))
        off = tf.abs(tf.math.log(y_pred["error"][:, 0]) - truth)
        robust = tf.where(off < HUBER, 0.5 * tf.square(off), HUBER * (off - 0.5 * HUBER))
        loss = entropy + robust
        weight = tf.ones_like(loss) if sample_weight is None else tf.cast(sample_weight, loss.dtype)
        mean = tf.reduce_sum(weight * loss) / tf.maximum(tf.reduce_sum(weight), 1.0)
        # The gradients of replicas are summed.
        return mean / tf.distribute.get_strategy().num_replicas_in_sync


def build_quality(options: QualityOptions, *, training: bool) -> keras.Model:
    """Build a quality network.

    Args:
        options: Widths, activation, resolution.
        training: Whether it carries its loss.

    Returns:
        A model from `elements` `(n, 62)`, `drift` `(n, 62)` [cm], `charge` `(n, 1)` and `momentum` `(n, 3)`
        [GeV] to `p_right` and `error`, `(n, 1)`.
    """
    inputs = {
        "elements": keras.Input((DETECTORS,), name="elements", dtype="int32"),
        "drift": keras.Input((DETECTORS,), name="drift", dtype="float32"),
        "charge": keras.Input((1,), name="charge", dtype="float32"),
        "momentum": keras.Input((3,), name="momentum", dtype="float32"),
    }
    elements, drift, charge, momentum = inputs.values()
    tracklets = Tracklets(options.resolution, name="tracklets")(elements, drift, charge)
    station, features = FirstEstimate(name="first_estimate")(tracklets)
    _, mean, scale = zip(*FEATURES, strict=True)
    features = Standardize(list(mean), list(scale), dtype="float32", name="features")(features)
    seen = keras.layers.Concatenate(dtype="float32", name="seen")(
        [
            Bounded(name="bounded")(features),
            TrackResiduals(name="residuals")(elements, drift, charge, tracklets),
            MomentumFeatures(name="momentum_features")(momentum, station, charge),
        ]
    )
    hidden = dense_stack(seen, options.widths, options.activation)
    outputs = {}
    for name, head in (("p_right", Probability), ("error", PositiveError)):
        # Each begins at one answer for all tracks.
        number = keras.layers.Dense(1, kernel_initializer="zeros", dtype="float32", name=f"{name}_head")
        outputs[name] = head(name=name)(number(hidden))
    return (QualityModel if training else keras.Model)(inputs, outputs, name="quality")


def network_operations(options: QualityOptions) -> float:
    """Return the counted operations of a network per track; an activation counts 34."""
    features = len(FEATURES) + 2 * len(PLANES) + CHAMBERS + 7
    widths = (features, *options.widths, 2)
    dense = sum(2 * one * two + 34 * two for one, two in pairwise(widths))
    return _residual_operations() + 34.0 * features + dense


def linear_operations() -> float:
    """Return those of the linear models on `quality_baselines.simple_features`."""
    return _residual_operations() + 2.0 * 2 * 20


def _residual_operations() -> float:
    """Return those of tracklets, which go through the sets of sides in two rounds, and of residuals."""
    sides = 2 * len(STATIONS) * len(SIDES) * (6 * 13 + 40)
    return float(sides + len(PLANES) * 45)
