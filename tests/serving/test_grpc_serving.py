"""The gRPC server against the official stubs and our client."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving import rpc
from serving.client import Client, Retry
from serving.errors import Code, ServingError


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.grpc_target) as channel:
        yield channel


@pytest.fixture(scope="module")
def official(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def client(server):
    with Client(server.grpc_target) as client:
        yield client


def request_of(inputs, name="transport", version=None, signature="", **fields):
    request = predict_pb2.PredictRequest(model_spec={"name": name, "signature_name": signature}, **fields)
    if version is not None:
        request.model_spec.version.value = version
    for key, array in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(array))
    return request


def arrays(response):
    return {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}


# -- the official client -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "answers"), [(None, 10), (1, 1), (2, 2), (10, 10)])
def test_official_predict(official, transport, version, answers):
    inputs = transport.tracks(7)
    response = official.Predict(request_of(inputs, version=version), timeout=10)
    transport.check(arrays(response), inputs, answers)
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("transport", answers, "serving_default")


def test_official_predict_with_typed_lists(official, transport):
    inputs = transport.tracks(4)
    inputs["z0"][:] = 100
    inputs["dz"][1:] = inputs["dz"][1]
    request = request_of({"state": inputs["state"]})
    for name, count in (("z0", 1), ("dz", 2)):  # shorter than the tensor: the last value repeats
        request.inputs[name].CopyFrom(tf.make_tensor_proto(inputs[name]))
        request.inputs[name].ClearField("tensor_content")
        request.inputs[name].float_val.extend(inputs[name][:count, 0])
    transport.check(arrays(official.Predict(request, timeout=10)), inputs)


def test_official_output_filter(official):
    hits = {"hits": np.float32([[1, 2, 3]])}
    response = official.Predict(request_of(hits, "sums", output_filter=["total"]), timeout=10)
    assert {name: array.tolist() for name, array in arrays(response).items()} == {"total": [6.0]}


def test_official_metadata_is_that_of_the_saved_model(official, bundles):
    request = get_model_metadata_pb2.GetModelMetadataRequest(
        model_spec={"name": "transport"}, metadata_field=["signature_def"]
    )
    response = official.GetModelMetadata(request, timeout=10)
    assert (response.model_spec.name, response.model_spec.version.value) == ("transport", 10)
    answered = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(answered)
    saved = tf.compat.v1.saved_model.load
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        wanted = saved(session, ["serve"], str(bundles / "transport/10")).signature_def["serving_default"]
    ours = answered.signature_def["serving_default"]
    for side in ("inputs", "outputs"):
        for name, info in getattr(wanted, side).items():
            mine = getattr(ours, side)[name]
            assert (mine.name, mine.dtype, mine.tensor_shape) == (info.name, info.dtype, info.tensor_shape)
    assert ours.method_name == wanted.method_name


@pytest.mark.parametrize(("version", "wanted"), [(None, [10, 2, 1]), (2, [2])])
def test_official_status(channel, version, wanted):
    request = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": "transport"})
    if version is not None:
        request.model_spec.version.value = version
    response = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, timeout=10)
    assert [item.version for item in response.model_version_status] == wanted
    assert {item.state for item in response.model_version_status} == {
        get_model_status_pb2.ModelVersionStatus.State.AVAILABLE
    }
    assert {item.status.error_code for item in response.model_version_status} == {0}


# -- malformed requests ------------------------------------------------------------------------------------


def changed(transport, **changes):
    inputs = {**transport.tracks(3), **changes}
    return {name: array for name, array in inputs.items() if array is not None}


def column(rows, dtype=np.float32):
    return np.zeros((rows, 1), dtype)


INVALID, NOT_FOUND, EXHAUSTED = Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("changes", "options", "code", "words"),
    [
        ({"dz": None}, {}, INVALID, "missing input 'dz'; expected state, z0, dz"),
        ({"dzz": column(3)}, {}, INVALID, "unknown input 'dzz'"),
        ({"dz": np.zeros(3, np.float32)}, {}, INVALID, "'dz' must have shape [-1, 1], received [3]"),
        ({"state": np.zeros((3, 4), np.float32)}, {}, INVALID, "received [3, 4]"),
        ({"dz": column(3, np.float64)}, {}, INVALID, "'dz' must be float32, received float64"),
        ({"dz": column(3, np.int32)}, {}, INVALID, "received int32"),
        ({"dz": np.full((3, 1), "far")}, {}, INVALID, "DT_STRING"),
        ({"dz": column(2)}, {}, INVALID, "same number of rows, received state 3, z0 3, dz 2"),
        (
            {},
            {"name": "transports"},
            NOT_FOUND,
            "no model named 'transports'; this server has sums, transport",
        ),
        ({}, {"name": ""}, INVALID, "names no model"),
        ({}, {"version": 3}, NOT_FOUND, "no version 3; it has 1, 2, 10"),
        ({}, {"version": -1}, NOT_FOUND, "no version -1"),
        ({}, {"signature": "slopes"}, INVALID, "no signature 'slopes'; it has serving_default"),
        ({}, {"output_filter": ["final"]}, INVALID, "unknown output 'final'"),
        (
            {"state": np.zeros((5001, 5), np.float32), "dz": column(5001), "z0": column(5001)},
            {},
            EXHAUSTED,
            "5001 rows",
        ),
        ({"state": np.zeros((60000, 5), np.float32)}, {}, EXHAUSTED, "larger than max"),
    ],
)
def test_malformed_predict(official, transport, changes, options, code, words):
    with pytest.raises(grpc.RpcError) as raised:
        official.Predict(request_of(changed(transport, **changes), **options), timeout=10)
    assert raised.value.code().name == code.name
    assert words in raised.value.details()
    assert "\n" not in raised.value.details()
    inputs = transport.tracks(1)
    transport.check(arrays(official.Predict(request_of(inputs), timeout=10)), inputs)


@given(
    st.tuples(
        st.sampled_from(["float32", "float64", "int32", "bool"]),
        st.lists(st.integers(0, 4), max_size=3).map(tuple) | st.just((3, 1)),
    )
)
@settings(deadline=None, max_examples=60)
def test_only_the_declared_type_and_shape_are_accepted(client, transport, drawn):
    dtype, shape = drawn
    inputs = {**transport.tracks(3), "dz": np.ones(shape, dtype)}
    if drawn == ("float32", (3, 1)):
        transport.check(client.predict("transport", inputs), inputs)
    else:
        with pytest.raises(ServingError) as raised:
            client.predict("transport", inputs)
        assert raised.value.code is INVALID


def test_a_short_list_cannot_stand_for_a_huge_tensor(official, transport):
    request = request_of(transport.tracks(1))
    request.inputs["dz"].tensor_shape.dim[0].size = 10**12
    request.inputs["dz"].ClearField("tensor_content")
    request.inputs["dz"].float_val.append(1)
    with pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED"):
        official.Predict(request, timeout=10)


@pytest.mark.parametrize("path", [rpc.PREDICT, rpc.METADATA, rpc.STATUS])
@given(body=st.binary(min_size=1, max_size=64))
@settings(deadline=None, max_examples=30)
def test_random_bytes_are_refused(channel, path, body):
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(path)(body, timeout=10)
    assert raised.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)


@pytest.mark.parametrize(
    ("path", "request_", "words"),
    [
        (rpc.METADATA, {"model_spec": {"name": "sums"}}, "metadata_field must be"),
        (rpc.METADATA, {"model_spec": {"name": "sums"}, "metadata_field": ["weights"]}, "'weights'"),
        (
            rpc.METADATA,
            {"model_spec": {"name": "sums", "version_label": "stable"}, "metadata_field": ["signature_def"]},
            "no version labels",
        ),
    ],
)
def test_malformed_metadata(channel, path, request_, words):
    body = get_model_metadata_pb2.GetModelMetadataRequest(**request_).SerializeToString()
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(path)(body, timeout=10)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in raised.value.details()


def test_other_methods_are_unimplemented(channel):
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary("/tensorflow.serving.PredictionService/Classify")(b"", timeout=10)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


# -- our client --------------------------------------------------------------------------------------------


@given(rows=st.integers(0, 40), seed=st.integers(0, 99), version=st.sampled_from([None, 1, 2, 10]))
@settings(deadline=None, max_examples=60)
def test_client_predict(client, transport, rows, seed, version):
    inputs = transport.tracks(rows, seed)
    transport.check(client.predict("transport", inputs, version), inputs, version or 10)


def test_rows_do_not_influence_each_other(client, transport):
    inputs = transport.tracks(9)
    together = client.predict("transport", inputs)["final_state"]
    alone = [
        client.predict("transport", {key: array[i : i + 1] for key, array in inputs.items()})["final_state"]
        for i in range(9)
    ]
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_client_status_and_metadata(client):
    assert client.status("transport") == {10: "AVAILABLE", 2: "AVAILABLE", 1: "AVAILABLE"}
    assert client.status("transport", 2) == {2: "AVAILABLE"}
    metadata = client.metadata("transport", 2)
    assert (metadata.name, metadata.version) == ("transport", 2)
    signature = metadata.signatures["serving_default"]
    assert {name: str(spec) for name, spec in signature.inputs.items()} == {
        "dz": "float32[-1, 1]",
        "state": "float32[-1, 5]",
        "z0": "float32[-1, 1]",
    }
    assert {name: str(spec) for name, spec in signature.outputs.items()} == {"final_state": "float32[-1, 5]"}


def test_nan_passes_as_in_tensorflow_serving(client, transport):
    inputs = transport.tracks(3)
    inputs["state"][1, 0] = np.nan
    final = client.predict("transport", inputs)["final_state"]
    assert np.isnan(final[1]).any()
    assert np.isfinite(final[[0, 2]]).all()


def test_client_errors_are_one_line_with_the_servers_words(client, server, transport):
    with pytest.raises(ServingError) as raised:
        client.predict("transport", transport.tracks(2), version=5)
    assert raised.value.code is Code.NOT_FOUND
    assert str(raised.value) == (
        f"{server.grpc_target}: NOT_FOUND: model 'transport' has no version 5; it has 1, 2, 10"
    )


def test_a_long_name_gives_a_short_answer(client, transport):
    with pytest.raises(ServingError, match="no model named 'xxx") as raised:
        client.predict("x" * 100_000, transport.tracks(1))
    assert raised.value.code is Code.NOT_FOUND
    assert len(str(raised.value)) <= 500


def test_concurrent_requests_get_their_own_answers(client, transport):
    def ask(seed):
        inputs = transport.tracks(1 + seed % 17, seed)
        version = (1, 2, 10)[seed % 3]
        transport.check(client.predict("transport", inputs, version), inputs, version)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(200)))


@pytest.mark.parametrize("target", ["", "localhost", "http://127.0.0.1:8500", "127.0.0.1:port"])
def test_a_bad_address(target):
    with pytest.raises(ServingError, match="host:port"):
        Client(target)


def test_retry_ends_with_the_servers_state():
    client = Client("127.0.0.1:1", Retry(attempts=3, wait=0.01))
    with client, pytest.raises(ServingError, match="UNAVAILABLE") as raised:
        client.status("transport", timeout=5)
    assert raised.value.code is Code.UNAVAILABLE


def failing(*codes):
    """A call that fails with these codes, then succeeds; and the list of its calls."""
    left, calls = list(codes), []

    def call(seconds):
        calls.append(seconds)
        if left:
            raise ServingError("no", left.pop(0))
        return "answer"

    return call, calls


def test_retry():
    down = Code.UNAVAILABLE
    retry = Retry(attempts=3, wait=0.001)
    call, calls = failing(down, down)
    assert retry.run(call, 5) == "answer"
    assert len(calls) == 3
    assert calls == sorted(calls, reverse=True)  # the attempts share one deadline
    call, calls = failing(down, down, down)
    with pytest.raises(ServingError):
        retry.run(call, 5)
    assert len(calls) == 3
    call, calls = failing(Code.INVALID_ARGUMENT)
    with pytest.raises(ServingError):
        retry.run(call, 5)
    assert len(calls) == 1
    call, calls = failing(down)
    with pytest.raises(ServingError):
        Retry(attempts=3, wait=10).run(call, 1)
    assert len(calls) == 1
