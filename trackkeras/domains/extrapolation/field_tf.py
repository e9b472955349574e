"""The fields as differentiable TensorFlow functions, for physics losses and networks that read the field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from trackkeras.domains.extrapolation import kernels
from trackkeras.domains.extrapolation.fields import FieldProtocol

Twin = Callable[[Any, Any, Any], tf.Tensor]


def field_twin(field: FieldProtocol, dtype: str = "float32") -> Twin:
    """Return the TensorFlow twin of a field.

    The twin does not check the volume. Outside, exponents are bounded and grid indices clamped: values and
    gradients stay finite, so that one lost track does not spoil a batch, but mean nothing.

    Args:
        field: Any field.
        dtype: `float32` or `float64`; in float64 twin and kernels agree to 1e-9 T in the acceptance.

    Returns:
        A function of x, y, z [mm], each a tensor `(...)`, that gives Bx, By, Bz [T], `(..., 3)`.
    """
    twins = {kernels.GAUSSIAN: _gaussian_twin, kernels.MAXWELL: _maxwell_twin, kernels.GRID: _grid_twin}
    evaluate = twins[field.kind](field, tf.as_dtype(dtype))

    def twin(x: Any, y: Any, z: Any) -> tf.Tensor:
        x, y, z = (tf.cast(axis, dtype) for axis in (x, y, z))
        return tf.stack(evaluate(x, y, z), axis=-1)

    return twin


Components = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


def _gaussian_twin(field: FieldProtocol, dtype: tf.DType) -> Callable[..., Components]:
    peak, centre, decay = field.params.tolist()

    def evaluate(x: tf.Tensor, y: tf.Tensor, z: tf.Tensor) -> Components:
        d = z - centre
        by = peak * tf.exp(tf.maximum(-d * d * decay, kernels.EXPONENT_MIN)) + tf.zeros_like(x + y)
        return tf.zeros_like(by), by, tf.zeros_like(by)

    return evaluate


def _maxwell_twin(field: FieldProtocol, dtype: tf.DType) -> Callable[..., Components]:
    rows = field.params.reshape(-1, kernels.TERM_SIZE)
    amplitude, centre, decay, a, b, c = (column.astype(dtype.as_numpy_dtype) for column in rows.T)

    def evaluate(x: tf.Tensor, y: tf.Tensor, z: tf.Tensor) -> Components:
        x, y, z = x[..., None], y[..., None], z[..., None]  # the terms are the last axis
        d = (z - centre) + a * x
        u = b * x + c * y
        # Written with the two factors of u² - d², which loses fewer digits in float32.
        exponent = tf.clip_by_value((u - d) * (u + d) * decay, kernels.EXPONENT_MIN, kernels.EXPONENT_MAX)
        size = amplitude * tf.exp(exponent)
        phase = -2.0 * decay * d * u
        real, imaginary = size * tf.cos(phase), size * tf.sin(phase)
        return (
            tf.reduce_sum(b * real + a * imaginary, axis=-1),
            tf.reduce_sum(c * real, axis=-1),
            tf.reduce_sum(imaginary, axis=-1),
        )

    return evaluate


def _grid_twin(field: FieldProtocol, dtype: tf.DType) -> Callable[..., Components]:
    nodes = tf.constant(field.values, dtype)
    last_cell = np.array(field.values.shape[:3], dtype=np.int32) - 2
    origin, step = (field.params[k::2].astype(dtype.as_numpy_dtype) for k in (0, 1))
    corners = np.array(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij")).reshape(3, 8).T

    def evaluate(x: tf.Tensor, y: tf.Tensor, z: tf.Tensor) -> Components:
        position = (tf.stack([x, y, z], axis=-1) - origin) / step
        cell = tf.cast(
            tf.clip_by_value(tf.floor(position), 0.0, last_cell.astype(dtype.as_numpy_dtype)), tf.int32
        )
        fraction = position - tf.cast(cell, dtype)
        values = tf.gather_nd(nodes, cell[..., None, :] + corners)  # (..., 8, 3)
        sides = tf.where(corners == 1, fraction[..., None, :], 1.0 - fraction[..., None, :])  # (..., 8, 3)
        return tuple(
            tf.unstack(tf.reduce_sum(tf.reduce_prod(sides, axis=-1)[..., None] * values, axis=-2), axis=-1)
        )

    return evaluate


def twin_error(field: FieldProtocol, n: int = 10_000, seed: int = 1) -> dict[str, float]:
    """Measure the twin against the kernels at random points of the acceptance.

    Args:
        field: Any field.
        n: Number of points.
        seed: Seed of the points.

    Returns:
        Largest and mean |twin - kernel| over points and components [T], as `float64_max`, `float32_max`,
        `float32_mean`. Points are rounded to float32 first, so rounding of the input is not counted.
    """
    from trackkeras.domains.extrapolation.field_report import acceptance_points

    points = acceptance_points(field, n, seed).astype(np.float32).astype(np.float64)
    points = points[:, field.inside(*points)]
    exact = field.field(*points)
    differences = {
        dtype: np.abs(field_twin(field, dtype)(*points).numpy() - exact) for dtype in ("float64", "float32")
    }
    return {
        "float64_max": float(differences["float64"].max()),
        "float32_max": float(differences["float32"].max()),
        "float32_mean": float(differences["float32"].mean()),
    }
