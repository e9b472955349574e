"""A local model server that speaks TensorFlow Serving's gRPC and REST protocols."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from serving import rpc
from serving.bundle import Model, discover
from serving.errors import ServingError
from serving.repository import Limits, Repository
from serving.rest import HttpServer
from serving.runtime import BackendName
from serving.watch import Watcher

LOOPBACK = "127.0.0.1"
REST_PORT = 8501
GRPC_PORT = 8500
RELOAD_SECONDS = 2.0


class Server:
    """Serves models over gRPC and REST; a context manager.

    Args:
        models: What to serve, from `discover`.
        host: Address to listen on; the default is reachable from this machine alone. The server has neither
            encryption nor access control.
        rest_port: Port of the REST API; 0 takes a free one.
        grpc_port: Port of the gRPC API; 0 takes a free one.
        backend: Engine, `onnx` or `savedmodel`.
        limits: What one request may ask for.
        workers: Threads that answer gRPC calls.
        grace: Time that requests under way have to finish when the server stops [s].
        watch: Folders to follow: new versions in them are loaded and removed ones let go.
        reload_seconds: Time between two looks at them [s]; 0 for never.

    Raises:
        ServingError: A bundle cannot be loaded.
    """

    def __init__(
        self,
        models: Sequence[Model],
        host: str = LOOPBACK,
        rest_port: int = REST_PORT,
        grpc_port: int = GRPC_PORT,
        backend: BackendName = "onnx",
        limits: Limits | None = None,
        workers: int = 8,
        grace: float = 5.0,
        watch: Sequence[Path] = (),
        reload_seconds: float = RELOAD_SECONDS,
    ) -> None:
        for name, port in (("rest_port", rest_port), ("grpc_port", grpc_port)):
            if not 0 <= port <= 65535:
                raise ServingError(f"{name} must be in 0..65535, received {port}")
        if workers < 1:
            raise ServingError(f"workers must be at least 1, received {workers}")
        if not reload_seconds >= 0:
            raise ServingError(f"reload_seconds must be 0 (never) or more, received {reload_seconds:g}")
        self.host = host
        self.rest_port = rest_port
        self.grpc_port = grpc_port
        self.repository = Repository(models, backend)
        self._limits = limits or Limits()
        self._workers = workers
        self._grace = grace
        follow = bool(watch) and reload_seconds != 0
        self._watcher = Watcher(self.repository, watch, reload_seconds) if follow else None
        self._running = ExitStack()

    def start(self) -> None:
        """Start answering; `rest_port` and `grpc_port` then hold the real ports.

        Raises:
            ServingError: A port cannot be used.
        """
        with ExitStack() as stack:
            http = HttpServer(self.repository, self._limits, self.host, self.rest_port)
            stack.callback(http.server_close)
            grpc_server, self.grpc_port = rpc.start(
                self.repository, self._limits, _address(self.host, self.grpc_port), self._workers
            )
            http.start()
            self.rest_port = http.server_port
            stack.pop_all()
        self._running.callback(self._halt, http, grpc_server)
        if self._watcher is not None:
            self._watcher.start()
            self._running.callback(self._watcher.stop)

    def stop(self) -> None:
        """Stop accepting requests, finish those under way and close the ports."""
        self._running.close()

    def _halt(self, http: HttpServer, grpc_server: Any) -> None:
        stopped = grpc_server.stop(self._grace)  # begins, so that both finish their requests at the same time
        http.stop(self._grace)
        stopped.wait()

    @property
    def grpc_target(self) -> str:
        """Address for `Client`."""
        return _address(self.host, self.grpc_port)

    @property
    def rest_url(self) -> str:
        """Address for `RestClient`."""
        return f"http://{_address(self.host, self.rest_port)}"

    def describe(self) -> dict[str, Any]:
        """Return where the server listens and what it serves, as plain values."""
        return {
            "pid": os.getpid(),
            "host": self.host,
            "rest_port": self.rest_port,
            "grpc_port": self.grpc_port,
            "models": self.repository.versions,
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def serve(
    paths: Sequence[Path],
    host: str = LOOPBACK,
    rest_port: int = REST_PORT,
    grpc_port: int = GRPC_PORT,
    backend: BackendName = "onnx",
    limits: Limits | None = None,
    workers: int = 8,
    grace: float = 5.0,
    ready_file: Path | None = None,
    reload_seconds: float = RELOAD_SECONDS,
) -> None:
    """Serve bundles until SIGTERM or SIGINT, then finish what is under way and return.

    Once requests are answered, one JSON line with pid, host, ports and models goes to the standard output,
    and to `ready_file`, which is removed at the end.

    Args:
        paths: Version folders, model folders or folders of models.
        host: See `Server`, as for the arguments that follow.
        rest_port: Port of the REST API; 0 takes a free one.
        grpc_port: Port of the gRPC API; 0 takes a free one.
        backend: Engine, `onnx` or `savedmodel`.
        limits: What one request may ask for.
        workers: Threads that answer gRPC calls.
        grace: Time that requests under way have to finish [s].
        ready_file: File to write the line to, completely or not at all.
        reload_seconds: Time between two looks for new and removed versions [s]; 0 for never.

    Raises:
        ServingError: A bundle, a port or the file cannot be used.
    """
    with _stop_signal() as stop:
        server = Server(
            discover(paths),
            host,
            rest_port,
            grpc_port,
            backend,
            limits,
            workers,
            grace,
            watch=paths,
            reload_seconds=reload_seconds,
        )
        with server, ExitStack() as stack:
            line = json.dumps(server.describe())
            if ready_file is not None:
                _write(ready_file, line + "\n")
                stack.callback(ready_file.unlink, missing_ok=True)
            print(line, flush=True)
            stop.wait()


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """Give an event that SIGTERM and SIGINT set, and restore their handlers afterwards."""
    stop = threading.Event()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda *_: stop.set()) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _write(file: Path, text: str) -> None:
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
        Path(temporary).replace(file)
    except OSError as error:
        raise ServingError(f"cannot write {file}: {error.strerror}") from None


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
