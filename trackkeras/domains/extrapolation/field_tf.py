"""The fields as differentiable TensorFlow functions, for physics losses and networks that read the field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from trackkeras.domains.extrapolation import kernels
from trackkeras.domains.extrapolation.field_protocol import FieldProtocol
from trackkeras.domains.extrapolation.grid_nodes import axes_of

Twin = Callable[[Any, Any, Any], tf.Tensor]


def field_twin(field: FieldProtocol, dtype: str = "float32") -> Twin:
    """Return the TensorFlow twin of a field.

    The twin does not check where the field is known. Outside, exponents are bounded and grid indices
    clamped: values and gradients stay finite, so that one lost track does not spoil a batch, but mean
    nothing.

    Args:
        field: Any field.
        dtype: `float32` or `float64`; in float64 twin and kernels agree to 1e-9 T in the acceptance.

    Returns:
        A function of x, y, z [mm], each a tensor `(...)`, that gives Bx, By, Bz [T], `(..., 3)`.
    """
    evaluate = _TWINS[field.kind](field, tf.as_dtype(dtype))

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


def _two_dipole_twin(field: FieldProtocol, dtype: tf.DType) -> Callable[..., Components]:
    moment, half, plane, _ = field.params.tolist()
    centres = np.array([-half, half], dtype.as_numpy_dtype)

    def evaluate(x: tf.Tensor, y: tf.Tensor, z: tf.Tensor) -> Components:
        u, v, w = x[..., None], y[..., None] - centres, z[..., None] - plane  # the dipoles are the last axis
        squared = u * u + v * v + w * w
        inverse = tf.where(squared >= 1.0, 1.0 / tf.maximum(squared, 1.0), 0.0)
        # Not a square root of `inverse`, whose gradient is infinite at 0.
        size = moment * inverse / tf.sqrt(tf.maximum(squared, 1.0))
        along = 3.0 * size * inverse * v
        parts = (along * u, along * v - size, along * w)
        return tuple(tf.reduce_sum(part, axis=-1) for part in parts)

    return evaluate


class _Axis:
    """Cells along one axis: which one holds a position, and where in it the position lies."""

    def __init__(self, coordinates: np.ndarray, variable: bool, dtype: tf.DType) -> None:
        self.coordinates, self.dtype, self.variable = (
            coordinates.astype(dtype.as_numpy_dtype),
            dtype,
            variable,
        )
        self.widths = np.diff(coordinates).astype(dtype.as_numpy_dtype)
        self.last = len(coordinates) - 2

    def cells(self, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the cell, int32, and the place in it, 0 to 1, like `position`."""
        if self.variable:
            found = tf.searchsorted(self.coordinates, tf.reshape(position, [-1]), side="right") - 1
            cell = tf.clip_by_value(tf.reshape(found, tf.shape(position)), 0, self.last)
            start, width = tf.gather(self.coordinates, cell), tf.gather(self.widths, cell)
            return cell, (position - start) / width
        place = (position - self.coordinates[0]) / self.widths[0]
        cell = tf.cast(tf.clip_by_value(tf.floor(place), 0.0, float(self.last)), tf.int32)
        return cell, place - tf.cast(cell, self.dtype)

    def cubic_weights(self, cell: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
        """Return the weights of nodes -1, 0, 1 and 2 of a cell, `(..., 4)`; see `grid_kernels.cubic_weights`.

        Beyond an end stands a node at the distance of the last two; `_with_ghosts` gives its field.
        """
        padded = np.concatenate([self.widths[:1], self.widths, self.widths[-1:]])
        before, width, after = (tf.gather(padded, cell + k) for k in range(3))
        rest = 1.0 - t
        a = t * rest * rest * width / (before + width)
        b = -t * t * rest * width / (width + after)
        weights = (
            -a * width / before,
            rest * rest * (1.0 + 2.0 * t) + a * (width / before - before / width) - b * after / width,
            t * t * (3.0 - 2.0 * t) + a * before / width + b * (after / width - width / after),
            b * width / after,
        )
        return tf.stack(weights, axis=-1)


def _with_ghosts(nodes: np.ndarray, axes: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return the nodes with one more beyond each end, on the parabola through the outermost three."""
    for axis, coordinates in enumerate(axes):
        nodes = np.moveaxis(nodes, axis, 0)
        ends = []
        for side in (slice(None, 3), slice(-1, -4, -1)):
            x, values = coordinates[side], nodes[side]
            ghost = 2.0 * x[0] - x[1]
            weights = [
                np.prod([(ghost - x[j]) / (x[i] - x[j]) for j in range(3) if j != i]) for i in range(3)
            ]
            ends.append(np.tensordot(weights, values, axes=1)[None])
        nodes = np.moveaxis(np.concatenate([ends[0], nodes, ends[1]]), 0, axis)
    return nodes


def _grid_twin(field: FieldProtocol, dtype: tf.DType) -> Callable[..., Components]:
    coordinates = axes_of(field)
    variable = field.kind >= kernels.VARIABLE_GRID
    axes = [_Axis(axis, variable, dtype) for axis in coordinates]
    nodes = field.values[..., :3].astype(np.float64)
    cubic = field.kind in (kernels.GRID_CUBIC, kernels.VARIABLE_GRID_CUBIC)
    nearest = field.kind in (kernels.GRID_NEAREST, kernels.VARIABLE_GRID_NEAREST)
    table = tf.constant(_with_ghosts(nodes, coordinates) if cubic else nodes, dtype)
    reads = {True: 4, False: 1 if nearest else 2}[cubic]

    def weights(axis: _Axis, cell: tf.Tensor, place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the first node that is read, and the weights of it and the following ones."""
        if cubic:
            return cell, axis.cubic_weights(cell, place)
        if nearest:
            return cell + tf.cast(place >= 0.5, tf.int32), tf.ones_like(place)[..., None]
        return cell, tf.stack([1.0 - place, place], axis=-1)

    def evaluate(x: tf.Tensor, y: tf.Tensor, z: tf.Tensor) -> Components:
        points = [tf.broadcast_to(axis, tf.shape(x + y + z)) for axis in (x, y, z)]
        first, side = zip(
            *(weights(axis, *axis.cells(p)) for axis, p in zip(axes, points, strict=True)), strict=True
        )
        offsets = np.stack(np.meshgrid(*[np.arange(reads)] * 3, indexing="ij"), axis=-1)
        index = tf.stack(first, axis=-1)[..., None, None, None, :] + offsets
        values = tf.gather_nd(table, index)  # (..., reads, reads, reads, 3)
        total = _weighted(values, side)
        return tuple(tf.unstack(total, axis=-1))

    return evaluate


def _weighted(values: tf.Tensor, sides: tuple[tf.Tensor, ...]) -> tf.Tensor:
    """Return `(..., 3)` from values `(..., i, j, k, 3)` and weights `(..., i)`, `(..., j)`, `(..., k)`."""
    x, y, z = sides
    rows = tf.reduce_sum(values * z[..., None, None, :, None], axis=-2)
    columns = tf.reduce_sum(rows * y[..., None, :, None], axis=-2)
    return tf.reduce_sum(columns * x[..., :, None], axis=-2)


_TWINS = {
    kernels.GAUSSIAN: _gaussian_twin,
    kernels.MAXWELL: _maxwell_twin,
    kernels.TWO_DIPOLE: _two_dipole_twin,
    **dict.fromkeys(
        (
            kernels.GRID,
            kernels.GRID_CUBIC,
            kernels.GRID_NEAREST,
            kernels.VARIABLE_GRID,
            kernels.VARIABLE_GRID_CUBIC,
            kernels.VARIABLE_GRID_NEAREST,
        ),
        _grid_twin,
    ),
}


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
