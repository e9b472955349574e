"""The extrapolation networks, as functional Keras models in physical units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from trackkeras.domains.extrapolation.model_options import ModelOptions
from trackkeras.layers.dense import dense_stack
from trackkeras.layers.standardize import Standardize
from trackkeras.units import KAPPA


@keras.saving.register_keras_serializable(package="trackkeras")
class BendResidual(keras.layers.Layer):
    """Straight line plus a bend whose size is known: exact at dz = 0 and at q = 0.

    The network gives four numbers `h` of the order of the field [T]; then, with `k = KAPPA * q/p`,

        x1 = x0 + tx0 * dz + k * dz**2 * h_x        tx1 = tx0 + k * dz * h_tx        (y alike)

    and q/p passes unchanged. A uniform vertical field B at small slopes is `h_x = -B/2, h_tx = -B`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})

    def call(self, state: Any, dz: Any, heads: Any) -> Any:
        """Return the final state.

        Args:
            state: `(batch, 5)` [mm, mm, 1, 1, 1/MeV].
            dz: `(batch, 1)` [mm].
            heads: `(batch, 4)` [T].

        Returns:
            `(batch, 5)`, as `state`.
        """
        position, slope, qop = state[:, 0:2], state[:, 2:4], state[:, 4:5]
        kick = KAPPA * qop * dz
        new_position = position + dz * (slope + kick * heads[:, 0:2])
        new_slope = slope + kick * heads[:, 2:4]
        return ops.concatenate([new_position, new_slope, qop], axis=-1)

    def compute_output_shape(self, state_shape: Any, dz_shape: Any, heads_shape: Any) -> Any:
        """Return the shape of the state."""
        return state_shape


@keras.saving.register_keras_serializable(package="trackkeras")
class AbsoluteState(keras.layers.Layer):
    """The final state itself, from standardised outputs; q/p passes unchanged.

    Args:
        mean: `(4,)` mean of the final x, y, tx, ty.
        scale: `(4,)` their standard deviation.
    """

    def __init__(self, mean: list[float], scale: list[float], **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.mean, self.scale = list(mean), list(scale)

    def call(self, state: Any, heads: Any) -> Any:
        """Return `(batch, 5)` from `state` `(batch, 5)` and `heads` `(batch, 4)`."""
        final = heads * np.asarray(self.scale, "float32") + np.asarray(self.mean, "float32")
        return ops.concatenate([final, state[:, 4:5]], axis=-1)

    def compute_output_shape(self, state_shape: Any, heads_shape: Any) -> Any:
        """Return the shape of the state."""
        return state_shape

    def get_config(self) -> Mapping[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "mean": self.mean, "scale": self.scale}


def build_mlp(options: ModelOptions, statistics: Mapping[str, Any]) -> keras.Model:
    """Build the MLP in its residual form or in the absolute form without z0.

    Args:
        options: Widths, activation and form.
        statistics: `mean` and `std` per component of `state`, `z0`, `dz` and `final_state`.

    Returns:
        A model from `state` `(batch, 5)`, `z0` `(batch, 1)`, `dz` `(batch, 1)` to `final_state` `(batch, 5)`.
    """
    state = keras.Input((5,), name="state", dtype="float32")
    z0 = keras.Input((1,), name="z0", dtype="float32")
    dz = keras.Input((1,), name="dz", dtype="float32")
    columns = ("state", "z0", "dz") if options.form == "residual" else ("state", "dz")
    inputs = {"state": state, "z0": z0, "dz": dz}
    features = keras.layers.Concatenate(dtype="float32", name="features")([inputs[name] for name in columns])
    mean, scale = _normalization(statistics, columns)
    hidden = Standardize(mean, scale, name="standardize")(features)
    hidden = dense_stack(hidden, options.widths, options.activation)
    if options.form == "residual":
        # Zero-initialised heads start the training at the straight line.
        heads = keras.layers.Dense(4, dtype="float32", kernel_initializer="zeros", name="heads")(hidden)
        final_state = BendResidual(name="final_state")(state, dz, heads)
    else:
        heads = keras.layers.Dense(4, dtype="float32", name="heads")(hidden)
        mean, scale = _normalization(statistics, ("final_state",))
        final_state = AbsoluteState(mean[:4], scale[:4], name="final_state")(state, heads)
    return keras.Model(inputs, {"final_state": final_state}, name="mlp")


def _normalization(
    statistics: Mapping[str, Any], columns: tuple[str, ...]
) -> tuple[list[float], list[float]]:
    mean = [value for name in columns for value in np.ravel(statistics[name]["mean"])]
    scale = [value for name in columns for value in np.ravel(statistics[name]["std"])]
    # A constant input (one dz for all rows) has no spread: it is centred and left in its own unit.
    return mean, [value if value > 1e-12 else 1.0 for value in scale]
