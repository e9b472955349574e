"""Whole searches with trainings: every fate of a trial, the disk, the winner, and killed processes."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import pytest
import tensorflow as tf
import yaml

from tfrecords_tools.errors import RecordError
from trackkeras.config import flatten
from trackkeras.errors import UserError
from trackkeras.presets import load_run
from trackkeras.runs import RunFolder
from trackkeras.training import train
from tuner.oracles import make_oracle
from tuner.plan import BUDGET_KEYS, Plan
from tuner.search import SearchTuner, run_search
from tuner.tune import make_plan, prepare_folder, tune

from .conftest import SEED

Computed = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
Searched = tuple[Path, dict[str, Any]]


def test_every_trial_is_recorded_with_its_fate(searched: Searched, plan: Plan) -> None:
    folder, summary = searched
    fates = {row["status"] for row in summary["trials"]}
    assert fates == {"completed", "pruned", "failed"}
    assert sum(summary["counts"].values()) == len(summary["trials"]) == plan.trials
    for row in summary["trials"]:
        large = row["settings"]["model.hidden"] == [16]
        wild = row["settings"]["training.learning_rate"] == 1e30
        if large:
            assert (row["status"], row["reason"]) == ("pruned", "parameters 196 > 180")
            assert not (folder / "trials" / row["trial"] / "config.json").exists(), "not trained"
        elif wild:
            assert row["status"] == "failed"
            assert "loss is not finite" in row["reason"]
        else:
            assert row["status"] == "completed"
            assert row["metrics"]["parameters"] in (172, 52)
            assert {"pos_95_mm", "val_loss", "latency_us", "us_per_row", "rows_per_s"} <= set(row["metrics"])
    first = summary["trials"][0]["settings"]
    assert first["training.learning_rate"] == 1e-3, "the preset's own value, where the space has it"
    written = json.loads((folder / "search.json").read_text())
    # Another test may have gone on with the finished search, which takes a moment and changes nothing else.
    assert {**written, "seconds": summary["seconds"]} == summary


def test_batch_size_reaches_the_pipeline(searched: Searched) -> None:
    folder, summary = searched
    sizes = set()
    for row in summary["trials"]:
        if row["status"] == "completed":
            config = RunFolder(folder / "trials" / row["trial"]).read("config.json")
            assert config["data"]["batch_size"] == row["settings"]["data.batch_size"]
            sizes.add(config["data"]["batch_size"])
    assert len(sizes) == 2


def test_the_disk_holds_one_model(searched: Searched) -> None:
    folder, summary = searched
    models = list(folder.glob("trials/*/*.keras"))
    assert [path.parent.name for path in models] == [summary["winner"]["trial"]]
    assert not list(folder.glob("trials/*/checkpoints"))
    assert not list(folder.glob("trials/*/tensorboard"))
    assert not list(folder.rglob("*.partial*"))


def test_the_winner_is_a_preset_that_trains_to_the_same(
    searched: Searched, dataset: Path, tmp_path: Path
) -> None:
    folder, summary = searched
    winner = summary["winner"]
    text = (folder / "best.yaml").read_text()
    assert "extends: mlp_tiny" in text
    assert not set(flatten(yaml.safe_load(text))) & set(BUDGET_KEYS)
    run = load_run(str(folder / "best.yaml"), ["training.epochs=2"])
    again = train(run, dataset, tmp_path / "again")
    kept = again.read("history.json")["val"][again.read("history.json")["best_epoch"] - 1]
    assert kept["pos_95_mm"] == winner["metrics"]["pos_95_mm"]
    completed = [row["score"] for row in summary["trials"] if row["status"] == "completed"]
    assert winner["score"] == min(completed)


def test_the_report_tells_all(searched: Searched) -> None:
    folder, summary = searched
    page = (folder / "report.html").read_text()
    for text in (
        "parameters 196 &gt; 180",
        "loss is not finite",
        "extends: mlp_tiny",
        "Fewer than eight trials",
    ):
        assert text in page
    for row in summary["trials"]:
        assert f"<td>{row['trial']}</td>" in page
    assert page.count("<svg") == 4
    assert "<script" not in page
    for name in ("progress", "curves", "pareto", "slices"):
        assert (folder / "plots" / f"{name}.png").stat().st_size > 5_000


def test_a_finished_search_is_not_lost_by_accident(searched: Searched, plan: Plan) -> None:
    folder, _ = searched
    with pytest.raises(UserError, match="--resume continues it, --overwrite starts it again"):
        tune(plan, folder)
    with pytest.raises(UserError, match=r"another plan: epochs was 2, is 4$"):
        tune(plan.model_copy(update={"epochs": 4}), folder, resume=True)


def test_a_folder_of_something_else_is_never_lost(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "chapter.tex").write_text("precious")
    for options in ({"overwrite": True}, {"resume": True}):
        with pytest.raises(UserError, match="is not a search folder"):
            prepare_folder(tmp_path, plan, **{"resume": False, "overwrite": False, **options})
    assert (tmp_path / "chapter.tex").read_text() == "precious"


@dataclasses.dataclass
class Fault:
    error: Exception
    reason: str | None


FAULTS = {
    "out of memory": Fault(tf.errors.ResourceExhaustedError(None, None, "no room"), "out of memory: no room"),
    "unexpected": Fault(ZeroDivisionError("by zero\nsecond line"), "ZeroDivisionError: by zero"),
    "full disk": Fault(RecordError("cannot write x: the disk is full"), None),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_a_trial_is_recorded_and_one_of_the_machine_ends_the_search(
    name: str, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = FAULTS[name]

    def build(self: Any, hp: Any) -> keras.Model:
        raise fault.error

    monkeypatch.setattr("tuner.hypermodel.PresetHyperModel.build", build)
    oracle = make_oracle(plan.model_copy(update={"trials": 2}), tmp_path)
    tuner = SearchTuner(plan, tmp_path, oracle)
    if fault.reason is None:
        with pytest.raises(RecordError):
            tuner.search()
        assert oracle.records() == [], "the trial is made again when the search is resumed"
    else:
        tuner.search()
        assert [record["reason"] for record in oracle.records()] == [fault.reason] * 2


def test_a_bad_combination_is_recorded(dataset: Path, tmp_path: Path) -> None:
    """Each value alone is allowed, both together are not."""
    path = tmp_path / "pair.yaml"
    space = "{training.jit_compile: {boolean: false}, training.strategy: {choice: [single, mirrored]}}"
    path.write_text(f"objectives: {{val_loss: 1}}\nspace: {space}\n")
    plan = make_plan("mlp_tiny", dataset, search=str(path), oracle="grid")
    tuner = SearchTuner(plan, tmp_path, make_oracle(plan, tmp_path))
    hp = tuner.oracle.get_space()
    hp.values = {"training.jit_compile": True, "training.strategy": "mirrored"}
    trial = keras_tuner.engine.trial.Trial(hp, trial_id="0")
    tuner._try_run_and_update_trial(trial)
    assert trial.status == "FAILED"
    assert "jit_compile works on one device only" in trial.message


# -- killed processes ----------------------------------------------------------------------------------------


def command(dataset: Path, search_file: Path, out: Path, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "trackkeras.cli", "tune", "mlp_tiny", "--data", str(dataset)),
        *("--search", str(search_file), "--trials", "4", "--seed", str(SEED), "--out", str(out), *options),
    ]


def wait_until(condition: Callable[[], Any], process: subprocess.Popen[bytes], seconds: float = 200.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert process.poll() is None, "the process ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def test_a_search_killed_in_a_trial_ends_as_if_never_interrupted(
    searched: Searched, plan: Plan, dataset: Path, search_file: Path, tmp_path: Path, computed: Computed
) -> None:
    folder = tmp_path / "killed"
    last = [row["trial"] for row in searched[1]["trials"] if row["status"] == "completed"][1]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command(dataset, search_file, folder), stdout=log, stderr=log)
    try:
        wait_until((folder / "trials" / last / "config.json").exists, process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    state = json.loads((folder / "oracle.json").read_text())
    assert len(state["trials"]) > len(state["end_order"]), "killed in a trial"
    prepare_folder(folder, plan, resume=True, overwrite=False)
    assert computed(run_search(plan, folder).records()) == computed(searched[1]["trials"])
    assert len(list(folder.glob("trials/*/*.keras"))) == 1


def test_a_chief_with_two_workers_loses_one_and_no_trial(
    searched: Searched, dataset: Path, search_file: Path, tmp_path: Path, computed: Computed
) -> None:
    folder = tmp_path / "shared"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command(dataset, search_file, folder, "--workers", "2", "--json"),
            stdout=subprocess.PIPE,
            stderr=log,
        )

    def busy() -> dict[str, str]:
        try:
            return dict(json.loads((folder / "oracle.json").read_text())["ongoing_trials"])
        except FileNotFoundError:
            return {}

    def in_training() -> tuple[str, str] | None:
        for worker, trial in busy().items():
            if (folder / "trials" / trial / "config.json").exists():
                return worker, trial
        return None

    worker, trial = wait_until(in_training, process)
    os.kill(int(worker.rpartition("-")[2]), signal.SIGKILL)
    out, _ = process.communicate(timeout=250)
    assert process.returncode == 0, (tmp_path / "log").read_text()
    summary = json.loads(out)
    assert f"worker {worker} is gone" in (tmp_path / "log").read_text()
    # Random proposals do not depend on results: the trials are those of one process.
    assert computed(summary["trials"]) == computed(searched[1]["trials"])
    finisher = {row["trial"]: row.get("worker") for row in summary["trials"]}
    assert finisher[trial] != worker
    assert json.loads((folder / "chief.json").read_text())["ended"] is True
