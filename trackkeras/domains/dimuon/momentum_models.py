"""The momentum network: tracklets, a first estimate from KMAG's bend, and what a network adds to it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import sqrt
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import ops

from trackkeras.domains.dimuon.detectors import PLANES
from trackkeras.domains.dimuon.momentum_options import MomentumOptions, ResponseOptions, Target, Three
from trackkeras.domains.dimuon.spectrometer import KMAG
from trackkeras.domains.dimuon.tracklets import Tracklets
from trackkeras.layers.dense import dense_stack
from trackkeras.layers.standardize import Standardize

MOST_MOMENTUM = 150.0
"""A muon that KMAG bends less is taken for one of so many GeV."""


UNITY: Three = (1.0, 1.0, 1.0)
NOTHING: Three = (0.0, 0.0, 0.0)
"""Slope and offset of a response that is as it should be."""


class Scales(NamedTuple):
    """What the network's numbers of order one mean [GeV]; each of px, py, pz, of a positive muon.

    Attributes:
        shift: Typical momentum where it is asked for, less that at station 1.
        size: Size of the network's corrections; the losses measure errors in these units.
        floor: Least uncertainty.
    """

    shift: Three
    size: Three
    floor: Three


SCALES: dict[Target, Scales] = {
    # FMAG bends by 2.6 GeV, and its iron takes 7 GeV.
    "vertex": Scales((-2.6, 0.0, 7.0), (0.3, 0.3, 2.0), (0.005, 0.005, 0.05)),
    "station_1": Scales((0.0, 0.0, 0.0), (0.05, 0.05, 0.5), (0.001, 0.001, 0.01)),
}

FEATURES: tuple[tuple[str, float, float], ...] = (
    ("x at station 1", 6.5, 5.5),
    ("y at station 1", 0.0, 14.0),
    ("x slope at station 1", 0.051, 0.010),
    ("y slope at station 1", 0.0, 0.026),
    ("x at station 2", 48.5, 11.5),
    ("y at station 2", 0.0, 32.0),
    ("x slope at station 2", 0.069, 0.011),
    ("y slope at station 2", 0.0, 0.026),
    ("angle of KMAG's bend", 0.018, 0.004),
    ("kink in y", 0.0, 0.5),
    ("spread of x at station 1", 0.0, 1e-2),
    ("spread of x at station 2", 0.0, 1e-2),
    ("spread of x at station 3", 0.0, 1e-2),
    ("share of hits", 1.0, 0.1),
    ("pz", 24.0, 6.0),
    ("logarithm of pz", 3.15, 0.25),
    ("px", 1.2, 0.3),
    ("py", 0.0, 0.65),
    ("px that FMAG's middle asks for", 0.0, 1.0),
    ("py that the beam asks for", 0.0, 1.0),
)
"""Name, typical mean and size of what the network sees, for J/psi from the dump; nothing depends on them but
the speed of learning."""

_X1, _Y1, _TX1, _TY1, _TURN, _KINK = 0, 1, 2, 3, 8, 9
_STATION_1 = 625.0
"""About the z of station 1 [cm]."""


@keras.saving.register_keras_serializable(package="trackkeras")
class FirstEstimate(keras.layers.Layer):
    """Momentum at station 1 from KMAG's bend, and the features of the network."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})

    def call(self, tracklets: Any) -> tuple[Any, Any]:
        """Return momentum and features.

        Args:
            tracklets: `(n, 14)`, see `Tracklets`.

        Returns:
            px, py, pz at station 1, `(n, 3)` [GeV], as those of a positive muon; and `(n, 20)`, see
            `FEATURES`.
        """

        def column(index: int) -> Any:
            return tracklets[:, index : index + 1]

        pz = KMAG.kick / ops.maximum(column(_TURN), KMAG.kick / MOST_MOMENTUM)
        px, py = pz * column(_TX1), pz * column(_TY1)
        # A muon from the beam's line that was bent in the middle of FMAG points to x = 0 there.
        miss_x = pz * (column(_X1) / _STATION_1 - column(_TX1))
        miss_y = pz * (column(_Y1) / _STATION_1 - column(_TY1))
        bounded = ops.concatenate(
            [tracklets[:, :_KINK], ops.tanh(column(_KINK)), tracklets[:, _KINK + 1 :]], axis=-1
        )
        features = [bounded, pz, ops.log(pz), px, py, miss_x, miss_y]
        return ops.concatenate([px, py, pz], axis=-1), ops.concatenate(features, axis=-1)


@keras.saving.register_keras_serializable(package="trackkeras")
class AtTarget(keras.layers.Layer):
    """Momentum where it is asked for: that at station 1, the typical change, and the network's correction.

    Args:
        target: Where it is asked for.
        slope: Of the response that is taken back, see `trackkeras.domains.dimuon.response`.
        offset: Alike [GeV].
    """

    def __init__(self, target: Target, slope: Three = UNITY, offset: Three = NOTHING, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.target, self.slope, self.offset = target, tuple(slope), tuple(offset)

    def call(self, station: Any, correction: Any, charge: Any) -> Any:
        """Return `(n, 3)` [GeV] from `station` `(n, 3)` [GeV], `correction` `(n, 3)`, `charge` `(n, 1)`."""
        scales = SCALES[self.target]
        shift, size, slope, offset = (
            ops.convert_to_tensor([row], self.compute_dtype)
            for row in (scales.shift, scales.size, self.slope, self.offset)
        )
        momentum = (station + shift + size * correction - offset) / slope
        return ops.cast(ops.concatenate([charge * momentum[:, :1], momentum[:, 1:]], axis=-1), "float32")

    def get_config(self) -> Mapping[str, Any]:
        """Return the arguments of the constructor."""
        own = {"target": self.target, "slope": self.slope, "offset": self.offset}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="trackkeras")
class Uncertainty(keras.layers.Layer):
    """A positive uncertainty of each component [GeV], from numbers of order one.

    Where the response is taken back, what it hid appears: an estimate that was drawn to a mean by the factor
    `slope` has, undrawn, an uncertainty larger by its inverse root (as Gaussian errors and momenta have).

    Args:
        target: Where the momentum is asked for.
        slope: Of the response that is taken back.
    """

    def __init__(self, target: Target, slope: Three = UNITY, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.target, self.slope = target, tuple(slope)

    def call(self, heads: Any) -> Any:
        """Return `(n, 3)` [GeV] from `(n, 3)`."""
        scales = SCALES[self.target]
        floor, size, stretch = (
            ops.convert_to_tensor([row], self.compute_dtype)
            for row in (scales.floor, scales.size, [1.0 / sqrt(slope) for slope in self.slope])
        )
        return ops.cast(stretch * (floor + size * ops.softplus(heads)), "float32")

    def get_config(self) -> Mapping[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "target": self.target, "slope": self.slope}


@keras.saving.register_keras_serializable(package="trackkeras")
class MomentumModel(keras.Model):
    """A momentum network in training: squared error of the mean, likelihood of the uncertainty.

    The likelihood sees the mean as given, and the uncertainty has layers of its own: the mean is what it
    would be without an uncertainty.
    """

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
            y: `momentum`, `(n, 3)` [GeV].
            y_pred: `momentum` and `sigma`, `(n, 3)` [GeV].
            sample_weight: `(n,)`; rows of weight 0 count for nothing.
            training: Not used.
        """
        scale = tf.constant([SCALES[self.get_layer("momentum").target].size])
        truth, momentum = y["momentum"] / scale, y_pred["momentum"] / scale
        sigma = y_pred["sigma"] / scale
        squared = tf.reduce_sum(tf.square(truth - momentum), axis=-1)
        pull = (truth - tf.stop_gradient(momentum)) / sigma
        likelihood = tf.reduce_sum(0.5 * tf.square(pull) + tf.math.log(sigma), axis=-1)
        loss = squared + likelihood
        weight = tf.ones_like(loss) if sample_weight is None else tf.cast(sample_weight, loss.dtype)
        mean = tf.reduce_sum(weight * loss) / tf.maximum(tf.reduce_sum(weight), 1.0)
        # The gradients of replicas are summed.
        return mean / tf.distribute.get_strategy().num_replicas_in_sync


def build_momentum(options: MomentumOptions, precision: str | None = None) -> keras.Model:
    """Build a momentum network.

    Args:
        options: Widths, activation, resolution, target.
        precision: Number format of all layers. None is for training: the model carries its loss and takes
            no response back, hidden layers follow the global policy, the others compute in float32.

    Returns:
        A model from `elements` `(n, 62)`, `drift` `(n, 62)` [cm], `charge` `(n, 1)` to `momentum` and
        `sigma`, `(n, 3)` [GeV], inputs and outputs in float32.
    """
    inputs = {
        "elements": keras.Input((PLANES,), name="elements", dtype="int32"),
        "drift": keras.Input((PLANES,), name="drift", dtype="float32"),
        "charge": keras.Input((1,), name="charge", dtype="float32"),
    }
    edge = precision or "float32"
    tracklets = Tracklets(options.resolution, dtype=edge, name="tracklets")(*inputs.values())
    station, features = FirstEstimate(dtype=edge, name="first_estimate")(tracklets)
    _, mean, scale = zip(*FEATURES, strict=True)
    features = Standardize(list(mean), list(scale), dtype=edge, name="features")(features)

    def head(name: str, **arguments: Any) -> keras.layers.Dense:
        return keras.layers.Dense(3, kernel_initializer="zeros", dtype=edge, name=name, **arguments)

    hidden = dense_stack(features, options.widths, options.activation, dtype=precision)
    # The linear part finds what a regression would, the rest begins at nothing.
    parts = [head("linear")(features), head("curved", use_bias=False)(hidden)]
    correction = keras.layers.Add(dtype=edge, name="correction")(parts)
    doubt = dense_stack(features, options.widths[-1:], options.activation, name="doubt", dtype=precision)
    response = (options.response if precision else None) or ResponseOptions(slope=UNITY)
    momentum = AtTarget(options.target, response.slope, response.offset, dtype=edge, name="momentum")
    sigma = Uncertainty(options.target, response.slope, dtype=edge, name="sigma")
    outputs = {
        "momentum": momentum(station, correction, inputs["charge"]),
        "sigma": sigma(head("spread")(doubt)),
    }
    return (MomentumModel if precision is None else keras.Model)(inputs, outputs, name="momentum")


def network_operations(options: MomentumOptions) -> float:
    """Return the counted operations of a network per muon; an activation counts 34.

    A set of sides takes in each of six planes a product and a sum for the distance, four for the solution,
    four for the residual and three for its square, beside some 40 for the rest and its exponential.
    """
    from trackkeras.domains.dimuon.tracklets import SIDES, STATIONS

    sides = 2 * len(STATIONS) * len(SIDES) * (6 * 13 + 40)
    wires = 5 * len(STATIONS) * 6 * 16
    widths = (len(FEATURES), *options.widths)
    dense = sum(2 * one * two + 34 * two for one, two in pairwise(widths))
    last = options.widths[-1]
    doubt = 2 * len(FEATURES) * last + 34 * last + 2 * last * 3
    return float(sides + wires + dense + doubt + 2 * 3 * (last + len(FEATURES)))
