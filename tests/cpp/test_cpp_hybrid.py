"""The hybrid's header: the shipped network against Keras, state and Jacobian, for every instruction set."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from serving import native
from serving.errors import ServingError
from tfrecords_tools.reader import Dataset
from trackkeras import cpp_export
from trackkeras.checkpoints import load_model
from trackkeras.domain import Rows, find_task, task_of
from trackkeras.domains.extrapolation.cpp_hybrid import ASKED, CENTRES, SCALES
from trackkeras.domains.extrapolation.jacobian import NAME
from trackkeras.errors import UserError
from trackkeras.evaluation import predict
from trackkeras.export import compare
from trackkeras.presets import load_run
from trackkeras.tangents import jacobian

pytestmark = pytest.mark.skipif(native.find_compiler() is None, reason="there is no C++ compiler")

SHIPPED = Path(__file__).parents[2] / "results" / "hybrid_medium" / "best.keras"
TASK = find_task("extrapolation", "hybrid")
SIGNATURE = TASK.signature()
ENDPOINT = TASK.endpoints()[NAME]
WITH_JACOBIAN = 150


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return load_model(SHIPPED, TASK)


@pytest.fixture(scope="module")
def header(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("header") / "hybrid.hpp"
    cpp_export.write_header(model, TASK, path, "test")
    return path


@pytest.fixture(scope="module")
def program(header: Path, tmp_path_factory: pytest.TempPathFactory) -> native.Program:
    flags = ("-Wall", "-Wextra", "-Werror", "-Wno-psabi")
    return native.Program(native.build("apply", tmp_path_factory.mktemp("program"), header, flags))


@pytest.fixture(scope="module")
def rows(dataset: Path) -> Rows:
    found = Dataset(dataset).read("test")
    return {name: found[name] for name in ("state", "z0", "dz")}


@pytest.fixture(scope="module")
def reference(model: keras.Model, rows: Rows) -> Rows:
    return predict(model, rows, TASK)


@pytest.fixture(scope="module")
def derivatives(model: keras.Model, rows: Rows) -> Rows:
    inputs = {name: tf.constant(column) for name, column in first(rows, WITH_JACOBIAN).items()}
    # equal to automatic differentiation, see test_hybrid.py, and made in a fraction of its time
    state, matrix = jacobian(model, inputs, of="final_state", by="state")
    return {"final_state": state.numpy(), "jacobian": matrix.numpy()}


def first(rows: Rows, count: int) -> Rows:
    return {name: column[:count].copy() for name, column in rows.items()}


def run(program: native.Program, name: str, rows: Rows, batch: int = 4096, endpoint: str = "") -> Rows:
    """Skips the test where the processor has no such instructions."""
    signature = ENDPOINT.signature if endpoint else SIGNATURE
    words = (endpoint,) if endpoint else ()
    try:
        return program.apply(
            "generated", name, rows, SIGNATURE.inputs, signature.outputs, *words, batch=batch
        )
    except ServingError as error:
        if "has no instruction set" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("name", cpp_export.INSTRUCTION_SETS)
def test_final_states_are_those_of_keras(
    program: native.Program, rows: Rows, reference: Rows, name: str
) -> None:
    got = run(program, name, rows)
    assert compare(TASK.parity(), rows, reference, got).excess <= 1
    # what float32 steps would not reach
    assert np.quantile(compare(TASK.parity(), rows, reference, got).by_row, 0.9) < 0.1
    few = first(rows, 90)
    for batch in (1, 7, 90):
        parts = run(program, name, few, batch)
        whole = {"final_state": got["final_state"][:90]}
        assert compare(TASK.parity(), few, whole, parts).excess <= 1, batch


@pytest.mark.parametrize("name", cpp_export.INSTRUCTION_SETS)
@pytest.mark.parametrize("batch", [1, WITH_JACOBIAN])
def test_jacobians_are_the_derivatives_of_keras(
    program: native.Program, rows: Rows, derivatives: Rows, name: str, batch: int
) -> None:
    few = first(rows, WITH_JACOBIAN)
    got = run(program, name, few, batch, NAME)
    assert compare(ENDPOINT.parity, few, derivatives, got).excess <= 1
    np.testing.assert_array_equal(got["jacobian"][:, 4], np.tile([0, 0, 0, 0, 1], (WITH_JACOBIAN, 1)))


@pytest.mark.parametrize("batch", [1, 40])
def test_exact_cases_and_lost_tracks(program: native.Program, rows: Rows, batch: int) -> None:
    few = first(rows, 40)
    still = run(program, "best", {**few, "dz": np.zeros_like(few["dz"])}, batch)
    np.testing.assert_array_equal(still["final_state"], few["state"])
    neutral = {**few, "state": few["state"] * np.float32([1, 1, 1, 1, 0])}
    neutral["state"][7, 1] = np.nan
    got = run(program, "best", neutral, batch)["final_state"]
    others = np.arange(40) != 7
    assert np.isnan(got[7, 1])
    np.testing.assert_array_equal(got[others, 2:], neutral["state"][others, 2:])
    line = few["state"][:, :2].astype(float) + few["dz"] * few["state"][:, 2:4].astype(float)
    np.testing.assert_allclose(got[others, :2], line[others], rtol=1e-6, atol=1e-4)
    lost = {**few, "state": few["state"] * np.float32([3, 3, 20, 20, 1])}
    lost["state"][:, 4] = 0.02
    found = run(program, "best", lost, batch, NAME)
    assert np.isfinite(found["final_state"]).all()
    assert np.isfinite(found["jacobian"]).all()


def test_mirrored_charge_mirrors_the_track(program: native.Program, rows: Rows) -> None:
    few = first(rows, 200)
    sign = np.float32([-1, 1, -1, 1, -1])
    plain, mirrored = (
        run(program, "best", each)["final_state"] for each in (few, {**few, "state": few["state"] * sign})
    )
    np.testing.assert_allclose(mirrored, plain * sign, rtol=1e-6, atol=1e-3)
    assert np.median(np.abs(plain - few["state"])[:, 2]) > 1e-3


def test_the_header_says_what_the_network_sees(header: Path) -> None:
    (line,) = [line for line in header.read_text().splitlines() if "features[] = " in line]
    for name in ASKED:
        assert f'"{name}"' in line
    assert len(ASKED) == len(CENTRES) == len(SCALES)


def test_what_has_no_header_is_named(tmp_path: Path) -> None:
    run = load_run("hybrid_tiny", ["model.activation=gelu"])
    gelu = task_of(run).build_deployed(run, {})
    with pytest.raises(UserError, match="activation is 'gelu'; a C"):
        cpp_export.write_header(gelu, TASK, tmp_path / "n.hpp", "")
    state = keras.Input((5,), name="state")
    other = keras.Model({"state": state}, {"final_state": keras.layers.Dense(5)(state)})
    with pytest.raises(UserError, match="ends in Dense is no hybrid"):
        cpp_export.write_header(other, TASK, tmp_path / "n.hpp", "")
    assert not list(tmp_path.iterdir())
