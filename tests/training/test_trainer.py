"""The trainer: same seed, same weights; killed and resumed, same weights; clear refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tfrecords_tools.reader import Dataset
from trackkeras.checkpoints import load_model
from trackkeras.domain import find_task
from trackkeras.errors import UserError
from trackkeras.presets import load_run
from trackkeras.runs import RunFolder
from trackkeras.training import EpochRecorder, _validation_batches, train

QUICK = ("data.batch_size=512", "training.warmup_epochs=0.5", "model.hidden=[8, 8]")


def fit(dataset: Path, path: Path, *assignments: str, **options: Any) -> RunFolder:
    return train(load_run("mlp_tiny", [*QUICK, *assignments]), dataset, path, **options)


def weights(path: Path) -> list[np.ndarray]:
    return load_model(path, find_task("extrapolation", "mlp")).get_weights()


def assert_same_run(first: RunFolder, second: RunFolder) -> None:
    for one, other in zip(weights(first.best), weights(second.best), strict=True):
        np.testing.assert_array_equal(one, other)
    histories = [folder.read("history.json") for folder in (first, second)]
    for history in histories:
        history.pop("training_time")
        history.pop("processor_time")
    assert histories[0] == histories[1]


@pytest.mark.parametrize(("asked", "rows"), [("100", 100), ("null", 1_000_000)])
def test_validation_rows_are_limited(dataset: Path, asked: str, rows: int) -> None:
    source = Dataset(dataset)
    run = load_run("mlp_tiny", [*QUICK, f"data.validation_rows={asked}"])
    batches = _validation_batches(source, find_task("extrapolation", "mlp"), run)
    assert batches.rows == min(rows, source.rows("validation"))


class Killed(Exception):
    pass


@pytest.fixture
def kill_in_epoch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes the recorder die before it has saved anything of an epoch."""

    def arm(epoch: int) -> None:
        before = EpochRecorder.on_epoch_end

        def die(self: EpochRecorder, number: int, logs: Any = None) -> None:
            if number == epoch:
                raise Killed
            before(self, number, logs)

        monkeypatch.setattr(EpochRecorder, "on_epoch_end", die)

    return arm


def test_same_seed_same_result_and_another_seed_differs(dataset: Path, tmp_path: Path) -> None:
    first = fit(dataset, tmp_path / "a", "training.epochs=2")
    assert_same_run(first, fit(dataset, tmp_path / "b", "training.epochs=2"))
    other = fit(dataset, tmp_path / "c", "training.epochs=2", "training.seed=2")
    assert any((one != two).any() for one, two in zip(weights(first.best), weights(other.best), strict=True))


@pytest.mark.parametrize("average", ["null", "0.9"])
def test_a_killed_run_ends_as_if_never_interrupted(
    dataset: Path, tmp_path: Path, kill_in_epoch: Any, monkeypatch: pytest.MonkeyPatch, average: str
) -> None:
    options = ("training.epochs=5", f"training.ema={average}", "training.patience=2", "training.min_delta=.3")
    whole = fit(dataset, tmp_path / "whole", *options)
    with monkeypatch.context():
        kill_in_epoch(2)
        with pytest.raises(Killed):
            fit(dataset, tmp_path / "killed", *options)
    monkeypatch.undo()
    assert RunFolder(tmp_path / "killed").read("state.json")["epoch"] == 2
    assert_same_run(whole, fit(dataset, tmp_path / "killed", *options, resume=True))


def test_run_folder_is_complete(dataset: Path, tmp_path: Path) -> None:
    folder = fit(dataset, tmp_path / "a", "training.epochs=5", "training.checkpoint_every=2")
    history = folder.read("history.json")
    assert [entry["epoch"] for entry in history["train"]] == [1, 2, 3, 4, 5]
    assert {"epoch", "loss", "lr"} <= set(history["train"][0])
    seed_keys = {"pos_mean_mm", "pos_std_mm", "pos_95_mm", "slope_mean", "x_mean_mm", "y_mean_mm", "tx_mean"}
    assert seed_keys <= set(history["val"][0])
    assert {"test_final", "best_epoch", "best_val_loss", "training_time"} <= set(history)
    assert history["best_val_loss"] == min(entry["loss"] for entry in history["val"])
    rates = [entry["lr"] for entry in history["train"]]
    assert rates == sorted(rates, reverse=True), "cosine decay after half an epoch of warm-up"
    assert rates[-1] == pytest.approx(1e-6, rel=0.1)
    kept = sorted(path.name for path in folder.checkpoints.iterdir())
    assert kept == ["epoch_0002.keras", "epoch_0004.keras", "epoch_0005.keras"]
    assert folder.read("config.json")["training"]["checkpoint_every"] == 2
    assert folder.read("model_config.json")["parameters"] == 7 * 8 + 8 + 8 * 8 + 8 + 8 * 4 + 4
    assert folder.read("normalization.json")["dz"]["std"][0] > 1000
    assert folder.read("environment.json")["packages"]["tensorflow"]
    assert list(folder.path.glob("tensorboard/*/events*"))


def test_early_stopping_and_time_budget(dataset: Path, tmp_path: Path) -> None:
    stubborn = ("training.patience=2", "training.min_delta=1e9")
    patient = fit(dataset, tmp_path / "a", "training.epochs=9", *stubborn)
    assert patient.read("state.json")["epoch"] == 3
    assert "no improvement for 2 epochs" in patient.read("history.json")["stopped"]
    hasty = fit(dataset, tmp_path / "b", "training.epochs=9", "training.time_budget_s=1e-9")
    assert hasty.read("state.json")["epoch"] == 1
    assert "time budget" in hasty.read("history.json")["stopped"]


def test_an_existing_run_is_never_lost_by_accident(dataset: Path, tmp_path: Path) -> None:
    folder = fit(dataset, tmp_path / "a", "training.epochs=1")
    before = folder.best.read_bytes()
    with pytest.raises(UserError, match="--resume continues it, --overwrite starts it again"):
        fit(dataset, tmp_path / "a", "training.epochs=1")
    with pytest.raises(UserError, match=r"another configuration: training\.epochs was 1, is 2$"):
        fit(dataset, tmp_path / "a", "training.epochs=2", resume=True)
    fit(dataset, tmp_path / "a", "training.epochs=1", resume=True)
    assert folder.best.read_bytes() == before
    stranger = tmp_path / "thesis"
    stranger.mkdir()
    (stranger / "chapter.tex").write_text("precious")
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(UserError, match="is not a run folder"):
            fit(dataset, stranger, "training.epochs=1", **options)
    assert (stranger / "chapter.tex").read_text() == "precious"


def test_a_diverging_run_says_so(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="loss is not finite in epoch"):
        fit(dataset, tmp_path / "a", "training.learning_rate=1e30", "training.clip_norm=null")


def test_dropping_precision_keeps_the_physics_in_float32(dataset: Path, tmp_path: Path) -> None:
    folder = fit(dataset, tmp_path / "a", "training.epochs=1", "training.mixed_precision=bfloat16")
    checkpoint = folder.path / folder.read("state.json")["checkpoint"]
    model = load_model(checkpoint, find_task("extrapolation", "mlp"))
    kinds = {layer.name: layer.compute_dtype for layer in model.layers}
    assert kinds["hidden_0"] == "bfloat16"
    assert {kinds[name] for name in ("standardize", "heads", "final_state", "state")} == {"float32"}
    assert keras.config.dtype_policy().name == "float32", "the policy is not left behind"


MIRRORED = """
import json, sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from pathlib import Path
from trackkeras.presets import load_run
from trackkeras.training import train
data, folder, networks = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
losses = {}
for preset, options in networks.items():
    for strategy in ("single", "mirrored"):
        run = load_run(preset, [*options, f"training.strategy={strategy}"])
        history = train(run, data, folder / f"{preset}_{strategy}").read("history.json")
        losses[f"{preset} {strategy}"] = [
            [value for key, value in entry.items() if key.endswith("loss")]
            for part in ("train", "val")
            for entry in history[part]
        ]
print(json.dumps(losses))
"""


def test_two_devices_train_as_one(dataset: Path, tmp_path: Path) -> None:
    """With a loss of the state, and with losses along the path, each in a process of two devices.

    Clipping acts per replica in Keras, so equality is asked without it.
    """
    common = ("training.warmup_epochs=0", "training.clip_norm=null", "model.hidden=[8, 8]")
    path = ("model.initial=learned", "model.n_collocation=2", "data.train_rows=1024", "training.epochs=1")
    networks = {
        "mlp_tiny": (*common, "data.batch_size=512", "training.epochs=2"),
        "pinn_tiny": (*common, *path, "data.batch_size=256"),
    }
    losses = {}
    for network, options in networks.items():
        command = [
            sys.executable,
            "-c",
            MIRRORED,
            str(dataset),
            str(tmp_path),
            json.dumps({network: options}),
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr[-2000:]
        losses |= json.loads(result.stdout.strip().splitlines()[-1])
    for preset, tolerance in (("mlp_tiny", 2e-4), ("pinn_tiny", 2e-3)):
        one, two = losses[f"{preset} single"], losses[f"{preset} mirrored"]
        assert len(one[0]) == {"mlp_tiny": 1, "pinn_tiny": 5}[preset]
        np.testing.assert_allclose(two, one, rtol=tolerance, atol=1e-6)


def test_uneven_global_batch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    from trackkeras.distributed import make_strategy

    device = tf.config.list_logical_devices("CPU")[0]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [device] * 2 if kind == "CPU" else [])
    with pytest.raises(UserError, match="must be a multiple of the 2 devices, received 513"):
        make_strategy("mirrored", 513)
