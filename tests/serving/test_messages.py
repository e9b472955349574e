"""Our messages against the official ones, and tensors against TensorFlow's own encoder and decoder."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import saved_model_pb2  # noqa: F401  (registers SavedModel)
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
    prediction_log_pb2,  # noqa: F401  (registers PredictionLog)
)
from tensorflow_serving.config import model_server_config_pb2  # noqa: F401  (registers ModelServerConfig)

from serving import messages
from serving.errors import Code, ServingError
from serving.tensors import decode, encode

OFFICIAL = descriptor_pool.Default()

DTYPES = [
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
]


def official_class(name):
    return message_factory.GetMessageClass(OFFICIAL.FindMessageTypeByName(name))


def facts(field):
    oneof = field.containing_oneof
    kind = field.message_type or field.enum_type
    return (
        field.number,
        field.type,
        field.is_repeated,
        field.is_packed,
        kind.full_name if kind else None,
        oneof.name if oneof else None,
    )


WITHOUT_STUB = {
    # the package of official stubs leaves these out
    "tensorflow.serving.BatchingParameters",
    "tensorflow.serving.PrometheusConfig",
    "tensorflow.serving.MonitoringConfig",
    "grpc.health.v1.HealthCheckRequest",
    "grpc.health.v1.HealthCheckResponse",
    "grpc.health.v1.HealthCheckResponse.ServingStatus",
}


def test_messages_without_a_stub_have_none():
    for name in WITHOUT_STUB:
        with pytest.raises(KeyError):
            OFFICIAL.FindMessageTypeByName(name)


@pytest.mark.parametrize("name", sorted(messages._MESSAGES.keys() - WITHOUT_STUB))
def test_every_field_is_the_official_one(name):
    ours = messages.POOL.FindMessageTypeByName(name)
    official = OFFICIAL.FindMessageTypeByName(name)
    for field in ours.fields:
        assert facts(field) == facts(official.fields_by_name[field.name]), field.full_name


@pytest.mark.parametrize("name", sorted(messages._ENUMS.keys() - WITHOUT_STUB))
def test_every_enum_value_is_the_official_one(name):
    official = OFFICIAL.FindEnumTypeByName(name).values_by_name
    ours = messages.POOL.FindEnumTypeByName(name).values_by_name
    assert {key: value.number for key, value in ours.items()}.items() <= {
        key: value.number for key, value in official.items()
    }.items()


def official_messages():
    request = predict_pb2.PredictRequest(output_filter=["a", "b"])
    request.model_spec.CopyFrom(model_pb2.ModelSpec(name="µ", signature_name="s"))
    request.model_spec.version.value = 2**40
    for name in ("z0", "state", "dz"):
        request.inputs[name].CopyFrom(tf.make_tensor_proto(np.ones((3, 5), np.float32)))
    request.inputs["list"].float_val.extend([1.5, -2.0])
    labelled = predict_pb2.PredictRequest(model_spec=model_pb2.ModelSpec(version_label="stable"))
    response = predict_pb2.PredictResponse(model_spec=request.model_spec)
    response.outputs["final_state"].CopyFrom(tf.make_tensor_proto([[1, 2]]))
    status = get_model_status_pb2.GetModelStatusResponse()
    status.model_version_status.add(version=7, state=30, status={"error_code": 5, "error_message": "gone"})
    signatures = get_model_metadata_pb2.SignatureDefMap()
    info = signatures.signature_def["serving_default"].inputs["state"]
    info.name, info.dtype = "state:0", 1
    info.tensor_shape.dim.add(size=-1)
    metadata = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=request.model_spec)
    metadata.metadata["signature_def"].Pack(signatures)
    return [request, labelled, response, status, signatures, metadata]


@pytest.mark.parametrize("official", official_messages(), ids=lambda message: message.DESCRIPTOR.name)
def test_bytes_round_trip_through_our_messages(official):
    wire = official.SerializeToString(deterministic=True)
    ours = messages.message_class(official.DESCRIPTOR.full_name).FromString(wire)
    assert ours.SerializeToString(deterministic=True) == wire
    assert str(ours) == str(official)


def test_bytes_written_by_us_are_read_officially():
    ours = messages.PredictRequest(output_filter=["final_state"])
    ours.model_spec.name = "transport"
    ours.model_spec.version.value = 3
    ours.inputs["state"].CopyFrom(encode(np.arange(10, dtype=np.float32).reshape(2, 5)))
    wire = ours.SerializeToString(deterministic=True)
    official = predict_pb2.PredictRequest.FromString(wire)
    assert official.SerializeToString(deterministic=True) == wire
    assert official.model_spec.version.value == 3
    np.testing.assert_array_equal(tf.make_ndarray(official.inputs["state"]), np.arange(10).reshape(2, 5))


def test_undeclared_fields_survive():
    official = predict_pb2.PredictRequest(client_id=b"someone")
    ours = messages.PredictRequest.FromString(official.SerializeToString())
    assert predict_pb2.PredictRequest.FromString(ours.SerializeToString()).client_id == b"someone"


def test_any_resolves_in_both_worlds():
    ours = messages.GetModelMetadataResponse()
    packed = messages.SignatureDefMap()
    packed.signature_def["s"].method_name = "m"
    ours.metadata["signature_def"].Pack(packed)
    official = get_model_metadata_pb2.GetModelMetadataResponse.FromString(ours.SerializeToString())
    unpacked = get_model_metadata_pb2.SignatureDefMap()
    assert official.metadata["signature_def"].Unpack(unpacked)
    assert unpacked.signature_def["s"].method_name == "m"


arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)


@given(arrays)
@settings(deadline=None, max_examples=150)
def test_encoded_arrays_are_what_tensorflow_reads(array):
    proto = encode(array)
    read = tf.make_ndarray(tensor_pb2.TensorProto.FromString(proto.SerializeToString()))
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array, strict=True)
    np.testing.assert_array_equal(decode(proto, "a"), array, strict=True)


@given(arrays)
@settings(deadline=None, max_examples=150)
def test_arrays_encoded_by_tensorflow_are_read(array):
    official = tf.make_tensor_proto(array)
    ours = messages.TensorProto.FromString(official.SerializeToString())
    np.testing.assert_array_equal(decode(ours, "a"), array, strict=True)


def test_non_contiguous_and_big_endian_arrays():
    array = np.arange(12, dtype=">f4").reshape(3, 4).T
    np.testing.assert_array_equal(decode(encode(array), "a"), array)


LISTS = {
    "DT_FLOAT": ("float_val", st.floats(width=32, allow_nan=False)),
    "DT_DOUBLE": ("double_val", st.floats(allow_nan=False)),
    "DT_INT32": ("int_val", st.integers(-(2**31), 2**31 - 1)),
    "DT_INT8": ("int_val", st.integers(-128, 127)),
    "DT_UINT8": ("int_val", st.integers(0, 255)),
    "DT_INT64": ("int64_val", st.integers(-(2**63), 2**63 - 1)),
    "DT_UINT64": ("uint64_val", st.integers(0, 2**64 - 1)),
    "DT_BOOL": ("bool_val", st.booleans()),
    "DT_HALF": ("half_val", st.integers(0, 0x7BFF)),
}


@given(
    st.sampled_from(sorted(LISTS)).flatmap(
        lambda name: st.tuples(st.just(name), st.lists(LISTS[name][1], max_size=6))
    ),
    st.sampled_from([(6,), (2, 3), (7,), (3, 3, 2)]),
)
@settings(deadline=None, max_examples=150)
def test_typed_lists_are_filled_as_tensorflow_fills_them(typed_list, shape):
    name, values = typed_list
    proto = messages.TensorProto(dtype=messages.DATA_TYPES[name])
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    getattr(proto, LISTS[name][0]).extend(values)
    wanted = tf.io.parse_tensor(proto.SerializeToString(), tf.dtypes.as_dtype(proto.dtype)).numpy()
    np.testing.assert_array_equal(decode(proto, "a"), wanted, strict=True)


def proto(dtype=1, shape=(2,), **fields):
    message = messages.TensorProto(dtype=dtype, **fields)
    for size in shape:
        message.tensor_shape.dim.add(size=size)
    return message


@pytest.mark.parametrize(
    ("message", "code", "words"),
    [
        (proto(tensor_content=b"1234567"), Code.INVALID_ARGUMENT, "7 bytes"),
        (proto(float_val=[1, 2, 3]), Code.INVALID_ARGUMENT, "3 values"),
        (proto(shape=(-1,)), Code.INVALID_ARGUMENT, "shape"),
        (proto(dtype=7, string_val=[b"a"]), Code.INVALID_ARGUMENT, "DT_STRING"),
        (proto(dtype=0), Code.INVALID_ARGUMENT, "DT_INVALID"),
        (proto(dtype=99), Code.INVALID_ARGUMENT, "99"),
        (proto(dtype=6, int_val=[300]), Code.INVALID_ARGUMENT, "int8"),
        (proto(shape=(10**9, 10**9), float_val=[1]), Code.RESOURCE_EXHAUSTED, "bytes"),
        (proto(shape=(0, 2**40, 2**40)), Code.INVALID_ARGUMENT, "large"),
        (proto(shape=(1,) * 100, float_val=[1]), Code.INVALID_ARGUMENT, "large"),
        (messages.TensorProto(dtype=1, tensor_shape={"unknown_rank": True}), Code.INVALID_ARGUMENT, "rank"),
    ],
)
def test_broken_tensors(message, code, words):
    with pytest.raises(ServingError, match=words) as raised:
        decode(message, "state", max_bytes=10**6)
    assert raised.value.code is code
    assert str(raised.value).startswith("state: ")


def test_text_cannot_be_sent():
    with pytest.raises(ServingError, match="str"):
        encode(np.array(["a"]))
