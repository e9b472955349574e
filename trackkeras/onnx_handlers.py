"""Operations of TensorFlow that tf2onnx does not convert, or converts to what ONNX Runtime cannot run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

REACH = 6.0
"""Beyond it erf is 1 to 2e-17."""

SPACING = 2.0 * REACH
"""Distance of the steps of the square wave below."""

HARMONICS = np.arange(1, 48, 2) * np.pi / SPACING
COEFFICIENTS = 4.0 / SPACING * np.exp(-0.25 * HARMONICS**2) / HARMONICS
"""`erf(x) = sum of COEFFICIENTS * sin(HARMONICS * x)` for |x| <= `REACH`, to 1e-15.

erf is a step convolved with a Gaussian. A square wave with steps every `SPACING` is a sum of sines, of
which the convolution damps each by `exp(-k^2 / 4)`; the other steps are too far away to be felt.
"""


def erf(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write erf: ONNX's own in float32, the series above in float64, for which ONNX Runtime has no kernel."""
    _replace(ctx, node, _erf(ctx, node, node.input[0]))


def erfc(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write erfc as 1 - erf."""
    one = _constant(ctx, node, 1.0)
    _replace(ctx, node, _make(ctx, "Sub", [one, _erf(ctx, node, node.input[0])]))


HANDLERS: Mapping[str, tuple[Callable[..., None], list[Any]]] = {"Erf": (erf, []), "Erfc": (erfc, [])}
"""What `tf2onnx` wants as `custom_op_handlers`."""


def _erf(ctx: Any, node: Any, x: str) -> str:
    if _dtype(ctx, node) == np.float32:
        return _make(ctx, "Erf", [x])
    limits = [_constant(ctx, node, bound) for bound in (-REACH, REACH)]
    inside = _make(ctx, "Min", [_make(ctx, "Max", [x, limits[0]]), limits[1]])
    last = _constant(ctx, node, [-1], np.int64)
    angles = _make(ctx, "Mul", [_make(ctx, "Unsqueeze", [inside, last]), _constant(ctx, node, HARMONICS)])
    sines = _make(ctx, "Sin", [angles])
    total = _make(ctx, "MatMul", [sines, _constant(ctx, node, COEFFICIENTS[:, None])])
    return _make(ctx, "Squeeze", [total, last])


def _dtype(ctx: Any, node: Any) -> Any:
    from tf2onnx.utils import map_onnx_to_numpy_type

    return np.dtype(map_onnx_to_numpy_type(ctx.get_dtype(node.input[0])))


def _make(ctx: Any, operation: str, inputs: list[str]) -> str:
    return str(ctx.make_node(operation, inputs).output[0])


def _constant(ctx: Any, node: Any, values: Any, dtype: Any = None) -> str:
    from tf2onnx.utils import make_name

    array = np.asarray(values, dtype or _dtype(ctx, node))
    return str(ctx.make_const(make_name("erf"), array).output[0])


def _replace(ctx: Any, node: Any, output: str) -> None:
    old = node.output[0]
    shape, dtype = ctx.get_shape(old), ctx.get_dtype(old)
    ctx.remove_node(node.name)
    ctx.make_node("Identity", [output], outputs=[old], shapes=[shape], dtypes=[dtype])
