"""Inputs and outputs of type int32, from the exporter to every way of asking."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving import native
from serving.bundle import discover, read_bundle
from serving.client import Client, RestClient
from serving.errors import ServingError
from serving.query import ask
from serving.runtime import load
from serving.server import Server
from serving.warmup import warmup_records
from trackkeras import cli
from trackkeras.cpp_export import write_header
from trackkeras.domain import Parity, Rows, Signature, Tensor
from trackkeras.errors import UserError
from trackkeras.export import write_bundle

LARGEST = 2**31 - 1
SIGNATURE = Signature(
    (
        Tensor("elements", (62,), "1", "struck element of every plane, 0 if none", "int32"),
        Tensor("pitch", (1,), "mm", "distance of elements"),
    ),
    (
        Tensor("mirrored", (62,), "1", "the elements of the reflected event", "int32"),
        Tensor("places", (62, 2), "mm", "position of each element, and of its mirror image"),
    ),
)


def expected(rows: Rows) -> Rows:
    """What the model gives, by NumPy: exact for whole numbers that float32 holds."""
    places = rows["elements"] * rows["pitch"]
    return {"mirrored": -rows["elements"], "places": np.stack([places, -places], axis=-1).astype("float32")}


def events(count: int, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    return {
        "elements": rng.integers(-1000, 1000, (count, 62), dtype="int32"),
        "pitch": rng.integers(1, 5, (count, 1)).astype("float32"),
    }


class Places(keras.layers.Layer):
    def call(self, elements: Any, pitch: Any) -> Any:
        places = keras.ops.cast(elements, "float32") * pitch
        return keras.ops.stack([places, -places], axis=-1)


@functools.cache
def task() -> Any:
    def excess(rows: Rows, reference: Rows, other: Rows) -> Any:
        wrong = [(other[name] != reference[name]).reshape(len(other[name]), -1) for name in reference]
        return 2.0 * np.concatenate(wrong, axis=1).any(axis=1)

    return SimpleNamespace(
        signature=lambda: SIGNATURE,
        endpoints=dict,
        axes=tuple,
        parity=lambda: Parity("equal", excess),
        parity_rows=100,
        parity_band_rows=None,
        chunk_rows=None,
        inputs=lambda rows: {t.name: rows[t.name].astype(t.dtype) for t in SIGNATURE.inputs},
    )


@pytest.fixture(scope="module")
def model() -> keras.Model:
    elements = keras.Input((62,), name="elements", dtype="int32")
    pitch = keras.Input((1,), name="pitch")
    outputs = {"mirrored": keras.ops.negative(elements), "places": Places()(elements, pitch)}
    return keras.Model({"elements": elements, "pitch": pitch}, outputs)


@pytest.fixture(scope="module")
def folder(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundles") / "finder" / "1"
    report = write_bundle(model, task(), path, events(100))["serving_default"]
    assert report["onnx"]["excess"] == report["saved_model"]["excess"] == 0
    entries = [
        {t.name: {"dtype": t.dtype, "shape": [-1, *t.shape], "unit": t.unit, "doc": t.doc} for t in side}
        for side in (SIGNATURE.inputs, SIGNATURE.outputs)
    ]
    description = {
        "name": "finder",
        "version": 1,
        "signatures": {"serving_default": dict(zip(("inputs", "outputs"), entries, strict=True))},
        "examples": {name: value[:1].tolist() for name, value in events(1).items()},
        "domain": "test",
    }
    (path / "bundle.json").write_text(json.dumps(description))
    return path


@pytest.fixture(scope="module")
def server(folder: Path) -> Any:
    with Server(discover([folder]), rest_port=0, grpc_port=0) as running:
        yield running


def check(outputs: Rows, rows: Rows) -> None:
    for name, value in expected(rows).items():
        np.testing.assert_array_equal(outputs[name], value, strict=True)


@pytest.mark.parametrize("engine", ["onnx", "savedmodel"])
def test_engines(folder: Path, engine: str) -> None:
    rows = events(7)
    check(load(read_bundle(folder), engine).run("serving_default", rows), rows)


@given(seed=st.integers(0, 99), count=st.integers(0, 9))
@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_protocols(server: Server, seed: int, count: int) -> None:
    rows = events(count, seed)
    for client in (Client(server.grpc_target), RestClient(server.rest_url)):
        with client:
            check(client.predict("finder", rows), rows)
            assert client.metadata("finder").signatures["serving_default"].inputs["elements"].dtype == "int32"


@pytest.mark.parametrize("value", [LARGEST, -LARGEST])
def test_large_numbers_arrive_exactly(server: Server, value: int) -> None:
    rows = {"elements": np.full((1, 62), value, "int32"), "pitch": np.ones((1, 1), "float32")}
    for client in (Client(server.grpc_target), RestClient(server.rest_url)):
        with client:
            np.testing.assert_array_equal(client.predict("finder", rows)["mirrored"], -rows["elements"])


@pytest.mark.parametrize(
    ("element", "words"),
    [
        (1.0, r"must hold integers \(int32\), received float"),
        (True, r"must hold integers \(int32\), received bool"),
        (LARGEST + 1, "a value does not fit int32"),
        (10**30, "a value does not fit int32"),
    ],
)
def test_rest_refuses_what_is_no_int32(server: Server, element: Any, words: str) -> None:
    rows = {"elements": np.array([[element] * 62], object), "pitch": np.ones((1, 1))}
    with RestClient(server.rest_url) as client, pytest.raises(ServingError, match=words):
        client.predict("finder", rows)


@pytest.mark.parametrize("dtype", ["int64", "float32"])
def test_grpc_refuses_other_types(server: Server, dtype: str) -> None:
    rows = events(1)
    with Client(server.grpc_target) as client, pytest.raises(ServingError, match=f"int32, received {dtype}"):
        client.predict("finder", {**rows, "elements": rows["elements"].astype(dtype)})


@pytest.mark.parametrize("bad", [1.5, LARGEST + 1, -LARGEST - 2, float("nan"), 10**30, "7", None])
def test_a_question_converts_nothing_silently(server: Server, bad: Any) -> None:
    row = {"elements": [[0] * 61 + [bad]], "pitch": [[2]]}
    with Client(server.grpc_target) as client, pytest.raises(ServingError, match="'elements' must"):
        ask(client, "finder", row)
    with Client(server.grpc_target) as client:
        sent, answer = ask(client, "finder", {"elements": [[3.0] * 62], "pitch": [[2]]})
    assert sent["elements"].dtype == np.int32
    check(answer, sent)


def test_the_command(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    row = json.dumps({name: value.tolist() for name, value in events(1).items()})
    for address in (server.grpc_target, server.rest_url):
        words = ["query", "finder", "--address", address, "--inputs", row, "--json"]
        assert cli.app(words, standalone_mode=False) in (None, 0)
        answer = json.loads(capsys.readouterr().out)
        assert answer["mirrored"] == (-events(1)["elements"]).tolist()


def test_warm_up_requests_have_the_type(folder: Path) -> None:
    from serving.messages import PredictionLog
    from serving.tensors import decode

    for record in warmup_records(read_bundle(folder)):
        tensor = PredictionLog.FromString(record).predict_log.request.inputs["elements"]
        assert decode(tensor, "elements").dtype == np.int32


@pytest.mark.skipif(native.find_compiler() is None, reason="there is no C++ compiler")
def test_cpp(folder: Path, server: Server, tmp_path: Path) -> None:
    program = native.Program(native.build("apply", tmp_path))
    rows = events(50)
    address = f"{server.rest_url}/v1/models/finder"
    for kind, path in (("onnx", folder / "model.onnx"), ("saved_model", folder), ("rest", address)):
        check(program.apply(kind, path, rows, SIGNATURE.inputs, SIGNATURE.outputs, batch=16), rows)


def test_a_header_is_for_float32(model: keras.Model, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'elements' is int32; a C"):
        write_header(model, task(), tmp_path / "finder.hpp", "")
    assert not list(tmp_path.iterdir())
