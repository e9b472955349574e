"""Derivatives as forward operations: against automatic differentiation, differences, and closed forms."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trackkeras.domain import Rows, find_task
from trackkeras.domains.extrapolation.jacobian import automatic, jacobian_excess
from trackkeras.errors import UserError
from trackkeras.onnx_handlers import COEFFICIENTS, HARMONICS, REACH
from trackkeras.presets import load_run
from trackkeras.tangents import SLOPES, activate, chain, jacobian, join, part, push_forward

TASK = find_task("extrapolation", "mlp")


def tracks(count: int, seed: int = 3) -> Rows:
    """Tracks over more than the acceptance, in both directions."""
    rng = np.random.default_rng(seed)
    momentum = np.exp(rng.uniform(np.log(500), np.log(100_000), count))
    columns = [rng.uniform(-1, 1, count) * size for size in (3000, 2500, 0.5, 0.4)]
    state = np.column_stack([*columns, rng.choice([-1, 1], count) / momentum]).astype("float32")
    z0 = rng.uniform(0, 9000, (count, 1)).astype("float32")
    return {"state": state, "z0": z0, "dz": rng.uniform(-8000, 8000, (count, 1)).astype("float32")}


def network(*options: str, seed: int = 5) -> keras.Model:
    """A network with random weights, none of them zero."""
    rows = tracks(500)
    statistics: dict[str, Any] = {
        name: {"mean": value.mean(axis=0), "std": value.std(axis=0)} for name, value in rows.items()
    }
    run = load_run("mlp_tiny", ["model.hidden=[16,24,8]", *options])
    model = TASK.build_deployed(run, {**statistics, "final_state": statistics["state"]})
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense):
            layer.set_weights([rng.normal(0, 0.4, value.shape) for value in layer.get_weights()])
    return model


def transport(model: keras.Model, rows: Rows) -> Rows:
    inputs = {name: tf.constant(column) for name, column in rows.items()}
    final_state, matrix = jacobian(model, inputs, of="final_state", by="state")
    return {"final_state": final_state.numpy(), "jacobian": matrix.numpy()}


@pytest.mark.parametrize("form", ["residual", "absolute"])
@pytest.mark.parametrize("activation", ["silu", "tanh", "relu", "gelu"])
def test_equal_to_automatic_differentiation(form: str, activation: str) -> None:
    rows, model = tracks(300), network(f"model.form={form}", f"model.activation={activation}")
    expected, got = automatic(model, rows, batch_size=128), transport(model, rows)
    assert got["jacobian"].dtype == np.float64
    # the gradient arrives at a float32 input, which rounds each element
    scale = np.abs(expected["jacobian"]).max(axis=0)
    assert (np.abs(got["jacobian"] - expected["jacobian"]) <= 3e-7 * scale).all()
    assert jacobian_excess(rows, expected, got).max() < 0.05
    np.testing.assert_array_equal(got["final_state"], model.predict(rows, verbose=0)["final_state"])


def test_float32_networks_stay_in_float32() -> None:
    rows, model = tracks(300), network("model.precision=float32")
    got = transport(model, rows)
    assert got["jacobian"].dtype == np.float32
    assert jacobian_excess(rows, automatic(model, rows), got).max() < 1


def test_equal_to_central_differences() -> None:
    rows, model = tracks(200), network()
    matrix = transport(model, rows)["jacobian"]
    for column, shift in enumerate((2.0, 2.0, 1e-3, 1e-3, 1e-7)):
        ends = []
        for sign in (-1, 1):
            moved = rows["state"].copy()
            moved[:, column] += sign * shift
            ends.append((moved, transport(model, {**rows, "state": moved})["final_state"].astype(float)))
        (low, before), (high, after) = ends
        step = (high[:, column].astype(float) - low[:, column].astype(float))[:, None]
        effect = after - before
        # outputs are rounded to float32: a few 1e-4 mm at some metres, which the shift is chosen to exceed
        rounding = 2.0**-22 * (np.abs(after) + np.abs(before))
        allowed = rounding + 2e-3 * np.abs(effect) + 2e-3 * np.abs(effect).max(axis=0)
        assert (np.abs(effect - matrix[:, :, column] * step) <= allowed).all()


@given(seed=st.integers(0, 50))
@settings(max_examples=10, deadline=None)
def test_neutral_tracks_and_no_distance_are_exact(seed: int) -> None:
    rows, model = tracks(40, seed), network(seed=seed)
    identity = np.tile(np.eye(5), (40, 1, 1))
    still = transport(model, {**rows, "dz": np.zeros_like(rows["dz"])})
    np.testing.assert_array_equal(still["jacobian"], identity)
    neutral = rows["state"].copy()
    neutral[:, 4] = 0
    straight = transport(model, {**rows, "state": neutral})["jacobian"]
    line = identity.copy()
    line[:, 0, 2] = line[:, 1, 3] = rows["dz"][:, 0]
    np.testing.assert_array_equal(straight[:, :, :4], line[:, :, :4])
    np.testing.assert_array_equal(straight[:, 4], line[:, 4])
    assert (straight[:, 0, 4] != 0).all()


def test_several_directions_at_once_are_a_matrix_product() -> None:
    rows, model = tracks(20), network()
    inputs = {name: tf.constant(column) for name, column in rows.items()}
    directions = np.random.default_rng(0).normal(size=(20, 5, 3)).astype("float32")
    _, tangents = push_forward(model, inputs, {"state": tf.constant(directions)})
    expected = transport(model, rows)["jacobian"] @ directions
    np.testing.assert_allclose(tangents["final_state"], expected, rtol=1e-10, atol=1e-12)


def test_a_layer_brings_its_own_rule_and_shares_weights() -> None:
    class Square(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x * x

        def push_forward(self, inputs: Any, tangents: Any) -> Any:
            return inputs[0] ** 2, chain((2.0 * inputs[0], tangents[0]))

    x, y = keras.Input((2,), name="x"), keras.Input((2,), name="y")
    dense = keras.layers.Dense(2, name="shared")
    both = keras.layers.Concatenate()([Square()(dense(dense(x))), dense(y)])
    model = keras.Model({"x": x, "y": y}, {"both": both, "only_y": dense(y)})
    rng = np.random.default_rng(1)
    inputs = {name: tf.constant(rng.normal(size=(6, 2)), "float32") for name in "xy"}
    _, got = jacobian(model, inputs, of="both", by="x")
    with tf.GradientTape() as tape:
        tape.watch(inputs["x"])
        output = model(inputs)["both"]
    np.testing.assert_allclose(got, tape.batch_jacobian(output, inputs["x"]), rtol=1e-5, atol=1e-6)
    assert push_forward(model, inputs, {"x": tf.eye(2)[None]})[1]["only_y"] is None


def test_what_has_no_rule_is_named() -> None:
    x = keras.Input((3,), name="x")
    inputs = {"x": tf.zeros((2, 3))}
    model = keras.Model({"x": x}, {"y": keras.layers.LayerNormalization(name="norm")(x)})
    with pytest.raises(UserError, match=r"no derivative is known for layer 'norm' \(LayerNormalization\)"):
        jacobian(model, inputs, of="y", by="x")
    model = keras.Model({"x": x}, {"y": keras.layers.Dense(2, activation="selu")(x)})
    with pytest.raises(UserError, match=r"the activation 'selu'; there are: linear, relu"):
        jacobian(model, inputs, of="y", by="x")
    rows, model = tracks(2), network()
    with pytest.raises(UserError, match="differentiated along state and heads only"):
        jacobian(model, {k: tf.constant(v) for k, v in rows.items()}, of="final_state", by="dz")


def test_join_gives_rows_what_they_share() -> None:
    one, many = tf.eye(2)[None], tf.ones((4, 1, 2))
    values = (tf.zeros((4, 2)), tf.zeros((4, 1)))
    assert join(values, (one, None)).shape == (1, 3, 2)
    joined = join(values, (one, many)).numpy()
    np.testing.assert_array_equal(joined, np.tile([[[1, 0], [0, 1], [1, 1]]], (4, 1, 1)))
    assert join(values, (None, None)) is None
    assert part(None, 0, 1) is None
    assert chain((values[0], None)) is None


@pytest.mark.parametrize("name", SLOPES)
def test_activations(name: str) -> None:
    x = tf.constant(np.linspace(-9, 9, 1000)[:, None])  # not 0, where relu has no derivative
    activation = keras.activations.get(name)
    with tf.GradientTape() as tape:
        tape.watch(x)
        expected = activation(x)
    y, slope = activate(activation, x)
    np.testing.assert_array_equal(y, expected)
    # TensorFlow's gelu takes the root of 1/2 in float32 even for float64
    atol = 2e-8 if name == "gelu" else 1e-14
    np.testing.assert_allclose(slope, tape.gradient(expected, x), rtol=1e-12, atol=atol)


@given(x=st.floats(-REACH, REACH))
def test_the_series_is_the_error_function(x: float) -> None:
    assert abs(COEFFICIENTS @ np.sin(HARMONICS * x) - math.erf(x)) < 1e-15
