"""The hybrid as C++: its integration steps, its base field and its network, with the transport Jacobian.

Steps and base field are float64: after 40 steps of float32, one row in a thousand would differ from Keras by
more than the parity rule allows, and far from the axis the terms of the base field are large and cancel each
other. The network, nearly all of the arithmetic, gives a tenth of a tesla and is float32. The Jacobian is
integrated along with the track: it needs the field's gradient, to which the network contributes derivatives
in two directions, whatever the number of initial components.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trackkeras.cpp_export import ACTIVATIONS, Layer, Network, producer, signature_columns
from trackkeras.domain import Signature
from trackkeras.domains.extrapolation.cpp import literal
from trackkeras.domains.extrapolation.hybrid_models import STEEPEST, UNIT, LearnedFieldPath
from trackkeras.domains.extrapolation.jacobian import NAME
from trackkeras.domains.extrapolation.kernels import EXPONENT_MAX, TERM_SIZE
from trackkeras.domains.extrapolation.maxwell import maxwell_params
from trackkeras.errors import UserError
from trackkeras.units import KAPPA

ASKED = ("sqrt(1 + x^2)", "sqrt(1 + y^2)", "z", "1 / (1 + x^2 / 9)", "1 / (1 + y^2 / 9)")
"""What the network sees of a point, x and y in metres."""
CENTRES = (2.0, 2.0, 5000.0, 0.75, 0.75)
SCALES = (1.0, 1.0, 1 / 2500.0, 4.0, 4.0)

_PATH = """
constexpr int steps = @STEPS;
constexpr double kappa = @KAPPA;        // MeV / (T mm)
constexpr double reach = @REACH;        // mm; beyond, the field is that at the border
constexpr double steepest = @STEEPEST;  // steeper tracks bend as if they had this slope

/// Amplitude [T], centre [mm], 1 / (2 width^2) [1/mm^2], a, b, c. Each is the field
/// Bx = b Re f + a Im f, By = c Re f, Bz = Im f with f = amplitude * exp(-w^2 / (2 width^2)),
/// w = z - centre + a x + i (b x + c y).
constexpr double terms[][6] = {
@TERMS};

/// The field [T] at a place, and its derivatives along x and y [T/mm], slopes[3][2].
struct Field {
  dvec b[3], slopes[6];
};

template <bool with_slopes>
TRACKKERAS_INLINE void base_field(const dvec& x, const dvec& y, const dvec& z, Field& field) {
  for (dvec& zero : field.b) zero = dvec{};
  for (dvec& zero : field.slopes) zero = dvec{};
  for (const auto& [amplitude, centre, decay, ta, tb, tc] : terms) {
    const dvec d = z - centre + x * ta, u = x * tb + y * tc;
    dvec size = (u - d) * (u + d) * decay, sine, cosine;
    bound(size, @EXPONENT);
    exponential(size);
    size *= amplitude;
    sine_cosine(d * u * (-2.0 * decay), sine, cosine);
    const dvec real = size * cosine, imaginary = size * sine;
    field.b[0] += real * tb + imaginary * ta;
    field.b[1] += real * tc;
    field.b[2] += imaginary;
    if (with_slopes) {
      // df/dw = p + i q, dw/dx = a + i b, dw/dy = i c
      const dvec p = (u * imaginary - d * real) * (2.0 * decay);
      const dvec q = (d * imaginary + u * real) * (-2.0 * decay);
      const dvec real_x = p * ta - q * tb, imaginary_x = p * tb + q * ta;
      const dvec real_y = q * -tc, imaginary_y = p * tc;
      field.slopes[0] += real_x * tb + imaginary_x * ta;
      field.slopes[1] += real_y * tb + imaginary_y * ta;
      field.slopes[2] += real_x * tc;
      field.slopes[3] += real_y * tc;
      field.slopes[4] += imaginary_x;
      field.slopes[5] += imaginary_y;
    }
  }
}

/// The even and the odd functions of x or y that make the network's field symmetric, and their derivatives:
/// sqrt(1 + x^2), 1 / (1 + x^2 / 9), and x / sqrt(1 + x^2), x in metres.
TRACKKERAS_INLINE void shapes(const vec& mm, vec& root, vec& wide, vec& odd, vec* slopes) {
  const vec x = mm * 1e-3f, square = x * x;
  vec inverse = square + 1.0f;
  inverse_root(inverse);
  root = (square + 1.0f) * inverse;
  odd = x * inverse;
  wide = square * (1.0f / 9.0f) + 1.0f;
  invert(wide);
  slopes[0] = odd * 1e-3f;
  slopes[1] = x * wide * wide * (-2e-3f / 9.0f);
  slopes[2] = inverse * inverse * inverse * 1e-3f;
}

/// What the network adds to the field [T], and the derivatives.
template <class Engine, bool with_slopes>
TRACKKERAS_INLINE void learned_field(const vec* place, vec* b, vec* slopes) {
  vec numbers[asked], odd_x, odd_y, slope_x[3], slope_y[3];
  shapes(place[0], numbers[0], numbers[3], odd_x, slope_x);
  shapes(place[1], numbers[1], numbers[4], odd_y, slope_y);
  numbers[2] = place[2];
  const vec odd[] = {odd_x * odd_y * @UNITf, @UNITf - vec{}, odd_y * @UNITf};
  if (with_slopes) {
    vec along[asked * directions], heads[3 * (1 + directions)];
    for (vec& zero : along) zero = vec{};
    along[0] = slope_x[0];
    along[3] = slope_y[0];
    along[6] = slope_x[1];
    along[9] = slope_y[1];
    Engine::ask_with_slopes(numbers, along, heads);
    for (int i = 0; i < 3; ++i) {
      b[i] = heads[3 * i] * odd[i];
      for (int j = 0; j < 2; ++j) slopes[2 * i + j] = heads[3 * i + 1 + j] * odd[i];
    }
    slopes[0] += heads[0] * slope_x[2] * odd_y * @UNITf;
    slopes[1] += heads[0] * odd_x * slope_y[2] * @UNITf;
    slopes[5] += heads[6] * slope_y[2] * @UNITf;
  } else {
    vec heads[3];
    Engine::ask(numbers, heads);
    for (int i = 0; i < 3; ++i) b[i] = heads[i] * odd[i];
  }
}

/// The field at x, y, z [mm] of each half of the rows.
template <class Engine, bool with_slopes>
TRACKKERAS_CODE __attribute__((noinline)) void field_at(const dvec (*places)[3], Field* fields) {
  vec place[3], b[3], slopes[6];
  dvec extra;
  for (int half = 0; half < 2; ++half) {
    const dvec* at = places[half % Engine::halves];
    dvec x = at[0], y = at[1];
    bound(x, reach);
    bound(y, reach);
    narrow(x, half, place[0]);
    narrow(y, half, place[1]);
    narrow(at[2], half, place[2]);
    if (half < Engine::halves) base_field<with_slopes>(x, y, at[2], fields[half]);
  }
  learned_field<Engine, with_slopes>(place, b, slopes);
  for (int half = 0; half < Engine::halves; ++half) {
    for (int i = 0; i < 3; ++i) {
      widen(b[i], half, extra);
      fields[half].b[i] += extra;
    }
    for (int i = 0; with_slopes && i < 6; ++i) {
      const dvec free = places[half][i % 2], none = {};
      widen(slopes[i], half, extra);
      extra += fields[half].slopes[i];
      fields[half].slopes[i] = free < -reach ? none : free > reach ? none : extra;
    }
  }
}

/// dtx/dz and dty/dz at slopes s[2] for bend = kappa q/p. With tangents, also their derivatives along the
/// initial state: from those of the slopes and of the place of the field, [2][tangents].
template <bool with_tangents>
TRACKKERAS_INLINE void turn(const dvec& bend, const dvec* s, const Field& field, dvec* out,
                            const dvec* along_slope, const dvec* along_place, dvec* along) {
  dvec tx = s[0], ty = s[1];
  bound(tx, steepest);
  bound(ty, steepest);
  const dvec* b = field.b;
  const dvec both = tx * ty, wide_x = tx * tx + 1.0, wide_y = ty * ty + 1.0, square = tx * tx + wide_y;
  dvec inverse = square;
  inverse_root(inverse);
  const dvec root = square * inverse, factor = bend * root;
  const dvec turn_x = both * b[0] - wide_x * b[1] + ty * b[2];
  const dvec turn_y = wide_y * b[0] - both * b[1] - tx * b[2];
  out[0] = factor * turn_x;
  out[1] = factor * turn_y;
  if (!with_tangents) return;
  const dvec share = bend * inverse, none = {};
  dvec by_slope[] = {share * tx * turn_x + factor * (ty * b[0] - 2.0 * tx * b[1]),
                     share * ty * turn_x + factor * (tx * b[0] + b[2]),
                     share * tx * turn_y - factor * (ty * b[1] + b[2]),
                     share * ty * turn_y + factor * (2.0 * ty * b[0] - tx * b[1])};
  dvec by_place[4];
  for (int j = 0; j < 2; ++j) {
    const dvec *g = field.slopes + j, free = s[j];
    by_place[j] = factor * (both * g[0] - wide_x * g[2] + ty * g[4]);
    by_place[2 + j] = factor * (wide_y * g[0] - both * g[2] - tx * g[4]);
    for (int i = j; i < 4; i += 2) {
      by_slope[i] = free < -steepest ? none : free > steepest ? none : by_slope[i];
    }
  }
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < tangents; ++j) {
      along[i * tangents + j] = by_slope[2 * i] * along_slope[j] + by_place[2 * i] * along_place[j] +
                                by_slope[2 * i + 1] * along_slope[tangents + j] +
                                by_place[2 * i + 1] * along_place[tangents + j];
    }
  }
  along[4] += kappa * root * turn_x;
  along[tangents + 4] += kappa * root * turn_y;
}

/// Position and slope of a track with `size` numbers each: themselves, or their derivatives along the initial
/// state.
template <int size>
struct Motion {
  dvec position[size], slope[size], middle[size], first[size], second[size], third[size], last[size], s[size];

  // The stages of Nystroem's method of fourth order, one after the other.
  TRACKKERAS_INLINE void to_middle(const dvec& h) {
    for (int i = 0; i < size; ++i) {
      middle[i] = position[i] + slope[i] * (0.5 * h) + first[i] * (0.125 * h * h);
      s[i] = slope[i] + first[i] * (0.5 * h);
    }
  }
  TRACKKERAS_INLINE void to_third(const dvec& h) {
    for (int i = 0; i < size; ++i) s[i] = slope[i] + second[i] * (0.5 * h);
  }
  TRACKKERAS_INLINE void to_end(const dvec& h) {
    for (int i = 0; i < size; ++i) {
      middle[i] = position[i] + slope[i] * h + third[i] * (0.5 * h * h);
      s[i] = slope[i] + third[i] * h;
    }
  }
  TRACKKERAS_INLINE void advance(const dvec& h) {
    for (int i = 0; i < size; ++i) {
      const dvec between = second[i] + third[i];
      position[i] += (slope[i] + (first[i] + between) * (h * (1.0 / 6.0))) * h;
      slope[i] += (first[i] + between * 2.0 + last[i]) * (h * (1.0 / 6.0));
    }
  }
};

/// From the columns x, y, tx, ty, q/p, z0, dz to the final state, and its derivatives.
template <class Engine, bool with_tangents>
TRACKKERAS_INLINE void integrate(const vec* in, vec* out, vec* jacobian) {
  constexpr int halves = Engine::halves, size = with_tangents ? 2 * tangents : 1;
  Motion<2> track[halves];
  Motion<size> tangent[halves];
  Field field[halves];
  dvec bend[halves], z0[halves], h[halves], place[halves][3];
  for (int half = 0; half < halves; ++half) {
    for (int i = 0; i < 2; ++i) {
      widen(in[i], half, track[half].position[i]);
      widen(in[2 + i], half, track[half].slope[i]);
      place[half][i] = track[half].position[i];
    }
    widen(in[4], half, bend[half]);
    widen(in[5], half, z0[half]);
    widen(in[6], half, h[half]);
    bend[half] *= kappa;
    h[half] *= 1.0 / steps;
    place[half][2] = z0[half];
    for (int i = 0; i < size; ++i) {
      tangent[half].position[i] = (i == 0 || i == tangents + 1 ? 1.0 : 0.0) - dvec{};
      tangent[half].slope[i] = (i == 2 || i == tangents + 3 ? 1.0 : 0.0) - dvec{};
      tangent[half].middle[i] = tangent[half].position[i];
    }
  }
  field_at<Engine, with_tangents>(place, field);
  for (int number = 0; number < steps; ++number) {
    for (int half = 0; half < halves; ++half) {
      auto& m = track[half];
      auto& d = tangent[half];
      turn<with_tangents>(bend[half], m.slope, field[half], m.first, d.slope, d.middle, d.first);
      m.to_middle(h[half]);
      if (with_tangents) d.to_middle(h[half]);
      place[half][0] = m.middle[0];
      place[half][1] = m.middle[1];
      place[half][2] = z0[half] + h[half] * (number + 0.5);
    }
    field_at<Engine, with_tangents>(place, field);
    for (int half = 0; half < halves; ++half) {
      auto& m = track[half];
      auto& d = tangent[half];
      turn<with_tangents>(bend[half], m.s, field[half], m.second, d.s, d.middle, d.second);
      m.to_third(h[half]);
      if (with_tangents) d.to_third(h[half]);
      turn<with_tangents>(bend[half], m.s, field[half], m.third, d.s, d.middle, d.third);
      m.to_end(h[half]);
      if (with_tangents) d.to_end(h[half]);
      place[half][0] = m.middle[0];
      place[half][1] = m.middle[1];
      place[half][2] = z0[half] + h[half] * (number + 1.0);
    }
    field_at<Engine, with_tangents>(place, field);
    for (int half = 0; half < halves; ++half) {
      auto& m = track[half];
      auto& d = tangent[half];
      turn<with_tangents>(bend[half], m.s, field[half], m.last, d.s, d.middle, d.last);
      m.advance(h[half]);
      if (with_tangents) d.advance(h[half]);
    }
  }
  for (int half = 0; half < 2; ++half) {
    const int from = half % halves;
    for (int i = 0; i < 2; ++i) {
      narrow(track[from].position[i], half, out[i]);
      narrow(track[from].slope[i], half, out[2 + i]);
    }
    for (int i = 0; with_tangents && i < size; ++i) {
      narrow(tangent[from].position[i], half, jacobian[i]);
      narrow(tangent[from].slope[i], half, jacobian[size + i]);
    }
  }
  out[4] = in[4];
  for (int j = 0; with_tangents && j < tangents; ++j) fill(jacobian[4 * tangents + j], j == 4 ? 1.0f : 0.0f);
}

template <class Engine>
TRACKKERAS_INLINE void follow(const vec* in, vec* out) {
  integrate<Engine, false>(in, out, nullptr);
}

template <class Engine>
TRACKKERAS_INLINE void follow_with_jacobian(const vec* in, vec* out, vec* jacobian) {
  integrate<Engine, true>(in, out, jacobian);
}
"""


def hybrid_network(model: Any, signature: Signature) -> Network:
    """Read a hybrid.

    Raises:
        UserError: The model is another one, or its activation has no C++ form.
    """
    path, _ = producer(model.output["final_state"])
    if not isinstance(path, LearnedFieldPath):
        raise UserError(f"a network that ends in {type(path).__name__} is no hybrid; nothing exported")
    if path.activation_name not in ACTIVATIONS:
        raise UserError(
            f"the hybrid's activation is {path.activation_name!r}; a C++ header needs one of "
            f"{', '.join(ACTIVATIONS)}; nothing exported"
        )
    kernels = [np.asarray(kernel, "float32") for kernel in path.kernels]
    biases = [np.asarray(bias, "float32") for bias in path.biases]
    activations = [*[path.activation_name] * len(path.widths), "linear"]
    rows = maxwell_params(path.terms).reshape(-1, TERM_SIZE)
    values = {
        "STEPS": str(path.steps),
        "KAPPA": repr(KAPPA),
        "REACH": repr(path.reach),
        "STEEPEST": repr(STEEPEST),
        "EXPONENT": repr(EXPONENT_MAX),
        "UNIT": literal(UNIT),
        "TERMS": "".join(f"    {{{', '.join(map(repr, row))}}},\n" for row in rows.tolist()),
    }
    text = _PATH
    for name, value in values.items():
        text = text.replace(f"@{name}", value)
    return Network(
        columns=signature_columns(signature),
        features=tuple(range(len(ASKED))),
        mean=np.array(CENTRES, "float32"),
        inverse_scale=np.array(SCALES, "float32"),
        layers=tuple(map(Layer, kernels, biases, activations)),
        tangents=5,
        endpoint=NAME,
        functions=text,
        asked=ASKED,
        directions=2,
    )
