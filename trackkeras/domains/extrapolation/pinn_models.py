"""The PINN: a trajectory as a function of the fraction of the path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from trackkeras.domains.extrapolation.model_options import PinnOptions
from trackkeras.domains.extrapolation.models import BendResidual, BendSize, normalization
from trackkeras.domains.extrapolation.physics_loss import Inputs, PhysicsModel, at_fractions, path_rate
from trackkeras.layers.dense import dense_stack
from trackkeras.layers.standardize import Standardize

FRACTION = ([0.5], [12**-0.5])
"""Mean and standard deviation of a fraction that is uniform in [0, 1]."""


@keras.saving.register_keras_serializable(package="trackkeras")
class LearnedStart(BendSize):
    """Straight line plus a bend that is not forced to be zero at z0.

    With `s` and `t` of `BendSize` for the whole path and the network's `h` at the fraction f of it,

        x = x0 + dz * (f * tx0 + s * h_x)                  tx = tx0 + t * h_tx              (y alike)

    so that the state at z0 is right where `h = 0` there, which the network has to learn. It is exact at
    dz = 0 and at q = 0.
    """

    def call(self, state: Any, z0: Any, dz: Any, heads: Any, fraction: Any) -> Any:
        """Return the state at `z0 + fraction * dz`.

        Args:
            state: `(batch, 5)` [mm, mm, 1, 1, 1/MeV].
            z0: `(batch, 1)` [mm].
            dz: `(batch, 1)` [mm].
            heads: `(batch, 4)`.
            fraction: `(batch, 1)` in [0, 1].

        Returns:
            `(batch, 5)`, as `state`.
        """
        position, slope, qop = state[:, 0:2], state[:, 2:4], state[:, 4:5]
        shift, turn = self.sizes(qop, z0, dz)
        new_position = position + dz * (fraction * slope + shift * heads[:, 0:2])
        new_slope = slope + turn * heads[:, 2:4]
        return ops.cast(ops.concatenate([new_position, new_slope, qop], axis=-1), "float32")


@keras.saving.register_keras_serializable(package="trackkeras")
class PathModel(PhysicsModel):
    """A PINN in training: its layer `path` gives the state at any fraction of the path."""

    def states(self, rows: Inputs, fraction: Any) -> Any:
        """Return the states at `z0 + fraction * dz`, `(n, 5)`, for fractions `(n, 1)`."""
        return self.get_layer("path")({**rows, "z_frac": fraction})["state_at"]

    def defects(self, rows: Inputs, fractions: Any) -> tf.Tensor:
        """Return the relative defects of the trajectory, `(n * points, 1, 4)`; see `PhysicsModel`."""
        rows, fraction = at_fractions(rows, fractions)
        scale = self.physics.scale(rows)
        state, change = path_rate(lambda f: self.states(rows, f), fraction, 1.0 / scale)
        z = rows["z0"] + fraction * rows["dz"]
        return self.physics.defect(z, state, change, rows["dz"], scale)[:, None]

    def start_error(self, rows: Inputs) -> tf.Tensor:
        """Return the error of the trajectory at z0, relative to `scale`, `(n, 4)`."""
        start = self.states(rows, tf.zeros_like(rows["dz"]))
        return (start - rows["state"])[:, :4] / self.physics.scale(rows)


def path_inputs() -> dict[str, Any]:
    """Return the symbolic inputs of a network."""
    shapes = {"state": 5, "z0": 1, "dz": 1}
    return {name: keras.Input((size,), name=name, dtype="float32") for name, size in shapes.items()}


def build_pinn(options: PinnOptions, statistics: Mapping[str, Any]) -> keras.Model:
    """Build a PINN for training.

    Args:
        options: Widths, activation, and how the trajectory starts.
        statistics: `mean` and `std` per component of `state`, `z0`, `dz`.

    Returns:
        A model from `state` `(batch, 5)`, `z0` `(batch, 1)`, `dz` `(batch, 1)` to `final_state` `(batch, 5)`.
    """
    inputs, fraction = path_inputs(), keras.Input((1,), name="z_frac", dtype="float32")
    state_at = _state_at(options, statistics, inputs, fraction, None)
    path = keras.Model({**inputs, "z_frac": fraction}, {"state_at": state_at}, name="path")
    inputs = path_inputs()
    final_state = path({**inputs, "z_frac": ops.ones_like(inputs["dz"])})["state_at"]
    return PathModel(inputs, {"final_state": final_state}, name="pinn")


def build_pinn_end(options: PinnOptions, statistics: Mapping[str, Any]) -> keras.Model:
    """Build the same network for use: the state at the end of the path, in the precision of the options."""
    inputs = path_inputs()
    final_state = _state_at(options, statistics, inputs, None, options.precision)
    return keras.Model(inputs, {"final_state": final_state}, name="pinn")


def _state_at(
    options: PinnOptions,
    statistics: Mapping[str, Any],
    inputs: Mapping[str, Any],
    fraction: Any | None,
    precision: str | None,
) -> Any:
    """Return the state at a fraction of the path, `(batch, 5)`; at its end if `fraction` is None.

    A track does not depend on how far it is followed: started exactly, the trajectory is a function of the
    initial state and of the distance from z0 alone. A learned start must know the whole length as well, which
    the size of its bend refers to.
    """
    state, z0, dz = (inputs[name] for name in ("state", "z0", "dz"))
    edge = precision or "float32"
    mean, scale = normalization(statistics, ("state", "z0", "dz"))
    if options.initial == "exact":
        if fraction is not None:
            dz = keras.layers.Multiply(dtype="float32", name="distance")([fraction, dz])
        columns = [state, z0, dz]
    else:
        columns = [state, z0, dz, ops.ones_like(dz) if fraction is None else fraction]
        mean, scale = mean + FRACTION[0], scale + FRACTION[1]
    features = keras.layers.Concatenate(dtype=edge, name="features")(columns)
    hidden = Standardize(mean, scale, dtype=edge, name="standardize")(features)
    hidden = dense_stack(hidden, options.widths, options.activation, dtype=precision)
    # Zero-initialised heads start the training at the straight line.
    heads = keras.layers.Dense(4, dtype=edge, kernel_initializer="zeros", name="heads")(hidden)
    magnet = (options.magnet_centre, options.magnet_width)
    if options.initial == "exact" or fraction is None:
        return BendResidual(*magnet, dtype=edge, name="final_state")(state, z0, dz, heads)
    return LearnedStart(*magnet, dtype=edge, name="final_state")(state, z0, dz, heads, fraction)
