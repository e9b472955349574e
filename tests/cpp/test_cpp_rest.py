"""The C++ client over REST against the local server, and against servers that misbehave."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from serving import native
from serving.bundle import discover, read_bundle
from serving.errors import ServingError
from serving.runtime import load
from serving.server import Server
from trackkeras.domain import Rows, find_task
from trackkeras.domains.extrapolation.inference_baselines import INPUTS, simulated

pytestmark = pytest.mark.skipif(native.find_compiler() is None, reason="there is no C++ compiler")

TASK = find_task("extrapolation", "mlp")
SIGNATURES = {
    "serving_default": TASK.signature(),
    **{name: each.signature for name, each in TASK.endpoints().items()},
}
MODEL = "mlp_tiny-small"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> native.Program:
    return native.Program(native.build("apply", tmp_path_factory.mktemp("programs")))


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Server]:
    with Server(discover([bundle]), rest_port=0, grpc_port=0) as running:
        yield running


@pytest.fixture(scope="module")
def rows() -> Rows:
    tracks = simulated(700, seed=4)
    return {name: tracks[name] for name in INPUTS}


def ask(
    program: native.Program, address: str, rows: Rows, name: str = "serving_default", batch: int = 300
) -> Rows:
    signature = SIGNATURES[name]
    return program.apply("rest", address, rows, signature.inputs, signature.outputs, name, batch)


@pytest.mark.parametrize("name", SIGNATURES)
@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_answers_are_those_of_the_engine_to_the_last_bit(
    program: native.Program, server: Server, bundle: Path, rows: Rows, name: str, version: str
) -> None:
    got = ask(program, f"{server.rest_url}/v1/models/{MODEL}{version}", rows, name)
    backend = load(read_bundle(bundle))
    for start in range(0, 700, 300):
        part = {key: column[start : start + 300] for key, column in rows.items()}
        for key, expected in backend.run(name, part).items():
            np.testing.assert_array_equal(got[key][start : start + 300], expected)


def test_what_goes_wrong_is_one_line(program: native.Program, server: Server, rows: Rows) -> None:
    few = {name: column[:3].copy() for name, column in rows.items()}
    url = f"{server.rest_url}/v1/models"
    with pytest.raises(ServingError, match="the server answers 404: no model named 'nothing'"):
        ask(program, f"{url}/nothing", few)
    with pytest.raises(ServingError, match="has no version 7; it has 1"):
        ask(program, f"{url}/{MODEL}/versions/7", few)
    tensors = SIGNATURES["serving_default"]
    with pytest.raises(ServingError, match=r"no signature 'other'; it has: .*serving_default"):
        program.apply("rest", f"{url}/{MODEL}", few, tensors.inputs, tensors.outputs, "other")
    for address in (
        f"{url.replace('http', 'https')}/{MODEL}",
        server.rest_url,
        server.grpc_target,
        "http://a/v1",
    ):
        with pytest.raises(ServingError, match=r"a served model is http://HOST:PORT/v1/models/NAME"):
            ask(program, address, few)
    with pytest.raises(ServingError, match="cannot find nowhere"):
        ask(program, f"http://nowhere.invalid:1/v1/models/{MODEL}", few)
    few["state"][1, 2] = np.nan
    with pytest.raises(ServingError, match="state has a number that is not finite"):
        ask(program, f"{url}/{MODEL}", few)


def test_a_port_where_nobody_listens(program: native.Program, rows: Rows) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and never listening
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/v1/models/{MODEL}"
        with pytest.raises(ServingError, match=r"cannot connect to 127\.0\.0\.1:.*refused"):
            ask(program, address, {name: column[:1] for name, column in rows.items()})


# -- servers that misbehave --------------------------------------------------------------------------------


def metadata() -> str:
    def side(tensors: tuple) -> dict:
        return {
            tensor.name: {
                "dtype": "DT_FLOAT",
                "tensor_shape": {"dim": [{"size": str(size), "name": ""} for size in (-1, *tensor.shape)]},
            }
            for tensor in tensors
        }

    signature = SIGNATURES["serving_default"]
    both = {"inputs": side(signature.inputs), "outputs": side(signature.outputs), "method_name": "\u00e9\n"}
    # as TensorFlow Serving has it: a signature with a tensor of no type, which nobody asked for
    init = {"inputs": {}, "outputs": {"x": {"dtype": "DT_INVALID", "tensor_shape": {"unknown_rank": True}}}}
    signatures = {"__saved_model_init_op": init, "serving_default": both}
    return json.dumps({"metadata": {"signature_def": {"signature_def": signatures}}, "model_spec": None})


def http(body: str, status: str = "200 OK", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-LENGTH:{len(body)}\r\n{more}\r\n{body}".encode()


@contextmanager
def answering(*connections: list[bytes]) -> Iterator[str]:
    """Answer one request after the other, on one connection after the other, whatever is asked."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for answers in connections:
            connection, _ = listener.accept()
            with connection:
                for answer in answers:
                    data = b""
                    while b"\r\n\r\n" not in data:
                        data += connection.recv(65536)
                    head, _, body = data.partition(b"\r\n\r\n")
                    length = int(head.lower().partition(b"content-length:")[2].split()[0])
                    while len(body) < length:
                        body += connection.recv(65536)
                    for byte in range(0, len(answer), 7):  # in small parts
                        connection.sendall(answer[byte : byte + 7])

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1/models/any"
    finally:
        listener.close()
        thread.join(timeout=5)


ANSWER = json.dumps({"outputs": [[1, -2.5, 3e-3, 4, 5]]})


def one_row(rows: Rows) -> Rows:
    return {name: column[:1] for name, column in rows.items()}


@pytest.mark.parametrize("close", ["", "Connection: close\r\n"])
def test_a_closed_connection_is_opened_again(program: native.Program, rows: Rows, close: str) -> None:
    with answering([http(metadata(), more=close)], [http(ANSWER)]) as address:
        got = ask(program, address, one_row(rows))
    np.testing.assert_array_equal(got["final_state"], np.float32([[1, -2.5, 3e-3, 4, 5]]))


def test_numbers_that_are_not_finite_arrive(program: native.Program, rows: Rows) -> None:
    answer = '{"outputs": {"final_state": [[NaN, Infinity, -Infinity, -1e-45, 2]]}, "more": [true, null, {}]}'
    with answering([http(metadata()), http(answer)]) as address:
        got = ask(program, address, one_row(rows))
    np.testing.assert_array_equal(got["final_state"], np.float32([[np.nan, np.inf, -np.inf, -1e-45, 2]]))


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([b"SSH-2.0-server\r\n\r\n"], "does not speak HTTP"),
        ([b"HTTP/1.1 200 OK\r\n\r\n{}"], "without a Content-Length"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}"], "closed the connection within its answer"),
        ([b""], "closed the connection without an answer"),
        ([http("{")], "no JSON as expected, at byte 1"),
        ([http("[" * 100_000)], "no JSON as expected"),
        ([http("{}")], "no signature 'serving_default'; it has: none$"),
        ([http("busy\nnow", "503 Service Unavailable")], "the server answers 503: busy$"),
        ([http(metadata()), http('{"outputs": [[1, 2, 3, 4]]}')], "final_state has 4 numbers instead of 5"),
        ([http(metadata()), http('{"outputs": {"other": [[1]]}}')], "final_state has 0 numbers instead of 5"),
        ([http(metadata()), http('{"outputs": ' + "[" * 100_000)], "no JSON as expected"),
        ([http(metadata()), http('{"outputs": [[1, "x"]]}')], "no JSON as expected"),
        ([http(metadata().replace("DT_FLOAT", "DT_STRING"))], "neither a float32 nor an int32"),
    ],
)
def test_answers_that_make_no_sense(
    program: native.Program, rows: Rows, answers: list[bytes], message: str
) -> None:
    with answering(answers) as address, pytest.raises(ServingError, match=message):
        ask(program, address, one_row(rows))
