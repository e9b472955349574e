"""The HTTP side of the server: TensorFlow Serving's REST API, version 1.

GET  /v1/models/NAME[/versions/N]            status
GET  /v1/models/NAME[/versions/N]/metadata   signatures
POST /v1/models/NAME[/versions/N]:predict    {"inputs": ...} by column or {"instances": ...} by row
GET  /monitoring/prometheus/metrics          counts and times of the server, as text
"""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
import time
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from typing import Any, NoReturn
from urllib.parse import unquote

import numpy as np
from google.protobuf import json_format

from serving import metrics
from serving.errors import Code, ServingError
from serving.messages import POOL
from serving.repository import Limits, Repository
from serving.rpc import SIGNATURE_FIELD, signature_map, status_response
from serving.signature import Signature, TensorSpec, check_names
from serving.tensors import Array

_log = logging.getLogger(__name__)

_PATH = re.compile(
    r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>[0-9]{1,18}))?(?P<verb>/metadata|:\w+)?"
)

_NUMBERS: dict[str, tuple[set[type], str]] = {
    # kind of NumPy type: (JSON values that it takes, their name)
    "f": ({int, float}, "numbers"),
    "i": ({int}, "integers"),
    "u": ({int}, "integers"),
    "b": ({bool}, "booleans"),
}


# -- what the three calls answer ---------------------------------------------------------------------------


def answer(repository: Repository, limits: Limits, method: str, target: str, body: bytes) -> dict[str, Any]:
    """Return the JSON object that answers a request.

    Raises:
        ServingError: The request cannot be answered.
    """
    path = target.partition("?")[0]
    match = _PATH.fullmatch(path)
    if match is None:
        raise ServingError(f"no such path: {path}; paths begin with /v1/models/NAME", Code.NOT_FOUND)
    name, verb = unquote(match["name"]), match["verb"] or ""
    version = int(match["version"]) if match["version"] else None
    match method, verb:
        case "GET", "":
            return _json(status_response(repository.available(name, version)))
        case "GET", "/metadata":
            return metadata(repository, name, version)
        case "POST", ":predict":
            return predict(repository, limits, name, version, body)
        case "POST", ":classify" | ":regress":
            raise ServingError(f"{verb} is not offered; use :predict", Code.UNIMPLEMENTED)
    raise ServingError(f"{method} {path}: POST goes to :predict, GET to the model or its /metadata")


def metadata(repository: Repository, name: str, version: int | None) -> dict[str, Any]:
    """Return the signatures of a model, as TensorFlow Serving words them."""
    servable = repository.find(name, version)
    return {
        "model_spec": {"name": name, "signature_name": "", "version": str(servable.bundle.version)},
        "metadata": {SIGNATURE_FIELD: _json(signature_map(servable))},
    }


def predict(
    repository: Repository, limits: Limits, name: str, version: int | None, body: bytes
) -> dict[str, Any]:
    """Run a model on a JSON request; the answer has the form of the request, by row or by column."""
    servable = repository.find(name, version)
    request = _parse(body)
    signature_name = request.pop("signature_name", "")
    if not isinstance(signature_name, str):
        raise ServingError(f"'signature_name' must be a string, received {signature_name!r}")
    signature = servable.signature(signature_name)
    match request:
        case {"instances": instances, **rest} if not rest:
            columns = _columns(instances, signature)
        case {"inputs": columns, **rest} if not rest:
            if not isinstance(columns, dict):
                if len(signature.inputs) > 1:
                    raise ServingError(f"'inputs' must be an object with {', '.join(signature.inputs)}")
                columns = dict.fromkeys(signature.inputs, columns)
        case _:
            keys = ", ".join(map(repr, request)) or "neither"
            raise ServingError(f"the body must hold either 'instances' or 'inputs', received {keys}")
    check_names(columns, signature.inputs)
    inputs = {key: _array(key, columns[key], spec) for key, spec in signature.inputs.items()}
    outputs = servable.predict(signature_name, inputs, limits)
    if "instances" in request:
        return {"predictions": _rows(outputs)}
    if len(outputs) == 1:
        return {"outputs": next(iter(outputs.values())).tolist()}
    return {"outputs": {key: array.tolist() for key, array in outputs.items()}}


def _parse(body: bytes) -> dict[str, Any]:
    try:
        # Decoded here: for bytes, json guesses among encodings and imports a module for each.
        request = json.loads(body.decode(), parse_constant=_reject_constant)
    except ServingError:
        raise
    except (ValueError, RecursionError) as error:
        raise ServingError(f"the body is not valid JSON: {error}") from None
    if not isinstance(request, dict):
        raise ServingError(f"the body must be a JSON object, received {type(request).__name__}")
    return request


def _reject_constant(text: str) -> NoReturn:
    raise ServingError(f"{text} is not a JSON number: send finite values")


def _columns(instances: Any, signature: Signature) -> dict[str, Any]:
    """Turn rows into columns; with a single input a row may be its bare value."""
    if not isinstance(instances, list) or not instances:
        raise ServingError("'instances' must be a list of at least one row")
    if not any(isinstance(row, dict) for row in instances) and len(signature.inputs) == 1:
        return dict.fromkeys(signature.inputs, instances)
    for index, row in enumerate(instances):
        if not isinstance(row, dict):
            raise ServingError(f"row {index}: expected an object with {', '.join(signature.inputs)}")
        try:
            check_names(row, signature.inputs)
        except ServingError as error:
            raise ServingError(f"row {index}: {error}") from None
    return {name: [row[name] for row in instances] for name in signature.inputs}


def _rows(outputs: Mapping[str, Array]) -> list[Any]:
    """Turn columns into rows; with a single output a row is its bare value."""
    if len({array.shape[:1] for array in outputs.values()}) > 1 or any(not a.ndim for a in outputs.values()):
        raise ServingError("the outputs have no common rows: send 'inputs' instead of 'instances'")
    columns = [array.tolist() for array in outputs.values()]
    if len(columns) == 1:
        return columns[0]  # type: ignore[no-any-return]
    return [dict(zip(outputs, row, strict=True)) for row in zip(*columns, strict=True)]


def _array(name: str, value: Any, spec: TensorSpec) -> Array:
    """Turn nested lists into an array; an empty list takes its further sizes from the signature."""
    kinds, wanted = _NUMBERS[spec.dtype.kind]
    shape: list[int] = []
    values = [value]
    while values and isinstance(values[0], list) and len(shape) < len(spec.shape):
        if {type(item) for item in values} != {list} or len(set(map(len, values))) != 1:
            raise ServingError(
                f"input {name!r} is ragged: its lists differ in length or depth at axis {len(shape)}"
            )
        shape.append(len(values[0]))
        values = list(chain.from_iterable(values))
    if not values:
        shape += [max(size, 0) for size in spec.shape[len(shape) :]]
    other = {type(item) for item in values} - kinds
    if other:
        if list in other:
            raise ServingError(f"input {name!r} must have shape {list(spec.shape)}, received deeper lists")
        received = ", ".join(sorted(kind.__name__ for kind in other))
        raise ServingError(f"input {name!r} must hold {wanted} ({spec.dtype.name}), received {received}")
    try:
        with np.errstate(over="ignore"):
            array = np.array(values, spec.dtype).reshape(shape)
    except OverflowError:
        raise ServingError(f"input {name!r}: a value does not fit {spec.dtype.name}") from None
    if spec.dtype.kind == "f" and not np.isfinite(array).all():
        raise ServingError(f"input {name!r}: a value does not fit {spec.dtype.name}")
    return array


def _json(message: Any) -> dict[str, Any]:
    return json_format.MessageToDict(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        descriptor_pool=POOL,
    )


# -- the server --------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """One keep-alive connection."""

    server: HttpServer
    protocol_version = "HTTP/1.1"
    server_version = "trackkeras"
    # Nagle's algorithm holds a second packet back until the client acknowledges the first, which takes tens
    # of milliseconds: it is off, and headers and body are buffered and leave together.
    disable_nagle_algorithm = True
    wbufsize = -1
    timeout = 60.0  # seconds that a connection may idle, or stall within a request

    def do_GET(self) -> None:
        """Answer status and metadata."""
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            self.do_POST()  # the body must be read: it would be taken for the next request
        else:
            self._answer(b"")

    def do_POST(self) -> None:
        """Answer a prediction."""
        length = self._body_length()
        if length is None:
            return
        body = self.rfile.read(length)
        if len(body) < length:  # the client, or a stop, closed the connection
            self.close_connection = True
            return
        self._answer(body)

    def handle_expect_100(self) -> bool:
        """Refuse a body that is too large before the client sends it."""
        return self._body_length() is not None and super().handle_expect_100()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send an error as TensorFlow Serving does; the base class calls this for requests it cannot read."""
        self.close_connection = True
        # Of a request that could not be read the version is unknown, and then no status line would be sent.
        self.request_version = self.protocol_version
        self._send(code, {"error": message or HTTPStatus(code).phrase})
        self._drain()

    def log_message(self, format: str, *args: Any) -> None:
        """Log through `logging`."""
        _log.debug("%s %s", self.address_string(), format % args)

    def _body_length(self) -> int | None:
        """Return the length of the body, or answer with an error and return None."""
        text = self.headers.get("Content-Length", "")
        limit = self.server.limits.max_json_bytes
        if self.headers.get("Transfer-Encoding") or not text.isdecimal() or len(text) > 18:
            self.send_error(HTTPStatus.LENGTH_REQUIRED, "the request needs a Content-Length, and no chunks")
        elif int(text) > limit:
            self.send_error(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the body has {text} bytes, at most {limit} are allowed: send several requests, or use gRPC",
            )
        else:
            return int(text)
        return None

    def _drain(self, seconds: float = 5.0) -> None:
        """Read and drop what the client still sends; a close before that could cost it the answer."""
        end = time.monotonic() + seconds
        try:
            self.connection.shutdown(socket.SHUT_WR)
            while (left := end - time.monotonic()) > 0:
                self.connection.settimeout(left)
                if not self.rfile.read1(65536):
                    return
        except OSError:
            return

    def _answer(self, body: bytes) -> None:
        repository = self.server.repository
        if self.command == "GET" and self.path == metrics.PATH:
            text = repository.metrics.text(repository.versions)
            self._send_text(200, text.encode(), metrics.CONTENT_TYPE)
            return
        start = time.perf_counter()
        repository.metrics.begin()
        code, content, status = self._respond(body)
        match = _PATH.fullmatch(self.path.partition("?")[0])
        model = repository.label(unquote(match["name"])) if match else ""
        api = (match["verb"] or "status").strip("/:") if match else ""
        api = api if api in {"predict", "metadata", "status"} else ""  # any word may follow the colon
        repository.metrics.end(model, "REST", api, status, time.perf_counter() - start)
        self._send(code, content)

    def _respond(self, body: bytes) -> tuple[int, Mapping[str, Any], str]:
        """Return the HTTP status, the answer and the status in the metrics."""
        server = self.server
        if not server.slots.acquire(blocking=False):
            limit = server.limits.max_concurrent
            error = ServingError(f"{limit} requests are under way already: try again", Code.UNAVAILABLE)
            return error.code.value, {"error": str(error)}, error.code.name
        try:
            response = answer(server.repository, server.limits, self.command, self.path, body)
        except ServingError as error:
            return error.code.value, {"error": str(error)}, error.code.name
        except Exception as error:
            _log.exception("a request failed")
            return 500, {"error": f"internal error: {type(error).__name__}"}, Code.INTERNAL.name
        finally:
            server.slots.release()
        return 200, response, "OK"

    def _send(self, code: int, content: Mapping[str, Any]) -> None:
        self._send_text(code, json.dumps(content).encode(), "application/json")

    def _send_text(self, code: int, text: bytes, kind: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        if self.server.stopping or self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)
        self.wfile.flush()


class HttpServer(ThreadingHTTPServer):
    """Accepts connections, one thread each, until it is stopped."""

    daemon_threads = True  # a connection that outlives the grace period must not keep the process alive
    request_queue_size = 128

    def __init__(self, repository: Repository, limits: Limits, host: str, port: int) -> None:
        self.repository = repository
        self.limits = limits
        self.stopping = False
        self.slots = threading.BoundedSemaphore(limits.max_concurrent)
        self._open: set[Any] = set()
        self._changed = threading.Condition()
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), Handler)
        except OSError as error:
            raise ServingError(
                f"REST cannot listen on {host}:{port} ({error.strerror}); choose another port, or 0 for any",
                Code.UNAVAILABLE,
            ) from None
        self._accepting = threading.Thread(target=self.serve_forever, args=(0.05,), name="rest", daemon=True)

    def start(self) -> None:
        """Start accepting connections."""
        self._accepting.start()

    def stop(self, grace: float) -> None:
        """Stop accepting, let requests under way finish for at most `grace` seconds, and close."""
        self.stopping = True
        self.shutdown()
        self._accepting.join()
        with self._changed:
            for connection in self._open:
                # Ends the wait for a next request; one that was read is still answered.
                _shutdown(connection, socket.SHUT_RD)
            self._changed.wait_for(lambda: not self._open, grace)
            for connection in self._open:
                _shutdown(connection, socket.SHUT_RDWR)
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Note a new connection and hand it to its thread, or refuse it: each costs a thread."""
        with self._changed:
            full = len(self._open) >= 2 * self.limits.max_concurrent
            if not full:
                self._open.add(request)
        if full:
            _refuse(request, len(self._open))
            super().shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection that has ended."""
        super().shutdown_request(request)
        with self._changed:
            self._open.discard(request)
            self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what ended a connection; most often the client went away."""
        _log.debug("connection from %s ended", client_address, exc_info=True)

    def server_bind(self) -> None:
        """Bind without the base class's look-up of the host's name, which may wait for a name server."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        address: tuple[Any, ...] = self.socket.getsockname()
        self.server_address = address
        self.server_name, self.server_port = address[:2]


def _shutdown(connection: socket.socket, how: int) -> None:
    try:
        connection.shutdown(how)
    except OSError:
        return


def _refuse(connection: socket.socket, count: int) -> None:
    """Answer a connection that gets no thread; a new socket takes these few bytes without waiting."""
    text = json.dumps({"error": f"{count} connections are open already: try again"}).encode()
    head = (
        f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {len(text)}"
    )
    try:
        connection.sendall(head.encode() + b"\r\nConnection: close\r\n\r\n" + text)
    except OSError:
        return
