"""The hybrid: its integrator against the compiled one, its symmetries, its derivative, and that it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfrecords_tools.reader import Dataset
from trackkeras.checkpoints import load_model
from trackkeras.domain import Rows, task_of
from trackkeras.domains.extrapolation import make_field
from trackkeras.domains.extrapolation.baselines import straight_line
from trackkeras.domains.extrapolation.hybrid import base_field, fixed_steps
from trackkeras.domains.extrapolation.hybrid_models import hermite
from trackkeras.domains.extrapolation.jacobian import automatic, jacobian_excess
from trackkeras.duals import Dual
from trackkeras.evaluation import band_index, predict
from trackkeras.presets import load_run
from trackkeras.runs import open_run
from trackkeras.tangents import jacobian
from trackkeras.training import train

SMALL = ("model.hidden=[8, 8]", "model.steps=12")


def run_of(*assignments: str) -> Any:
    return load_run("hybrid_tiny", [*SMALL, *assignments])


def build(*assignments: str, random: bool = True) -> keras.Model:
    run = run_of(*assignments)
    model = task_of(run).build_deployed(run, {})
    if random:
        rng = np.random.default_rng(3)
        for weight in model.trainable_weights:
            weight.assign(rng.normal(scale=0.4, size=weight.shape))
    return model


@pytest.fixture(scope="module")
def source(dataset: Path) -> Dataset:
    return Dataset(dataset)


@pytest.fixture(scope="module")
def rows(source: Dataset) -> Rows:
    found = source.read("test", limit=300)
    return {name: found[name] for name in ("state", "z0", "dz")}


def final_state(model: keras.Model, rows: Rows) -> np.ndarray:
    return np.asarray(model.predict(rows, verbose=0)["final_state"], float)


def field(model: keras.Model, points: np.ndarray) -> np.ndarray:
    x, y, z = (tf.constant(axis[:, None]) for axis in points.T)
    return np.asarray(model.get_layer("final_state").field(Dual(x), Dual(y), z).value)


@pytest.mark.parametrize("polarity", [1, -1])
def test_untrained_it_is_the_compiled_integration_in_the_base_field(rows: Rows, polarity: int) -> None:
    option = f"model.field={{name: lhcb, polarity: {polarity}}}"
    model, options = build(option, random=False), run_of(option).model
    points = np.random.default_rng(1).uniform([-3e3, -2e3, 0], [3e3, 2e3, 12e3], (500, 3))
    base = base_field(options)
    np.testing.assert_allclose(field(model, points), base.field(*points.T), atol=1e-12)
    # The other charge in the other field takes the path of the sample, where the field is known.
    rows = {**rows, "state": rows["state"] * np.float32([1, 1, 1, 1, polarity])}
    expected = fixed_steps(base, options.steps)(rows)["final_state"]
    difference = np.abs(final_state(model, rows) - expected)
    assert difference[:, :2].max() < 1e-3, "mm; the output is float32"
    assert difference[:, 2:4].max() < 2e-7


def test_the_base_field_is_simpler_than_the_field_of_the_sample() -> None:
    points = np.random.default_rng(1).uniform([-500, -500, 2000], [500, 500, 9000], (500, 3))
    base, full = base_field(run_of().model), make_field("lhcb")
    assert len(base.params) < len(full.params)
    assert np.median(np.linalg.norm(base.field(*points.T) - full.field(*points.T), axis=1)) > 0.03


def test_mirrored_charge_and_mirrored_height_mirror_the_track(rows: Rows) -> None:
    model = build()
    found = final_state(model, rows)
    for flip in ((-1, 1, -1, 1, -1), (1, -1, 1, -1, 1)):
        sign = np.array(flip, np.float32)
        np.testing.assert_array_equal(
            final_state(model, {**rows, "state": rows["state"] * sign}), found * sign
        )


def test_no_charge_or_no_distance_means_no_bend(rows: Rows) -> None:
    model = build()
    line = rows["state"].astype(float)
    line[:, :2] += rows["dz"].astype(float) * line[:, 2:4]
    assert np.median(np.abs(final_state(model, rows) - line)[:, 0]) > 1.0
    neutral = {**rows, "state": rows["state"] * np.float32([1, 1, 1, 1, 0])}
    np.testing.assert_allclose(final_state(model, neutral)[:, :4], line[:, :4], rtol=1e-6, atol=1e-4)
    still = {**rows, "dz": np.zeros_like(rows["dz"])}
    np.testing.assert_array_equal(final_state(model, still), rows["state"])


def test_there_and_back(rows: Rows) -> None:
    """Forwards, then backwards: the method's error remains, of fifth order in the step."""
    left = []
    slow = np.abs(rows["state"][:, 4]) < 1e-3
    chosen = {name: column[slow] for name, column in rows.items()}
    for steps in (16, 32):
        model = build(f"model.steps={steps}")
        end = final_state(model, chosen).astype("float32")
        back = final_state(model, {"state": end, "z0": chosen["z0"] + chosen["dz"], "dz": -chosen["dz"]})
        left.append(np.quantile(np.hypot(*(back - chosen["state"])[:, :2].T), 0.9))
    assert left[1] < max(left[0] / 8, 0.01)


def test_lost_tracks_stay_finite() -> None:
    rng = np.random.default_rng(2)
    state = np.column_stack(
        [rng.uniform(-9e3, 9e3, (200, 2)), rng.uniform(-3, 3, (200, 2)), np.full(200, 0.02)]
    )
    rows = {"state": state.astype("float32"), "z0": np.zeros((200, 1), "float32")}
    found = final_state(build(), {**rows, "dz": np.full((200, 1), 10_000, "float32")})
    assert np.isfinite(found).all()


def test_jacobian_equals_automatic_differentiation(rows: Rows) -> None:
    model = build()
    expected = automatic(model, rows)
    inputs = {name: tf.constant(column) for name, column in rows.items()}
    state, matrix = jacobian(model, inputs, of="final_state", by="state")
    got = {"final_state": state.numpy(), "jacobian": matrix.numpy()}
    assert got["jacobian"].dtype == np.float64
    assert jacobian_excess(rows, expected, got).max() < 0.1
    np.testing.assert_array_equal(got["jacobian"][:, 4], np.tile([0, 0, 0, 0, 1], (len(matrix), 1)))


def test_hermite_goes_through_its_ends() -> None:
    f = np.linspace(0, 1, 11)[:, None]
    start, end, change, other = 2.0, -1.0, 3.0, 0.5
    cubic = hermite(start, end, change, other, f)
    np.testing.assert_allclose(cubic[[0, -1], 0], [start, end])
    exact = 1 + 2 * f - 3 * f**2 + 0.7 * f**3
    slope = 2 - 6 * f + 2.1 * f**2
    np.testing.assert_allclose(hermite(exact[0], exact[-1], slope[0], slope[-1], f), exact, rtol=1e-12)


@pytest.mark.parametrize("weights", [(0.0, 1.0), (1.0, 0.0)], ids=["field", "states"])
def test_training_lowers_both_losses(dataset: Path, tmp_path: Path, weights: tuple[float, float]) -> None:
    """From the forces alone, and from final states alone through the integrator."""
    data, pde = weights
    run = run_of(
        f"model.lambda_data={data}",
        f"model.lambda_pde={pde}",
        "model.lambda_ic=0",
        "model.hidden=[16, 16]",
        "model.n_collocation=4",
        "data.batch_size=256",
        "training.epochs=12",
        "training.jit_compile=false",
        "training.warmup_epochs=0",
    )
    folder = train(run, dataset, tmp_path / "run")
    history = folder.read("history.json")
    first, last = history["val"][0], history["val"][-1]
    assert last["pde_loss"] < 0.7 * first["pde_loss"] or data
    assert last["data_loss"] < 0.9 * first["data_loss"]
    assert ("data_loss" in history["train"][-1]) == bool(data)
    assert last["physics_loss"] == pytest.approx(last["pde_loss"], rel=1e-6)
    source = Dataset(dataset)
    rows = source.read("test")
    task = task_of(run)
    best = predict(load_model(folder.best, task), rows, task)
    untrained = {entry.name: entry for entry in task.baselines(source.manifest.config, run)}["base_field"]
    errors = [task.errors(rows, found)["pos"] for found in (best, untrained.predict(rows))]
    assert np.median(errors[0]) < 0.3 * np.median(errors[1])


def test_the_shipped_network_reaches_its_targets_on_tracks_of_its_own_sample(source: Dataset) -> None:
    folder, run = open_run(Path(__file__).parents[2] / "results" / "hybrid_medium")
    task = task_of(run)
    rows = source.read("test")
    found = task.errors(rows, predict(load_model(folder.best, task), rows, task))
    assert found["pos"].mean() < 0.1
    assert np.quantile(found["pos"], 0.95) < 0.3
    line = task.errors(rows, straight_line(rows))
    for axis in task.axes():
        band = band_index(axis, rows)
        for number in np.unique(band):
            inside = band == number
            assert found["pos"][inside].mean() < 0.01 * line["pos"][inside].mean(), (axis.name, number)
