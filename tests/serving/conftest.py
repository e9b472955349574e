"""Two small models whose answers are known in closed form, as bundles on disk, and a server for them.

The SavedModel comes from TensorFlow and the ONNX graph is written by hand, so that the two are independent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving.bundle import discover
from serving.repository import Limits
from serving.server import Server

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

LIMITS = Limits(max_rows=5000, max_bytes=2**20, max_json_bytes=2**20)


def drift(version: int) -> np.ndarray:
    """d state / dz of a straight line, times the version: versions give different answers."""
    matrix = np.zeros((5, 5), np.float32)
    matrix[2, 0] = matrix[3, 1] = version
    return matrix


KICK = np.array([[0, 0, 1e-5, -2e-5, 0]], np.float32)


class Transport:
    """The model `transport`: inputs, and what it must answer."""

    @staticmethod
    def tracks(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
        """Random inputs, float32."""
        rng = np.random.default_rng(seed)
        scale = np.array([1000, 800, 0.2, 0.2, 1e-4])
        return {
            "state": (rng.normal(size=(rows, 5)) * scale).astype(np.float32),
            "z0": rng.uniform(0, 9000, (rows, 1)).astype(np.float32),
            "dz": rng.uniform(-4000, 4000, (rows, 1)).astype(np.float32),
        }

    @staticmethod
    def check(outputs: dict[str, np.ndarray], inputs: dict[str, np.ndarray], version: int = 10) -> None:
        """Compare with the closed form in double precision."""
        state, z0, dz = (inputs[name].astype(np.float64) for name in ("state", "z0", "dz"))
        wanted = state + dz * (state @ drift(version)) + z0 * KICK
        assert list(outputs) == ["final_state"]
        assert outputs["final_state"].dtype == np.float32
        assert outputs["final_state"].shape == wanted.shape
        np.testing.assert_allclose(outputs["final_state"], wanted, rtol=1e-6, atol=1e-2)


def tensor(*shape: int, dtype: str = "float32", unit: str = "1") -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "unit": unit, "doc": "a test tensor"}


TRANSPORT = {
    "serving_default": {
        "inputs": {
            "state": tensor(-1, 5, unit="mm, mm, 1, 1, 1/MeV"),
            "z0": tensor(-1, 1, unit="mm"),
            "dz": tensor(-1, 1),
        },
        "outputs": {"final_state": tensor(-1, 5)},
    },
    "slopes": {"inputs": {"state": tensor(-1, 5)}, "outputs": {"slopes": tensor(-1, 2)}},
}

SUMS = {
    "serving_default": {
        "inputs": {"hits": tensor(-1, 3)},
        "outputs": {"total": tensor(-1), "double": tensor(-1, 3)},
    }
}


def write_bundle(folder: Path, name: str, version: int, signatures: dict, saved_model, onnx_model) -> None:
    """Write a version folder from `saved_model(path)` and an ONNX model."""
    path = folder / name / str(version)
    saved_model(path)
    onnx.save(onnx_model, path / "model.onnx")
    description = {
        "name": name,
        "version": version,
        "signatures": signatures,
        "domain": "test",
        "preset": name,
    }
    (path / "bundle.json").write_text(json.dumps(description))


def _transport_onnx(version: int) -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["state", "drift"], ["slope"]),
        helper.make_node("Mul", ["slope", "dz"], ["path"]),
        helper.make_node("Mul", ["z0", "kick"], ["bend"]),
        helper.make_node("Add", ["state", "path"], ["straight"]),
        helper.make_node("Add", ["straight", "bend"], ["final_state"]),
    ]
    constants = [numpy_helper.from_array(drift(version), "drift"), numpy_helper.from_array(KICK, "kick")]
    return _onnx(
        nodes, constants, {"state": (None, 5), "z0": (None, 1), "dz": (None, 1)}, {"final_state": (None, 5)}
    )


def _sums_onnx() -> onnx.ModelProto:
    nodes = [
        helper.make_node("ReduceSum", ["hits", "axis"], ["total"], keepdims=0),
        helper.make_node("Add", ["hits", "hits"], ["double"]),
    ]
    constants = [numpy_helper.from_array(np.array([1]), "axis")]
    return _onnx(nodes, constants, {"hits": (None, 3)}, {"total": (None,), "double": (None, 3)})


def _onnx(nodes, constants, inputs, outputs) -> onnx.ModelProto:
    sides = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in side.items()]
        for side in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "test", *sides, initializer=constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _saved_models():
    import tensorflow as tf

    def transport_module(version: int):
        module = tf.Module()
        module.drift = tf.Variable(drift(version))

        def function(state, z0, dz):
            return {"final_state": state + dz * (state @ module.drift) + z0 * KICK}

        def slopes(state):
            return {"slopes": state[:, 2:4]}

        def spec(name, size):
            return tf.TensorSpec((None, size), tf.float32, name)

        module.serve = tf.function(function, [spec("state", 5), spec("z0", 1), spec("dz", 1)])
        module.slopes = tf.function(slopes, [spec("state", 5)])
        signatures = {"serving_default": module.serve, "slopes": module.slopes}
        return lambda path: tf.saved_model.save(module, str(path), signatures)

    def sums(path):
        def function(hits):
            return {"total": tf.reduce_sum(hits, axis=1), "double": hits + hits}

        module = tf.Module()
        module.serve = tf.function(function, [tf.TensorSpec((None, 3), tf.float32, "hits")])
        tf.saved_model.save(module, str(path), {"serving_default": module.serve})

    return transport_module, sums


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models: `transport` in versions 1, 2 and 10, and `sums`; not to be changed."""
    folder = tmp_path_factory.mktemp("bundles")
    transport_module, sums = _saved_models()
    for version in (1, 2, 10):
        write_bundle(
            folder, "transport", version, TRANSPORT, transport_module(version), _transport_onnx(version)
        )
    write_bundle(folder, "sums", 1, SUMS, sums, _sums_onnx())
    return folder


@pytest.fixture(scope="session")
def transport() -> type[Transport]:
    """The model `transport` in closed form."""
    return Transport


@pytest.fixture(scope="session")
def limits() -> Limits:
    """What the server allows."""
    return LIMITS


@pytest.fixture(scope="session")
def server(bundles: Path) -> Iterator[Server]:
    """A running server of all bundles, on free ports."""
    with Server(discover([bundles]), rest_port=0, grpc_port=0, limits=LIMITS) as running:
        yield running
