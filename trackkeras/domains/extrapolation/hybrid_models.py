"""The hybrid: Runge-Kutta steps inside the graph, in a closed-form base field plus what a network adds to it.

The base field is a sum of complex Gaussians with fewer terms than the field of the simulation, and no weight
of it is learnt. A small dense network gives the rest of the field at a point,

    B(x, y, z) = B_base(x, y, z) + 0.1 T * (s_x s_y h_x, h_y, s_y h_z)      s_x = x / sqrt((1 m)² + x²)

from features that are even in x and y, so that the two planes of symmetry of the magnet, and with them the
mirror symmetry of the two charges, are exact. The path is integrated by a Nystroem method of fourth order
with two field points per step (`tableaus.TABLEAUS["nystrom4"]`): exact at dz = 0, a straight line at q = 0.

A field in three dimensions is a far simpler function than a final state in seven, and an error of it enters
the final state averaged along the path: networks of a thousand weights suffice where one that corrects the
final state needs a hundred thousand. The price is that the network runs twice per step.

Training (`HybridModel`) compares the forces along the path: the network's field with that of the equation of
motion, at collocation points on the cubic between the two states of a record. No integration is needed for
that loss, and with `lambda_data = 0` none is made. The data loss differentiates through the integrator; it is
what there is where the field is not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from trackkeras import duals
from trackkeras.domains.extrapolation.kernels import EXPONENT_MAX, EXPONENT_MIN, TERM_SIZE
from trackkeras.domains.extrapolation.maxwell import maxwell_params
from trackkeras.domains.extrapolation.model_options import HybridOptions
from trackkeras.domains.extrapolation.physics_loss import Inputs, Physics, PhysicsModel, at_fractions
from trackkeras.duals import Dual
from trackkeras.errors import UserError
from trackkeras.tangents import everywhere
from trackkeras.units import KAPPA

UNIT = 0.1
"""What the network's outputs are measured in [T]."""

STEEPEST = 3.0
"""Slopes beyond this one bend as if they were of this size: such tracks are lost, but must stay finite."""


@keras.saving.register_keras_serializable(package="trackkeras")
class LearnedFieldPath(keras.layers.Layer):
    """The final state of a path through base field and network.

    Args:
        terms: Base field, `(n, 4)`: peak [T], centre [mm], width [mm], sin2; see `maxwell`.
        widths: Units of the network's hidden layers.
        activation: Their activation, one that `trackkeras.tangents.activate` knows.
        steps: Integration steps.
        reach: Beyond |x| or |y| of this size [mm] the field is that at the border.
    """

    def __init__(
        self,
        terms: Sequence[Sequence[float]],
        widths: Sequence[int],
        activation: str,
        steps: int,
        reach: float = 5000.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.terms, self.widths = [list(term) for term in terms], list(widths)
        self.activation_name, self.steps, self.reach = activation, int(steps), float(reach)
        self.activation = keras.activations.get(activation)

    def build(self, *shapes: Any) -> None:
        """Create the network's weights; its last layer is zero, so that training starts at the base field."""
        sizes = [5, *self.widths, 3]
        self.kernels, self.biases = [], []
        for index, (fan_in, units) in enumerate(pairwise(sizes)):
            first = "zeros" if index == len(self.widths) else "glorot_uniform"
            kernel = self.add_weight(shape=(fan_in, units), initializer=first, name=f"kernel_{index}")
            self.kernels.append(kernel)
            self.biases.append(self.add_weight(shape=(units,), initializer="zeros", name=f"bias_{index}"))

    def call(self, state: Any, z0: Any, dz: Any) -> Any:
        """Return the final state.

        Args:
            state: `(batch, 5)` [mm, mm, 1, 1, 1/MeV].
            z0: `(batch, 1)` [mm].
            dz: `(batch, 1)` [mm].

        Returns:
            `(batch, 5)`, as `state`.
        """
        final = self._integrate(Dual(state), z0, dz)
        return ops.cast(ops.concatenate([final.value, state[:, 4:5]], axis=-1), "float32")

    def push_forward(self, inputs: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
        """Return output and tangent, see `trackkeras.tangents`; z0 and dz are taken as given.

        Raises:
            UserError: z0 or dz has a tangent.
        """
        (state, z0, dz), (along, along_z0, along_dz) = inputs, tangents
        if along_z0 is not None or along_dz is not None:
            raise UserError(f"layer {self.name!r} can be differentiated along the state only")
        start = Dual(state, everywhere(along, state))
        final = duals.concatenate([self._integrate(start, z0, dz), start[4:5]])
        return ops.cast(final.value, "float32"), final.tangent

    def field(self, x: Dual, y: Dual, z: Any) -> Dual:
        """Return Bx, By, Bz [T], three components, at x, y, z [mm], one component each."""
        return self.base_field(x, y, z) + self.learned_field(x, y, z)

    def base_field(self, x: Dual, y: Dual, z: Any) -> Dual:
        """Return the base field [T]; see `maxwell` for the formula."""
        rows = maxwell_params(self.terms).reshape(-1, TERM_SIZE)
        amplitude, centre, decay, a, b, c = (self._constant(column[None]) for column in rows.T)
        d = x * a + (z - centre)
        u = x * b + y * c
        exponent = duals.clip((u - d) * (u + d) * decay, EXPONENT_MIN, EXPONENT_MAX)
        size = duals.exp(exponent) * amplitude
        cosine, sine = duals.cosine_and_sine(d * u * (-2.0 * decay))
        along, across = np.zeros((2, len(rows), 3))
        along[:, 0], along[:, 1] = rows[:, 4], rows[:, 5]
        across[:, 0], across[:, 2] = rows[:, 3], 1.0
        return size * cosine @ self._constant(along) + size * sine @ self._constant(across)

    def learned_field(self, x: Dual, y: Dual, z: Any) -> Dual:
        """Return what the network adds to the base field [T]."""
        in_metres = x * 1e-3, y * 1e-3
        roots = [duals.sqrt(v * v + 1.0) for v in in_metres]
        wide = [duals.reciprocal(v * v * (1.0 / 9.0) + 1.0) for v in in_metres]
        along = Dual((z - 5000.0) / 2500.0)
        hidden = duals.concatenate([*(root - 2.0 for root in roots), along, *(w * 4.0 - 3.0 for w in wide)])
        kernels, biases = (
            [ops.cast(weight, self.compute_dtype) for weight in weights]
            for weights in (self.kernels, self.biases)
        )
        for kernel, bias in zip(kernels[:-1], biases[:-1], strict=True):
            hidden = duals.dense(hidden, kernel, bias, self.activation)
        heads = duals.dense(hidden, kernels[-1], biases[-1], None)
        odd_x, odd_y = (v * duals.reciprocal(root) for v, root in zip(in_metres, roots, strict=True))
        odd = duals.concatenate([odd_x * odd_y, Dual(ops.ones_like(z)), odd_y])
        return heads * odd * UNIT

    def _constant(self, values: Any) -> Any:
        return ops.convert_to_tensor(np.asarray(values), dtype=self.compute_dtype)

    def _integrate(self, start: Dual, z0: Any, dz: Any) -> Dual:
        """Return x, y, tx, ty at z0 + dz; `start` has five components."""
        bend = start[4:5] * KAPPA
        step = dz / self.steps
        half, sixth = 0.5 * step, step / 6.0

        def field(x: Dual, y: Dual, z: Any) -> Dual:
            return self.field(
                duals.clip(x, -self.reach, self.reach), duals.clip(y, -self.reach, self.reach), z
            )

        def turn(slope: Dual, b: Dual) -> Dual:
            """Return dtx/dz and dty/dz."""
            bounded = duals.clip(slope, -STEEPEST, STEEPEST)
            tx, ty = bounded[0:1], bounded[1:2]
            bx, by, bz = b[0:1], b[1:2], b[2:3]
            factor = bend * duals.sqrt(tx * tx + ty * ty + 1.0)
            turn_x = factor * (tx * ty * bx - (tx * tx + 1.0) * by + ty * bz)
            turn_y = factor * ((ty * ty + 1.0) * bx - tx * ty * by - tx * bz)
            return duals.concatenate([turn_x, turn_y])

        def advance(index: Any, position: Dual, slope: Dual, b: Dual) -> tuple[Dual, Dual, Dual]:
            z = z0 + step * ops.cast(index, self.compute_dtype)
            first = turn(slope, b)
            middle = position + slope * half + first * (0.5 * half * half)
            b = field(middle[0:1], middle[1:2], z + half)
            second = turn(slope + first * half, b)
            third = turn(slope + second * half, b)
            ahead = position + slope * step + third * (half * step)
            b = field(ahead[0:1], ahead[1:2], z + step)
            last = turn(slope + third * step, b)
            between = second + third
            return (
                position + (slope + (first + between) * sixth) * step,
                slope + (first + between * 2.0 + last) * sixth,
                b,
            )

        has_tangent = start.tangent is not None

        def packed(parts: Sequence[Dual]) -> list[Any]:
            return [dual.value for dual in parts] + [dual.tangent for dual in parts if has_tangent]

        def unpacked(tensors: Sequence[Any]) -> list[Dual]:
            return [Dual(*pair) for pair in zip(tensors[:3], tensors[3:] or [None] * 3, strict=True)]

        def body(index: Any, *tensors: Any) -> list[Any]:
            return [index + 1, *packed(advance(index, *unpacked(tensors)))]

        position, slope = start[0:2], start[2:4]
        # A loop rather than `steps` copies of its body: the graph stays small, and so does its compilation.
        _, *tensors = tf.while_loop(
            lambda index, *_: index < self.steps,
            body,
            [tf.constant(0), *packed([position, slope, field(position[0:1], position[1:2], z0)])],
            maximum_iterations=self.steps,
        )
        position, slope, _ = unpacked(tensors)
        return duals.concatenate([position, slope])

    def compute_output_shape(self, state: Any, *others: Any) -> Any:
        """Return the shape of the state."""
        return state

    def get_config(self) -> Mapping[str, Any]:
        """Return the arguments of the constructor."""
        return {
            **super().get_config(),
            "terms": self.terms,
            "widths": self.widths,
            "activation": self.activation_name,
            "steps": self.steps,
            "reach": self.reach,
        }


@keras.saving.register_keras_serializable(package="trackkeras")
class FieldPhysics(Physics):
    """`Physics` whose loss compares fields, not changes of a state.

    The error dB of the field at a point counts as

        sqrt(KAPPA |q/p dz| / (0.1 T + |B|)) * |dB|

    the geometric mean of the slope error that it would cause over the whole path and of the relative error:
    the first alone would train on the lowest momenta, the second alone on every corner of the magnet alike.
    Its absolute value is averaged, rounded off below 1e-4, as a few points of strong field have the largest.
    """

    def field_loss(self, learned: Any, true: Any, kick: Any) -> tf.Tensor:
        """Return the losses of points, `(n,)`, from two fields `(n, 3)` [T] and `KAPPA |q/p dz|` `(n, 1)`."""
        strength = tf.sqrt(tf.reduce_sum(true * true, axis=-1, keepdims=True))
        squares = tf.square(learned - true) * kick / (0.1 + strength)
        return tf.sqrt(1e-8 + tf.reduce_sum(squares, axis=-1)) - 1e-4


@keras.saving.register_keras_serializable(package="trackkeras")
class HybridModel(PhysicsModel):
    """A hybrid in training; see the module's text."""

    physics: FieldPhysics

    def field_errors(self, x: Inputs, y: Inputs, fractions: Any) -> tf.Tensor:
        """Return the field loss at points of the paths, `(n * points,)`."""
        path = self.get_layer("final_state")
        rows, f = at_fractions({**x, "final": y["final_state"]}, fractions)
        state, final, dz = rows["state"], rows["final"], rows["dz"]
        position = hermite(state[:, 0:2], final[:, 0:2], dz * state[:, 2:4], dz * final[:, 2:4], f)
        position = tf.clip_by_value(position, -path.reach, path.reach)
        z = rows["z0"] + f * dz
        learned = path.field(Dual(position[:, 0:1]), Dual(position[:, 1:2]), z).value
        true = self.physics.field(position[:, 0], position[:, 1], z[:, 0])
        return self.physics.field_loss(learned, true, KAPPA * tf.abs(state[:, 4:5] * dz))

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> tf.Tensor:
        """Return the weighted sum of data and field loss; report each. Without `y_pred`, the latter alone."""
        fractions = self.physics.fractions(x, self.optimizer.iterations, training)
        field = tf.reduce_mean(self.field_errors(x, y, fractions))
        data = None
        if y_pred is not None:
            data = keras.Model.compute_loss(self, x, y, y_pred, sample_weight, training)
        return self.total(tf.shape(x["state"])[0], field, tf.zeros_like(field), data)

    def train_step(self, data: Any) -> Any:
        """Make one step; the paths are integrated only if the data loss counts."""
        if self.physics.weights["data"]:
            return super().train_step(data)
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y)
            loss = self.optimizer.scale_loss(loss)
        variables = self.trainable_variables
        self._loss_tracker.update_state(loss, sample_weight=tf.shape(x["state"])[0])
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        names = ("loss", "physics_loss", "pde_loss", "ic_loss")
        return {metric.name: metric.result() for metric in self.metrics if metric.name in names}


def hermite(start: Any, end: Any, start_change: Any, end_change: Any, f: Any) -> Any:
    """Return the cubic with given values and derivatives at f = 0 and 1."""
    rest = 1.0 - f
    return (
        start * (1.0 + 2.0 * f) * rest * rest
        + start_change * f * rest * rest
        + end * f * f * (3.0 - 2.0 * f)
        - end_change * f * f * rest
    )


def build_hybrid(options: HybridOptions, precision: str | None = None) -> keras.Model:
    """Build the hybrid.

    Args:
        options: Base field, steps, and the network's widths and activation.
        precision: Number format; None is for training, in float32.

    Returns:
        A model from `state` `(batch, 5)`, `z0` `(batch, 1)`, `dz` `(batch, 1)` to `final_state` `(batch, 5)`.
    """
    shapes = {"state": 5, "z0": 1, "dz": 1}
    inputs = {name: keras.Input((size,), name=name, dtype="float32") for name, size in shapes.items()}
    polarity = options.field.get("polarity", 1)
    path = LearnedFieldPath(
        [(polarity * peak, *shape) for peak, *shape in options.base],
        options.widths,
        options.activation,
        options.steps,
        dtype=precision or "float32",
        name="final_state",
    )
    final_state = path(inputs["state"], inputs["z0"], inputs["dz"])
    kind = HybridModel if precision is None else keras.Model
    return kind(inputs, {"final_state": final_state}, name="hybrid")
