"""`export --best` goes by validation rows, names its reason, and compares only what can be compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from trackkeras.errors import UserError
from trackkeras.selection import best_run


def make_run(folder: Path, name: str, validation: list[float], test: float, **changes: Any) -> Path:
    """The files of an evaluated run that a choice reads; the last epoch but one is the best."""
    path = folder / name
    path.mkdir(parents=True)
    definitions = {"pos_95_mm": {"unit": "mm"}, "pos_mean_mm": {"unit": "mm"}}
    history = {
        "train": [],
        "val": [
            {"epoch": epoch + 1, "loss": 1.0, "pos_95_mm": value, "pos_mean_mm": -value}
            for epoch, value in enumerate(validation)
        ],
        "best_epoch": len(validation) - 1,
    }
    metrics = {
        "run": name,
        "domain": "extrapolation",
        "preset": "mlp_tiny",
        "metric_definitions": definitions,
        "samples": [{"name": "test", "rows": 10, "metrics": {"network": {"pos_95_mm": {"value": test}}}}],
    }
    files = {
        "config.json": {},
        "history.json": history,
        "dataset.json": {"config_hash": "abc"},
        "metrics.json": metrics,
    }
    for file, content in (files | changes).items():
        (path / file).write_text(json.dumps(content))
    (path / "best.keras").touch()
    return path


@pytest.fixture(autouse=True)
def plain_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the choice is tested here, not the check of `metrics.json`."""
    monkeypatch.setattr("trackkeras.run_files._check_metrics", lambda *_: None)


def test_the_smallest_validation_metric_at_the_best_epoch_wins(tmp_path: Path) -> None:
    # last epoch and test rows would choose otherwise
    make_run(tmp_path, "a", [9.0, 5.0, 1.0], test=1.0)
    make_run(tmp_path, "b", [9.0, 4.0, 8.0], test=2.0)
    make_run(tmp_path, "c", [1.0, 6.0, 2.0], test=0.5)
    choice = best_run(tmp_path, "pos_95_mm")
    assert choice.path == tmp_path / "b"
    assert list(choice.values.items()) == [("b", 4.0), ("a", 5.0), ("c", 6.0)]
    for words in ("pos_95_mm 4 on the validation rows", "smallest of 3 evaluated runs", "next: a with 5"):
        assert words in choice.reason
    assert best_run(tmp_path, "pos_mean_mm").path == tmp_path / "c"


def test_runs_that_were_not_evaluated_are_named(tmp_path: Path) -> None:
    make_run(tmp_path, "a", [9.0, 5.0, 1.0], test=1.0)
    (make_run(tmp_path, "b", [9.0, 4.0, 8.0], test=2.0) / "metrics.json").unlink()
    (tmp_path / "notes").mkdir()
    choice = best_run(tmp_path, "pos_95_mm")
    assert (choice.path.name, choice.skipped) == ("a", {"b": "not evaluated"})
    assert "b left out: not evaluated" in choice.reason
    assert json.loads(json.dumps(choice.to_json()))["values"] == {"a": 5.0}


def test_what_cannot_be_chosen_from(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder of runs"):
        best_run(tmp_path / "none", "pos_95_mm")
    with pytest.raises(UserError, match="holds no evaluated run"):
        best_run(tmp_path, "pos_95_mm")
    make_run(tmp_path, "a", [9.0, 5.0, 1.0], test=1.0)
    with pytest.raises(UserError, match=r"no metric 'speed'; there are: pos_95_mm, pos_mean_mm"):
        best_run(tmp_path, "speed")
    make_run(tmp_path, "b", [9.0, 5.0, 1.0], 1.0, **{"dataset.json": {"config_hash": "other"}})
    with pytest.raises(UserError, match="learnt from 2 datasets"):
        best_run(tmp_path, "pos_95_mm")
    shutil.rmtree(tmp_path / "b")
    (tmp_path / "a" / "history.json").unlink()
    with pytest.raises(UserError, match=r"has no history\.json"):
        best_run(tmp_path, "pos_95_mm")
