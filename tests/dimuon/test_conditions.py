"""Conditions of studies: the same dimuons, with what each condition says changed and nothing else."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trackkeras.domains.dimuon.conditions import Condition, conditions, dead_detectors, messy_events
from trackkeras.domains.dimuon.detectors import numbers
from trackkeras.domains.dimuon.events import Events
from trackkeras.domains.dimuon.noise import Noise
from trackkeras.domains.dimuon.occupancy import Occupancy
from trackkeras.domains.dimuon.rus_writing import write_rus

STUDY = Path(__file__).parents[2] / "scripts" / "dimuon_occupancy_study.py"


@pytest.fixture(scope="module")
def signal(muons: Any) -> Events:
    events = muons(300, seed=3)
    return Events(events.hits, events.tracks, events.hit_offsets, events.track_offsets)


@pytest.fixture(scope="module")
def single(muons: Any) -> Events:
    events = muons(40, (1,), seed=4)
    return Events(events.hits, events.tracks, events.hit_offsets, events.track_offsets)


def messy(signal: Events, single: Events, **changes: Any) -> Events:
    condition = Condition("", **{"occupancy": Occupancy(lower=3, upper=3), **changes})
    return Events.concatenate(list(messy_events(signal, single, condition, 1)))


def test_the_signal_stays_and_a_seed_decides(signal: Events, single: Events, same: Any) -> None:
    events = messy(signal, single)
    same(events.with_hits(events.hits.track < 3).with_tracks(events.tracks.number < 3), signal)
    assert (events.hits.track > 2).any()
    same(events, messy(signal, single))


def test_detectors_lose_their_share(signal: Events, single: Events) -> None:
    kept = messy(signal, single, lost=0.5, lost_in=(1, 31))
    own = kept.hits.track < 3
    for number in (1, 2, 31):
        left = (kept.hits.detector[own] == number).sum() / (signal.hits.detector == number).sum()
        assert left == pytest.approx(1.0 if number == 2 else 0.5, abs=0.1 if number != 2 else 0)
    assert (kept.hits.detector[~own] == 1).any()


def test_noise_is_added(signal: Events, single: Events) -> None:
    assert (messy(signal, single, noise=Noise()).hits.track == 0).any()


def test_every_detector_dies_once() -> None:
    dead = dead_detectors()
    assert [each.lost_in for each in dead] == [(int(number),) for number in numbers()]
    names = [each.name for each in (*conditions(), *dead)]
    assert len(set(names)) == len(names)
    assert {each.occupancy.model for each in conditions()} == {"gaussian", "linear", "exponential", "flat"}


@pytest.fixture
def study(
    signal: Events,
    single: Events,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Any:
    """Run the study with a finder that takes the lowest element, and 30 GeV along the beam for each muon."""
    number = {"eventID": np.arange(40, dtype=np.int32)}
    write_rus(tmp_path / "signal.root", [signal[:40].with_columns(**number)])
    write_rus(tmp_path / "single.root", [single.with_columns(**number)])
    spec = importlib.util.spec_from_file_location("occupancy_study", STUDY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def network(path: Path, part: str) -> Any:
        if part == "finder":
            falling = np.linspace(1.0, 0.5, 201, dtype=np.float32)
            return lambda inputs: dict.fromkeys(("track_mup", "track_mum"), inputs["hits"] * falling)
        return lambda inputs: {"momentum": np.tile([0.0, 0.0, 30.0], (len(inputs["charge"]), 1))}

    monkeypatch.setattr(module, "open_network", network)
    files = [
        f"--{name}={tmp_path / file}.root" for name, file in (("signal", "signal"), ("background", "single"))
    ]

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(STUDY), "--finder=f", "--momentum=m", *files, *words])
        code = 0
        try:
            module.main()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        return code, *capsys.readouterr()

    return run


def test_the_study_tells_found_from_true_hits(study: Any, signal: Events) -> None:
    code, out, err = study("--events=40", "--only=0 tracks", "--json")
    assert code == 0, err
    (result,) = json.loads(out)
    assert result["condition"] == "0 tracks"
    found, true = result["found"], result["true_hits"]
    assert true["efficiency"]["value"] == true["completeness"]["value"] == 1.0
    assert found["efficiency"]["value"] < 0.1 < found["completeness"]["value"] < 0.9
    residual = 30.0 - signal[:40].tracks.momentum[:, 2]
    error = true["momentum"]["found"]["pz"]["mean"]
    assert error["value"] == pytest.approx(residual.mean(), abs=1.0)  # less the muons without hits
    assert error["low"] < error["value"] < error["high"]

    code, out, err = study("--events=40", "--only=D0X dead", "--dead")
    assert code == 0, err
    assert "| 10 tracks, D0X dead | 0." in out
    assert "| 3 D0X | 0 | - | - | - |" in out
    assert "| 1, chambers | 1, hodoscopes | 2, chambers |" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--events=41"], "signal.root has 40 events, fewer than 41"),
        (["--events=0"], "--events must be at least 1, received 0"),
        (
            ["--only=none"],
            "no condition has 'none' in its name; there are: 0 to 50 tracks, 0 to 50 whole tracks, 0 tracks",
        ),
    ],
)
def test_what_the_study_cannot_do_is_one_line(study: Any, words: list[str], message: str) -> None:
    code, out, err = study(*words)
    assert code == 2
    assert not out
    assert message in err
    assert len(err.splitlines()) == 1
