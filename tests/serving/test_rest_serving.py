"""The REST server, by plain HTTP and by our client."""

from __future__ import annotations

import http.client
import json
import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from serving.client import Client, RestClient, Retry
from serving.errors import Code, ServingError

PREDICT = "/v1/models/transport:predict"
ROW = {"state": [1, 2, 0.5, 0.25, 0], "z0": [0], "dz": [100]}
FINAL = [501, 252, 0.5, 0.25, 0]  # of version 10


@pytest.fixture
def call(server):
    """Send one request; the connection stays open from call to call."""
    connection = http.client.HTTPConnection(server.host, server.rest_port, timeout=10)

    def send(method, path, body=None, headers=None):
        if isinstance(body, dict):
            body = json.dumps(body)
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        assert response.headers["Content-Type"] == "application/json"
        return response.status, json.loads(response.read())

    yield send
    connection.close()


@pytest.fixture(scope="module")
def client(server):
    with RestClient(server.rest_url) as client:
        yield client


def columns(*rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


# -- well-formed requests ----------------------------------------------------------------------------------


def test_rows_and_columns(call):
    assert call("POST", PREDICT, {"instances": [ROW, ROW]}) == (200, {"predictions": [FINAL, FINAL]})
    assert call("POST", PREDICT, {"inputs": columns(ROW, ROW)}) == (200, {"outputs": [FINAL, FINAL]})


def test_single_input_and_several_outputs(call):
    wanted = [{"total": 6, "double": [2, 4, 6]}, {"total": 1, "double": [0, 0, 2]}]
    hits = [[1, 2, 3], [0, 0, 1]]
    for instances in (hits, [{"hits": row} for row in hits]):
        assert call("POST", "/v1/models/sums:predict", {"instances": instances}) == (
            200,
            {"predictions": wanted},
        )
    for inputs in (hits, {"hits": hits}):
        assert call("POST", "/v1/models/sums:predict", {"inputs": inputs}) == (
            200,
            {"outputs": columns(*wanted)},
        )


@pytest.mark.parametrize(("version", "x"), [(1, 51), (2, 101), (10, 501)])
def test_versions(call, version, x):
    status, answer = call("POST", f"/v1/models/transport/versions/{version}:predict", {"instances": [ROW]})
    assert (status, answer["predictions"][0][0]) == (200, x)


def test_status_is_the_json_form_of_the_official_message(call):
    status, answer = call("GET", "/v1/models/transport")
    assert status == 200
    message = json_format.ParseDict(answer, get_model_status_pb2.GetModelStatusResponse())
    assert [item.version for item in message.model_version_status] == [10, 2, 1]
    item = {"version": "2", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert call("GET", "/v1/models/transport/versions/2") == (200, {"model_version_status": [item]})


def test_metadata_is_the_json_form_of_the_official_message(call):
    status, answer = call("GET", "/v1/models/transport/versions/2/metadata")
    assert status == 200
    assert answer["model_spec"] == {"name": "transport", "signature_name": "", "version": "2"}
    signatures = answer["metadata"]["signature_def"]
    message = json_format.ParseDict(signatures, get_model_metadata_pb2.SignatureDefMap())
    assert sorted(message.signature_def["serving_default"].inputs) == ["dz", "state", "z0"]
    state = signatures["signature_def"]["serving_default"]["inputs"]["state"]
    assert state["dtype"] == "DT_FLOAT"
    assert [dim["size"] for dim in state["tensor_shape"]["dim"]] == ["-1", "5"]


def test_a_query_string_and_a_body_on_get_do_no_harm(call):
    assert call("GET", "/v1/models/transport?x=1", body="ignored")[0] == 200
    assert call("POST", PREDICT + "?x=1", {"instances": [ROW]})[0] == 200


# -- malformed requests ------------------------------------------------------------------------------------


def instances(**changes):
    return {"instances": [ROW, {**ROW, **changes}]}


def inputs(**changes):
    return {"inputs": {**columns(ROW, ROW), **changes}}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        (b"\xff\xfe\xfa", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"instances": [' + "9" * 5000 + "]}", "not valid JSON"),
        ("[1]", "must be a JSON object, received list"),
        ("{}", "either 'instances' or 'inputs', received neither"),
        ({"instance": [ROW]}, "received 'instance'"),
        ({"instances": [ROW], "inputs": {}}, "received 'instances', 'inputs'"),
        ({"instances": [ROW], "version": 2}, "received 'instances', 'version'"),
        ({"instances": [ROW], "signature_name": 3}, "'signature_name' must be a string"),
        ({"instances": [ROW], "signature_name": "slope"}, "no signature 'slope'; it has serving_default"),
        ({"instances": ROW}, "'instances' must be a list"),
        ({"instances": []}, "at least one row"),
        ({"instances": [ROW, 3]}, "row 1: expected an object"),
        ({"instances": [ROW, {"state": 1}]}, "row 1: missing input 'z0', 'dz'"),
        (instances(dzz=[1]), "row 1: unknown input 'dzz'"),
        (instances(dz=1), "'dz' is ragged: its lists differ in length or depth at axis 1"),
        (instances(dz=[1, 2]), "'dz' is ragged"),
        (instances(dz=[[1]]), "received deeper lists"),
        (instances(dz=["1"]), "'dz' must hold numbers (float32), received str"),
        (instances(dz=[None]), "received NoneType"),
        (instances(dz=[True]), "received bool"),
        (instances(dz=[{"b64": ""}]), "received dict"),
        (instances(dz=[1e39]), "'dz': a value does not fit float32"),
        (instances(dz=[10**400]), "'dz': a value does not fit float32"),
        ('{"instances": [{"state": [NaN, 0, 0, 0, 0], "z0": [0], "dz": [0]}]}', "NaN is not a JSON number"),
        ('{"instances": [-Infinity]}', "-Infinity is not a JSON number"),
        ('{"inputs": {"state": [[1e999, 0, 0, 0, 0]], "z0": [[0]], "dz": [[0]]}}', "does not fit float32"),
        ({"inputs": [1]}, "'inputs' must be an object with state, z0, dz"),
        (inputs(dzz=[[1], [2]]), "unknown input 'dzz'"),
        (inputs(dz=[[1]]), "same number of rows, received state 2, z0 2, dz 1"),
        (inputs(dz=[1, 2]), "'dz' must have shape [-1, 1], received [2]"),
        (inputs(dz=1), "'dz' must have shape [-1, 1], received []"),
        (inputs(state=[[1, 2, 3, 4]] * 2), "received [2, 4]"),
        (inputs(state=[[], []]), "received [2, 0]"),
    ],
)
def test_malformed_predict(call, body, words):
    status, answer = call("POST", PREDICT, body)
    assert status == 400, answer
    assert list(answer) == ["error"]
    assert words in answer["error"]
    assert "\n" not in answer["error"]
    assert call("POST", PREDICT, {"instances": [ROW]}) == (200, {"predictions": [FINAL]})


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(ROW)), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("instances", "inputs", "signature_name"), values)))
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_gets_an_answer(call, body):
    status, answer = call("POST", PREDICT, body)
    assert status == 400 or (status == 200 and answer.keys() <= {"predictions", "outputs"}), answer


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/", 404, "no such path: /"),
        ("GET", "/v1/models/", 404, "no such path"),
        ("GET", "//[", 404, "no such path"),
        ("GET", "/v1/models/absent", 404, "no model named 'absent'; this server has sums, transport"),
        ("GET", "/v1/models/%22%0a/metadata", 404, "no model named"),
        ("GET", "/v1/models/transport/versions/3", 404, "no version 3; it has 1, 2, 10"),
        ("GET", "/v1/models/transport/versions/x", 404, "no such path"),
        ("GET", PREDICT, 400, "POST goes to :predict"),
        ("POST", "/v1/models/transport", 400, "POST goes to :predict"),
        ("POST", "/v1/models/absent:predict", 404, "no model named 'absent'"),
        ("POST", "/v1/models/transport/versions/3:predict", 404, "no version 3"),
        ("POST", "/v1/models/transport:classify", 501, "use :predict"),
        ("PUT", PREDICT, 501, "Unsupported method"),
        ("DELETE", "/v1/models/transport", 501, "Unsupported method"),
    ],
)
def test_wrong_paths_and_methods(call, method, path, status, words):
    answer = call(method, path, {"POST": "{}", "PUT": "x" * 10**6}.get(method))
    assert answer[0] == status, answer
    assert words in answer[1]["error"]


def test_bodies_and_rows_over_the_limits(call, limits):
    big = "x" * (limits.max_json_bytes + 1)
    for headers in ({}, {"Expect": "100-continue"}):
        status, answer = call("POST", PREDICT, big, headers)
        assert status == 413
        assert f"at most {limits.max_json_bytes} are allowed" in answer["error"]
    rows = {name: value * 5001 for name, value in columns(ROW).items()}
    status, answer = call("POST", PREDICT, {"inputs": rows})
    assert (status, answer["error"][:9]) == (413, "5001 rows")


def raw(server, text, half_close=False):
    """Send raw bytes and return all that comes back until the server closes."""
    with socket.create_connection((server.host, server.rest_port), timeout=10) as connection:
        connection.sendall(text)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/9.9\r\n\r\n", b"505"),
        (b"GET " + b"a" * 70000 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", b"431"),
        (f"POST {PREDICT} HTTP/1.1\r\n\r\n".encode(), b"411"),
        (f"POST {PREDICT} HTTP/1.1\r\nContent-Length: -1\r\n\r\n".encode(), b"411"),
        (f"POST {PREDICT} HTTP/1.1\r\nContent-Length: ten\r\n\r\n".encode(), b"411"),
        (f"POST {PREDICT} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode(), b"411"),
        (f"POST {PREDICT} HTTP/1.1\r\nContent-Length: {10**17}\r\n\r\n".encode(), b"413"),
    ],
)
def test_broken_http(server, call, text, status):
    answer = raw(server, text, half_close=True)
    assert answer.split()[:2] == [b"HTTP/1.1", status]
    assert b'{"error": "' in answer
    assert call("GET", "/v1/models/transport")[0] == 200


def test_a_client_that_leaves_within_a_body(server, call):
    assert (
        raw(server, f"POST {PREDICT} HTTP/1.1\r\nContent-Length: 99\r\n\r\n{{".encode(), half_close=True)
        == b""
    )
    assert call("GET", "/v1/models/transport")[0] == 200


def test_one_connection_serves_many_calls_with_one_packet_each(server):
    """In separate packets, headers and body would wait for the client's delayed acknowledgement."""
    body = json.dumps({"instances": [ROW]})
    request = f"POST {PREDICT} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    with socket.create_connection((server.host, server.rest_port), timeout=10) as connection:
        for _ in range(20):
            connection.sendall(request)
            packet = connection.recv(65536)
            assert packet.startswith(b"HTTP/1.1 200 OK\r\n")
            assert json.loads(packet.partition(b"\r\n\r\n")[2]) == {"predictions": [FINAL]}


# -- our client --------------------------------------------------------------------------------------------


@given(rows=st.integers(0, 30), seed=st.integers(0, 99), version=st.sampled_from([None, 1, 2, 10]))
@settings(deadline=None, max_examples=60)
def test_client_predict(client, transport, rows, seed, version):
    inputs = transport.tracks(rows, seed)
    transport.check(client.predict("transport", inputs, version), inputs, version or 10)


def test_rest_and_grpc_agree_to_the_last_bit(client, server, transport):
    inputs = transport.tracks(200)
    with Client(server.grpc_target) as other:
        wanted = other.predict("transport", inputs)["final_state"]
        np.testing.assert_array_equal(client.predict("transport", inputs)["final_state"], wanted)
        assert client.status("transport") == other.status("transport")
        assert client.metadata("transport", 1) == other.metadata("transport", 1)
        hits = {"hits": inputs["state"][:, :3]}
        by_rest, by_grpc = client.predict("sums", hits), other.predict("sums", hits)
        assert by_rest.keys() == by_grpc.keys() == {"total", "double"}
        for name, array in by_grpc.items():
            np.testing.assert_array_equal(by_rest[name], array, strict=True)


def test_client_errors(client, transport):
    inputs = transport.tracks(2)
    with pytest.raises(ServingError, match="NOT_FOUND: model 'transport' has no version 7") as raised:
        client.predict("transport", inputs, version=7)
    assert raised.value.code is Code.NOT_FOUND
    with pytest.raises(ServingError, match="INVALID_ARGUMENT: missing input 'dz'"):
        client.predict("transport", {"state": inputs["state"], "z0": inputs["z0"]})
    with pytest.raises(ServingError, match="no signature 'slope'"):
        client.predict("transport", inputs, signature="slope")
    inputs["state"][0] = np.nan
    with pytest.raises(ServingError, match="JSON cannot carry NaN"):
        client.predict("transport", inputs)


def test_concurrent_requests_get_their_own_answers(client, transport):
    def ask(seed):
        inputs = transport.tracks(1 + seed % 17, seed)
        version = (1, 2, 10)[seed % 3]
        transport.check(client.predict("transport", inputs, version), inputs, version)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(100)))


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8501", "https://127.0.0.1", "http://host:port", "http://a/v1"]
)
def test_a_bad_address(url):
    with pytest.raises(ServingError, match="http://host:port"):
        RestClient(url)


def test_an_absent_server_is_unavailable():
    client = RestClient("http://127.0.0.1:1", Retry(attempts=2, wait=0.01))
    with client, pytest.raises(ServingError, match="UNAVAILABLE: cannot be reached") as raised:
        client.status("transport")
    assert raised.value.code is Code.UNAVAILABLE


def test_a_silent_server_runs_into_the_deadline():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = RestClient(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with client, pytest.raises(ServingError, match="no answer in time") as raised:
            client.status("transport", timeout=0.1)
    assert raised.value.code is Code.DEADLINE_EXCEEDED
