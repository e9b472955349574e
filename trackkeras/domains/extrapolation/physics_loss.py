"""The equation of motion as a loss: how far a network's trajectory is from obeying the Lorentz force.

With `rate = d state / d z`, taken by automatic differentiation, a network's defect at a collocation point is

    dz * (rate - lorentz(state, B)) / bend_scale(q/p, dz)

component by component and with the row's own `dz`: the error in units of the bend that this defect would
cause if it lasted all the way. A 100 GeV track counts as much as one of 1 GeV, and the number compares with
the data loss, which has the same units and the same pseudo-Huber form (`losses.BendLoss`). Points outside the
volume where the field is known, or where it is stronger than anywhere in the sample's start region, have no
weight: few such points would be most of the loss and teach nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import keras
import tensorflow as tf

from trackkeras.domains.extrapolation.field_tf import field_twin
from trackkeras.domains.extrapolation.fields import make_field
from trackkeras.domains.extrapolation.lhcb import START_REGION
from trackkeras.domains.extrapolation.losses import bend_scale, pseudo_huber
from trackkeras.units import KAPPA

Inputs = Mapping[str, Any]
"""`state` `(n, 5)`, `z0` `(n, 1)`, `dz` `(n, 1)`."""


@tf.RegisterGradient("XlaDynamicUpdateSlice")
def _update_slice_gradient(operation: tf.Operation, gradient: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, None]:
    """Complete TensorFlow: under XLA, this is what the second derivative of a concatenation consists of."""
    _, update, start = operation.inputs
    size = tf.shape(update, out_type=start.dtype)
    part = tf.slice(gradient, start, size)
    after = tf.shape(gradient, out_type=start.dtype) - start - size
    return gradient - tf.pad(part, tf.stack([start, after], axis=1)), part, None


def lorentz(state: Any, b: Any) -> tf.Tensor:
    """Return d(x, y, tx, ty)/dz, the equation of motion that `propagation` integrates.

    Args:
        state: `(..., 5)` [mm, mm, 1, 1, 1/MeV].
        b: Bx, By, Bz [T], `(..., 3)`.

    Returns:
        `(..., 4)` [1, 1, 1/mm, 1/mm].
    """
    _, _, tx, ty, qop = tf.unstack(state, axis=-1)
    bx, by, bz = tf.unstack(b, axis=-1)
    bend = KAPPA * qop * tf.sqrt(1.0 + tx * tx + ty * ty)
    dtx = bend * (tx * ty * bx - (1.0 + tx * tx) * by + ty * bz)
    dty = bend * ((1.0 + ty * ty) * bx - tx * ty * by - tx * bz)
    return tf.stack([tx, ty, dtx, dty], axis=-1)


def path_rate(states: Callable[[Any], Any], along: Any, weight: Any) -> tuple[Any, Any]:
    """Differentiate row by row: states along an input with one number per row.

    Reverse mode twice: the gradient of `probe . states` along the input is linear in `probe`, and its
    gradient along `probe` is the derivative of every component. That is two sweeps for any number of
    components, where reverse mode alone needs one each.

    Args:
        states: Function of the input that gives `(n, ..., 5)`.
        along: `(n, 1)`.
        weight: Factors of the derivative, `(n, ..., 4)`. They are applied before the sweeps, so that all
            numbers are of order one where hidden layers compute in 16 bits.

    Returns:
        The states `(n, ..., 5)`, and `weight` times the derivative of the first four components.
    """
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            inner.watch(along)
            value = states(along)
            relative = value[..., :4] * weight
        probe = tf.ones_like(relative)
        outer.watch(probe)
        slope = inner.gradient(relative, along, output_gradients=probe)
    return value, outer.gradient(slope, probe)


@keras.saving.register_keras_serializable(package="trackkeras")
class Physics:
    """Field, collocation points and weights of a physics loss.

    Args:
        field: Options of `make_field`; the field of the training rows.
        weights: `data`, `pde` and `ic`; a term of weight 0 is reported but has no gradient.
        points: Collocation points per track.
        collocation: `random` shifts equidistant points anew in each step, by another amount for each track;
            `equidistant` takes the middles of equal parts, as validation always does.
        floor_mm: Position error [mm] below which nothing is gained.
        delta: Relative error at which quadratic turns into linear.
        seed: With the number of steps done, fixes the random fractions.

    Raises:
        UserError: No such field.
    """

    def __init__(
        self,
        field: Mapping[str, Any],
        weights: Mapping[str, float],
        points: int = 10,
        collocation: Literal["random", "equidistant"] = "random",
        floor_mm: float = 1.0,
        delta: float = 0.02,
        seed: int = 0,
    ) -> None:
        self.config = {
            "field": dict(field),
            "weights": dict(weights),
            "points": points,
            "collocation": collocation,
            "floor_mm": floor_mm,
            "delta": delta,
            "seed": seed,
        }
        self.weights, self.points, self.collocation = dict(weights), points, collocation
        self.floor_mm, self.delta, self.seed = floor_mm, delta, seed
        known = make_field(**field)
        self.volume = known.volume.tolist()
        self.field = field_twin(known)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return self.config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Physics:
        """Return the object with these arguments."""
        return cls(**config)

    def fractions(self, rows: Inputs, step: Any, training: bool) -> tf.Tensor:
        """Return the collocation points of a step as fractions of the path, `(n, points)` in [0, 1].

        The shift of a track is the fractional part of its x in mm plus one number drawn for the step: the
        same points whatever the device, and in a resumed training as in one that was never interrupted.
        """
        shift = tf.fill(tf.shape(rows["dz"]), 0.5)
        if training and self.collocation == "random":
            seed = tf.stack([tf.constant(self.seed, tf.int32), tf.cast(step, tf.int32)])
            drawn = tf.random.stateless_uniform((), seed, alg="philox")  # the same with and without XLA
            shift = tf.math.floormod(rows["state"][:, 0:1] + drawn, 1.0)
        return (tf.range(self.points, dtype=tf.float32) + shift) / self.points

    def scale(self, rows: Inputs) -> tf.Tensor:
        """Return the sizes of x, y [mm], tx, ty errors of these rows, `(n, 4)`."""
        return bend_scale(rows["state"][:, 4:5], rows["dz"], self.floor_mm)

    def defect(self, z: Any, state: Any, change: Any, dz: Any, scale: Any) -> tf.Tensor:
        """Return the relative defect, 0 at points that are left out.

        Args:
            z: Planes of the points [mm], `(n, 1)`.
            state: `(n, 5)` at these planes.
            change: `dz * d(x, y, tx, ty)/dz / scale`, `(n, 4)`.
            dz: Lengths of the paths [mm], `(n, 1)`.
            scale: `scale` of the rows, `(n, 4)`.

        Returns:
            `(n, 4)`.
        """
        x, y = state[:, 0], state[:, 1]
        z = z[:, 0]
        b = self.field(x, y, z)
        v = self.volume
        inside = (v[0] <= x) & (x <= v[1]) & (v[2] <= y) & (y <= v[3]) & (v[4] <= z) & (z <= v[5])
        fiducial = inside & (tf.reduce_sum(b * b, axis=-1) <= START_REGION.limit**2)
        return tf.where(fiducial[:, None], change - dz * lorentz(state, b) / scale, 0.0)

    def penalty(self, relative: Any) -> tf.Tensor:
        """Return the pseudo-Huber loss of relative errors `(..., 4)`, `(...,)`."""
        return pseudo_huber(relative, self.delta)


class PhysicsModel(keras.Model):
    """A functional network from `state`, `z0`, `dz` to `final_state` that is trained with a physics loss.

    `compile` takes `physics` beside Keras' own arguments, and saves it with them. The reported losses are
    `loss`, its unweighted parts `data_loss`, `ic_loss` and `pde_loss`, their sum `physics_loss = ic_loss +
    pde_loss`, and for a network with several stages `stage_1`, ...
    """

    stages = 1

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = ["data_loss", "physics_loss", "ic_loss", "pde_loss"]
        names += [f"stage_{index + 1}" for index in range(self.stages) if self.stages > 1]
        self.trackers = {name: keras.metrics.Mean(name=name) for name in names}

    def compile(self, *, physics: Physics, **arguments: Any) -> None:
        """Configure the training; `arguments` are those of `keras.Model.compile`."""
        super().compile(**arguments)
        self.physics = physics

    def get_compile_config(self) -> dict[str, Any]:
        """Return what `compile` was given."""
        physics = keras.saving.serialize_keras_object(self.physics)
        return {**super().get_compile_config(), "physics": physics}

    def compile_from_config(self, config: Mapping[str, Any]) -> None:
        """Compile as the saved model was."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def defects(self, rows: Inputs, fractions: Any) -> tf.Tensor:
        """Return the relative defects at some fractions of the path.

        Args:
            rows: The inputs, `n` tracks.
            fractions: `(n, points)`.

        Returns:
            `(n * points, stages, 4)`.
        """
        raise NotImplementedError

    def start_error(self, rows: Inputs) -> tf.Tensor:
        """Return the error of the trajectory at z0, relative to `scale`, `(n, 4)`."""
        return tf.zeros_like(rows["state"][:, :4])

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> tf.Tensor:
        """Return the weighted sum of data, initial-condition and equation losses; report each."""
        physics = self.physics
        data = super().compute_loss(x, y, y_pred, sample_weight, training)
        fractions = physics.fractions(x, self.optimizer.iterations, training)
        stages = tf.reduce_mean(physics.penalty(self.defects(x, fractions)), axis=0)
        start = tf.reduce_mean(physics.penalty(self.start_error(x)))
        parts = {f"stage_{index + 1}": stages[index] for index in range(self.stages) if self.stages > 1}
        return self.total(tf.shape(x["state"])[0], tf.reduce_mean(stages), start, data, parts)

    def total(
        self, rows: Any, pde: Any, start: Any, data: Any = None, parts: Mapping[str, Any] | None = None
    ) -> tf.Tensor:
        """Return the weighted sum of the losses, and report each.

        Args:
            rows: Number of tracks that they are means of.
            pde: Loss of the equation of motion.
            start: Loss of the initial condition.
            data: Keras' own loss, or None where it was not computed.
            parts: Further numbers to report.
        """
        # Keras has divided its own loss by the number of replicas; ours must match, and reports must not.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        terms = {"pde": pde / replicas, "ic": start / replicas}
        reported = {"physics_loss": start + pde, "ic_loss": start, "pde_loss": pde, **(parts or {})}
        if data is not None:
            terms, reported = {**terms, "data": data}, {**reported, "data_loss": data * replicas}
        for name, value in reported.items():
            self.trackers[name].update_state(value, sample_weight=rows)
        weights = self.physics.weights
        return tf.add_n([weights[name] * term for name, term in terms.items() if weights[name]])


def at_fractions(rows: Inputs, fractions: Any) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """Fold points into the batch: every row once for each of its fractions.

    Args:
        rows: `n` tracks.
        fractions: `(n, points)`.

    Returns:
        The inputs, `n * points` rows with the points of a track side by side, and the fraction of each,
        `(n * points, 1)`.
    """
    repeated = {name: tf.repeat(column, tf.shape(fractions)[1], axis=0) for name, column in rows.items()}
    return repeated, tf.reshape(fractions, [-1, 1])
