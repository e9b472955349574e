"""Numbers with their derivatives, for formulas that are written once and evaluated with or without tangents.

A `Dual` is a value `(batch, components)` and a tangent `(batch, components, directions)` or None, as in
`trackkeras.tangents`. Arithmetic with numbers, tensors and other duals follows the rules of differentiation;
all of it is forward operations, so that a derivative can be exported like the value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from keras import ops

from trackkeras.tangents import activate, chain, join, part


@dataclass(frozen=True)
class Dual:
    """A value `(batch, components)` and its tangent `(batch, components, directions)`, or None."""

    value: Any
    tangent: Any = None

    def __add__(self, other: Any) -> Dual:
        """Return the sum; `other` is a dual, a tensor or a number."""
        value, tangent = _parts(other)
        return Dual(self.value + value, chain((1.0, self.tangent), (1.0, tangent)))

    def __sub__(self, other: Any) -> Dual:
        """Return the difference."""
        value, tangent = _parts(other)
        return Dual(self.value - value, chain((1.0, self.tangent), (-1.0, tangent)))

    def __mul__(self, other: Any) -> Dual:
        """Return the product, component by component."""
        value, tangent = _parts(other)
        return Dual(self.value * value, chain((value, self.tangent), (self.value, tangent)))

    __radd__ = __add__
    __rmul__ = __mul__

    def __getitem__(self, components: slice) -> Dual:
        """Return some components."""
        first, last, _ = components.indices(self.value.shape[-1])
        return Dual(self.value[:, first:last], part(self.tangent, first, last))

    def __matmul__(self, kernel: Any) -> Dual:
        """Return the product with a matrix `(components, others)` that has no tangent."""
        tangent = self.tangent
        if tangent is not None:
            # Components last: one product of matrices for all rows.
            tangent = ops.swapaxes(ops.matmul(ops.swapaxes(tangent, 1, 2), kernel), 1, 2)
        return Dual(ops.matmul(self.value, kernel), tangent)

    def map(self, function: Callable[[Any], tuple[Any, Any]]) -> Dual:
        """Return a function of each component; `function` gives value and derivative."""
        value, slope = function(self.value)
        return Dual(value, chain((slope, self.tangent)))


def _parts(other: Any) -> tuple[Any, Any]:
    return (other.value, other.tangent) if isinstance(other, Dual) else (other, None)


def concatenate(duals: Sequence[Dual]) -> Dual:
    """Return the components of several duals behind each other."""
    values = [dual.value for dual in duals]
    return Dual(ops.concatenate(values, axis=-1), join(values, [dual.tangent for dual in duals]))


def exp(x: Dual) -> Dual:
    """Return the exponential."""

    def function(value: Any) -> tuple[Any, Any]:
        result = ops.exp(value)
        return result, result

    return x.map(function)


def cosine_and_sine(x: Dual) -> tuple[Dual, Dual]:
    """Return cosine and sine."""
    cosine, sine = ops.cos(x.value), ops.sin(x.value)
    return Dual(cosine, chain((-sine, x.tangent))), Dual(sine, chain((cosine, x.tangent)))


def sqrt(x: Dual) -> Dual:
    """Return the square root of positive numbers."""

    def function(value: Any) -> tuple[Any, Any]:
        root = ops.sqrt(value)
        return root, 0.5 / root

    return x.map(function)


def reciprocal(x: Dual) -> Dual:
    """Return 1 / x."""

    def function(value: Any) -> tuple[Any, Any]:
        inverse = 1.0 / value
        return inverse, -inverse * inverse

    return x.map(function)


def clip(x: Dual, low: float, high: float) -> Dual:
    """Return x within two bounds; beyond them the derivative is 0."""

    def function(value: Any) -> tuple[Any, Any]:
        inside = ops.logical_and(value >= low, value <= high)
        return ops.clip(value, low, high), ops.cast(inside, value.dtype)

    return x.map(function)


def dense(x: Dual, kernel: Any, bias: Any, activation: Callable[[Any], Any] | None) -> Dual:
    """Return a dense layer; `activation` is one that `trackkeras.tangents.activate` knows."""
    sums = x @ kernel + bias
    return sums if activation is None else sums.map(lambda value: activate(activation, value))
