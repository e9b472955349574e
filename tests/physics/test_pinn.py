"""PINN and RK_PINN: the equation of motion as a loss, and the networks that carry it."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfrecords_tools.reader import Dataset
from trackkeras.checkpoints import copy_weights, load_model
from trackkeras.data import training_batches
from trackkeras.domain import Rows, task_of
from trackkeras.domains.extrapolation.fields import make_field
from trackkeras.domains.extrapolation.jacobian import automatic, jacobian_excess
from trackkeras.domains.extrapolation.physics_loss import Physics, lorentz, path_rate
from trackkeras.domains.extrapolation.pinn import load_trajectory, trajectory
from trackkeras.domains.extrapolation.propagation import integrate, propagate
from trackkeras.domains.extrapolation.rkpinn_models import RK4, StageSlopes, StepSize, StepSum
from trackkeras.domains.extrapolation.tableaus import TABLEAUS
from trackkeras.errors import UserError
from trackkeras.presets import load_run
from trackkeras.runs import RunFolder
from trackkeras.tangents import jacobian
from trackkeras.training import EpochRecorder, build_model, train

NETWORKS = {
    "exact": ("pinn_tiny",),
    "learned": ("pinn_tiny", "model.initial=learned"),
    "states": ("rkpinn_tiny",),
    "slopes": ("rkpinn_tiny", "model.combine=slopes"),
}
SMALL = (
    "model.hidden=[8, 8]",
    "model.n_collocation=2",
    "data.batch_size=512",
    "data.train_rows=1024",
    "training.warmup_epochs=0",
)
WEIGHTS = {"data": 1.0, "pde": 1.0, "ic": 1.0}


def run_of(name: str, *assignments: str) -> Any:
    preset, *extra = NETWORKS[name]
    return load_run(preset, [*SMALL, *extra, *assignments])


@pytest.fixture(scope="module")
def source(dataset: Path) -> Dataset:
    return Dataset(dataset)


@pytest.fixture(scope="module")
def rows(source: Dataset) -> Rows:
    return source.read("test", limit=300)


def build(name: str, source: Dataset, deployed: bool = False) -> keras.Model:
    run = run_of(name)
    task = task_of(run)
    return (task.build_deployed if deployed else task.build)(run, source.manifest.statistics("train"))


def with_random_weights(model: keras.Model) -> keras.Model:
    rng = np.random.default_rng(5)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(scale=0.4, size=weight.shape))
    return model


def final_state(model: keras.Model, rows: Rows) -> np.ndarray:
    return np.asarray(model({name: rows[name] for name in ("state", "z0", "dz")})["final_state"])


# -- the equation ----------------------------------------------------------------------------------------


def true_path(rows: Rows, fraction: float, field: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Planes, states there, and d(x, y, tx, ty)/dz by central differences of fourth order."""
    z0, dz = rows["z0"][:, 0].astype(float), rows["dz"][:, 0].astype(float)
    z = z0 + fraction * dz
    step = 10.0
    offsets = np.array([-2, -1, 0, 1, 2]) * step
    at = [
        propagate(field, rows["state"], z0, z + offset - z0, step=25.0, max_slope=np.inf).state
        for offset in offsets
    ]
    rate = (at[0] - 8 * at[1] + 8 * at[3] - at[4])[:, :4] / (12 * step)
    return z, at[2], rate


def relative_defect(physics: Physics, rows: Rows, z: Any, state: Any, rate: Any) -> np.ndarray:
    scale = np.asarray(physics.scale(rows))
    arrays = (z[:, None], state, rows["dz"] * rate / scale, rows["dz"], scale)
    return np.asarray(physics.defect(*(tf.constant(array, tf.float32) for array in arrays)))


@pytest.mark.parametrize("name", ["lhcb", "gaussian"])
def test_the_true_trajectory_obeys_the_loss_and_nothing_else_does(name: str, rows: Rows) -> None:
    field = make_field(name)
    physics = Physics(field.options, WEIGHTS)
    bent = true_path(rows, 0.4, field)
    kept = np.isfinite(bent[1]).all(axis=1)
    rows = {key: value[kept] for key, value in rows.items()}
    z, state, rate = (array[kept] for array in bent)
    truth = relative_defect(physics, rows, z, state, rate)
    assert np.abs(truth).max() < 2e-3
    line = rows["state"].astype(float).copy()
    line[:, :2] += 0.4 * rows["dz"] * line[:, 2:4]
    straight_rate = np.concatenate([line[:, 2:4], np.zeros((len(line), 2))], axis=1)
    assert np.median(np.abs(relative_defect(physics, rows, z, line, straight_rate)[:, 2])) > 0.1
    # a magnet that is one per cent too strong, or another charge
    for factor in (1.01, -1.0):
        wrong = state * np.array([1, 1, 1, 1, factor])
        defect = relative_defect(physics, rows, z, wrong, rate)
        assert np.median(np.abs(defect[:, 2])) > 100 * np.median(np.abs(truth[:, 2]))
        assert np.median(np.abs(defect[:, 2])) > 0.1 * abs(factor - 1)


def test_positions_must_follow_slopes(rows: Rows) -> None:
    physics = Physics({"name": "lhcb"}, WEIGHTS)
    z, state, rate = true_path(rows, 0.5, make_field("lhcb"))
    rate = rate + np.array([1e-3, 0, 0, 0])
    kept = np.isfinite(state).all(axis=1)
    defect = relative_defect(physics, {k: v[kept] for k, v in rows.items()}, z[kept], state[kept], rate[kept])
    expected = 1e-3 * rows["dz"][kept, 0] / np.asarray(physics.scale(rows))[kept, 0]
    inside = defect[:, 0] != 0
    assert inside.mean() > 0.95
    np.testing.assert_allclose(defect[inside, 0], expected[inside], rtol=0.02, atol=1e-4)


def test_mirrored_charge_mirrors_the_defect(rows: Rows) -> None:
    """In a field along y that depends on z alone, x -> -x with q -> -q is a symmetry."""
    physics = Physics({"name": "gaussian"}, WEIGHTS)
    z, state, rate = true_path(rows, 0.3, make_field("gaussian"))
    rate = rate + 1e-5
    one = relative_defect(physics, rows, z, state, rate)
    flip = np.array([-1, 1, -1, 1, -1])
    other = relative_defect(physics, rows, z, state * flip, rate * flip[:4])
    np.testing.assert_allclose(other, one * flip[:4], rtol=1e-5, atol=1e-6)


def test_points_without_a_known_field_have_no_weight(rows: Rows) -> None:
    physics = Physics({"name": "two_dipole"}, WEIGHTS)
    rows = {name: rows[name][:4] for name in ("state", "z0", "dz")}
    state = np.array([[0, 0, 0, 0, 1e-3], [6e3, 0, 0, 0, 1e-3], [0, 3990, 0, 0, 1e-3], [0, 0, 0, 0, 1e-3]])
    z = np.array([5000.0, 5000.0, 5000.0, 20000.0])
    defect = relative_defect(physics, rows, z, state, np.full((4, 4), 1e-3))
    assert (defect[0] != 0).all()
    assert (defect[1:] == 0).all(), "beside the volume, in a pole, behind the volume"


def test_row_wise_derivative_is_that_of_the_function() -> None:
    along = np.linspace(0.1, 2.0, 7)[:, None]
    functions = (np.sin, np.exp, np.square, np.log)
    slopes = (np.cos, np.exp, lambda f: 2 * f, lambda f: 1 / f)

    def states(f: Any) -> Any:
        return tf.concat([tf.sin(f), tf.exp(f), f * f, tf.math.log(f), tf.ones_like(f)], axis=-1)

    value, rate = path_rate(states, tf.constant(along), tf.constant([[1.0, 2.0, 3.0, 4.0]], tf.float64))
    np.testing.assert_allclose(value[:, :4], np.hstack([f(along) for f in functions]), rtol=1e-12)
    expected = np.hstack([weight * f(along) for weight, f in zip((1, 2, 3, 4), slopes, strict=True)])
    np.testing.assert_allclose(rate, expected, rtol=1e-12)


def test_third_derivative_of_a_concatenation_is_the_same_under_xla() -> None:
    def third(weight: Any, along: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(weight)

            def states(f: Any) -> Any:
                joined = tf.concat([f, f * f, tf.zeros_like(f)], axis=-1)
                return tf.concat([tf.tanh(joined @ weight), tf.ones_like(f)], axis=-1)

            _, rate = path_rate(states, along, tf.ones((1, 4)))
            loss = tf.reduce_sum(rate * rate)
        return tape.gradient(loss, weight)

    weight, along = tf.random.stateless_normal((3, 4), [1, 2]), tf.linspace(0.1, 1.0, 5)[:, None]
    expected = third(weight, along)
    assert np.abs(expected[:2]).min() > 0
    np.testing.assert_allclose(tf.function(third, jit_compile=True)(weight, along), expected, rtol=2e-5)


def test_collocation_points_cover_the_path(rows: Rows) -> None:
    def fractions(step: int, **options: Any) -> np.ndarray:
        physics = Physics({"name": "gaussian"}, WEIGHTS, points=5, **options)
        return np.asarray(physics.fractions(rows, tf.constant(step, tf.int64), training=True))

    drawn = fractions(3)
    assert ((drawn >= 0) & (drawn <= 1)).all()
    np.testing.assert_array_equal(np.floor(drawn[:, :4] * 5 + 1e-5), np.tile(np.arange(4), (300, 1)))
    assert len(np.unique(drawn[:, 0])) > 200, "tracks differ"
    np.testing.assert_array_equal(drawn, fractions(3))
    assert np.abs(drawn - fractions(4)).min() > 0
    assert np.abs(drawn - fractions(3, seed=1)).min() > 0
    np.testing.assert_allclose(fractions(3, collocation="equidistant")[7], [0.1, 0.3, 0.5, 0.7, 0.9])


# -- the networks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_no_charge_or_no_distance_means_no_bend(name: str, source: Dataset, rows: Rows) -> None:
    for model in (build(name, source), build(name, source, deployed=True)):
        with_random_weights(model)
        bent = final_state(model, rows)
        line = rows["state"].copy()
        line[:, :2] += rows["dz"] * line[:, 2:4]
        assert np.median(np.abs(bent - line)[:, 0]) > 1.0
        np.testing.assert_array_equal(bent[:, 4], rows["state"][:, 4])
        neutral = {**rows, "state": rows["state"] * np.float32([1, 1, 1, 1, 0])}
        np.testing.assert_allclose(final_state(model, neutral)[:, :4], line[:, :4], rtol=1e-6, atol=2e-3)
        still = {**rows, "dz": np.zeros_like(rows["dz"])}
        np.testing.assert_array_equal(final_state(model, still), rows["state"])


@pytest.mark.parametrize("name", NETWORKS)
def test_network_in_use_is_the_trained_one(name: str, source: Dataset, rows: Rows) -> None:
    model, deployed = with_random_weights(build(name, source)), build(name, source, deployed=True)
    copy_weights(model, deployed)
    line = rows["state"][:, :2] + rows["dz"] * rows["state"][:, 2:4]
    bend = np.abs(final_state(deployed, rows)[:, :2] - line).max(axis=1, keepdims=True)
    difference = np.abs(final_state(model, rows) - final_state(deployed, rows))[:, :2]
    assert (difference <= 2e-3 + 1e-4 * bend).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_jacobian_of_the_network_in_use(name: str, source: Dataset, rows: Rows) -> None:
    """Tangents through every layer, against automatic differentiation."""
    model = with_random_weights(build(name, source, deployed=True))
    rows = {key: value[:100] for key, value in rows.items()}
    final_state, matrix = jacobian(
        model, {key: tf.constant(rows[key]) for key in model.input}, "final_state", "state"
    )
    got = {"final_state": final_state, "jacobian": np.asarray(matrix)}
    assert jacobian_excess(rows, automatic(model, rows), got).max() < 1


@pytest.mark.parametrize("name", ["exact", "learned"])
def test_the_fraction_of_the_path_reaches_the_network(name: str, source: Dataset, rows: Rows) -> None:
    model = with_random_weights(build(name, source))
    path = trajectory(model, rows, [0.0, 0.25, 0.5, 1.0])
    np.testing.assert_allclose(path[:, 3], final_state(model, rows), rtol=2e-5, atol=2e-3)
    start = path[:, 0] == rows["state"]
    assert start.all() if name == "exact" else start[:, :4].mean() < 0.01
    line = (
        rows["state"][:, None, :2]
        + np.float32([[0.25], [0.5], [1]]) * rows["dz"][:, None] * (rows["state"][:, None, 2:4])
    )
    bend = (path[:, 1:, :2] - line) / (path[:, 3:, :2] - line[:, 2:])
    assert np.abs(np.diff(bend, axis=1)).min(axis=(0, 2)).min() > 0
    # a bend linear in the fraction, or a fixed power of it, would be 1/4 and 1/2 for every track
    assert (bend[:, :2].std(axis=0) > 0.02).all(), "float32 leaves at most 0.001"


@pytest.mark.parametrize("name", NETWORKS)
def test_rates_are_the_derivative_of_the_trajectory(name: str, source: Dataset, rows: Rows) -> None:
    """Defects in no field at all, against differences of the trajectory."""
    model = with_random_weights(build(name, source))
    field = {"name": "gaussian", "peak": 0.0}
    model.compile(physics=Physics(field, WEIGHTS), optimizer="sgd", loss="mse")
    rows = {key: value[np.abs(rows["state"][:, 4]) < 1e-4] for key, value in rows.items()}
    inputs = {key: tf.constant(rows[key]) for key in ("state", "z0", "dz")}
    fraction, step = 0.6, 0.01
    points = tf.fill((len(rows["dz"]), 1), fraction)
    found = np.asarray(model.defects(inputs, points))
    scale = np.asarray(model.physics.scale(inputs))

    def stages(f: float) -> np.ndarray:
        if name in ("exact", "learned"):
            return trajectory(model, rows, [f])
        shorter = {**inputs, "dz": np.float32(f) * inputs["dz"]}
        return np.asarray(model.get_layer("stages")(shorter)["states"])

    middle = stages(fraction)[:, : found.shape[1]]
    if name == "slopes":
        length = np.float32(fraction) * rows["dz"][:, None]
        rate = rows["dz"][:, None] * np.concatenate([middle[..., 2:4], middle[..., 5:7] / length], axis=-1)
    else:
        planes = np.array([0.25, 0.5, 0.75, 1.0] if name == "states" else [1.0])[:, None]
        rate = (stages(fraction + step) - stages(fraction - step))[..., :4] / (2 * step * planes)
    free = np.concatenate([middle[..., 2:4], np.zeros_like(middle[..., :2])], axis=-1)
    expected = (rate - rows["dz"][:, None] * free) / scale[:, None]
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.02)
    assert np.abs(expected[..., 2:]).max() > 0.1


def test_slopes_of_the_field_make_one_runge_kutta_step(rows: Rows) -> None:
    """The layer, fed with what the field says at its own stages, against the propagation's step."""
    field = make_field("lhcb")
    state, z0, dz = (rows[name].astype(float) for name in ("state", "z0", "dz"))
    dz = dz / 20
    magnet = (5000.0, 1700.0)
    layer, combination, end = (
        StageSlopes(*magnet, dtype="float64"),
        StepSum(dtype="float64"),
        StepSize(*magnet),
    )
    turn = np.asarray(layer.sizes(state[:, 4:5], z0, dz)[1])
    heads = np.zeros((len(state), 8))
    for stage in range(4):  # a stage needs those before it
        at = np.asarray(layer(state, z0, dz, heads), float)[:, stage, :5]
        b = field.field(at[:, 0], at[:, 1], z0[:, 0] + RK4.c[stage] * dz[:, 0])
        change = np.asarray(lorentz(tf.constant(at), tf.constant(b)))[:, 2:]
        heads[:, 2 * stage : 2 * stage + 2] = dz * change / turn
    found = np.asarray(end(state, z0, dz, combination(heads)))
    ones = np.ones(len(state), np.int64)
    expected = integrate(field, state, z0[:, 0], dz[:, 0], ones, TABLEAUS["rk4"], max_slope=np.inf).state
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-3)
    assert np.abs(expected[:, :2] - state[:, :2] - dz * state[:, 2:4]).max() > 5


# -- training --------------------------------------------------------------------------------------------


WEIGHTED = (
    "model.lambda_data=0.5",
    "model.lambda_pde=2",
    "model.lambda_ic=3",
    "training.epochs=2",
    "training.ema=0.9",
)


@pytest.fixture(scope="module")
def runs(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    """Finished runs, and beside each a copy NAME_killed: what a kill in the second epoch would leave."""
    folder = tmp_path_factory.mktemp("runs")
    before = EpochRecorder.on_epoch_end

    def copy_first(self: EpochRecorder, number: int, logs: Any = None) -> None:
        if number == 1:
            path = self.folder.path
            shutil.copytree(path, path.with_name(f"{path.name}_killed"))
        before(self, number, logs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EpochRecorder, "on_epoch_end", copy_first)
        return {name: train(run_of(name, *WEIGHTED), dataset, folder / name) for name in NETWORKS}


@pytest.mark.parametrize("name", NETWORKS)
def test_history_holds_every_part_of_the_loss(name: str, runs: dict[str, RunFolder]) -> None:
    history = runs[name].read("history.json")
    for part in ("train", "val"):
        entry = history[part][-1]
        total = 0.5 * entry["data_loss"] + 2 * entry["pde_loss"] + 3 * entry["ic_loss"]
        assert entry["loss"] == pytest.approx(total, rel=1e-5)
        assert entry["physics_loss"] == pytest.approx(entry["ic_loss"] + entry["pde_loss"], rel=1e-6)
        assert entry["data_loss"] > 0
        assert entry["pde_loss"] > 0
        assert (entry["ic_loss"] > 0) == (name == "learned")
        if name in ("states", "slopes"):
            assert len(entry["stage_losses"]) == 4
            assert np.mean(entry["stage_losses"]) == pytest.approx(entry["pde_loss"], rel=1e-5)
    assert "lr" in history["train"][-1]


@pytest.mark.parametrize("name", NETWORKS)
def test_trajectory_of_a_run_ends_in_its_best_model(
    name: str, runs: dict[str, RunFolder], rows: Rows
) -> None:
    found = trajectory(load_trajectory(runs[name].path), rows, [0.5, 1.0])
    best = load_model(runs[name].best, task_of(run_of(name)))
    assert found.shape == (len(rows["dz"]), 2, 5)
    np.testing.assert_allclose(found[:, 1], final_state(best, rows), rtol=1e-5, atol=2e-3)


def test_bad_requests_are_refused(trained_run: Path, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a trajectory needs pinn or rk_pinn"):
        load_trajectory(trained_run)
    with pytest.raises(UserError, match=r"a list of numbers in \[0, 1\], received \[2\]"):
        trajectory(keras.Model(), {}, [2])
    with pytest.raises(UserError, match="lambda_data and lambda_pde cannot both be 0"):
        run_of("exact", "model.lambda_data=0", "model.lambda_pde=0")
    for field, message in (
        ("{name: gaussian}", "but the data was made in {'name': 'lhcb', 'polarity': 1}; train with --set"),
        ("{name: lhcb, polarity: -1}", "but the data was made in"),
        ("{name: nowhere}", "no field named 'nowhere'"),
        ("{}", "model.field needs a name"),
    ):
        with pytest.raises(UserError, match=message):
            train(run_of("exact", f"model.field={field}"), dataset, tmp_path / "never")
    assert not (tmp_path / "never").exists()


METRICS = ("_mm", "_mean")


def test_a_killed_run_ends_as_if_never_interrupted(runs: dict[str, RunFolder], dataset: Path) -> None:
    run, whole = run_of("exact", *WEIGHTED), runs["exact"]
    killed = RunFolder(whole.path.with_name("exact_killed"))
    assert killed.read("state.json")["epoch"] == 1
    resumed = train(run, dataset, killed.path, resume=True)
    histories = [folder.read("history.json") for folder in (whole, resumed)]
    for history in histories:
        history.pop("training_time")
        history.pop("processor_time")
    # What `predict` gives for a row may differ in its last digit with the place of the arrays in memory.
    metrics = [
        [{key: entry.pop(key) for key in sorted(entry) if key.endswith(METRICS)} for entry in history["val"]]
        for history in histories
    ]
    for one, other in zip(*metrics, strict=True):
        assert one == pytest.approx(other, rel=1e-7)
    assert histories[0] == histories[1]
    models = [load_model(folder.best, task_of(run)).get_weights() for folder in (whole, resumed)]
    for one, other in zip(*models, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_equation_alone_leads_to_the_trajectory(source: Dataset) -> None:
    """No final state is shown; the trajectory comes much nearer to the truth than a straight line."""
    run = run_of(
        "exact",
        "model.hidden=[32, 32]",
        "model.lambda_data=0",
        "training.learning_rate=1e-2",
        "data.train_rows=9600",
        "training.epochs=6",
    )
    task = task_of(run)
    keras.utils.set_random_seed(1)
    model = build_model(task, run, source.manifest.statistics("train"), steps=18)
    batches = training_batches(source, partial(task.split_batch, run), batch_size=512, seed=1)
    losses = model.fit(batches.dataset, steps_per_epoch=18, epochs=6, verbose=0, shuffle=False).history
    assert losses["pde_loss"][-1] < 0.6 * losses["pde_loss"][0]
    assert losses["loss"] == pytest.approx(losses["pde_loss"])
    rows = source.read("test", limit=300)
    fractions = np.array([0.25, 0.5, 0.75, 1.0])
    z0, dz = (rows[name][:, 0].astype(float) for name in ("z0", "dz"))
    planes = z0[:, None] + dz[:, None] * fractions[:3]
    truth = propagate(make_field("lhcb"), rows["state"], z0, dz, planes=planes, step=100.0)
    assert truth.states is not None
    states = np.concatenate([truth.states, truth.state[:, None]], axis=1)
    line = rows["state"][:, None, :2] + (dz[:, None] * fractions)[..., None] * rows["state"][:, None, 2:4]
    found = trajectory(model, rows, fractions)
    for index in range(4):
        errors = [
            np.median(np.hypot(*(path[:, index, :2] - states[:, index, :2]).T)) for path in (found, line)
        ]
        assert errors[0] < 0.4 * errors[1]
