"""The extrapolation MLPs as C++: which layers they have, and their last step with its derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np

from trackkeras.cpp_export import Network, producer, read_stack, signature_columns
from trackkeras.domain import Signature
from trackkeras.domains.extrapolation.jacobian import NAME
from trackkeras.domains.extrapolation.models import FLOOR, NODES, WEIGHTS
from trackkeras.errors import UserError
from trackkeras.units import KAPPA

_BEND = """
/// Straight line plus bend: the slope that the magnet adds and its effect on the position are estimated from
/// a bell-shaped field; the network's numbers scale them. Columns: x, y, tx, ty, q/p, z0, dz.
TRACKKERAS_INLINE void bend(const vec* in, vec& per_turn, vec& per_shift, vec& limit) {
  per_turn = vec{};
  per_shift = vec{};
  constexpr float nodes[] = @NODES, weights[] = @WEIGHTS;
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const vec distance = (in[5] + in[6] * nodes[i] - @CENTREf) * (1.0f / @WIDTHf);
    vec field = -0.5f * distance * distance;
    exponential(field);
    field = field + @FLOORf;
    per_turn += field * weights[i];
    per_shift += field * (weights[i] * (1.0f - nodes[i]));
  }
  const vec kick = in[6] * @KAPPAf;
  per_turn *= kick;
  per_shift *= kick;
  const vec turn = per_turn * in[4];
  limit = 1.0f + turn * turn;
  inverse_root(limit);
}

TRACKKERAS_INLINE void finish(const vec* in, const vec* heads, int stride, vec* out) {
  vec per_turn, per_shift, limit;
  bend(in, per_turn, per_shift, limit);
  const vec turn = per_turn * in[4] * limit, shift = per_shift * in[4] * limit;
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    out[i] = in[i] + in[6] * (in[2 + i] + shift * heads[i * stride]);
    out[2 + i] = in[2 + i] + turn * heads[(2 + i) * stride];
  }
  out[4] = in[4];
}

/// With t = per_turn * q/p and l = 1 / sqrt(1 + t^2): d(t l)/d(q/p) = per_turn * l^3, for the shift alike.
TRACKKERAS_INLINE void finish_with_jacobian(const vec* in, const vec*, const vec* heads, vec* out,
                                            vec* jacobian) {
  constexpr int stride = 1 + tangents;
  vec per_turn, per_shift, limit;
  bend(in, per_turn, per_shift, limit);
  const vec turn = per_turn * in[4] * limit, shift = per_shift * in[4] * limit;
  const vec cube = limit * limit * limit;
  const vec turn_slope = per_turn * cube, shift_slope = per_shift * cube;
  const vec one = 1.0f - vec{};
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    out[i] = in[i] + in[6] * (in[2 + i] + shift * heads[i * stride]);
    out[2 + i] = in[2 + i] + turn * heads[(2 + i) * stride];
#pragma GCC unroll 5
    for (int j = 0; j < 5; ++j) {
      vec position = shift * heads[i * stride + 1 + j], slope = turn * heads[(2 + i) * stride + 1 + j];
      if (j == 2 + i) {
        position += one;
        slope += one;
      }
      if (j == 4) {
        position += shift_slope * heads[i * stride];
        slope += turn_slope * heads[(2 + i) * stride];
      }
      jacobian[i * 5 + j] = in[6] * position;
      if (j == i) jacobian[i * 5 + j] += one;
      jacobian[(2 + i) * 5 + j] = slope;
    }
  }
  out[4] = in[4];
  for (int j = 0; j < 5; ++j) jacobian[4 * 5 + j] = vec{};
  jacobian[4 * 5 + 4] = one;
}
"""

_ABSOLUTE = """
/// The final state itself, from standardised numbers; q/p passes unchanged.
TRACKKERAS_INLINE void finish(const vec* in, const vec* heads, int stride, vec* out) {
  constexpr float centre[] = @MEAN, scale[] = @SCALE;
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) out[i] = heads[i * stride] * scale[i] + centre[i];
  out[4] = in[4];
}

TRACKKERAS_INLINE void finish_with_jacobian(const vec* in, const vec*, const vec* heads, vec* out,
                                            vec* jacobian) {
  constexpr float scale[] = @SCALE;
  finish(in, heads, 1 + tangents, out);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 5; ++j) jacobian[i * 5 + j] = heads[i * (1 + tangents) + 1 + j] * scale[i];
  }
  for (int j = 0; j < 5; ++j) jacobian[4 * 5 + j] = vec{};
  fill(jacobian[4 * 5 + 4], 1.0f);
}
"""


def mlp_network(model: Any, signature: Signature) -> Network:
    """Read a residual or absolute MLP.

    Raises:
        UserError: The model is none of the two.
    """
    last, sources = producer(model.output["final_state"])
    columns = signature_columns(signature)
    kind = type(last).__name__
    if kind == "BendResidual":
        values = {
            "NODES": literals(NODES),
            "WEIGHTS": literals(WEIGHTS),
            "CENTRE": literal(last.centre),
            "WIDTH": literal(last.width),
            "FLOOR": literal(FLOOR),
            "KAPPA": literal(KAPPA),
        }
        text = _BEND
    elif kind == "AbsoluteState":
        values = {"MEAN": literals(last.mean), "SCALE": literals(last.scale)}
        text = _ABSOLUTE
    else:
        raise UserError(
            f"a network that ends in {kind} has no C++ header; use ONNX Runtime from C++ for this one"
        )
    for name, value in values.items():
        text = text.replace(f"@{name}", value)
    features, standardize, layers = read_stack(sources[-1], columns)
    return Network(
        columns=columns,
        features=features,
        mean=np.asarray(standardize.mean, "float32"),
        inverse_scale=np.asarray(standardize.inverse_scale, "float32"),
        layers=layers,
        tangents=5,
        endpoint=NAME,
        functions=text,
    )


def literal(value: float) -> str:
    """Return a float32 as C++ text without its suffix."""
    text = f"{np.float32(value):.9g}"
    return text if "." in text or "e" in text else f"{text}.0"


def literals(values: Any) -> str:
    """Return numbers as a C++ list."""
    return "{" + ", ".join(f"{literal(value)}f" for value in np.ravel(values)) + "}"
