"""Calibration: the response of a momentum network becomes part of it; the study judges what is exported."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from trackkeras import cli
from trackkeras.checkpoints import load_model, save_model
from trackkeras.config import Run
from trackkeras.domain import Rows, task_of
from trackkeras.domains.dimuon.calibration import calibrated, with_response
from trackkeras.domains.dimuon.calibration_command import muons_of
from trackkeras.domains.dimuon.momentum import MomentumTask, Station1Task
from trackkeras.domains.dimuon.momentum_options import ResponseOptions
from trackkeras.domains.dimuon.momentum_rows import muon_columns
from trackkeras.domains.dimuon.record_options import RecordOptions
from trackkeras.domains.dimuon.records import read_rows
from trackkeras.domains.dimuon.response import LinearResponse
from trackkeras.domains.dimuon.rus_layout import OLD
from trackkeras.domains.dimuon.rus_writing import write_rus
from trackkeras.domains.dimuon.simulate import simulate
from trackkeras.domains.dimuon.simulation_options import GenerateOptions
from trackkeras.errors import UserError
from trackkeras.presets import load_run
from trackkeras.runs import RunFolder, open_run

STUDY = Path(__file__).parents[2] / "scripts" / "dimuon_momentum_study.py"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simulated J/psi in the experiment's older naming, which has no momentum at station 1."""
    path = tmp_path_factory.mktemp("files") / "jpsi.root"
    parts = [events for events, _ in simulate(GenerateOptions(), np.random.default_rng(8), 90)]
    for events in parts:
        events.tracks.momentum_st1[:] = np.nan
    write_rus(path, parts, OLD)
    return path


@pytest.fixture(scope="module")
def rows(file: Path) -> Rows:
    (events,) = read_rows([file], RecordOptions())
    return muon_columns(events)


def network(*assignments: str) -> tuple[Run, keras.Model]:
    """An untrained network whose corrections are not nothing."""
    run = load_run("momentum_small", ["model.hidden=[8]", *assignments])
    model = task_of(run).build_deployed(run, {})
    rng = np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign(0.05 * rng.normal(size=weight.shape))
    return run, model


def answers(model: keras.Model, rows: Rows) -> Rows:
    return {name: np.asarray(value) for name, value in model(MomentumTask().inputs(rows)).items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder without a training."""
    path = tmp_path_factory.mktemp("runs") / "small"
    run, model = network()
    made = RunFolder(path)
    path.mkdir()
    made.write("config.json", run.model_dump(mode="json"))
    made.write("dataset.json", {"path": "none"})
    save_model(model, made.best)
    return path


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    before = sys.argv
    sys.argv = ["trackkeras", "dimuon", "calibrate", *map(str, arguments)]
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = before
    return code, *capsys.readouterr()


def test_network_with_its_response_is_the_network_with_its_response_taken_back(rows: Rows) -> None:
    run, model = network()
    before = answers(model, rows)
    changed, after = calibrated(run, model, rows)
    found = answers(after, rows)
    response = LinearResponse(rows["momentum"], before["momentum"], rows["charge"])
    expected = response.undo(before["momentum"], rows["charge"])
    np.testing.assert_allclose(found["momentum"], expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found["sigma"], before["sigma"] / response.slope**0.5, rtol=1e-6)
    again = LinearResponse(rows["momentum"], found["momentum"], rows["charge"])
    np.testing.assert_allclose(again.slope, 1.0, atol=1e-5)
    np.testing.assert_allclose(again.offset, 0.0, atol=1e-4)
    # What it took back is forgotten again, not taken back twice.
    plain, bare = with_response(changed, after, None)
    assert plain == run
    np.testing.assert_array_equal(answers(bare, rows)["momentum"], before["momentum"])


def test_uncertainty_of_an_undrawn_gaussian_estimate_is_its_spread() -> None:
    """The rule for sigma: mean and spread of a posterior, undrawn, have the error of the measurement."""
    rng = np.random.default_rng(2)
    truth = rng.normal(0, 2.0, 200_000)
    measured = truth + rng.normal(0, 1.5, truth.size)
    slope = 2.0**2 / (2.0**2 + 1.5**2)
    drawn, sigma = slope * measured, 2.0 * 1.5 / (2.0**2 + 1.5**2) ** 0.5
    assert (drawn - truth).std() == pytest.approx(sigma, rel=0.01)
    assert (drawn / slope - truth).std() == pytest.approx(sigma / slope**0.5, rel=0.01)


def test_training_does_not_take_a_response_back(rows: Rows) -> None:
    few = {name: column[:20] for name, column in rows.items()}
    plain, told = (
        load_run("momentum_small", ["model.hidden=[8]", *extra])
        for extra in ([], ["model.response={slope: [0.5, 1, 2], offset: [1, 2, 3]}"])
    )
    one, other = (task_of(run).build(run, {}) for run in (plain, told))
    inputs = task_of(plain).inputs(few)
    np.testing.assert_array_equal(one(inputs)["momentum"], other(inputs)["momentum"])
    deployed = task_of(told).build_deployed(told, {})(inputs)["momentum"]
    assert np.abs(deployed - one(inputs)["momentum"]).min() > 0.1
    with pytest.raises(UserError, match="slopes must be positive"):
        load_run("momentum_small", ["model.response={slope: [0.5, 0, 2]}"])


def test_calibrate_leaves_a_run_that_says_what_was_taken_back(
    folder: Path, file: Path, rows: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made"
    code, said, err = command(capsys, folder, "--file", file, "--out", out, "--json")
    assert code == 0, err
    made, run = open_run(out)
    report = json.loads(said)
    assert report["muons"] == len(rows["momentum"])
    response = run.model.response  # type: ignore[attr-defined]
    assert response == ResponseOptions(slope=report["slope"], offset=report["offset"])
    found = answers(load_model(made.best, MomentumTask()), rows)["momentum"]
    again = LinearResponse(rows["momentum"], found, rows["charge"])
    np.testing.assert_allclose(again.slope, 1.0, atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made"]
    code, said, err = command(capsys, folder, "--file", file, "--out", out)
    assert (code, said) == (2, "")
    assert err == f"error: {out} exists; choose another folder\n"
    code, said, err = command(capsys, tmp_path, "--out", tmp_path / "other")
    assert (code, said) == (2, "")
    assert "is not a run folder" in err


def test_files_without_the_target_cannot_calibrate(file: Path, rows: Rows) -> None:
    known = muons_of([file], MomentumTask())
    np.testing.assert_array_equal(known["momentum"], rows["momentum"])
    with pytest.raises(UserError, match=r"jpsi\.root: no muon whose momentum at station 1 is known"):
        muons_of([file], Station1Task())


def test_study_judges_the_network_of_the_run_folder_and_a_calibrated_one(
    folder: Path, file: Path, rows: Rows, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["study", "--run", str(folder), "--file", str(file), "--folds", "3", "--json"]
    monkeypatch.setattr(sys, "argv", words)
    main = runpy.run_path(str(STUDY))["main"]
    main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert result["groups"] == 90
    estimators = result["estimators"]
    found = answers(load_model(folder / "best.keras", MomentumTask()), rows)["momentum"]
    for charge, sign in (("mu+", 1), ("mu-", -1)):
        own = rows["charge"][:, 0] == sign
        residual = (found - rows["momentum"])[own]
        np.testing.assert_allclose(estimators["network"][charge]["bias"], residual.mean(axis=0), atol=1e-5)
        middle, low, high = result["mse_over_ridge"]["network"][charge]
        assert low < middle < high
    # Calibrated on the other folds, it is nearer to the truth than the untrained network itself.
    bias = {name: abs(estimators[name]["mu+"]["bias"][2]) for name in ("network", "network_calibrated")}
    assert bias["network_calibrated"] < bias["network"]
    assert estimators["network"]["mixed"]["pairs"] == 900
    monkeypatch.setattr(sys, "argv", [*words, "--folds", "30"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "received 30 folds of 90 groups" in capsys.readouterr().err
