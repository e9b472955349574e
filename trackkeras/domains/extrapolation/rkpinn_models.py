"""The RK_PINN: one backbone with a head for each of four stages, combined in one of two ways.

`states`: head i gives the bend up to the plane at 1/4, 1/2, 3/4 and 1 of the path, in the form of
`BendResidual`, so that each stage is a state of the trajectory. The final state has the weighted sum of the
four bends, each relative to its own size. The weights are learnt and start at [1, 2, 2, 1] / 6. This is what
earlier networks did, and **not a consistent Runge-Kutta rule**: those numbers weigh slopes within a step, not
states along the path, and no weights but (0, 0, 0, 1) make the fourth stage and the final state agree.

`slopes`: head i gives stage i of the classical fourth-order method, the changes of tx and ty per mm, in units
of the slope that the estimated field would give on average. Stage states and final state follow from the
method's tableau. With the true slopes at the stages the result is one Runge-Kutta step over the whole path:
consistent, and as exact as one step of several metres through a magnet can be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from trackkeras.domains.extrapolation.model_options import RkPinnOptions
from trackkeras.domains.extrapolation.models import BendResidual, BendSize, normalization
from trackkeras.domains.extrapolation.physics_loss import Inputs, PhysicsModel, at_fractions, path_rate
from trackkeras.domains.extrapolation.pinn_models import path_inputs
from trackkeras.domains.extrapolation.tableaus import TABLEAUS
from trackkeras.layers.dense import dense_stack
from trackkeras.layers.standardize import Standardize

STAGES = 4
PLANES = (0.25, 0.5, 0.75, 1.0)
"""Where the stages of `states` stand, as fractions of the path."""
FIRST_WEIGHTS = (1 / 6, 2 / 6, 2 / 6, 1 / 6)
RK4 = TABLEAUS["rk4"]


def _step_weights() -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of the slopes' changes in positions and in slopes, two arrays `(5, 4)`.

    One row per stage and one for the end of the step. The equations are of second order, so that positions
    follow from the changes as well (Nystrom's form, see `tableaus`).
    """
    slopes = np.zeros((STAGES + 1, STAGES))
    for row, weights in enumerate((*RK4.a, RK4.b)):
        slopes[row, : len(weights)] = weights
    return slopes @ slopes[:STAGES], slopes


POSITION_WEIGHTS, SLOPE_WEIGHTS = _step_weights()


@keras.saving.register_keras_serializable(package="trackkeras")
class StageStates(BendSize):
    """The states at the four planes: a straight line plus a bend up to each of them, as in `BendResidual`."""

    def call(self, state: Any, z0: Any, dz: Any, heads: Any) -> Any:
        """Return the states at `z0 + PLANES * dz`, `(batch, 4, 5)`, from heads `(batch, 16)`."""
        planes = ops.convert_to_tensor([[plane] for plane in PLANES], dtype=self.compute_dtype)
        heads = ops.reshape(heads, (-1, STAGES, 4))
        lengths = dz[:, None] * planes
        shift, turn = self.sizes(state[:, None, 4:5], z0[:, None], lengths)
        position = state[:, None, 0:2] + lengths * (state[:, None, 2:4] + shift * heads[..., 0:2])
        slope = state[:, None, 2:4] + turn * heads[..., 2:4]
        qop = state[:, None, 4:5] * ops.ones_like(planes)
        return ops.cast(ops.concatenate([position, slope, qop], axis=-1), "float32")


@keras.saving.register_keras_serializable(package="trackkeras")
class StageSum(keras.layers.Layer):
    """Weighted sum of the four heads; the weights are learnt and start at [1, 2, 2, 1] / 6."""

    def build(self, input_shape: Any) -> None:
        """Create the weights."""
        zeros = keras.initializers.Constant(0.0)
        self.stage_weights = self.add_weight(shape=(STAGES, 1), initializer=zeros, name="stage_weights")
        self.stage_weights.assign([[weight] for weight in FIRST_WEIGHTS])

    def call(self, heads: Any) -> Any:
        """Return `(batch, 4)` from heads `(batch, 16)`."""
        return ops.sum(ops.reshape(heads, (-1, STAGES, 4)) * self.stage_weights, axis=1)

    def push_forward(self, inputs: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
        """Return output and tangent, see `trackkeras.tangents`."""
        (heads,), (along,) = inputs, tangents
        parts = ops.reshape(along, (-1, STAGES, 4, along.shape[-1]))
        weights = ops.cast(self.stage_weights, self.compute_dtype)
        return self.call(heads), ops.sum(parts * weights[..., None], axis=1)


@keras.saving.register_keras_serializable(package="trackkeras")
class StepSize(BendResidual):
    """A bend in units of the slope that the estimated field adds over the path, in positions too."""

    def mean_field(self, z0: Any, dz: Any) -> tuple[Any, Any]:
        """Return the mean of `b(z)` over the path, twice."""
        mean, _ = super().mean_field(z0, dz)
        return mean, mean


@keras.saving.register_keras_serializable(package="trackkeras")
class StepSum(keras.layers.Layer):
    """The changes of the slopes at the four stages, summed as the end of a Runge-Kutta step has it."""

    def call(self, heads: Any) -> Any:
        """Return what `StepSize` takes, `(batch, 4)`, from heads `(batch, 8)`."""
        return ops.matmul(heads, self._weights())

    def push_forward(self, inputs: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
        """Return output and tangent, see `trackkeras.tangents`."""
        return self.call(inputs[0]), ops.matmul(ops.transpose(self._weights()), tangents[0])

    def _weights(self) -> Any:
        both = np.stack([POSITION_WEIGHTS[STAGES], SLOPE_WEIGHTS[STAGES]], axis=1)
        return ops.convert_to_tensor(np.kron(both, np.eye(2)), dtype=self.compute_dtype)


@keras.saving.register_keras_serializable(package="trackkeras")
class StageSlopes(StepSize):
    """The stages of one step of the classical Runge-Kutta method with the network's changes of the slopes."""

    def call(self, state: Any, z0: Any, dz: Any, heads: Any) -> Any:
        """Return the stages.

        Args:
            state: `(batch, 5)` [mm, mm, 1, 1, 1/MeV].
            z0: `(batch, 1)` [mm].
            dz: `(batch, 1)` [mm].
            heads: `(batch, 8)`, of x and y for the first stage, and so on.

        Returns:
            `(batch, 4, 7)`: the stages in x, y, tx, ty, q/p, and `dz` times their dtx/dz and dty/dz.
        """
        nodes = ops.convert_to_tensor([[node] for node in RK4.c], dtype=self.compute_dtype)
        _, turn = self.sizes(state[:, 4:5], z0, dz)
        changes = turn[:, None] * ops.reshape(heads, (-1, STAGES, 2))
        places, directions = (
            ops.matmul(ops.convert_to_tensor(weights[:STAGES], dtype=self.compute_dtype), changes)
            for weights in (POSITION_WEIGHTS, SLOPE_WEIGHTS)
        )
        position = state[:, None, 0:2] + dz[:, None] * (nodes * state[:, None, 2:4] + places)
        slope = state[:, None, 2:4] + directions
        qop = state[:, None, 4:5] * ops.ones_like(nodes)
        return ops.cast(ops.concatenate([position, slope, qop, changes], axis=-1), "float32")


FORMS: Mapping[str, tuple[int, type[Any], type[Any], type[Any]]] = {
    "states": (16, StageSum, BendResidual, StageStates),
    "slopes": (8, StepSum, StepSize, StageSlopes),
}
"""Outputs of the four heads, the layer that sums them, that of the final state and that of the stages."""


class StageModel(PhysicsModel):
    """What the two forms of an RK_PINN in training share: the equation is asked for at all stages at once."""

    stages = STAGES
    planes: tuple[float, ...]
    """Where the stages stand, as fractions of the path."""

    def stage_rates(self, rows: Inputs, dz: Any, weight: Any) -> tuple[Any, Any]:
        """Return the stages of paths of length `dz`, and `weight` times their derivative along z.

        Args:
            rows: The inputs, `n` tracks.
            dz: `(n, 1)` [mm].
            weight: `(n, 1, 4)`.

        Returns:
            `(n, 4, 5)` and `(n, 4, 4)`.
        """
        raise NotImplementedError

    def defects(self, rows: Inputs, fractions: Any) -> tf.Tensor:
        """Return the relative defects of the stages, `(n * points, 4, 4)`; see `PhysicsModel`.

        Paths are shortened to `fractions` of their length, so that the equation is asked for from z0 on.
        """
        rows, fraction = at_fractions(rows, fractions)
        dz = fraction * rows["dz"]
        scale = self.physics.scale(rows)
        states, changes = self.stage_rates(rows, dz, (rows["dz"] / scale)[:, None])
        z = rows["z0"][:, None] + tf.constant(self.planes)[:, None] * dz[:, None]
        length, scale = (tf.repeat(x, STAGES, axis=0) for x in (rows["dz"], scale))
        z, states, changes = (tf.reshape(x, (-1, x.shape[-1])) for x in (z, states, changes))
        return tf.reshape(self.physics.defect(z, states, changes, length, scale), (-1, STAGES, 4))


@keras.saving.register_keras_serializable(package="trackkeras")
class StageStatesModel(StageModel):
    """An RK_PINN of the form `states` in training."""

    planes = PLANES

    def stage_rates(self, rows: Inputs, dz: Any, weight: Any) -> tuple[Any, Any]:
        """See `StageModel`.

        At a fixed initial state, the state at a plane depends on the path's length only through the plane. So
        the derivative of a stage along z is that along dz divided by the stage's fraction of the path.
        """
        stages = self.get_layer("stages")
        along_z = weight / tf.constant(PLANES)[:, None]
        return path_rate(lambda length: stages({**rows, "dz": length})["states"], dz, along_z)


@keras.saving.register_keras_serializable(package="trackkeras")
class StageSlopesModel(StageModel):
    """An RK_PINN of the form `slopes` in training."""

    planes = RK4.c

    def stage_rates(self, rows: Inputs, dz: Any, weight: Any) -> tuple[Any, Any]:
        """See `StageModel`.

        No derivative is taken: the slopes of a stage are the network's, those of x and y its tx and ty.
        """
        stages = self.get_layer("stages")({**rows, "dz": dz})["states"]
        changes = tf.math.divide_no_nan(stages[..., 5:7], dz[:, None])
        return stages[..., :5], weight * tf.concat([stages[..., 2:4], changes], axis=-1)


def build_rkpinn(options: RkPinnOptions, statistics: Mapping[str, Any]) -> keras.Model:
    """Build an RK_PINN for training.

    Args:
        options: Widths, activation, and how the stages are combined.
        statistics: `mean` and `std` per component of `state`, `z0`, `dz`.

    Returns:
        A model from `state` `(batch, 5)`, `z0` `(batch, 1)`, `dz` `(batch, 1)` to `final_state` `(batch, 5)`.
    """
    inputs = path_inputs()
    stages = keras.Model(inputs, _stages(options, statistics, inputs, None), name="stages")
    inputs = path_inputs()
    model = {"states": StageStatesModel, "slopes": StageSlopesModel}[options.combine]
    return model(inputs, {"final_state": stages(inputs)["final_state"]}, name="rk_pinn")


def build_rkpinn_end(options: RkPinnOptions, statistics: Mapping[str, Any]) -> keras.Model:
    """Build the same network for use, with the final state alone and in the precision of the options."""
    inputs = path_inputs()
    outputs = _stages(options, statistics, inputs, options.precision)
    return keras.Model(inputs, {"final_state": outputs["final_state"]}, name="rk_pinn")


def _stages(
    options: RkPinnOptions, statistics: Mapping[str, Any], inputs: Mapping[str, Any], precision: str | None
) -> dict[str, Any]:
    state, z0, dz = (inputs[name] for name in ("state", "z0", "dz"))
    edge = precision or "float32"
    features = keras.layers.Concatenate(dtype=edge, name="features")([state, z0, dz])
    mean, scale = normalization(statistics, ("state", "z0", "dz"))
    hidden = Standardize(mean, scale, dtype=edge, name="standardize")(features)
    hidden = dense_stack(hidden, options.widths, options.activation, dtype=precision)
    size, combination, end, states = FORMS[options.combine]
    # The four heads are one layer. Zeros start the training at the straight line.
    heads = keras.layers.Dense(size, dtype=edge, kernel_initializer="zeros", name="heads")(hidden)
    combined = combination(dtype=edge, name="combination")(heads)
    magnet = (options.magnet_centre, options.magnet_width)
    return {
        "states": states(*magnet, dtype=edge, name="states")(state, z0, dz, heads),
        "final_state": end(*magnet, dtype=edge, name="final_state")(state, z0, dz, combined),
    }
