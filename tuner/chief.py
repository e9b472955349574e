"""A search in several processes: KerasTuner's chief, which proposes, and its workers, which run trials.

The messages are KerasTuner's own (gRPC). What is added makes it safe to lose a process. The chief writes
where it listens into the search folder, and workers wait for it; so neither needs to start first. Every
message, and a heartbeat, says that a worker lives. One that is silent for `LEASE_S` is given up and its trial
is given to another, which goes on from its last checkpoint; a worker that cannot reach the chief ends itself
well before, so that no trial runs twice. The search folder is shared by all, as the dataset is.

Messages carry a token from the search folder: whoever cannot read it is not heard. They are not encrypted.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from keras_tuner.src import protos
from keras_tuner.src.distribute.oracle_chief import OracleServicer

from tfrecords_tools.files import write_json
from trackkeras.errors import UserError
from tuner.oracles import SearchOracle, make_oracle
from tuner.plan import Plan
from tuner.search import announcer, quiet
from tuner.worker import GIVE_UP_S, WAIT_S, extent, worker_name

LEASE_S = 60.0
"""Silence of a worker after which its trial is given to another."""
LINGER_S = 2.0
RESTARTS = 3
"""Worker processes started again on one host, for each of the asked ones."""


class Attendance(grpc.ServerInterceptor):  # type: ignore[misc]
    """Hears who sends messages, and refuses strangers and those who were given up.

    Args:
        token: What a message must carry.
        clock: Source of seconds.
    """

    def __init__(self, token: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.token, self.clock = token, clock
        self.last_heard: dict[str, float] = {}
        self.given_up: set[str] = set()

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Note the sender, or answer in the service's place."""
        sent = dict(handler_call_details.invocation_metadata)
        name = sent.get("worker")
        if sent.get("token") != self.token or name is None:
            return _refusal(grpc.StatusCode.UNAUTHENTICATED, "not a worker of this search")
        if name in self.given_up:
            return _refusal(
                grpc.StatusCode.FAILED_PRECONDITION, "silent for too long; the trial was passed on"
            )
        self.last_heard[name] = self.clock()
        return continuation(handler_call_details)

    def silent(self, seconds: float) -> list[str]:
        """Give up the workers that were silent for longer, and return their names."""
        now = self.clock()
        gone = [name for name, heard in self.last_heard.items() if now - heard > seconds]
        self.give_up(*gone)
        return gone

    def give_up(self, *names: str) -> None:
        """Hear no more from some workers."""
        for name in names:
            self.last_heard.pop(name, None)
            self.given_up.add(name)


def _refusal(code: grpc.StatusCode, text: str) -> grpc.RpcMethodHandler:
    def refuse(request: Any, context: grpc.ServicerContext) -> None:
        context.abort(code, text)

    return grpc.unary_unary_rpc_method_handler(refuse)


def run_chief(plan: Plan, folder: Path, workers: int | None) -> SearchOracle:
    """Propose trials to workers until the search is over.

    Args:
        plan: The search.
        folder: Its folder.
        workers: Worker processes to start on this host; None waits for those of other jobs.

    Returns:
        The oracle with all trials.

    Raises:
        UserError: No worker was left for `WAIT_S`.
    """
    oracle = make_oracle(plan, folder, announcer(plan))
    attendance = Attendance(secrets.token_hex(16))
    server = grpc.server(ThreadPoolExecutor(max_workers=4), interceptors=[attendance])
    service = Service(oracle)
    protos.get_service_grpc().add_OracleServicer_to_server(service, server)
    listen, host = "127.0.0.1", "127.0.0.1"
    if workers is None:
        listen, host = "0.0.0.0", os.environ.get("KERASTUNER_ORACLE_IP", socket.gethostname())
    port = server.add_insecure_port(f"{listen}:0")
    address = {"host": host, "port": port, "token": attendance.token, "ended": False}
    with quiet():
        server.start()
        write_json(folder / "chief.json", address)
        try:
            with _processes(folder, workers or 0) as local:
                _attend(service, attendance, local)
                write_json(folder / "chief.json", {"ended": True, **extent(plan)})
                time.sleep(LINGER_S)  # whoever asks just now still gets an answer
        finally:
            server.stop(grace=1.0).wait()
    return oracle


class Service(OracleServicer):  # type: ignore[misc]
    """KerasTuner's service; a fault of the chief itself, such as a full disk, is kept for its main thread."""

    def __init__(self, oracle: SearchOracle) -> None:
        super().__init__(oracle)
        self.fault: Exception | None = None

    def CreateTrial(self, request: Any, context: Any) -> Any:
        """Give a worker its next trial."""
        return self._kept(super().CreateTrial, request, context)

    def UpdateTrial(self, request: Any, context: Any) -> Any:
        """Take the score of a trial."""
        return self._kept(super().UpdateTrial, request, context)

    def EndTrial(self, request: Any, context: Any) -> Any:
        """Take the end of a trial."""
        return self._kept(super().EndTrial, request, context)

    def _kept(self, method: Callable[[Any, Any], Any], request: Any, context: Any) -> Any:
        try:
            return method(request, context)
        except Exception as error:
            self.fault = error
            raise


def _attend(service: Service, attendance: Attendance, local: LocalWorkers) -> None:
    """Watch the workers until every one was told that the search is over."""
    oracle: SearchOracle = service.oracle
    alone_since = time.monotonic()
    while True:
        time.sleep(0.2)
        if service.fault is not None:
            raise service.fault
        gone = attendance.silent(LEASE_S) + local.ended(attendance)
        for name in gone:
            trial = oracle.release(name)
            passed = "" if trial is None else f"; trial {trial} is given to another one"
            print(f"worker {name} is gone{passed}", file=sys.stderr, flush=True)
        if attendance.last_heard:
            alone_since = time.monotonic()
        over = oracle.ended_because is not None and not oracle.ongoing_trials
        if over and not oracle._retry_queue and not oracle.tuner_ids:
            return
        if time.monotonic() - alone_since > WAIT_S or local.exhausted():
            raise UserError(
                f"{oracle.folder}: no worker is left; `trackkeras tune ... --resume` continues the search"
            )


class LocalWorkers:
    """Worker processes of this host; one that dies is started again, a few times."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._started = 0
        for _ in range(count):
            self._start()

    def _start(self) -> None:
        self._started += 1
        member = self._started
        threads = str(max(1, (os.cpu_count() or 1) // self.count))
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "TF_NUM_INTRAOP_THREADS": threads,
            "TF_NUM_INTEROP_THREADS": "1",
        }
        gpus = sorted(Path("/dev").glob("nvidia[0-9]*"))
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = str((member - 1) % self.count % len(gpus))
        command = [sys.executable, "-m", "tuner.worker", str(self.folder), str(member)]
        log = (self.folder / f"worker_{member}.log").open("wb")
        with log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        self._running[worker_name(member, process.pid)] = process

    def ended(self, attendance: Attendance) -> list[str]:
        """Return the workers that died since the last look; others are started in their place."""
        codes = {name: process.poll() for name, process in self._running.items()}
        died = [name for name, code in codes.items() if code not in (None, 0)]
        for name in [name for name, code in codes.items() if code is not None]:
            del self._running[name]
        attendance.give_up(*died)
        for _ in died:
            if self._started < self.count * (1 + RESTARTS):
                self._start()
        return died

    def exhausted(self) -> bool:
        """Return whether all processes have ended and none may be started."""
        return self.count > 0 and not self._running

    def stop(self) -> None:
        """Wait for the processes to end, then end them."""
        deadline = time.monotonic() + GIVE_UP_S
        for process in self._running.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait()


@contextmanager
def _processes(folder: Path, count: int) -> Iterator[LocalWorkers]:
    local = LocalWorkers(folder, count)
    try:
        yield local
    except BaseException:
        for process in local._running.values():
            process.terminate()
        raise
    finally:
        local.stop()
