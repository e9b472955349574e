"""The gRPC side of the server: TensorFlow Serving's `PredictionService` and `ModelService`, and `Health`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from serving.errors import Code, ServingError
from serving.messages import (
    HEALTH,
    STATES,
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    HealthCheckRequest,
    HealthCheckResponse,
    ModelSpec,
    PredictRequest,
    PredictResponse,
    SignatureDefMap,
)
from serving.repository import Limits, Repository, Servable
from serving.signature import DEFAULT_SIGNATURE, to_signature_def
from serving.tensors import decode, encode

_log = logging.getLogger(__name__)

PREDICT = "/tensorflow.serving.PredictionService/Predict"
METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
CHECK = "/grpc.health.v1.Health/Check"

SIGNATURE_FIELD = "signature_def"
"""The one metadata field that TensorFlow Serving knows."""


def predict(repository: Repository, limits: Limits, request: Any) -> Any:
    """Answer a `PredictRequest`."""
    servable = _find(repository, request.model_spec)
    inputs = {
        name: decode(proto, f"input {name!r}", limits.max_bytes) for name, proto in request.inputs.items()
    }
    signature = request.model_spec.signature_name
    outputs = servable.predict(signature, inputs, limits, request.output_filter)
    response = PredictResponse(model_spec=_spec(servable, signature or DEFAULT_SIGNATURE))
    for name, array in outputs.items():
        response.outputs[name].CopyFrom(encode(array))
    return response


def metadata(repository: Repository, limits: Limits, request: Any) -> Any:
    """Answer a `GetModelMetadataRequest`."""
    if set(request.metadata_field) != {SIGNATURE_FIELD}:
        received = list(request.metadata_field)
        raise ServingError(f"metadata_field must be [{SIGNATURE_FIELD!r}], received {received}")
    servable = _find(repository, request.model_spec)
    response = GetModelMetadataResponse(model_spec=_spec(servable))
    response.metadata[SIGNATURE_FIELD].Pack(signature_map(servable))
    return response


def status(repository: Repository, limits: Limits, request: Any) -> Any:
    """Answer a `GetModelStatusRequest`."""
    spec = request.model_spec
    return status_response(repository.available(spec.name, _version(spec)))


def check(repository: Repository, limits: Limits, request: Any) -> Any:
    """Answer a `HealthCheckRequest`: of the whole server, of one of its services, or of a model by name."""
    name = request.service
    if name in _SERVICES:
        healthy = bool(repository.versions)
    elif repository.label(name):
        healthy = True
    else:
        raise ServingError(f"no service or model named {name!r}", Code.NOT_FOUND)
    return HealthCheckResponse(status=HEALTH["SERVING" if healthy else "NOT_SERVING"])


def signature_map(servable: Servable) -> Any:
    """Return the `SignatureDefMap` of a model, for either protocol."""
    signatures = SignatureDefMap()
    for name, signature in servable.backend.signatures.items():
        signatures.signature_def[name].CopyFrom(to_signature_def(signature))
    return signatures


def status_response(versions: list[int]) -> Any:
    """Return the `GetModelStatusResponse` of loaded versions, for either protocol."""
    response = GetModelStatusResponse()
    for version in versions:
        response.model_version_status.add(version=version, state=STATES["AVAILABLE"], status={})
    return response


_Answer = Callable[[Repository, Limits, Any], Any]

_METHODS: dict[str, tuple[_Answer, Any, str]] = {
    # path: (function, request, name in the metrics)
    PREDICT: (predict, PredictRequest, "predict"),
    METADATA: (metadata, GetModelMetadataRequest, "metadata"),
    STATUS: (status, GetModelStatusRequest, "status"),
    CHECK: (check, HealthCheckRequest, "health"),
}

_SERVICES = {"", *(path.split("/")[1] for path in _METHODS)}


def start(repository: Repository, limits: Limits, address: str, workers: int) -> tuple[Any, int]:
    """Start answering gRPC calls.

    Args:
        repository: The loaded models.
        limits: What one request may ask for.
        address: `host:port`; port 0 takes a free one.
        workers: Threads that answer calls.

    Returns:
        The running `grpc.Server` and its port.

    Raises:
        ServingError: The address cannot be used.
    """
    server = grpc.server(
        futures.ThreadPoolExecutor(workers, thread_name_prefix="grpc"),
        options=[
            ("grpc.max_receive_message_length", limits.max_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # otherwise a second server on the port starts and takes half the calls
        ],
        maximum_concurrent_rpcs=limits.max_concurrent,
    )
    for path in _METHODS:
        _, service, method = path.split("/")
        handler = grpc.unary_unary_rpc_method_handler(
            _behaviour(path, repository, limits),
            response_serializer=lambda response: response.SerializeToString(),
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:
        raise ServingError(
            f"gRPC cannot listen on {address}; choose another port, or 0 for any", Code.UNAVAILABLE
        ) from None
    server.start()
    return server, port


def _behaviour(path: str, repository: Repository, limits: Limits) -> Callable[[bytes, Any], Any]:
    answer, request_class, api = _METHODS[path]
    metrics = repository.metrics

    def call(body: bytes, context: Any) -> Any:
        start = time.perf_counter()
        metrics.begin()
        model, error = "", None
        # Bytes are parsed here, not by gRPC, which would answer INTERNAL to a message it cannot read.
        try:
            if not context.is_active():  # it waited for a thread until its deadline had passed
                raise ServingError("the deadline passed before a thread was free", Code.DEADLINE_EXCEEDED)
            request = request_class.FromString(body)
            if hasattr(request, "model_spec"):
                model = repository.label(request.model_spec.name)
            return answer(repository, limits, request)
        except DecodeError:
            error = ServingError(f"the request is not a {request_class.DESCRIPTOR.full_name}")
        except ServingError as caught:
            error = caught
        except Exception as caught:
            _log.exception("a call failed")
            error = ServingError(f"internal error: {type(caught).__name__}", Code.INTERNAL)
        finally:
            status = error.code.name if error else "OK"
            metrics.end(model, "GRPC", api, status, time.perf_counter() - start)
        return context.abort(grpc.StatusCode[error.code.name], str(error))

    return call


def _find(repository: Repository, spec: Any) -> Servable:
    return repository.find(spec.name, _version(spec))


def _version(spec: Any) -> int | None:
    if spec.version_label:
        raise ServingError(
            f"this server has no version labels, received {spec.version_label!r}; send a version"
        )
    return int(spec.version.value) if spec.HasField("version") else None


def _spec(servable: Servable, signature: str = "") -> Any:
    spec = ModelSpec(name=servable.bundle.name, signature_name=signature)
    spec.version.value = servable.bundle.version
    return spec
