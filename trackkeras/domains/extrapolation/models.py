"""The extrapolation networks, as functional Keras models in physical units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from trackkeras.domains.extrapolation.model_options import MlpOptions
from trackkeras.errors import UserError
from trackkeras.layers.dense import dense_stack
from trackkeras.layers.standardize import Standardize
from trackkeras.tangents import chain, join, part
from trackkeras.units import KAPPA

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(4)
NODES, WEIGHTS = (_NODES + 1) / 2, _WEIGHTS / 2
"""Gauss-Legendre nodes and weights on [0, 1]; four are enough for an estimate."""

FLOOR = 0.03
"""Share of the peak field that is assumed everywhere, so that no track is taken for a straight line."""


class BendSize(keras.layers.Layer):
    """An estimate of how far the magnet bends a track.

    With a bell-shaped field `b(z)` of 1 T at its peak, integrated along z by four Gauss-Legendre nodes,

        t = KAPPA q/p * integral of b(z) dz                s = KAPPA q/p * integral of b(z) (z1 - z) / dz dz

    are the slope that the magnet adds and its effect on the position. Both are divided by `sqrt(1 + t**2)`,
    since no slope grows beyond about 1. The scale needs no labels, and it keeps the rounding of a network's
    output far below the size of the bend: outside the magnet, where there is next to none, as well as at low
    momentum.

    Args:
        centre: Centre of the magnet [mm].
        width: Gaussian width of its field [mm].
    """

    def __init__(self, centre: float, width: float, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.centre, self.width = float(centre), float(width)

    def sizes(self, qop: Any, z0: Any, dz: Any) -> tuple[Any, Any]:
        """Return `s / sqrt(1 + t**2)` and `t / sqrt(1 + t**2)`, the size of the bend.

        Args:
            qop: `(batch, 1)` [1/MeV].
            z0: `(batch, 1)` [mm].
            dz: `(batch, 1)` [mm].

        Returns:
            Two tensors `(batch, 1)`, zero where `qop` or `dz` is.
        """
        mean, lever = self.mean_field(z0, dz)
        kick = KAPPA * qop * dz
        turn = kick * mean
        shift = kick * lever
        limit = 1.0 / ops.sqrt(1.0 + ops.square(turn))
        return shift * limit, turn * limit

    def mean_field(self, z0: Any, dz: Any) -> tuple[Any, Any]:
        """Return the mean of `b(z)` and of `b(z) (z1 - z) / dz` over the path, two tensors `(batch, 1)`."""
        nodes, weights, levers = (
            ops.convert_to_tensor(numbers, dtype=self.compute_dtype)
            for numbers in (NODES, WEIGHTS, WEIGHTS * (1.0 - NODES))
        )
        distance = (z0 + dz * nodes - self.centre) / self.width
        field = ops.exp(-0.5 * ops.square(distance)) + FLOOR
        return tuple(ops.sum(field * numbers, axis=-1, keepdims=True) for numbers in (weights, levers))

    def get_config(self) -> Mapping[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "centre": self.centre, "width": self.width}


@keras.saving.register_keras_serializable(package="trackkeras")
class BendResidual(BendSize):
    """Straight line plus a bend whose size is estimated: exact at dz = 0 and at q = 0.

    With the divided `s` and `t` of `BendSize`, and four numbers `h` of order one from the network,

        x1 = x0 + dz * (tx0 + s * h_x)                     tx1 = tx0 + t * h_tx             (y alike)

    and q/p passes unchanged.
    """

    def call(self, state: Any, z0: Any, dz: Any, heads: Any) -> Any:
        """Return the final state.

        Args:
            state: `(batch, 5)` [mm, mm, 1, 1, 1/MeV].
            z0: `(batch, 1)` [mm].
            dz: `(batch, 1)` [mm].
            heads: `(batch, 4)`.

        Returns:
            `(batch, 5)`, as `state`.
        """
        position, slope, qop = state[:, 0:2], state[:, 2:4], state[:, 4:5]
        shift, turn = self.sizes(qop, z0, dz)
        new_position = position + dz * (slope + shift * heads[:, 0:2])
        new_slope = slope + turn * heads[:, 2:4]
        return ops.cast(ops.concatenate([new_position, new_slope, qop], axis=-1), "float32")

    def push_forward(self, inputs: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
        """Return output and tangent, see `trackkeras.tangents`; z0 and dz are taken as given.

        Raises:
            UserError: z0 or dz has a tangent.
        """
        state, z0, dz, heads = inputs
        along, along_z0, along_dz, along_heads = tangents
        if along_z0 is not None or along_dz is not None:
            raise UserError(f"layer {self.name!r} can be differentiated along state and heads only")
        mean, lever = self.mean_field(z0, dz)
        turn_per_qop, shift_per_qop = KAPPA * dz * mean, KAPPA * dz * lever
        qop, along_qop = state[:, 4:5], part(along, 4, 5)
        turn, shift = qop * turn_per_qop, qop * shift_per_qop
        limit = 1.0 / ops.sqrt(1.0 + ops.square(turn))
        # With l = 1 / sqrt(1 + t^2): d(t l) = l^3 dt, and s / t does not depend on q/p.
        cube = limit * limit * limit
        position = chain(
            (1.0, part(along, 0, 2)),
            (dz, part(along, 2, 4)),
            (dz * shift * limit, part(along_heads, 0, 2)),
            (dz * shift_per_qop * cube * heads[:, 0:2], along_qop),
        )
        slope = chain(
            (1.0, part(along, 2, 4)),
            (turn * limit, part(along_heads, 2, 4)),
            (turn_per_qop * cube * heads[:, 2:4], along_qop),
        )
        values = (state[:, 0:2], state[:, 2:4], qop)
        return self.call(state, z0, dz, heads), join(values, (position, slope, along_qop))


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
        scale, mean = (ops.convert_to_tensor(x, dtype=self.compute_dtype) for x in (self.scale, self.mean))
        return ops.cast(ops.concatenate([heads * scale + mean, state[:, 4:5]], axis=-1), "float32")

    def push_forward(self, inputs: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
        """Return output and tangent, see `trackkeras.tangents`."""
        (state, heads), (along, along_heads) = inputs, tangents
        scale = ops.convert_to_tensor([self.scale], dtype=self.compute_dtype)
        components = join((heads, state[:, 4:5]), (chain((scale, along_heads)), part(along, 4, 5)))
        return self.call(state, heads), components

    def get_config(self) -> Mapping[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "mean": self.mean, "scale": self.scale}


def build_mlp(
    options: MlpOptions, statistics: Mapping[str, Any], precision: str | None = None
) -> keras.Model:
    """Build the MLP in its residual form or in the absolute form without z0.

    Args:
        options: Widths, activation and form.
        statistics: `mean` and `std` per component of `state`, `z0`, `dz` and `final_state`.
        precision: Number format of all layers. None is for training: hidden layers follow the global policy,
            the others compute in float32.

    Returns:
        A model from `state` `(batch, 5)`, `z0` `(batch, 1)`, `dz` `(batch, 1)` to `final_state` `(batch, 5)`,
        inputs and output in float32.
    """
    state = keras.Input((5,), name="state", dtype="float32")
    z0 = keras.Input((1,), name="z0", dtype="float32")
    dz = keras.Input((1,), name="dz", dtype="float32")
    columns = ("state", "z0", "dz") if options.form == "residual" else ("state", "dz")
    inputs = {"state": state, "z0": z0, "dz": dz}
    edge = precision or "float32"
    features = keras.layers.Concatenate(dtype=edge, name="features")([inputs[name] for name in columns])
    mean, scale = normalization(statistics, columns)
    hidden = Standardize(mean, scale, dtype=edge, name="standardize")(features)
    hidden = dense_stack(hidden, options.widths, options.activation, dtype=precision)
    if options.form == "residual":
        # Zero-initialised heads start the training at the straight line.
        heads = keras.layers.Dense(4, dtype=edge, kernel_initializer="zeros", name="heads")(hidden)
        bend = BendResidual(options.magnet_centre, options.magnet_width, dtype=edge, name="final_state")
        final_state = bend(state, z0, dz, heads)
    else:
        heads = keras.layers.Dense(4, dtype=edge, name="heads")(hidden)
        mean, scale = normalization(statistics, ("final_state",))
        final_state = AbsoluteState(mean[:4], scale[:4], dtype=edge, name="final_state")(state, heads)
    return keras.Model(inputs, {"final_state": final_state}, name="mlp")


def normalization(statistics: Mapping[str, Any], columns: tuple[str, ...]) -> tuple[list[float], list[float]]:
    """Return mean and scale of some columns, one number per component."""
    mean = [value for name in columns for value in np.ravel(statistics[name]["mean"])]
    scale = [value for name in columns for value in np.ravel(statistics[name]["std"])]
    # A constant input (one dz for all rows) has no spread: it is centred and left in its own unit.
    return mean, [value if value > 1e-12 else 1.0 for value in scale]
