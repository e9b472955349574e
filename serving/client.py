"""Clients of a TensorFlow Serving server, over gRPC and over REST; neither imports TensorFlow.

Both have the same calls and results, work with this package's server and with TensorFlow Serving, and may be
used by several threads.
"""

from __future__ import annotations

import http.client
import json
import queue
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, Self
from urllib.parse import quote, urlsplit

import grpc
import numpy as np
from google.protobuf import json_format

from serving import rpc
from serving.errors import Code, ServingError
from serving.messages import (
    POOL,
    STATES,
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelSpec,
    PredictRequest,
    PredictResponse,
    SignatureDefMap,
)
from serving.signature import DEFAULT_SIGNATURE, Signature, check_names, from_signature_def
from serving.tensors import Array, decode, encode

_STATE_NAMES = {number: name for name, number in STATES.items()}
_GRPC_CODES = {getattr(grpc.StatusCode, code.name): code for code in Code}
_HTTP_CODES = {code.value: code for code in Code} | {411: Code.INVALID_ARGUMENT, 405: Code.UNIMPLEMENTED}


@dataclass(frozen=True)
class Metadata:
    """What a server says of a model.

    Attributes:
        name: Name of the model.
        version: The version that answered.
        signatures: What its functions take and give.
    """

    name: str
    version: int
    signatures: Mapping[str, Signature]


@dataclass(frozen=True)
class Retry:
    """How a client goes on when a server cannot be reached or says that it is unavailable.

    Attributes:
        attempts: Calls to make in all.
        wait: Time before the second call [s]; doubled before each further one.
    """

    attempts: int = 4
    wait: float = 0.1

    def run(self, call: Callable[[float], Any], timeout: float) -> Any:
        """Call until it succeeds, fails otherwise than by `UNAVAILABLE`, or the attempts or the time end.

        Args:
            call: Function of the seconds left.
            timeout: Time for all attempts together [s].
        """
        end = time.monotonic() + timeout
        wait = self.wait
        for _ in range(self.attempts - 1):
            try:
                return call(end - time.monotonic())
            except ServingError as error:
                if error.code is not Code.UNAVAILABLE or end - time.monotonic() <= wait:
                    raise
            time.sleep(wait)
            wait *= 2
        return call(end - time.monotonic())


class ModelClient(Protocol):
    """What both clients offer; leaving the `with` block closes the connection."""

    def __enter__(self) -> Self:
        """Return the client."""

    def __exit__(self, *_: object) -> None:
        """Close the connection."""

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Array],
        version: int | None = None,
        signature: str = DEFAULT_SIGNATURE,
        timeout: float = 10.0,
    ) -> dict[str, Array]:
        """Run a model and return its outputs by name."""

    def status(self, model: str, version: int | None = None, timeout: float = 10.0) -> dict[int, str]:
        """Return the state of every version of a model, such as `{2: "AVAILABLE"}`."""

    def metadata(self, model: str, version: int | None = None, timeout: float = 10.0) -> Metadata:
        """Return what a model takes and gives."""


class Client:
    """Client over gRPC; a context manager.

    Args:
        target: `host:port`, such as `127.0.0.1:8500`.
        retry: What to do while the server is unavailable.
    """

    def __init__(self, target: str, retry: Retry | None = None) -> None:
        if not target.rpartition(":")[2].isdecimal() or "/" in target:
            raise ServingError(f"a gRPC address is host:port, received {target!r}")
        self._target = target
        self._retry = retry or Retry()
        self._channel = grpc.insecure_channel(
            target,
            options=[
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                ("grpc.enable_http_proxy", 0),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", 100),
            ],
        )
        self._predict = self._method(rpc.PREDICT, PredictResponse)
        self._status = self._method(rpc.STATUS, GetModelStatusResponse)
        self._metadata = self._method(rpc.METADATA, GetModelMetadataResponse)

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Array],
        version: int | None = None,
        signature: str = DEFAULT_SIGNATURE,
        timeout: float = 10.0,
    ) -> dict[str, Array]:
        """Run a model.

        Args:
            model: Name of the model.
            inputs: Arrays by name, of the types and shapes of the signature; nothing is converted.
            version: Which version; the latest by default.
            signature: Which of its functions.
            timeout: Time for the answer, attempts and waiting included [s].

        Returns:
            Outputs by name.

        Raises:
            ServingError: The server refused the request, cannot be reached or did not answer in time.
        """
        request = PredictRequest(model_spec=_spec(model, version, signature))
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(encode(np.asarray(array)))
        response = self._call(self._predict, request, timeout)
        return {name: decode(proto, name) for name, proto in sorted(response.outputs.items())}

    def status(self, model: str, version: int | None = None, timeout: float = 10.0) -> dict[int, str]:
        """Return the state of every version of a model, such as `{2: "AVAILABLE"}`.

        Raises:
            ServingError: There is no such model or version, or no answer.
        """
        request = GetModelStatusRequest(model_spec=_spec(model, version))
        return _states(self._call(self._status, request, timeout))

    def metadata(self, model: str, version: int | None = None, timeout: float = 10.0) -> Metadata:
        """Return what a model takes and gives.

        Raises:
            ServingError: There is no such model or version, or no answer.
        """
        request = GetModelMetadataRequest(
            model_spec=_spec(model, version), metadata_field=[rpc.SIGNATURE_FIELD]
        )
        response = self._call(self._metadata, request, timeout)
        signatures = SignatureDefMap()
        response.metadata[rpc.SIGNATURE_FIELD].Unpack(signatures)
        return Metadata(response.model_spec.name, response.model_spec.version.value, _signatures(signatures))

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _method(self, path: str, response: Any) -> Any:
        return self._channel.unary_unary(
            path,
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=response.FromString,
        )

    def _call(self, method: Any, request: Any, timeout: float) -> Any:
        def call(left: float) -> Any:
            try:
                return method(request, timeout=left)
            except grpc.RpcError as error:
                status = error.code()
                code = _GRPC_CODES.get(status, Code.INTERNAL)
                raise ServingError(f"{self._target}: {status.name}: {error.details()}", code) from None

        return self._retry.run(call, timeout)


class RestClient:
    """Client over REST; a context manager. Connections are kept open and reused.

    Args:
        url: Such as `http://127.0.0.1:8501`.
        retry: What to do while the server is unavailable.
    """

    def __init__(self, url: str, retry: Retry | None = None) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port or 80
        except ValueError:
            port = 0
        if parts.scheme != "http" or not parts.hostname or not port or parts.path.strip("/"):
            raise ServingError(f"a REST address is http://host:port, received {url!r}")
        self._address = (parts.hostname, port)
        self._url = url.rstrip("/")
        self._retry = retry or Retry()
        self._idle: queue.LifoQueue[http.client.HTTPConnection] = queue.LifoQueue()
        self._known: dict[tuple[str, int | None], Metadata] = {}

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Array],
        version: int | None = None,
        signature: str = DEFAULT_SIGNATURE,
        timeout: float = 10.0,
    ) -> dict[str, Array]:
        """Run a model.

        JSON carries neither types nor, for a single output, names: the model's metadata is asked for once per
        model and version.

        Args:
            model: Name of the model.
            inputs: Finite arrays by name, of the shapes of the signature.
            version: Which version; the latest by default.
            signature: Which of its functions.
            timeout: Time for the answer, attempts and waiting included [s].

        Returns:
            Outputs by name.

        Raises:
            ServingError: The server refused the request, cannot be reached or did not answer in time.
        """
        end = time.monotonic() + timeout
        if (model, version) not in self._known:
            self._known[model, version] = self.metadata(model, version, timeout)
        known = self._known[model, version].signatures
        if signature not in known:
            raise ServingError(f"model {model!r} has no signature {signature!r}; it has {', '.join(known)}")
        specs = known[signature].outputs
        content = {
            "signature_name": signature,
            "inputs": {k: np.asarray(v).tolist() for k, v in inputs.items()},
        }
        try:
            body = json.dumps(content, allow_nan=False)
        except ValueError:
            raise ServingError("JSON cannot carry NaN or infinity; send finite values, or use gRPC") from None
        response = self._call("POST", model, version, ":predict", body, end - time.monotonic())
        outputs = response["outputs"]
        if len(specs) == 1:
            outputs = dict.fromkeys(specs, outputs)
        check_names(outputs, specs, "output")
        arrays = {}
        for name, spec in specs.items():
            array = np.array(outputs[name], spec.dtype)
            empty = (0, *(max(size, 0) for size in spec.shape[1:]))
            arrays[name] = array if array.size else array.reshape(empty)
        return arrays

    def status(self, model: str, version: int | None = None, timeout: float = 10.0) -> dict[int, str]:
        """Return the state of every version of a model, such as `{2: "AVAILABLE"}`.

        Raises:
            ServingError: There is no such model or version, or no answer.
        """
        response = GetModelStatusResponse()
        content = self._call("GET", model, version, "", None, timeout)
        json_format.ParseDict(content, response, descriptor_pool=POOL)
        return _states(response)

    def metadata(self, model: str, version: int | None = None, timeout: float = 10.0) -> Metadata:
        """Return what a model takes and gives.

        Raises:
            ServingError: There is no such model or version, or no answer.
        """
        content = self._call("GET", model, version, "/metadata", None, timeout)
        signatures = SignatureDefMap()
        json_format.ParseDict(content["metadata"][rpc.SIGNATURE_FIELD], signatures, descriptor_pool=POOL)
        spec = content["model_spec"]
        return Metadata(spec["name"], int(spec["version"]), _signatures(signatures))

    def close(self) -> None:
        """Close the idle connections."""
        while not self._idle.empty():
            self._idle.get_nowait().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(
        self, method: str, model: str, version: int | None, verb: str, body: str | None, timeout: float
    ) -> Any:
        path = f"/v1/models/{quote(model, safe='')}"
        if version is not None:
            path += f"/versions/{version}"
        status, text = self._retry.run(lambda left: self._send(method, path + verb, body, left), timeout)
        try:
            content = json.loads(text)
        except ValueError:
            _fail(self._url, f"answered {status} with something other than JSON", Code.INTERNAL)
        if status != 200:
            message = content.get("error", content) if isinstance(content, dict) else content
            _fail(self._url, str(message), _HTTP_CODES.get(status, Code.INTERNAL))
        return content

    def _send(self, method: str, path: str, body: str | None, timeout: float) -> tuple[int, bytes]:
        if timeout <= 0:
            _fail(self._url, "no answer in time", Code.DEADLINE_EXCEEDED)
        try:
            connection = self._idle.get_nowait()
            reused = True
        except queue.Empty:
            connection = http.client.HTTPConnection(*self._address)
            reused = False
        connection.timeout = timeout
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            result = response.status, response.read()
        except TimeoutError:
            connection.close()
            _fail(self._url, "no answer in time", Code.DEADLINE_EXCEEDED)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            if reused:  # the server may close an idle connection at any time
                return self._send(method, path, body, timeout)
            _fail(self._url, f"cannot be reached: {error or type(error).__name__}", Code.UNAVAILABLE)
        self._idle.put(connection)
        if result[0] == Code.UNAVAILABLE.value:
            _fail(self._url, result[1].decode(errors="replace"), Code.UNAVAILABLE)
        return result


def _fail(server: str, message: str, code: Code) -> NoReturn:
    raise ServingError(f"{server}: {code.name}: {message}", code) from None


def _spec(model: str, version: int | None, signature: str = "") -> Any:
    spec = ModelSpec(name=model, signature_name=signature)
    if version is not None:
        spec.version.value = version
    return spec


def _states(response: Any) -> dict[int, str]:
    return {
        item.version: _STATE_NAMES.get(item.state, str(item.state)) for item in response.model_version_status
    }


def _signatures(signatures: Any) -> dict[str, Signature]:
    return {
        name: from_signature_def(definition)
        for name, definition in signatures.signature_def.items()
        if definition.inputs  # TensorFlow lists its initialiser beside the functions
    }
