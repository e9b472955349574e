"""A header whose dense layers see numbers that the domain's C++ text computes from the columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from serving import native
from serving.errors import ServingError
from trackkeras import cpp_export
from trackkeras.domain import Rows, find_task
from trackkeras.layers.dense import dense_stack
from trackkeras.layers.standardize import Standardize

pytestmark = pytest.mark.skipif(native.find_compiler() is None, reason="there is no C++ compiler")

TASK = find_task("extrapolation", "mlp")
SIGNATURE = TASK.signature()
(ENDPOINT,) = TASK.endpoints()
OUTPUTS = TASK.endpoints()[ENDPOINT].signature.outputs


class Sizes(keras.layers.Layer):
    """A size of the bend, and a phase of the position as sine and cosine: `(batch, 3)`."""

    def call(self, state: Any, z0: Any, dz: Any) -> Any:
        size = state[:, 4:5] * dz * ops.exp(-0.5 * ops.square((z0 + 0.5 * dz - 5000.0) / 1700.0))
        phase = 0.004 * state[:, 0:1] + state[:, 3:4]
        return ops.concatenate([size, ops.sin(phase), ops.cos(phase)], axis=-1)


class Base(keras.layers.Layer):
    """The state, plus the size times the network's numbers."""

    def call(self, state: Any, sizes: Any, heads: Any) -> Any:
        return ops.concatenate([state[:, :4] + sizes[:, 0:1] * heads, state[:, 4:5]], axis=-1)


FUNCTIONS = """
TRACKKERAS_INLINE void size_per_qop(const vec* in, vec& size) {
  const vec distance = (in[5] + 0.5f * in[6] - 5000.0f) * (1.0f / 1700.0f);
  size = -0.5f * distance * distance;
  exponential(size);
  size *= in[6];
}

TRACKKERAS_INLINE void prepare(vec* in) {
  size_per_qop(in, in[7]);
  in[7] *= in[4];
  sine_cosine(in[0] * 0.004f + in[3], in[8], in[9]);
}

TRACKKERAS_INLINE void prepare_with_jacobian(vec* in, vec* along) {
  prepare(in);
  for (int i = 0; i < 3 * tangents; ++i) along[i] = vec{};
  size_per_qop(in, along[4]);
  along[tangents] = in[9] * 0.004f;
  along[tangents + 3] = in[9];
  along[2 * tangents] = in[8] * -0.004f;
  along[2 * tangents + 3] = -in[8];
}

TRACKKERAS_INLINE void finish(const vec* in, const vec* heads, int stride, vec* out) {
  for (int i = 0; i < 4; ++i) out[i] = in[i] + in[7] * heads[i * stride];
  out[4] = in[4];
}

TRACKKERAS_INLINE void finish_with_jacobian(const vec* in, const vec* along, const vec* heads, vec* out,
                                            vec* jacobian) {
  constexpr int stride = 1 + tangents;
  finish(in, heads, stride, out);
  for (int i = 0; i < 5; ++i) {
    for (int j = 0; j < tangents; ++j) {
      vec& entry = jacobian[i * tangents + j];
      fill(entry, i == j ? 1.0f : 0.0f);
      if (i < 4) entry += along[j] * heads[i * stride] + in[7] * heads[i * stride + 1 + j];
    }
  }
}
"""


@pytest.fixture(scope="module")
def rows() -> Rows:
    rng = np.random.default_rng(3)
    count = 3001
    columns = [rng.uniform(-1, 1, count) * size for size in (3000, 2500, 0.5, 0.4)]
    momentum = np.exp(rng.uniform(np.log(2000), np.log(100_000), count))
    state = np.column_stack([*columns, rng.choice([-1, 1], count) / momentum]).astype("float32")
    z0 = rng.uniform(0, 9000, (count, 1)).astype("float32")
    return {"state": state, "z0": z0, "dz": rng.uniform(-8000, 8000, (count, 1)).astype("float32")}


@pytest.fixture(scope="module")
def model(rows: Rows) -> keras.Model:
    inputs = {
        tensor.name: keras.Input(tensor.shape, name=tensor.name, dtype="float32")
        for tensor in SIGNATURE.inputs
    }
    sizes = Sizes(name="sizes", dtype="float64")(*inputs.values())
    # the prepared numbers stand between the columns: order is the graph's, not the header's
    seen = [inputs["state"], sizes, inputs["dz"]]
    features = keras.layers.Concatenate(dtype="float64", name="features")(seen)
    values = np.concatenate([rows["state"], Sizes()(*rows.values()), rows["dz"]], axis=1)
    hidden = Standardize(values.mean(axis=0), values.std(axis=0), dtype="float64")(features)
    hidden = dense_stack(hidden, (24, 40), "silu", dtype="float64")
    heads = keras.layers.Dense(4, dtype="float64", bias_initializer="normal", name="heads")(hidden)
    final_state = Base(name="final_state", dtype="float64")(inputs["state"], sizes, heads)
    return keras.Model(inputs, {"final_state": final_state})


@pytest.fixture(scope="module")
def header(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    columns = cpp_export.signature_columns(SIGNATURE)
    prepared = tuple(f"sizes[{index}]" for index in range(3))
    heads = model.get_layer("heads").output
    features, standardize, layers = cpp_export.read_stack(heads, (*columns, *prepared))
    network = cpp_export.Network(
        columns=columns,
        features=features,
        mean=np.asarray(standardize.mean, "float32"),
        inverse_scale=np.asarray(standardize.inverse_scale, "float32"),
        layers=layers,
        tangents=5,
        endpoint=ENDPOINT,
        functions=FUNCTIONS,
        prepared=prepared,
    )
    path = tmp_path_factory.mktemp("header") / "with_sizes.hpp"
    path.write_text(cpp_export.render(network, SIGNATURE, path.stem, "test"))
    return path


@pytest.fixture(scope="module")
def program(header: Path, tmp_path_factory: pytest.TempPathFactory) -> native.Program:
    flags = ("-Wall", "-Wextra", "-Werror", "-Wno-psabi")
    return native.Program(native.build("apply", tmp_path_factory.mktemp("program"), header, flags))


@pytest.fixture(scope="module")
def reference(model: keras.Model, rows: Rows) -> Mapping[str, Any]:
    inputs = {name: tf.constant(column) for name, column in rows.items()}
    with tf.GradientTape() as tape:
        tape.watch(inputs["state"])
        final_state = model(inputs)["final_state"]
    jacobian = tape.batch_jacobian(final_state, inputs["state"])
    return {"final_state": final_state.numpy(), "jacobian": jacobian.numpy()}


@pytest.mark.parametrize("name", cpp_export.INSTRUCTION_SETS)
@pytest.mark.parametrize("batch", [1, 37, 3001])
def test_value_and_jacobian_are_those_of_keras(
    program: native.Program, rows: Rows, reference: Mapping[str, Any], name: str, batch: int
) -> None:
    few = {key: column[: 200 if batch == 1 else None] for key, column in rows.items()}
    count = len(few["z0"])
    try:
        plain = program.apply("generated", name, few, SIGNATURE.inputs, SIGNATURE.outputs, batch=batch)
    except ServingError as error:
        if "has no instruction set" not in str(error):
            raise
        pytest.skip(str(error))
    both = program.apply("generated", name, few, SIGNATURE.inputs, OUTPUTS, ENDPOINT, batch)
    expected = reference["final_state"][:count]
    for got in (plain, both):
        np.testing.assert_allclose(got["final_state"], expected, rtol=3e-7, atol=2e-5)
    scale = np.abs(reference["jacobian"]).max(axis=0) + 1e-6
    assert (np.abs(both["jacobian"] - reference["jacobian"][:count]) <= 1e-5 * scale).all()


def test_a_row_that_is_not_a_number_stays_alone(program: native.Program, rows: Rows) -> None:
    few = {key: column[:20].copy() for key, column in rows.items()}
    few["state"][5, 0] = np.nan
    few["state"][9, 3] = np.inf
    got = program.apply("generated", "best", few, SIGNATURE.inputs, SIGNATURE.outputs, batch=20)[
        "final_state"
    ]
    assert np.isnan(got[[5, 9]]).any(axis=1).all()
    assert np.isfinite(np.delete(got, [5, 9], axis=0)).all()


def test_the_header_says_what_the_first_layer_sees(header: Path) -> None:
    (line,) = [line for line in header.read_text().splitlines() if "features[] = " in line]
    assert '"state[4]", "sizes[0]", "sizes[1]", "sizes[2]", "dz[0]"' in line


def test_a_network_without_prepared_numbers_computes_none(tmp_path: Path) -> None:
    from trackkeras.presets import load_run

    statistics = {
        name: {"mean": [0.0] * n, "std": [1.0] * n} for name, n in (("state", 5), ("z0", 1), ("dz", 1))
    }
    model = TASK.build(load_run("mlp_tiny", []), statistics)
    path = tmp_path / "plain.hpp"
    cpp_export.write_header(model, TASK, path, "test")
    assert "prepare" not in path.read_text()
    assert "sine_cosine" not in path.read_text()
