"""The learning rate whose end moves, alone and in a training with a time budget."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from trackkeras.errors import UserError
from trackkeras.presets import load_run
from trackkeras.schedules import AdjustableCosineDecay
from trackkeras.training import train


def test_it_is_keras_own_schedule_until_the_end_moves() -> None:
    schedule = AdjustableCosineDecay(1e-2, 1e-4, 10, 110)
    known = keras.optimizers.schedules.CosineDecay(0.0, 100, alpha=1e-2, warmup_target=1e-2, warmup_steps=10)
    steps = range(0, 130, 7)
    rates = [float(schedule(step)) for step in steps]
    np.testing.assert_allclose(rates, [float(known(step)) for step in steps], rtol=1e-5)
    schedule.end_at(60)
    assert float(schedule(60)) == pytest.approx(1e-4, rel=1e-5)
    assert float(schedule(35)) == pytest.approx(0.5 * (1e-2 + 1e-4), rel=1e-5)
    assert float(schedule(5)) == pytest.approx(5e-3, rel=1e-5), "the warm-up stays"


def test_the_end_is_saved_where_it_stands() -> None:
    schedule = AdjustableCosineDecay(1e-2, 1e-4, 10, 110)
    schedule.end_at(70)
    again = AdjustableCosineDecay.from_config(schedule.get_config())
    assert [float(again(step)) for step in (3, 40, 70)] == [float(schedule(step)) for step in (3, 40, 70)]


class Clock:
    """A clock on which every epoch takes one second."""

    def __init__(self) -> None:
        self.seconds = 0

    def monotonic(self) -> float:
        self.seconds += 1
        return self.seconds

    def process_time(self) -> float:
        return self.seconds


def test_a_training_ends_with_small_steps_when_its_time_does(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trackkeras.training.time", Clock())
    small = ("model.hidden=[4]", "data.batch_size=256", "training.warmup_epochs=0", "training.epochs=500")
    budget = ("training.time_budget_s=6", "training.schedule=budget", "training.final_learning_rate=0")
    folder = train(load_run("mlp_tiny", [*small, *budget]), dataset, tmp_path / "run")
    history = folder.read("history.json")
    assert "time budget" in history["stopped"]
    rates = [entry["lr"] / 1e-3 for entry in history["train"]]
    # at the end of each epoch, before the end is moved: the first one still expects 500 epochs
    expected = [0.5 * (1 + np.cos(np.pi * k / (500 if k == 1 else 6))) for k in range(1, 7)]
    np.testing.assert_allclose(rates, expected, atol=2e-2)


def test_a_schedule_that_follows_a_budget_needs_one() -> None:
    with pytest.raises(UserError, match="schedule budget needs time_budget_s"):
        load_run("mlp_tiny", ["training.schedule=budget"])
