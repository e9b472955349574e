"""Derivatives of a functional model as forward operations, so that they can be exported like the model.

A derivative that automatic differentiation writes is made of gradient operations, most of which ONNX does not
have. Here a tangent walks through the graph beside its value: every layer has a rule that turns inputs and
their tangents into outputs and theirs (forward mode; Griewank and Walther, Evaluating Derivatives, 2nd ed.,
chapter 3). The directions of differentiation are one axis, so that all of them cost one pass.

A tangent of a value `(batch, components)` has the shape `(batch, components, directions)`. Its first axis may
be 1 where all rows share it, as do the tangents of the inputs themselves, and it is None where the value does
not depend on what is differentiated: arithmetic broadcasts the first, `chain` and `join` know both.

A layer brings its rule along as a method

    push_forward(inputs, tangents) -> (outputs, tangents)

with tuples of its tensor arguments in the order of the call, of which at least one has a tangent. The layers
of Keras itself have theirs in `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from trackkeras.errors import UserError

Rule = Callable[[Any, Sequence[Any], Sequence[Any]], tuple[Any, Any]]
"""Function `(layer, inputs, tangents) -> (outputs, tangents)`."""


def jacobian(model: keras.Model, inputs: Mapping[str, Any], of: str, by: str) -> tuple[Any, Any]:
    """Return an output of a model and its derivative.

    Args:
        model: A functional model with named inputs and outputs.
        inputs: Tensors by name, each `(batch, components)`.
        of: Name of the output, `(batch, m)`.
        by: Name of the input, `(batch, n)`.

    Returns:
        The output `(batch, m)`, and `(batch, m, n)`: element i, j is the derivative of component i of the
        output along component j of the input.

    Raises:
        UserError: A layer on the way has no rule.
    """
    seed = ops.eye(inputs[by].shape[-1])[None]
    outputs, tangents = push_forward(model, inputs, {by: seed})
    return outputs[of], everywhere(tangents[of], outputs[of])


def push_forward(
    model: keras.Model, inputs: Mapping[str, Any], tangents: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the outputs of a model and their tangents.

    Args:
        model: A functional model with named inputs and outputs.
        inputs: Tensors by name, each `(batch, components)`.
        tangents: Tangents of some of them, `(batch, components, directions)`, or 1 in place of the batch.

    Returns:
        Outputs and tangents by name; None where an output does not depend on the inputs with tangents.

    Raises:
        UserError: A layer on the way has no rule.
    """
    known = {id(tensor): (inputs[name], tangents.get(name)) for name, tensor in model.input.items()}

    def find(tensor: Any) -> tuple[Any, Any]:
        if id(tensor) not in known:
            layer, place, _ = tensor._keras_history
            node = layer._inbound_nodes[place]
            found = [find(source) for source in node.input_tensors]
            if all(tangent is None for _, tangent in found):
                values = {id(x): value for x, (value, _) in zip(node.input_tensors, found, strict=True)}
                arguments, named = node.arguments.fill_in(values)
                outputs = _listed(layer(*arguments, **named))
                after = [None] * len(outputs)
            else:
                outputs, after = map(_listed, _apply(layer, found))
            for output, value, tangent in zip(node.outputs, outputs, after, strict=True):
                known[id(output)] = value, tangent
        return known[id(tensor)]

    found = {name: find(tensor) for name, tensor in model.output.items()}
    return (
        {name: value for name, (value, _) in found.items()},
        {name: tangent for name, (_, tangent) in found.items()},
    )


def _listed(value: Any) -> list[Any]:
    """Return what a layer gives as a list."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _apply(layer: Any, found: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
    """Run a layer's rule in the number format in which the layer computes."""
    values, tangents = zip(*found, strict=True)
    dtype = getattr(layer, "compute_dtype", None)
    if dtype is not None and layer.autocast:
        values = tuple(ops.cast(x, dtype) if keras.backend.is_float_dtype(x.dtype) else x for x in values)
        tangents = tuple(None if x is None else ops.cast(x, dtype) for x in tangents)
    if hasattr(layer, "push_forward"):
        return layer.push_forward(values, tangents)  # type: ignore[no-any-return]
    rule = RULES.get(type(layer))
    if rule is None:
        raise UserError(
            f"no derivative is known for layer {layer.name!r} ({type(layer).__name__}): give its class "
            "a method push_forward(inputs, tangents)"
        )
    return rule(layer, values, tangents)


# -- the parts of a rule -----------------------------------------------------------------------------------


def chain(*terms: tuple[Any, Any]) -> Any:
    """Return the tangent of a value whose components depend on those of others one by one.

    Args:
        terms: Pairs of a partial derivative, `(batch, components)` or a number, and the tangent of what it is
            taken with respect to; with one component, it is shared by all.

    Returns:
        The sum over products, or None if all tangents are.
    """
    total = None
    for partial, tangent in terms:
        if tangent is None:
            continue
        product = tangent * (partial[..., None] if len(getattr(partial, "shape", ())) else partial)
        total = product if total is None else total + product
    return total


def part(tangent: Any, first: int, last: int) -> Any:
    """Return the tangent of the components from `first` up to `last`."""
    return None if tangent is None else tangent[:, first:last]


def join(values: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """Return the tangent of several values behind each other, `(batch, sum of components, directions)`."""
    given = [tangent for tangent in tangents if tangent is not None]
    if not given:
        return None
    parts = [
        ops.zeros((1, value.shape[-1], given[0].shape[-1]), given[0].dtype) if tangent is None else tangent
        for value, tangent in zip(values, tangents, strict=True)
    ]
    if any(entry.shape[0] != 1 for entry in parts):
        parts = [everywhere(entry, value) for value, entry in zip(values, parts, strict=True)]
    return ops.concatenate(parts, axis=1)


def everywhere(tangent: Any, value: Any) -> Any:
    """Return a tangent that rows may share as one with a row for each row of `value` `(batch, ...)`."""
    if tangent.shape[0] != 1:
        return tangent
    return ops.broadcast_to(tangent, (ops.shape(value)[0], *tangent.shape[1:]))


# -- the rules of Keras' layers ----------------------------------------------------------------------------


def activate(activation: Callable[[Any], Any], x: Any) -> tuple[Any, Any]:
    """Return an activation and its derivative.

    Args:
        activation: One of Keras' `linear`, `relu`, `tanh`, `silu` and `gelu` (the exact one).
        x: `(batch, components)`.

    Raises:
        UserError: Another activation.
    """
    name = getattr(activation, "__name__", str(activation))
    if name not in SLOPES:
        raise UserError(f"no derivative is known for the activation {name!r}; there are: {', '.join(SLOPES)}")
    y = activation(x)
    return y, SLOPES[name](x, y)


def _silu_slope(x: Any, y: Any) -> Any:
    sigmoid = ops.sigmoid(x)
    return sigmoid + y * (1.0 - sigmoid)


def _gelu_slope(x: Any, y: Any) -> Any:
    """Cumulative normal distribution of x, plus x times its density."""
    return 0.5 + 0.5 * ops.erf(x * np.sqrt(0.5)) + x * ops.exp(-0.5 * x * x) / np.sqrt(2.0 * np.pi)


SLOPES: Mapping[str, Callable[[Any, Any], Any]] = {
    "linear": lambda x, y: ops.ones_like(x),
    "relu": lambda x, y: ops.cast(x > 0.0, x.dtype),
    "tanh": lambda x, y: 1.0 - y * y,
    "silu": _silu_slope,
    "gelu": _gelu_slope,
}
"""Derivative of an activation from its argument and its value, by name."""


def _dense(layer: Any, inputs: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    (x,), (tangent,) = inputs, tangents
    kernel = ops.cast(layer.kernel, layer.compute_dtype)
    sums = ops.matmul(x, kernel)
    if layer.use_bias:
        sums = sums + ops.cast(layer.bias, layer.compute_dtype)
    # Components last: one product of matrices for all rows, where a batch of small ones would be slower.
    tangent = ops.swapaxes(ops.matmul(ops.swapaxes(tangent, 1, 2), kernel), 1, 2)
    if layer.activation is keras.activations.linear:
        return sums, tangent
    y, slope = activate(layer.activation, sums)
    return y, chain((slope, tangent))


def _concatenate(layer: Any, inputs: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    return ops.concatenate(list(inputs), axis=-1), join(inputs, tangents)


RULES: Mapping[type, Rule] = {keras.layers.Dense: _dense, keras.layers.Concatenate: _concatenate}
"""Rules by layer class."""
