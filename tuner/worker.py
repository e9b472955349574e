"""A worker of a search in several processes: asks the chief for trials and runs them, see `tuner.chief`."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import keras_tuner
from keras_tuner.src import protos
from keras_tuner.src.distribute.oracle_client import OracleClient

from tfrecords_tools.errors import RecordError
from tfrecords_tools.files import read_json
from trackkeras.errors import UserError
from tuner.oracles import SearchOracle, make_oracle
from tuner.plan import Plan, read_plan
from tuner.search import ENVIRONMENT, SearchTuner, quiet

HEARTBEAT_S = 3.0
GIVE_UP_S = 30.0
"""Silence of the chief after which a worker ends itself."""
WAIT_S = 900.0
"""How long a worker waits for the chief at the start, and the chief for any worker: jobs queue."""
IDLE_S = 1.0


def worker_name(member: int, pid: int) -> str:
    """Return a name that no other process of the search has, nor a second start of the same job."""
    host = socket.gethostname().replace("chief", "head")  # KerasTuner takes a name with `chief` for the chief
    return f"worker{member}-{host}-{pid}"


def extent(plan: Plan) -> dict[str, Any]:
    """Return how far a search goes: one that has ended may be continued with more."""
    return {"trials": plan.trials, "budget_s": plan.budget_s}


def run_worker(folder: Path, member: int, plan: Plan | None = None, wait_s: float = WAIT_S) -> None:
    """Run trials for the chief of a search until it says that the search is over.

    Args:
        folder: Search folder, shared with the chief.
        member: Index of this worker, from 1.
        plan: What the worker was asked for, if it started by itself; all else it learns from the folder.
        wait_s: How long to wait for the chief [s].

    Raises:
        UserError: No chief answered in time.
    """
    address = wait_for_chief(folder, wait_s, plan)
    if address is None:
        print(f"{folder}: the search has ended already", file=sys.stderr)
        return
    name = worker_name(member, os.getpid())
    os.environ |= dict(zip(ENVIRONMENT, (name, address["host"], str(address["port"])), strict=True))
    plan = read_plan(folder)  # the chief's
    with quiet():
        tuner = SearchTuner(plan, folder, make_oracle(plan, folder))
        chief = Chief(tuner.oracle._oracle, address, name)
        tuner.oracle = chief
        Heartbeat(chief, folder).start()
        try:
            tuner.search()
        except grpc.RpcError as error:
            raise UserError(f"{name}: the chief of {folder} said: {error.details()}") from None


def wait_for_chief(folder: Path, seconds: float, plan: Plan | None = None) -> dict[str, Any] | None:
    """Return where the chief listens, as soon as it answers there; None if the search of the plan is over.

    Raises:
        UserError: It did not in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            address = dict(read_json(folder / "chief.json"))
        except RecordError:
            address = {}
        if address.get("ended") and (plan is None or extent(plan).items() <= address.items()):
            return None
        if address and not address["ended"]:
            with grpc.insecure_channel(f"{address['host']}:{address['port']}") as channel:
                try:
                    grpc.channel_ready_future(channel).result(min(5.0, seconds))
                    return address
                except grpc.FutureTimeoutError:
                    pass  # left by a chief that is gone; its successor will write a new one
        if time.monotonic() > deadline:
            raise UserError(f"{folder}: no chief answered within {seconds:g} s; start member 0 of the search")
        time.sleep(0.2)


class _Signed(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """Adds the token of the search and the name of the worker to every message."""

    def __init__(self, token: str, name: str) -> None:
        self.metadata = (("token", token), ("worker", name))

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(client_call_details._replace(metadata=self.metadata), request)


class Chief(OracleClient):  # type: ignore[misc]
    """The chief's oracle, seen from a worker.

    Args:
        oracle: A local oracle of the same plan, for its constants.
        address: Content of `chief.json`.
        name: Name of the worker.
    """

    def __init__(self, oracle: SearchOracle, address: dict[str, Any], name: str) -> None:
        super().__init__(oracle)
        channel = grpc.insecure_channel(f"{address['host']}:{address['port']}")
        signed = grpc.intercept_channel(channel, _Signed(address["token"], name))
        self.stub = protos.get_service_grpc().OracleStub(signed)

    def create_trial(self, tuner_id: str) -> keras_tuner.engine.trial.Trial:
        """Ask for a trial, without haste where there is none yet."""
        trial = super().create_trial(tuner_id)
        if trial.status == keras_tuner.engine.trial.TrialStatus.IDLE:
            time.sleep(IDLE_S)
        return trial


class Heartbeat(threading.Thread):
    """Tells the chief that this worker lives, and ends the process when the chief does not answer.

    Args:
        chief: Whom to tell.
        folder: Search folder, where the chief says that it has ended.
    """

    def __init__(self, chief: Chief, folder: Path) -> None:
        super().__init__(daemon=True, name="heartbeat")
        self.chief, self.folder = chief, folder

    def run(self) -> None:
        """Beat until the process ends."""
        answered = time.monotonic()
        request = protos.get_service().GetSpaceRequest()
        while True:
            try:
                self.chief.stub.GetSpace(request, timeout=HEARTBEAT_S)
                answered = time.monotonic()
            except grpc.RpcError as error:
                if read_json(self.folder / "chief.json").get("ended"):
                    os._exit(0)
                refused = error.code() in (
                    grpc.StatusCode.FAILED_PRECONDITION,
                    grpc.StatusCode.UNAUTHENTICATED,
                )
                if refused or time.monotonic() - answered > GIVE_UP_S:
                    why = error.details() if refused else f"no answer for {GIVE_UP_S:g} s"
                    print(f"error: the chief is lost to this worker: {why}", file=sys.stderr, flush=True)
                    os._exit(1)  # the training in the main thread must not go on: the trial is passed on
            time.sleep(HEARTBEAT_S)


if __name__ == "__main__":
    try:
        run_worker(Path(sys.argv[1]), int(sys.argv[2]))
    except (UserError, RecordError) as failure:
        sys.exit(f"error: {failure}")
