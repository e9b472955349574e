"""A fifth detector is one folder: it walks from simulation to a bundle without an edit elsewhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import trackkeras.domains
from trackkeras.cli import app

HERE = Path(__file__).parent


@pytest.fixture
def oscillator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        trackkeras.domains, "__path__", [*trackkeras.domains.__path__, str(HERE / "extra_domains")]
    )
    yield
    for name in ("trackkeras.domains.oscillator", "trackkeras.domains.oscillator.commands"):
        sys.modules.pop(name, None)


def test_the_whole_road_knows_a_new_folder(
    oscillator: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: object) -> str:
        assert app([str(argument) for argument in arguments], standalone_mode=False) in (None, 0)
        return capsys.readouterr().out

    data, runs, bundles = tmp_path / "data", tmp_path / "runs", tmp_path / "bundles"
    assert "oscillator_tiny" in run("presets")
    run("generate", "oscillator", "--n", 3000, "--out", data, "--shards", 3)
    assert "0 problems" in run("verify", data)
    small = ("--set", "training.epochs=2", "--set", "data.batch_size=128")
    run("train", "oscillator_tiny", "--data", data, "--runs", runs, "--name", "first", *small)
    result = json.loads(run("evaluate", runs / "first", "--json"))
    assert set(result["samples"][0]["estimators"]) == {"network", "start"}
    assert "at rest" in (runs / "first" / "report.html").read_text()
    quick = ("--trials", 1, "--epochs", 1, "--set", "data.batch_size=128", "--objective", "mean_mm")
    found = json.loads(
        run("tune", "oscillator_tiny", "--data", data, "--out", tmp_path / "s", *quick, "--json")
    )
    assert found["winner"]["metrics"]["mean_mm"] > 0
    run("export", runs / "first", "--out", bundles)
    bundle = json.loads((bundles / "oscillator_tiny-first" / "1" / "bundle.json").read_text())
    assert set(bundle["signatures"]["serving_default"]["outputs"]) == {"position"}


def test_its_commands_are_found_and_imported_only_when_used(
    oscillator: None, capsys: pytest.CaptureFixture[str]
) -> None:
    app(["--help"], standalone_mode=False)
    assert "Tools of the oscillator domain." in capsys.readouterr().out
    assert "trackkeras.domains.oscillator" not in sys.modules
    app(["oscillator", "period", "4"], standalone_mode=False)
    assert capsys.readouterr().out == "0.25\n"
