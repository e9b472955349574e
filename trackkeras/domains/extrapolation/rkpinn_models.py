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

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from trackkeras.domains.extrapolation.model_options import RkPinnOptions
from trackkeras.domains.extrapolation.models import BendResidual, normalization
from trackkeras.domains.extrapolation.physics_loss import Inputs, PhysicsModel, at_fractions, path_rate
from trackkeras.domains.extrapolation.pinn_models import path_inputs
from trackkeras.domains.extrapolation.tableaus import TABLEAUS
from trackkeras.layers.dense import dense_stack
from trackkeras.layers.standardize import Standardize
from trackkeras.units import KAPPA

STAGES = 4
PLANES = (0.25, 0.5, 0.75, 1.0)
"""Where the stages of `states` stand, as fractions of the path."""
FIRST_WEIGHTS = (1 / 6, 2 / 6, 2 / 6, 1 / 6)
RK4 = TABLEAUS["rk4"]


@keras.saving.register_keras_serializable(package="trackkeras")
class StageStates(BendResidual):
    """The states at the four planes."""

    def call(self, state: Any, z0: Any, dz: Any, heads: Any) -> Any:
        """Return the states at `z0 + PLANES * dz`, `(batch, 4, 5)`, from heads `(batch, 4, 4)`."""
        planes = ops.convert_to_tensor([[plane] for plane in PLANES], dtype=self.compute_dtype)
        state, z0 = (ops.repeat(x, STAGES, axis=0) for x in (state, z0))
        lengths = ops.reshape(dz[:, None] * planes, (-1, 1))
        states = super().call(state, z0, lengths, ops.reshape(heads, (-1, 4)))
        return ops.reshape(states, (-1, STAGES, 5))


@keras.saving.register_keras_serializable(package="trackkeras")
class StageSum(keras.layers.Layer):
    """Weighted sum of the four heads; the weights are learnt and start at [1, 2, 2, 1] / 6."""

    def build(self, input_shape: Any) -> None:
        """Create the weights."""
        zeros = keras.initializers.Constant(0.0)
        self.stage_weights = self.add_weight(shape=(STAGES, 1), initializer=zeros, name="stage_weights")
        self.stage_weights.assign([[weight] for weight in FIRST_WEIGHTS])

    def call(self, heads: Any) -> Any:
        """Return `(batch, 4)` from heads `(batch, 4, 4)`."""
        return ops.sum(heads * self.stage_weights, axis=1)


@keras.saving.register_keras_serializable(package="trackkeras")
class StageSlopes(BendResidual):
    """One step of the classical Runge-Kutta method with the network's slopes."""

    def call(self, state: Any, z0: Any, dz: Any, heads: Any) -> Any:
        """Return stages and final state.

        Args:
            state: `(batch, 5)` [mm, mm, 1, 1, 1/MeV].
            z0: `(batch, 1)` [mm].
            dz: `(batch, 1)` [mm].
            heads: `(batch, 4, 2)`.

        Returns:
            `(batch, 5, 7)`: four stages and the final state in x, y, tx, ty, q/p; the last two columns are
            dtx/dz and dty/dz of a stage [1/mm], and 0 for the final state.
        """
        position, slope, qop = state[:, 0:2], state[:, 2:4], state[:, 4:5]
        mean, _ = self.mean_field(z0, dz)
        bend = KAPPA * qop * mean
        per_mm = bend / ops.sqrt(1.0 + ops.square(bend * dz))
        changes = [per_mm * heads[:, stage] for stage in range(STAGES)]
        slopes: list[Any] = []
        rows = []
        for weights, change in zip((*RK4.a, RK4.b), (*changes, ops.zeros_like(slope)), strict=True):
            place, direction = position, slope
            for stage, weight in enumerate(weights):
                if weight:
                    place = place + weight * dz * slopes[stage]
                    direction = direction + weight * dz * changes[stage]
            slopes.append(direction)
            rows.append(ops.concatenate([place, direction, qop, change], axis=-1))
        return ops.cast(ops.stack(rows, axis=1), "float32")


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
        stages = self.get_layer("stages")({**rows, "dz": dz})["states"][:, :STAGES]
        return stages[..., :5], weight * tf.concat([stages[..., 2:4], stages[..., 5:7]], axis=-1)


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
    numbers = {"states": 4, "slopes": 2}[options.combine]
    # The four heads are one layer. Zeros start the training at the straight line.
    units = STAGES * numbers
    heads = keras.layers.Dense(units, dtype=edge, kernel_initializer="zeros", name="heads")(hidden)
    heads = keras.layers.Reshape((STAGES, numbers), dtype=edge, name="stage_heads")(heads)
    magnet = (options.magnet_centre, options.magnet_width)
    if options.combine == "slopes":
        states = StageSlopes(*magnet, dtype=edge, name="slopes")(state, z0, dz, heads)
        return {"states": states, "final_state": states[:, STAGES, :5]}
    combined = StageSum(dtype=edge, name="combination")(heads)
    return {
        "states": StageStates(*magnet, dtype=edge, name="states")(state, z0, dz, heads),
        "final_state": BendResidual(*magnet, dtype=edge, name="final_state")(state, z0, dz, combined),
    }
