"""Who is heard by the chief, and what a worker does without one; time is simulated."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from keras_tuner.src import protos

from tfrecords_tools.files import write_json
from trackkeras.errors import UserError
from tuner.chief import LEASE_S, Attendance, Service
from tuner.oracles import SearchOracle, make_oracle
from tuner.plan import Plan
from tuner.worker import GIVE_UP_S, HEARTBEAT_S, Chief, run_worker, wait_for_chief, worker_name

PLAN = Plan(
    preset="mlp_tiny",
    search="test",
    space={
        "model.activation": {
            "choice": ["silu", "tanh"],
            "when": {"tanh": {"training.ema": {"float": [0.9, 0.99]}}},
        }
    },
    objectives={"pos_95_mm": 1},
    trials=3,
    data="",
    data_hash="",
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[SearchOracle, Attendance, Clock, dict[str, Any]]]:
    """A chief's service on loopback, heard by `Attendance` with a clock of the test."""
    oracle, clock = make_oracle(PLAN, tmp_path), Clock()
    attendance = Attendance("secret", clock)
    server = grpc.server(ThreadPoolExecutor(2), interceptors=[attendance])
    protos.get_service_grpc().add_OracleServicer_to_server(Service(oracle), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield oracle, attendance, clock, {"host": "127.0.0.1", "port": port, "token": "secret"}
    server.stop(None).wait()


def worker(
    oracle: SearchOracle, address: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> Chief:
    monkeypatch.setenv("KERASTUNER_TUNER_ID", name)
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", address["host"])
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", str(address["port"]))
    return Chief(oracle, address, name)


def test_silence_is_a_lost_lease(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle, attendance, clock, address = served
    first, second = (worker(oracle, address, name, monkeypatch) for name in ("a", "b"))
    lost = first.create_trial("a")
    second.create_trial("b")
    clock.now = LEASE_S - 1
    second.get_space()  # a heartbeat
    assert attendance.silent(LEASE_S) == []
    clock.now = LEASE_S + 1
    assert attendance.silent(LEASE_S) == ["a"]
    assert oracle.release("a") == lost.trial_id
    with pytest.raises(grpc.RpcError) as refused:
        first.end_trial(lost)
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert lost.trial_id not in oracle.end_order
    third = worker(oracle, address, "c", monkeypatch).create_trial("c")
    assert third.trial_id == lost.trial_id
    assert third.hyperparameters.values == lost.hyperparameters.values


def test_strangers_are_not_heard(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle, attendance, _, address = served
    stranger = worker(oracle, {**address, "token": "guessed"}, "a", monkeypatch)
    with pytest.raises(grpc.RpcError) as refused:
        stranger.create_trial("a")
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert not attendance.last_heard
    assert not oracle.trials


def test_values_pass_between_processes_unchanged(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle, _, _, address = served
    chief = worker(oracle, address, "a", monkeypatch)
    for name in ("a", "b", "c"):
        trial = chief.create_trial(name)
        assert trial.hyperparameters.values == oracle.trials[trial.trial_id].hyperparameters.values
    before = dict(oracle.trials["2"].hyperparameters.values)
    trial.status = "FAILED"
    chief.end_trial(trial)
    assert oracle.trials["2"].hyperparameters.values == before


def test_a_fault_of_the_chief_is_kept(served: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(served[0])
    monkeypatch.setattr(served[0], "create_trial", lambda name: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        service.CreateTrial(protos.get_service().CreateTrialRequest(tuner_id="a"), None)
    assert isinstance(service.fault, OSError)


def test_a_worker_waits_for_a_chief_and_not_for_ever(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"no chief answered within 0\.1 s; start member 0"):
        wait_for_chief(tmp_path, 0.1)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        left = {"host": "127.0.0.1", "port": closed.getsockname()[1], "token": "x", "ended": False}
        write_json(tmp_path / "chief.json", left)
        with pytest.raises(UserError, match="no chief answered"):
            wait_for_chief(tmp_path, 0.1)
    write_json(tmp_path / "chief.json", {"ended": True, "trials": 3, "budget_s": None})
    with pytest.raises(UserError, match="no chief answered"):
        wait_for_chief(tmp_path, 0.1, PLAN.model_copy(update={"trials": 5}))
    run_worker(tmp_path, 1, PLAN)
    assert "the search has ended already" in capsys.readouterr().err


def test_a_worker_gives_up_before_its_trial_is_passed_on() -> None:
    assert GIVE_UP_S + 2 * HEARTBEAT_S < LEASE_S


def test_no_host_name_makes_a_worker_a_chief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "chief-01")
    assert "chief" not in worker_name(1, 7)
    assert worker_name(1, 7) != worker_name(1, 8)
