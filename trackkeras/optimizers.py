"""Optimizers that Keras does not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops


def _identity(shape: tuple[int, ...], dtype: Any = None) -> Any:
    return ops.eye(shape[0], dtype=dtype)


@keras.saving.register_keras_serializable(package="trackkeras")
class SOAP(keras.optimizers.Optimizer):
    """Adam in the eigenbasis of Shampoo's preconditioner, for small networks that must be fitted precisely.

    For each weight matrix the gradients' covariances along both axes are averaged; their eigenvectors span a
    basis in which Adam works. Every `refresh` steps the callback `RenewBases` renews the bases by one power
    iteration and a QR decomposition, outside of the compiled step: XLA would need longer for the QR than for
    all the rest. Vectors get plain Adam. Source: N. Vyas et al., SOAP: Improving and Stabilizing Shampoo
    using Adam, 2024, arXiv 2409.11321, algorithm 3.

    A step costs more than Adam's, by matrix products of the size of the weights and a QR every `refresh`
    steps: it pays for networks of up to some hundred units per layer.

    Args:
        learning_rate: A number or a schedule.
        beta_1: Momentum of the mean gradient.
        beta_2: Momentum of its square in the rotated basis.
        covariance_momentum: Momentum of the covariances.
        refresh: Steps between renewals of the basis.
        epsilon: Added to the root of the square.
        **kwargs: As `keras.optimizers.Optimizer`.
    """

    def __init__(
        self,
        learning_rate: Any = 3e-3,
        beta_1: float = 0.95,
        beta_2: float = 0.95,
        covariance_momentum: float = 0.95,
        refresh: int = 10,
        epsilon: float = 1e-8,
        name: str = "soap",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.covariance_momentum, self.refresh = covariance_momentum, refresh

    def build(self, variables: list[Any]) -> None:
        """Create the state of each weight: means, and for matrices two covariances with their bases."""
        if self.built:
            return
        super().build(variables)
        self._means = self.add_optimizer_variables(variables, ["mean", "square"])
        self._sides = [
            [self._side(size) for size in weight.shape] if len(weight.shape) == 2 else []
            for weight in variables
        ]

    def _side(self, size: int) -> tuple[Any, Any]:
        covariance, basis = (
            self.add_variable((size, size), initializer="zeros", name=name)
            for name in ("covariance", "basis")
        )
        return covariance, basis

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Move one weight."""
        index = self._get_variable_index(variable)
        mean, square = self._means[0][index], self._means[1][index]
        rate, gradient = ops.cast(learning_rate, variable.dtype), ops.cast(gradient, variable.dtype)
        step = ops.cast(self.iterations + 1, variable.dtype)
        self.assign(mean, self.beta_1 * mean + (1.0 - self.beta_1) * gradient)
        for axis, (covariance, _) in enumerate(self._sides[index]):
            left, right = (
                (gradient, ops.transpose(gradient)) if axis == 0 else (ops.transpose(gradient), gradient)
            )
            momentum = self.covariance_momentum
            self.assign(covariance, momentum * covariance + (1.0 - momentum) * ops.matmul(left, right))
        rotated = self._rotate(index, gradient)
        self.assign(square, self.beta_2 * square + (1.0 - self.beta_2) * ops.square(rotated))
        direction = self._rotate(index, ops.convert_to_tensor(mean)) / (ops.sqrt(square) + self.epsilon)
        bias = ops.sqrt(1.0 - ops.power(self.beta_2, step)) / (1.0 - ops.power(self.beta_1, step))
        self.assign_sub(variable, rate * bias * self._rotate_back(index, direction))

    def renew_bases(self) -> None:
        """Turn the bases towards the eigenvectors of the covariances; `RenewBases` calls this in `fit`."""
        for square, sides in zip(self._means[1], self._sides, strict=True):
            for axis, (covariance, basis) in enumerate(sides):
                # Of order one, so that tiny gradients lose no digits.
                image = ops.matmul(covariance / (ops.trace(covariance) + 1e-30), basis)
                order = ops.argsort(-ops.sum(basis * image, axis=0))
                # The small multiple of the basis keeps directions apart in which there is no gradient.
                turned, _ = ops.qr(ops.take(image + 1e-7 * basis, order, axis=1))
                basis.assign(turned)
                square.assign(ops.take(square, order, axis=axis))

    def _rotate(self, index: int, matrix: Any) -> Any:
        for axis, (_, basis) in enumerate(self._sides[index]):
            matrix = ops.transpose(ops.convert_to_tensor(basis)) @ matrix if axis == 0 else matrix @ basis
        return matrix

    def _rotate_back(self, index: int, matrix: Any) -> Any:
        for axis, (_, basis) in enumerate(self._sides[index]):
            matrix = basis @ matrix if axis == 0 else matrix @ ops.transpose(ops.convert_to_tensor(basis))
        return matrix

    def get_config(self) -> Mapping[str, Any]:
        """Return the arguments of the constructor."""
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "covariance_momentum": self.covariance_momentum,
            "refresh": self.refresh,
            "epsilon": self.epsilon,
        }


class RenewBases(keras.callbacks.Callback):
    """Renews the bases of a `SOAP` optimizer after its first step and every `refresh` steps."""

    def on_train_begin(self, logs: Any = None) -> None:
        """Compile the renewal once."""
        import tensorflow as tf

        self._renew = tf.function(self.model.optimizer.renew_bases)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Renew when it is due, by the optimizer's own count: a resumed training renews at the same steps."""
        if int(self.model.optimizer.iterations) % self.model.optimizer.refresh == 1:
            self._renew()
