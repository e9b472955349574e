"""Networks in C++: the generated header, and TrackModel over ONNX Runtime and TensorFlow's C API."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from serving import native
from serving.bundle import discover, read_bundle
from serving.client import Client, RestClient
from serving.errors import ServingError
from serving.runtime import load
from serving.server import Server
from serving.signature import Signature as ServedSignature
from trackkeras import cpp_export
from trackkeras import export as exporter
from trackkeras.checkpoints import load_model
from trackkeras.domain import Rows, find_task
from trackkeras.errors import UserError
from trackkeras.evaluation import predict
from trackkeras.presets import load_run

pytestmark = pytest.mark.skipif(native.find_compiler() is None, reason="there is no C++ compiler")

TASK = find_task("extrapolation", "mlp")
SIGNATURE = TASK.signature()
JACOBIAN = "state_and_jacobian"
SIGNATURES = {name: endpoint.signature for name, endpoint in exporter.all_endpoints(TASK).items()}


@pytest.fixture(scope="module")
def program(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> native.Program:
    folder = tmp_path_factory.mktemp("programs")
    return native.Program(native.build("apply", folder, header=bundle / "mlp_tiny_small.hpp"))


@pytest.fixture(scope="module")
def model(trained_run: Path) -> keras.Model:
    return load_model(trained_run / "best.keras", TASK)


@pytest.fixture(scope="module")
def rows() -> Rows:
    """100,000 rows over more than the acceptance, and in float32 as a reconstruction would have them."""
    rng = np.random.default_rng(11)
    count = 100_000
    momentum = np.exp(rng.uniform(np.log(500), np.log(100_000), count))
    columns = [rng.uniform(-1, 1, count) * size for size in (3000, 2500, 0.5, 0.4)]
    state = np.column_stack([*columns, rng.choice([-1, 1], count) / momentum]).astype("float32")
    z0 = rng.uniform(0, 9000, (count, 1)).astype("float32")
    return {"state": state, "z0": z0, "dz": rng.uniform(-8000, 8000, (count, 1)).astype("float32")}


@pytest.fixture(scope="module")
def reference(model: keras.Model, rows: Rows) -> Rows:
    return predict(model, rows, TASK)


def instruction_sets(program: native.Program, rows: Rows) -> list[str]:
    """Those that this processor has."""
    found = []
    for name in cpp_export.INSTRUCTION_SETS:
        try:
            program.apply(
                "generated", name, {k: v[:1] for k, v in rows.items()}, SIGNATURE.inputs, SIGNATURE.outputs
            )
        except ServingError as error:
            assert "has no instruction set" in str(error)  # noqa: PT017
        else:
            found.append(name)
    return found


def test_every_engine_equals_keras_row_by_row(
    program: native.Program, bundle: Path, rows: Rows, reference: Rows
) -> None:
    line = rows["state"][:, :2] + rows["dz"] * rows["state"][:, 2:4]
    allowed = 1e-3 + 1e-5 * np.linalg.norm(reference["final_state"][:, :2] - line, axis=1)
    engines = [("generated", name) for name in instruction_sets(program, rows)]
    engines += [("onnx", str(bundle / "model.onnx")), ("saved_model", str(bundle))]
    assert ("generated", "portable") in engines
    for kind, name in engines:
        got = program.apply(kind, name, rows, SIGNATURE.inputs, SIGNATURE.outputs)["final_state"]
        difference = np.linalg.norm((got - reference["final_state"])[:, :2], axis=1)
        assert (difference <= allowed).all(), (kind, name)
        np.testing.assert_array_equal(got[:, 4], rows["state"][:, 4])


def test_batches_of_any_size_agree(program: native.Program, rows: Rows) -> None:
    few = {name: column[:203] for name, column in rows.items()}
    for name in instruction_sets(program, rows):
        whole = program.apply("generated", name, few, SIGNATURE.inputs, SIGNATURE.outputs, batch=203)
        for batch in (1, 5, 31, 33):
            parts = program.apply("generated", name, few, SIGNATURE.inputs, SIGNATURE.outputs, batch=batch)
            result = exporter.compare(TASK.parity(), few, whole, parts)
            assert result.excess <= 1, (name, batch)


def test_the_jacobian_is_the_derivative_of_the_keras_model(
    program: native.Program, model: keras.Model, rows: Rows
) -> None:
    few = {name: column[:515] for name, column in rows.items()}
    inputs = {name: tf.constant(column) for name, column in few.items()}
    with tf.GradientTape() as tape:
        tape.watch(inputs["state"])
        final_state = model(inputs)["final_state"]
    expected = tape.batch_jacobian(final_state, inputs["state"]).numpy()
    scale = np.abs(expected).max(axis=0) + 1e-6
    for name in instruction_sets(program, rows):
        for batch in (1, 515):
            outputs = SIGNATURES[JACOBIAN].outputs
            got = program.apply("generated", name, few, SIGNATURE.inputs, outputs, JACOBIAN, batch)
            assert (np.abs(got["jacobian"] - expected) <= 1e-5 * scale).all(), (name, batch)
            result = exporter.compare(TASK.parity(), few, {"final_state": final_state.numpy()}, got)
            assert result.excess <= 1


def test_exact_cases_and_not_a_number(program: native.Program, rows: Rows) -> None:
    few = {name: column[:100].copy() for name, column in rows.items()}
    few["dz"][:] = 0
    for name in instruction_sets(program, rows):
        got = program.apply("generated", name, few, SIGNATURE.inputs, SIGNATURE.outputs)["final_state"]
        np.testing.assert_array_equal(got, few["state"])
    few["dz"][:] = 3000
    few["state"][:, 4] = 0
    few["state"][7, 1] = np.nan
    for name in instruction_sets(program, rows):
        got = program.apply("generated", name, few, SIGNATURE.inputs, SIGNATURE.outputs)["final_state"]
        np.testing.assert_array_equal(np.delete(got - few["state"], 7, axis=0)[:, 2:], 0)
        assert np.isnan(got[7, 1])
        assert np.isfinite(np.delete(got, 7, axis=0)).all()


@pytest.mark.parametrize(
    "options",
    [
        ["model.form=absolute"],
        ["model.activation=tanh"],
        ["model.activation=relu", "model.hidden=[40,24,33]"],
    ],
    ids=lambda options: options[-1],
)
def test_every_form_and_activation(options: list[str], rows: Rows, tmp_path: Path) -> None:
    run = load_run("mlp_tiny", options)
    few = {name: column[:2000] for name, column in rows.items()}
    statistics: dict[str, Any] = {
        name: {"mean": column.mean(axis=0), "std": column.std(axis=0)} for name, column in few.items()
    }
    model = TASK.build(run, {**statistics, "final_state": statistics["state"]})
    rng = np.random.default_rng(2)
    heads = model.get_layer("heads")
    heads.set_weights([rng.normal(0, 0.3, value.shape) for value in heads.get_weights()])
    header = tmp_path / "network.hpp"
    cpp_export.write_header(model, TASK, header, "test")
    got = cpp_export.run_header(header, few, SIGNATURE)
    assert exporter.compare(TASK.parity(), few, predict(model, few, TASK), got).excess <= 1


@pytest.mark.parametrize("name", SIGNATURES)
def test_names_are_the_same_everywhere(
    program: native.Program, bundle: Path, rows: Rows, tmp_path: Path, name: str
) -> None:
    signature = SIGNATURES[name]
    sides = {"inputs": signature.inputs, "outputs": signature.outputs}
    declared = {
        side: {tensor.name: int(np.prod(tensor.shape)) for tensor in tensors}
        for side, tensors in sides.items()
    }
    for key, column in rows.items():
        native.write_column(tmp_path, key, column[:2])
    served = read_bundle(bundle)
    for kind, path in (("onnx", served.onnx_of(name)), ("saved_model", bundle), ("generated", "best")):
        options = [*native.engine_options(kind), "--signature", name]
        (said,) = program.run(kind, path, tmp_path, *options)
        assert said == declared, kind
    for engine in ("onnx", "savedmodel"):
        assert described(load(served, engine).signatures[name]) == declared, engine
    with Server(discover([bundle]), rest_port=0, grpc_port=0) as server:
        for client in (Client(server.grpc_target), RestClient(server.rest_url)):
            with client:
                signatures = client.metadata(served.name).signatures
                assert signatures.keys() == SIGNATURES.keys()
                assert described(signatures[name]) == declared, type(client).__name__


def described(signature: ServedSignature) -> dict[str, dict[str, int]]:
    """Return names and numbers per row of inputs and outputs."""
    return {
        side: {key: int(np.prod(spec.shape[1:])) for key, spec in getattr(signature, side).items()}
        for side in ("inputs", "outputs")
    }


def test_the_jacobian_is_the_same_in_every_engine(program: native.Program, bundle: Path, rows: Rows) -> None:
    few = {name: column[:2000] for name, column in rows.items()}
    endpoint = TASK.endpoints()[JACOBIAN]
    onnx, *others = (
        program.apply(kind, path, few, SIGNATURE.inputs, endpoint.signature.outputs, JACOBIAN)
        for kind, path in (
            ("onnx", bundle / f"model.{JACOBIAN}.onnx"),
            ("saved_model", bundle),
            ("generated", "best"),
        )
    )
    for other in others:
        assert exporter.compare(endpoint.parity, few, onnx, other).excess <= 1


def test_a_saved_model_written_the_wrong_way_is_refused(
    program: native.Program, model: keras.Model, rows: Rows, tmp_path: Path
) -> None:
    specs = {t.name: tf.TensorSpec((None, *t.shape), tf.float32, name=t.name) for t in SIGNATURE.inputs}

    class Tracking(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        @tf.function(input_signature=[specs], autograph=False)
        def serve(self, inputs: dict[str, tf.Tensor]) -> Any:
            return self.model(inputs)

    module = Tracking()
    tf.saved_model.save(module, tmp_path / "wrong", signatures=module.serve)
    few = {name: column[:4] for name, column in rows.items()}
    with pytest.raises(ServingError, match=r"TensorFlow: .*(variable|Resource)"):
        program.apply("saved_model", tmp_path / "wrong", few, SIGNATURE.inputs, SIGNATURE.outputs)


def test_errors_are_one_line(program: native.Program, bundle: Path, rows: Rows, tmp_path: Path) -> None:
    few = {name: column[:4] for name, column in rows.items()}
    apply = program.apply
    with pytest.raises(ServingError, match=r"ONNX Runtime: .*no\.onnx"):
        apply("onnx", tmp_path / "no.onnx", few, SIGNATURE.inputs, SIGNATURE.outputs)
    with pytest.raises(ServingError, match="TensorFlow: Could not find SavedModel"):
        apply("saved_model", tmp_path, few, SIGNATURE.inputs, SIGNATURE.outputs)
    with pytest.raises(ServingError, match="no engine 'pigeon'"):
        apply("pigeon", "x", few, SIGNATURE.inputs, SIGNATURE.outputs)
    with pytest.raises(ServingError, match="cannot open the library"):
        program.run("onnx", bundle / "model.onnx", tmp_path, "--library", tmp_path / "no.so")
    with pytest.raises(ServingError, match=r"no signature 'other'; it has: .*serving_default"):
        program.run(
            "saved_model", bundle, tmp_path, *native.engine_options("saved_model"), "--signature", "other"
        )
    with pytest.raises(ServingError, match="no signature 'other'; it has: serving_default, state_and_jaco"):
        apply("generated", "best", few, SIGNATURE.inputs, SIGNATURE.outputs, "other")


def test_a_changed_weight_is_noticed(bundle: Path, rows: Rows, tmp_path: Path) -> None:
    text = (bundle / "mlp_tiny_small.hpp").read_text()
    changed, count = re.subn(r"(kernel_1\[\d+\] = \{\n\s+)[^,]+,", r"\g<1>0.25f,", text)
    assert count == 1
    header = tmp_path / "mlp_tiny_small.hpp"
    header.write_text(changed)
    with pytest.raises(ServingError, match="not those that were exported"):
        cpp_export.run_header(header, {name: column[:4] for name, column in rows.items()}, SIGNATURE)


@pytest.mark.usefixtures("no_conversion")
def test_the_gate_refuses_a_wrong_header(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(path: Path, rows: Rows, *_: Any) -> Rows:
        assert path.is_file()
        return {"final_state": rows["state"] + 10}

    monkeypatch.setattr(exporter, "run_header", wrong)
    with pytest.raises(UserError, match=r"in cpp differs from Keras .* nothing exported"):
        exporter.export(trained_run, tmp_path, cpp=True)
    assert not list(tmp_path.rglob("*.hpp"))


def test_other_networks_are_refused(tmp_path: Path) -> None:
    state = keras.Input((5,), name="state")
    outputs = keras.layers.Dense(5, name="final_state")(state)
    with pytest.raises(UserError, match="ends in Dense has no C"):
        cpp_export.write_header(
            keras.Model({"state": state}, {"final_state": outputs}), TASK, tmp_path / "n.hpp", ""
        )
    assert not list(tmp_path.iterdir())


def test_cmake_builds_and_runs_the_example(bundle: Path, tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("there is no cmake")
    libraries = [
        f"-D{name.upper()}_LIBRARY={native.find_library(name)}" for name in ("onnxruntime", "tensorflow")
    ]
    with Server(discover([bundle]), rest_port=0, grpc_port=0) as server:
        options = [f"-DBUNDLE={bundle}", f"-DSERVED={server.rest_url}/v1/models/mlp_tiny-small", *libraries]
        for command in (
            ["cmake", "-S", str(native.SOURCES), "-B", str(tmp_path), *options],
            ["cmake", "--build", str(tmp_path), "--target", "example"],
            ["ctest", "--test-dir", str(tmp_path), "--output-on-failure"],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "warning" not in done.stdout + done.stderr
    assert "0 tests failed out of 3" in done.stdout


def test_parity_is_on_the_card(bundle: Path) -> None:
    parity = json.loads((bundle / "parity.json").read_text())
    assert {name: entry["cpp"]["excess"] <= 1 for name, entry in parity.items()} == dict.fromkeys(
        SIGNATURES, True
    )
    assert "| cpp |" in (bundle / "card.md").read_text()
