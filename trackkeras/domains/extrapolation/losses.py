"""Losses and streaming metrics of the extrapolation networks.

`truth` is `(batch, 6)`: the final state and, as a sixth column, dz [mm], from which a loss knows how far the
magnet could bend the track.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from trackkeras.units import KAPPA

TYPICAL_FIELD = 0.5
"""Field [T] that sets the scale of a typical bend; about half the peak of the LHCb dipole."""


def bend_scale(qop: Any, dz: Any, floor_mm: float) -> Any:
    """Return what errors of x, y [mm], tx and ty are measured in.

    `floor + bend`, with `bend = KAPPA |q/p| dz**2 * 0.5 T / 2` for positions and its slope counterpart.

    Args:
        qop: `(..., 1)` [1/MeV].
        dz: `(..., 1)` [mm].
        floor_mm: Position error [mm] below which nothing is gained; slopes use `floor_mm` over 5 m.

    Returns:
        `(..., 4)`.
    """
    dz = ops.abs(dz)
    kick = KAPPA * TYPICAL_FIELD * ops.abs(qop) * dz
    position, slope = floor_mm + 0.5 * kick * dz, floor_mm / 5000.0 + kick
    return ops.concatenate([position, position, slope, slope], axis=-1)


def pseudo_huber(relative: Any, delta: float) -> Any:
    """Return the mean pseudo-Huber loss over the last axis, quadratic below `delta` and linear above."""
    return ops.mean(ops.sqrt(1.0 + ops.square(relative / delta)) - 1.0, axis=-1)


@keras.saving.register_keras_serializable(package="trackkeras")
class BendLoss(keras.losses.Loss):
    """Pseudo-Huber loss of the error relative to the size of the bend.

    Squared errors in mm would train on the few lowest momenta alone: the bend spans five orders of magnitude.
    Each error is divided by `bend_scale`, so that every momentum counts; beyond `delta` the loss grows
    linearly.

    Args:
        floor_mm: Position error [mm] below which nothing is gained; slopes use `floor_mm` over 5 m.
        delta: Relative error at which quadratic turns into linear.
    """

    def __init__(
        self, floor_mm: float = 1.0, delta: float = 0.02, name: str = "bend_loss", **kwargs: Any
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.floor_mm, self.delta = floor_mm, delta

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return `(batch,)` losses of `y_true` `(batch, 6)` and `y_pred` `(batch, 5)`."""
        scale = bend_scale(y_true[:, 4:5], y_true[:, 5:6], self.floor_mm)
        return pseudo_huber((y_pred[:, :4] - y_true[:, :4]) / scale, self.delta)

    def get_config(self) -> Mapping[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "floor_mm": self.floor_mm, "delta": self.delta}


@keras.saving.register_keras_serializable(package="trackkeras")
class StateMSE(keras.losses.Loss):
    """Mean squared error of x, y, tx, ty, each divided by its spread over the training rows.

    Args:
        scale: `(4,)` standard deviations.
    """

    def __init__(self, scale: list[float], name: str = "state_mse", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.scale = [float(value) for value in scale]

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return `(batch,)` losses of `y_true` `(batch, 6)` and `y_pred` `(batch, 5)`."""
        relative = (y_pred[:, :4] - y_true[:, :4]) / np.asarray(self.scale, "float32")
        return ops.mean(ops.square(relative), axis=-1)

    def get_config(self) -> Mapping[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "scale": self.scale}


@keras.saving.register_keras_serializable(package="trackkeras")
class MeanPositionError(keras.metrics.MeanMetricWrapper):
    """Mean distance [mm] between predicted and true position in the final plane."""

    def __init__(self, name: str = "pos_mean_mm", dtype: str | None = None) -> None:
        super().__init__(_position_error, name=name, dtype=dtype)

    def get_config(self) -> Mapping[str, Any]:
        """Return the arguments of the constructor."""
        return {"name": self.name, "dtype": self.dtype}


def _position_error(y_true: Any, y_pred: Any) -> Any:
    return ops.sqrt(ops.sum(ops.square(y_pred[:, 0:2] - y_true[:, 0:2]), axis=-1))
