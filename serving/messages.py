"""The protobuf messages of TensorFlow Serving, declared as data and built without TensorFlow.

The official Python stubs import TensorFlow, which takes seconds. The messages needed here are few, so their
field names, numbers and types stand below as a table and are built in a descriptor pool of their own: names
and bytes equal those of the official ones, and both can live in one process. Fields that the table leaves out
are kept as unknown fields, as protobuf does.

Source of the numbers: the `.proto` files in `tensorflow/core/{framework,protobuf}` and
`tensorflow_serving/{apis,config}`, `tensorflow_serving/servables/tensorflow/session_bundle_config.proto` and
`grpc/health/v1/health.proto`.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

_Field = tuple[int, str] | tuple[int, str, str]
"""`(number, type)` or `(number, type, oneof)`; a type may begin with `repeated` or `map` (string keys)."""

_POLICY = "tensorflow.serving.FileSystemStoragePathSourceConfig.ServableVersionPolicy"

_MESSAGES: dict[str, dict[str, _Field]] = {
    # -- tensors and signatures --
    "tensorflow.TensorShapeProto": {
        "dim": (2, "repeated tensorflow.TensorShapeProto.Dim"),
        "unknown_rank": (3, "bool"),
    },
    "tensorflow.TensorShapeProto.Dim": {"size": (1, "int64"), "name": (2, "string")},
    "tensorflow.TensorProto": {
        "dtype": (1, "tensorflow.DataType"),
        "tensor_shape": (2, "tensorflow.TensorShapeProto"),
        "version_number": (3, "int32"),
        "tensor_content": (4, "bytes"),
        "float_val": (5, "repeated float"),
        "double_val": (6, "repeated double"),
        "int_val": (7, "repeated int32"),
        "string_val": (8, "repeated bytes"),
        "int64_val": (10, "repeated int64"),
        "bool_val": (11, "repeated bool"),
        "half_val": (13, "repeated int32"),
        "uint32_val": (16, "repeated uint32"),
        "uint64_val": (17, "repeated uint64"),
    },
    "tensorflow.TensorInfo": {
        "name": (1, "string", "encoding"),
        "dtype": (2, "tensorflow.DataType"),
        "tensor_shape": (3, "tensorflow.TensorShapeProto"),
    },
    "tensorflow.SignatureDef": {
        "inputs": (1, "map tensorflow.TensorInfo"),
        "outputs": (2, "map tensorflow.TensorInfo"),
        "method_name": (3, "string"),
        "defaults": (4, "map tensorflow.TensorProto"),
    },
    "tensorflow.MetaGraphDef": {"signature_def": (5, "map tensorflow.SignatureDef")},
    "tensorflow.SavedModel": {
        "saved_model_schema_version": (1, "int64"),
        "meta_graphs": (2, "repeated tensorflow.MetaGraphDef"),
    },
    # -- requests and responses --
    "tensorflow.serving.ModelSpec": {
        "name": (1, "string"),
        "version": (2, "google.protobuf.Int64Value", "version_choice"),
        "signature_name": (3, "string"),
        "version_label": (4, "string", "version_choice"),
    },
    "tensorflow.serving.PredictRequest": {
        "model_spec": (1, "tensorflow.serving.ModelSpec"),
        "inputs": (2, "map tensorflow.TensorProto"),
        "output_filter": (3, "repeated string"),
    },
    "tensorflow.serving.PredictResponse": {
        "outputs": (1, "map tensorflow.TensorProto"),
        "model_spec": (2, "tensorflow.serving.ModelSpec"),
    },
    "tensorflow.serving.SignatureDefMap": {"signature_def": (1, "map tensorflow.SignatureDef")},
    "tensorflow.serving.GetModelMetadataRequest": {
        "model_spec": (1, "tensorflow.serving.ModelSpec"),
        "metadata_field": (2, "repeated string"),
    },
    "tensorflow.serving.GetModelMetadataResponse": {
        "model_spec": (1, "tensorflow.serving.ModelSpec"),
        "metadata": (2, "map google.protobuf.Any"),
    },
    "tensorflow.serving.GetModelStatusRequest": {"model_spec": (1, "tensorflow.serving.ModelSpec")},
    "tensorflow.serving.StatusProto": {
        "error_code": (1, "tensorflow.error.Code"),
        "error_message": (2, "string"),
    },
    "tensorflow.serving.ModelVersionStatus": {
        "version": (1, "int64"),
        "state": (2, "tensorflow.serving.ModelVersionStatus.State"),
        "status": (3, "tensorflow.serving.StatusProto"),
    },
    "tensorflow.serving.GetModelStatusResponse": {
        "model_version_status": (1, "repeated tensorflow.serving.ModelVersionStatus"),
    },
    # -- models.config --
    _POLICY: {
        "latest": (100, f"{_POLICY}.Latest", "policy_choice"),
        "all": (101, f"{_POLICY}.All", "policy_choice"),
        "specific": (102, f"{_POLICY}.Specific", "policy_choice"),
    },
    f"{_POLICY}.Latest": {"num_versions": (1, "uint32")},
    f"{_POLICY}.All": {},
    f"{_POLICY}.Specific": {"versions": (1, "repeated int64")},
    "tensorflow.serving.ModelConfig": {
        "name": (1, "string"),
        "base_path": (2, "string"),
        "model_platform": (4, "string"),
        "model_version_policy": (7, _POLICY),
    },
    "tensorflow.serving.ModelConfigList": {"config": (1, "repeated tensorflow.serving.ModelConfig")},
    "tensorflow.serving.ModelServerConfig": {
        "model_config_list": (1, "tensorflow.serving.ModelConfigList", "config"),
    },
    # -- batching and monitoring configuration --
    "tensorflow.serving.BatchingParameters": {
        "max_batch_size": (1, "google.protobuf.Int64Value"),
        "batch_timeout_micros": (2, "google.protobuf.Int64Value"),
        "max_enqueued_batches": (3, "google.protobuf.Int64Value"),
        "num_batch_threads": (4, "google.protobuf.Int64Value"),
        "allowed_batch_sizes": (6, "repeated int64"),
    },
    "tensorflow.serving.PrometheusConfig": {"enable": (1, "bool"), "path": (2, "string")},
    "tensorflow.serving.MonitoringConfig": {
        "prometheus_config": (1, "tensorflow.serving.PrometheusConfig"),
    },
    # -- warm-up records --
    "tensorflow.serving.PredictLog": {
        "request": (1, "tensorflow.serving.PredictRequest"),
        "response": (2, "tensorflow.serving.PredictResponse"),
    },
    "tensorflow.serving.PredictionLog": {
        "predict_log": (6, "tensorflow.serving.PredictLog", "log_type"),
    },
    # -- health --
    "grpc.health.v1.HealthCheckRequest": {"service": (1, "string")},
    "grpc.health.v1.HealthCheckResponse": {
        "status": (1, "grpc.health.v1.HealthCheckResponse.ServingStatus"),
    },
}

_ENUMS: dict[str, dict[str, int]] = {
    "tensorflow.DataType": {
        "DT_INVALID": 0,
        "DT_FLOAT": 1,
        "DT_DOUBLE": 2,
        "DT_INT32": 3,
        "DT_UINT8": 4,
        "DT_INT16": 5,
        "DT_INT8": 6,
        "DT_STRING": 7,
        "DT_INT64": 9,
        "DT_BOOL": 10,
        "DT_UINT16": 17,
        "DT_HALF": 19,
        "DT_UINT32": 22,
        "DT_UINT64": 23,
    },
    "tensorflow.error.Code": {
        "OK": 0,
        "CANCELLED": 1,
        "UNKNOWN": 2,
        "INVALID_ARGUMENT": 3,
        "DEADLINE_EXCEEDED": 4,
        "NOT_FOUND": 5,
        "ALREADY_EXISTS": 6,
        "PERMISSION_DENIED": 7,
        "RESOURCE_EXHAUSTED": 8,
        "FAILED_PRECONDITION": 9,
        "ABORTED": 10,
        "OUT_OF_RANGE": 11,
        "UNIMPLEMENTED": 12,
        "INTERNAL": 13,
        "UNAVAILABLE": 14,
        "DATA_LOSS": 15,
        "UNAUTHENTICATED": 16,
    },
    "tensorflow.serving.ModelVersionStatus.State": {
        "UNKNOWN": 0,
        "START": 10,
        "LOADING": 20,
        "AVAILABLE": 30,
        "UNLOADING": 40,
        "END": 50,
    },
    "grpc.health.v1.HealthCheckResponse.ServingStatus": {
        "UNKNOWN": 0,
        "SERVING": 1,
        "NOT_SERVING": 2,
        "SERVICE_UNKNOWN": 3,
    },
}

_PACKAGES = (
    "tensorflow.error",
    "tensorflow",
    "tensorflow.serving",
    "grpc.health.v1",
)  # each may refer to those before it

_FieldProto = descriptor_pb2.FieldDescriptorProto


def _split(full_name: str) -> tuple[str, list[str]]:
    """Split `tensorflow.serving.A.B` into its package and `["A", "B"]`: types are capitalised."""
    parts = full_name.split(".")
    depth = next(index for index, part in enumerate(parts) if part[0].isupper())
    return ".".join(parts[:depth]), parts[depth:]


def _declare(message: descriptor_pb2.DescriptorProto, full_name: str, name: str, field: _Field) -> None:
    number, kind = field[:2]
    label, _, kind = kind.rpartition(" ")
    declared = message.field.add(name=name, number=number, label=_FieldProto.LABEL_OPTIONAL)
    if label:
        declared.label = _FieldProto.LABEL_REPEATED
    if label == "map":
        entry = message.nested_type.add(name="".join(part.title() for part in name.split("_")) + "Entry")
        entry.options.map_entry = True
        _declare(entry, "", "key", (1, "string"))
        _declare(entry, "", "value", (2, kind))
        kind = f"{full_name}.{entry.name}"
    if "." in kind:
        declared.type_name = f".{kind}"
        declared.type = _FieldProto.TYPE_ENUM if kind in _ENUMS else _FieldProto.TYPE_MESSAGE
    else:
        declared.type = _FieldProto.Type.Value(f"TYPE_{kind.upper()}")
    if len(field) == 3:
        names = [oneof.name for oneof in message.oneof_decl]
        if field[2] not in names:
            message.oneof_decl.add(name=field[2])
        declared.oneof_index = [*names, field[2]].index(field[2])


def _file(package: str, dependencies: list[str]) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package}.proto", package=package, syntax="proto3", dependency=dependencies
    )
    messages: dict[str, descriptor_pb2.DescriptorProto] = {}

    def scope(path: list[str]) -> Any:
        """Return the message at `path`, declared on first use; the file itself for an empty path."""
        if not path:
            return file
        name = ".".join(path)
        if name not in messages:
            outer = scope(path[:-1])
            messages[name] = (outer.nested_type if path[1:] else file.message_type).add(name=path[-1])
        return messages[name]

    for full_name, fields in _MESSAGES.items():
        owner, path = _split(full_name)
        if owner == package:
            message = scope(path)
            for name, field in fields.items():
                _declare(message, full_name, name, field)
    for full_name, values in _ENUMS.items():
        owner, path = _split(full_name)
        if owner == package:
            enum = scope(path[:-1]).enum_type.add(name=path[-1])
            for name, number in values.items():
                enum.value.add(name=name, number=number)
    return file


def _build_pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    files = []
    for module in (wrappers_pb2, any_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
        files.append(module.DESCRIPTOR.name)
    for package in _PACKAGES:
        file = _file(package, files)
        pool.AddSerializedFile(file.SerializeToString())
        files.append(file.name)
    return pool


POOL = _build_pool()
"""The private descriptor pool; also what protobuf's JSON and text formats need to resolve names."""


def message_class(full_name: str) -> Any:
    """Return the class of a message by its full protobuf name, such as `tensorflow.TensorProto`."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(full_name))


TensorProto = message_class("tensorflow.TensorProto")
TensorInfo = message_class("tensorflow.TensorInfo")
SignatureDef = message_class("tensorflow.SignatureDef")
SavedModel = message_class("tensorflow.SavedModel")
ModelSpec = message_class("tensorflow.serving.ModelSpec")
PredictRequest = message_class("tensorflow.serving.PredictRequest")
PredictResponse = message_class("tensorflow.serving.PredictResponse")
SignatureDefMap = message_class("tensorflow.serving.SignatureDefMap")
GetModelMetadataRequest = message_class("tensorflow.serving.GetModelMetadataRequest")
GetModelMetadataResponse = message_class("tensorflow.serving.GetModelMetadataResponse")
GetModelStatusRequest = message_class("tensorflow.serving.GetModelStatusRequest")
GetModelStatusResponse = message_class("tensorflow.serving.GetModelStatusResponse")
ModelServerConfig = message_class("tensorflow.serving.ModelServerConfig")
BatchingParameters = message_class("tensorflow.serving.BatchingParameters")
MonitoringConfig = message_class("tensorflow.serving.MonitoringConfig")
PredictionLog = message_class("tensorflow.serving.PredictionLog")
HealthCheckRequest = message_class("grpc.health.v1.HealthCheckRequest")
HealthCheckResponse = message_class("grpc.health.v1.HealthCheckResponse")

DATA_TYPES = _ENUMS["tensorflow.DataType"]
"""Numbers of `tensorflow.DataType` by name."""

STATES = _ENUMS["tensorflow.serving.ModelVersionStatus.State"]
"""Numbers of the states of a model version by name."""

HEALTH = _ENUMS["grpc.health.v1.HealthCheckResponse.ServingStatus"]
"""Numbers of the answers to a health check by name."""
