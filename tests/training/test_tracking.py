"""MLflow is optional: without it one clear line, with it every epoch is logged."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from trackkeras.errors import UserError
from trackkeras.presets import load_run
from trackkeras.tracking import check_installed
from trackkeras.training import train


class FakeMlflow(types.ModuleType):
    """Remembers what it is told, in order."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.__spec__ = importlib.util.spec_from_loader("mlflow", loader=None)
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: self.calls.append((name, (args, kwargs)))


def test_without_mlflow_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'trackkeras\[mlflow\]'"):
        check_installed()


def test_every_epoch_is_logged(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = load_run("mlp_tiny", ["training.epochs=2", "model.hidden=[4]", "data.batch_size=1024"])
    folder = train(run, dataset, tmp_path / "logged", mlflow=True)
    names = [name for name, _ in fake.calls]
    assert names[:3] == ["set_tracking_uri", "set_experiment", "start_run"]
    assert names[-1] == "end_run"
    parameters = dict(fake.calls)["log_params"][0][0]
    assert parameters["training.epochs"] == 2
    assert parameters["model.kind"] == "mlp"
    logged = [entry for name, entry in fake.calls if name == "log_metrics"]
    losses = [entry["loss"] for entry in folder.read("history.json")["val"]]
    assert [entry[0][0]["val_loss"] for entry in logged] == pytest.approx(losses)
    assert [entry[1]["step"] for entry in logged] == [1, 2]
