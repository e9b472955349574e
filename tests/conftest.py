"""Fixtures that several folders share: one small dataset and one small trained run for the whole session."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")

ROWS = 12_000


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tracks of the default contract: 9,600 train, 1,200 validation, 1,200 test rows in 6 shards."""
    from tfrecords_tools.generate import Recipe, generate
    from trackkeras.domain import find_domain
    from trackkeras.domains.extrapolation.generation_options import GenerateOptions

    domain = find_domain("extrapolation")
    folder = tmp_path_factory.mktemp("data") / "tracks"
    config = GenerateOptions().model_dump(mode="json")
    generate(folder, Recipe(domain.schema(), domain.shard_function, config, 1, ROWS, 6, "test sample"))
    return folder


@pytest.fixture(scope="session")
def trained_run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network after two epochs, not evaluated."""
    from trackkeras.presets import load_run
    from trackkeras.training import train

    run = load_run("mlp_tiny", ["training.epochs=2", "data.batch_size=256", "training.warmup_epochs=0"])
    return train(run, dataset, tmp_path_factory.mktemp("runs") / "small").path


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Run the command `trackkeras` in this process; takes its words, returns exit code, stdout, stderr."""
    from trackkeras import cli

    def call(*words: object) -> tuple[int, str, str]:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["trackkeras", *map(str, words)])
            try:
                cli.main()
                code = 0
            except SystemExit as stop:
                code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def no_conversion(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let exports of `trained_run` copy the formats of the folder's `bundle` instead of converting again."""
    from trackkeras import export

    own = shutil.ignore_patterns("*.onnx", "*.json", "*.md", "*.hpp")

    def copy_saved_model(model: object, endpoints: object, directory: Path) -> None:
        shutil.copytree(bundle, directory, dirs_exist_ok=True, ignore=own)

    def copy_onnx(directory: Path, name: str, signature: object, path: Path) -> None:
        shutil.copy(bundle / path.name, path)

    monkeypatch.setattr(export, "write_saved_model", copy_saved_model)
    monkeypatch.setattr(export, "write_onnx", copy_onnx)


@pytest.fixture
def no_experiment_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide measured tracks, so that a test sees the same samples everywhere."""
    folder = tmp_path / "no_data"
    folder.mkdir()
    monkeypatch.setenv("TRACKKERAS_DATA", str(folder))
