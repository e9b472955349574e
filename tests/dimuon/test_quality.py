"""The quality network: what a right track is, tracks with hits exchanged, scores, loss, and the road."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr
from sklearn.metrics import log_loss, roc_auc_score

from trackkeras.domain import Rows, find_task
from trackkeras.domains.dimuon.ordering import miscalibration, misordered, rank_distance, reliability, roc
from trackkeras.domains.dimuon.planes import PLANES
from trackkeras.domains.dimuon.quality import QualityTask, SpoiledQualityTask
from trackkeras.domains.dimuon.quality_baselines import fitted, simple_features
from trackkeras.domains.dimuon.quality_models import CHAMBERS, TrackResiduals, build_quality
from trackkeras.domains.dimuon.quality_options import QualityOptions
from trackkeras.domains.dimuon.quality_rows import track_batch, track_columns
from trackkeras.domains.dimuon.records import event_rows
from trackkeras.domains.dimuon.simulate import simulate
from trackkeras.domains.dimuon.simulation_options import GenerateOptions
from trackkeras.domains.dimuon.spoiling import Spoiling, nearest_others, spoiled_columns, spoiled_hits
from trackkeras.domains.dimuon.tracklets import Tracklets
from trackkeras.presets import load_run

SCORES = arrays(np.float64, 30, elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]))
ANSWERS = arrays(np.bool_, 30)


@pytest.fixture(scope="module")
def events() -> Rows:
    """J/psi with up to 12 background tracks."""
    options = GenerateOptions(max_hits=512, background={"upper": 12})
    parts = [event_rows(found, max_hits=512) for found, _ in simulate(options, np.random.default_rng(3), 240)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@pytest.fixture(scope="module")
def tracks(events: Rows) -> Rows:
    return SpoiledQualityTask().own_rows(events)


def invented(seed: int, n: int = 40) -> Rows:
    """Events with few hits, of which some agree with the truth; some muons are not there, or not found."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 3, (n, 2, 62)) * (rng.random((n, 2, 62)) < rng.random((n, 2, 1)))
    found = np.where(rng.random(true.shape) < rng.random((n, 2, 1)), true, rng.integers(0, 3, true.shape))
    true[rng.random((n, 2)) < 0.2] = 0
    found[rng.random((n, 2)) < 0.2] = 0
    truth = rng.normal([0, 0, 30], 5, (n, 2, 3)) * true.any(axis=2, keepdims=True)
    return {
        "elements": true,
        "momentum": truth.astype("float32"),
        "background_tracks": rng.integers(0, 9, (n, 1)),
        "found_elements": found,
        "found_drift": (found * 0.1).astype("float32"),
        "found_momentum": (truth + rng.normal(0, 3, truth.shape)).astype("float32"),
    }


@pytest.mark.parametrize("target", ["relative", "chi2"])
def test_right_tracks_are_those_of_the_definition(target: str) -> None:
    """Against loops that count with whole numbers."""
    events = invented(1)
    rows = track_columns(events, target)
    at = 0
    for event in range(40):
        for muon in range(2):
            found, true = events["found_elements"][event, muon], events["elements"][event, muon]
            if not found.any():
                continue
            shared = sum(one == other > 0 for one, other in zip(found, true, strict=True))
            counts = np.count_nonzero(found), np.count_nonzero(true)
            right = shared > 0 and all(3 * shared >= 2 * count for count in counts)
            got, given = events["found_momentum"][event, muon], events["momentum"][event, muon]
            size = np.linalg.norm(given) or np.linalg.norm(got)
            error = np.linalg.norm(got - given) ** (1 if target == "relative" else 2) / size
            assert rows["p_right"][at, 0] == right
            assert rows["error"][at, 0] == pytest.approx(error, rel=1e-5)
            assert rows["charge"][at, 0] == (1, -1)[muon]
            assert rows["event"][at] == event
            assert rows["background_tracks"][at, 0] == events["background_tracks"][event, 0]
            np.testing.assert_array_equal(rows["elements"][at], found)
            at += 1
    assert at == len(rows["p_right"])
    assert 0.05 < rows["p_right"].mean() < 0.95


def test_batches_have_the_rows_of_an_evaluation(events: Rows) -> None:
    """Also inside `tf.data`, where hits are exchanged again."""
    run = load_run("quality_small")
    task = find_task("dimuon", "quality").for_model(run.model)
    columns = {name: events[name][:50] for name in task.columns or ()}
    rows = task.own_rows(columns)
    batches = tf.data.Dataset.from_tensor_slices(columns).batch(30).map(lambda b: task.split_batch(run, b))
    parts = [({**inputs, **truth}, weight) for inputs, truth, weight in batches]
    for name in ("elements", "drift", "charge", "momentum", "p_right", "error"):
        column = np.concatenate([np.asarray(part[name]) for part, _ in parts])
        kept = np.concatenate([np.asarray(weight) for _, weight in parts]) > 0
        np.testing.assert_allclose(column[kept], rows[name], rtol=1e-4, atol=1e-4, err_msg=name)
    _, truth, weight = track_batch(invented(2), "chi2")
    assert 0 < np.asarray(weight).sum() < 80
    assert np.isfinite(truth["error"]).all()


def test_exchanged_hits_are_other_hits_of_the_event(events: Rows) -> None:
    elements, drift = spoiled_hits(events, Spoiling(untouched=0.0, station=1.0, hit=1.0))
    own = events["elements"]
    changed = elements != own
    assert changed.any()
    for event, muon, plane in np.argwhere(changed & (elements > 0))[:500]:
        there = events["hit_detector"][event] == plane + 1
        assert elements[event, muon, plane] in events["hit_element"][event, there]
        first = np.flatnonzero(there & (events["hit_element"][event] == elements[event, muon, plane]))
        assert drift[event, muon, plane] in events["hit_drift"][event, first]
    assert not elements[own == 0].any(), "no hit where the muon has none"
    assert not drift[elements == 0].any()
    # where a hit is missing nothing else fired
    for event, muon, plane in np.argwhere(changed & (elements == 0))[:200]:
        there = events["hit_detector"][event] == plane + 1
        assert set(events["hit_element"][event, there]) == {own[event, muon, plane]}


def test_nearest_others_are_nearest(events: Rows) -> None:
    wanted = np.random.default_rng(2).uniform(1, 150, events["elements"].shape)
    hit = nearest_others(events, wanted)
    for event in range(0, 60, 5):
        for muon, plane in np.argwhere(events["elements"][event] > 0):
            there = events["hit_detector"][event] == plane + 1
            others = events["hit_element"][event, there]
            others = others[others != events["elements"][event, muon, plane]]
            if not others.size:
                assert hit[event, muon, plane] == -1
                continue
            found = events["hit_element"][event, hit[event, muon, plane]]
            best = np.abs(others - wanted[event, muon, plane]).min()
            assert np.abs(found - wanted[event, muon, plane]) == pytest.approx(best, abs=0.1)


def test_what_is_exchanged_follows_from_the_event_alone(events: Rows) -> None:
    whole = spoiled_hits(events)
    order = np.random.default_rng(0).permutation(len(events["group"]))[:40]
    part = spoiled_hits({name: column[order] for name, column in events.items()})
    for one, other in zip(whole, part, strict=True):
        np.testing.assert_array_equal(one[order], other)
    untouched = (whole[0] == events["elements"]).all(axis=2)
    assert 0.35 < untouched.mean() < 0.65, "40 % and those of little severity"
    nothing = spoiled_hits(events, Spoiling(untouched=1.0))
    np.testing.assert_array_equal(nothing[0], events["elements"])
    np.testing.assert_array_equal(nothing[1], events["drift"])


def test_momenta_of_exchanged_hits_are_worse(events: Rows, tracks: Rows) -> None:
    right = tracks["p_right"][:, 0] > 0
    assert 0.4 < right.mean() < 0.9
    assert np.median(tracks["error"][~right]) > 5 * np.median(tracks["error"][right])
    clean = track_columns(events | spoiled_columns(events, Spoiling(untouched=1.0)), "relative")
    assert clean["p_right"].all()
    assert np.median(clean["error"]) < 0.06, "energy loss in the dump and the bend leave 5 %"


def test_residuals_show_which_hit_is_wrong(events: Rows) -> None:
    clean = track_columns(events | spoiled_columns(events, Spoiling(untouched=1.0)), "relative")
    planes = len(PLANES)
    plane = next(index for index, plane in enumerate(PLANES) if plane.number == 52)

    def residuals(elements: np.ndarray) -> np.ndarray:
        inputs = elements, clean["drift"], clean["charge"]
        return np.asarray(TrackResiduals()(*inputs, Tracklets()(*inputs)))

    before = residuals(clean["elements"])
    np.testing.assert_array_equal(
        before[:, :planes], clean["elements"][:, [p.number - 1 for p in PLANES]] > 0
    )
    chambers = before[:, planes : planes + CHAMBERS][before[:, :CHAMBERS] > 0]
    assert np.quantile(np.abs(np.sinh(chambers)), 0.95) < 0.6, "within half a cell and the drift distance"
    near = before[:, 2 * planes :][before[:, :CHAMBERS] > 0]
    assert np.median(np.abs(np.sinh(near))) * 0.1 < 0.1, "a millimetre behind the choice of sides"
    fired = clean["elements"][:, 51] > 0
    moved = clean["elements"].copy()
    moved[fired, 51] += 5
    after = residuals(moved)
    difference = np.sinh(after[fired]) - np.sinh(before[fired])
    np.testing.assert_allclose(difference[:, planes + plane], 5.0, rtol=1e-3)
    others = np.delete(np.arange(2 * planes + CHAMBERS), planes + plane)
    assert not difference[:, others].any(), "tubes have no say in the line"


def test_answers_are_finite_and_bounded_whatever_the_track(tracks: Rows) -> None:
    keras.utils.set_random_seed(1)
    model = build_quality(QualityOptions(hidden=(8,)), training=False)
    rng = np.random.default_rng(4)
    for weight in model.trainable_variables:
        weight.assign(weight + 100 * rng.normal(size=weight.shape))
    task = QualityTask()
    inputs = task.inputs(tracks) | {"momentum": 1e6 * rng.normal(size=tracks["momentum"].shape)}
    for rows in (inputs, task.signature().examples):
        found = {name: np.asarray(value) for name, value in model(rows).items()}
        assert ((found["p_right"] > 0) & (found["p_right"] < 1)).all()
        assert np.isfinite(found["error"]).all()
        assert (found["error"] > 0).all()
    # a network that has learnt nothing has one answer
    fresh = build_quality(QualityOptions(hidden=(8,)), training=False)(task.inputs(tracks))
    assert np.unique(fresh["p_right"]) == [0.5]


def test_loss_is_cross_entropy_and_a_robust_error(tracks: Rows) -> None:
    model = build_quality(QualityOptions(hidden=(8,)), training=True)
    rng = np.random.default_rng(6)
    n = len(tracks["p_right"])
    said = {
        "p_right": rng.uniform(0.01, 0.99, (n, 1)).astype("float32"),
        "error": np.exp(rng.normal(-3, 2, (n, 1))).astype("float32"),
    }
    truth = {name: tf.constant(tracks[name]) for name in said}
    weight = (rng.random(n) < 0.7).astype("float32")
    loss = float(model.compute_loss(None, truth, {k: tf.constant(v) for k, v in said.items()}, weight))
    kept = weight > 0
    entropy = log_loss(tracks["p_right"][kept, 0], said["p_right"][kept, 0].astype(float))
    huber = keras.losses.Huber(delta=1.0)(
        np.log(tracks["error"][kept]), np.log(said["error"][kept].astype(float))
    )
    assert loss == pytest.approx(entropy + float(huber), rel=1e-4)


@settings(max_examples=40, deadline=None)
@given(SCORES, ANSWERS, SCORES)
def test_row_measures_have_the_known_means(score: np.ndarray, right: np.ndarray, other: np.ndarray) -> None:
    if right.any() and not right.all():
        assert misordered(score, right).mean() == pytest.approx(1 - roc_auc_score(right, score))
        assert misordered(right.astype(float), right).max() == 0
        kept_wrong, kept_right = roc(score, right)
        assert (np.diff(kept_right) >= 0).all()
        assert (np.diff(kept_wrong) >= 0).all()
    else:
        assert (misordered(score, right) == 0.5).all()
    if np.unique(score).size > 1 and np.unique(other).size > 1:
        rho = spearmanr(score, other).statistic
        assert rank_distance(score, other).mean() == pytest.approx(1 - rho)
        assert rank_distance(score, score).max() == 0
    else:
        assert (rank_distance(score, other) == 1).all()
    expected = 0.0
    for low in range(10):
        inside = (np.minimum(np.floor(score * 10), 9)) == low
        if inside.any():
            expected += inside.mean() * abs(score[inside].mean() - right[inside].mean())
    assert miscalibration(score, right).mean() == pytest.approx(expected)
    said, share, _ = reliability(score, right)
    assert np.isnan(said).sum() == 10 - np.unique(np.minimum(np.floor(score * 10), 9)).size
    assert ((share >= 0) & (share <= 1) | np.isnan(share)).all()


def test_baselines_answer_as_they_should(tracks: Rows) -> None:
    half = len(tracks["p_right"]) // 2
    train, test = (
        {name: column[part] for name, column in tracks.items()} for part in (slice(half), slice(half, None))
    )
    constant, linear = fitted(train)
    np.testing.assert_allclose(constant.predict(test)["p_right"], train["p_right"].mean(), rtol=1e-6)
    np.testing.assert_allclose(constant.predict(test)["error"], np.median(train["error"]), rtol=1e-2)
    task = QualityTask()
    scores = {each.name: task.errors(test, each.predict(test)) for each in (constant, linear)}
    for quantity in ("log_loss", "brier", "misordered", "error_log", "error_order"):
        assert scores["linear"][quantity].mean() < 0.8 * scores["constant"][quantity].mean()
    assert simple_features(test).shape == (len(test["p_right"]), 20)
    # tracks of one kind
    right = {name: column[train["p_right"][:, 0] > 0] for name, column in train.items()}
    for baseline in fitted(right):
        assert np.isfinite(task.errors(test, baseline.predict(test))["log_loss"]).all()


def test_a_short_training_beats_the_constant(tracks: Rows) -> None:
    """Of the dense layers alone: what is before them has no weights, and is computed once."""
    keras.utils.set_random_seed(3)
    model, task = build_quality(QualityOptions(hidden=(16,)), training=True), QualityTask()
    half = len(tracks["p_right"]) // 2
    train, test = (
        {name: column[part] for name, column in tracks.items()} for part in (slice(half), slice(half, None))
    )
    seen = keras.Model(model.input, model.get_layer("seen").output)(task.inputs(train))
    truth = {name: tf.constant(train[name]) for name in ("p_right", "error")}
    optimizer = keras.optimizers.AdamW(5e-3, weight_decay=0.1)
    for _ in range(60):
        with tf.GradientTape() as tape:
            hidden = model.get_layer("hidden_0")(seen)
            said = {name: model.get_layer(name)(model.get_layer(f"{name}_head")(hidden)) for name in truth}
            loss = model.compute_loss(None, truth, said)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
    answer = {name: np.asarray(value) for name, value in model(task.inputs(test)).items()}
    found, plain = task.errors(test, answer), task.errors(test, fitted(train)[0].predict(test))
    for quantity in ("log_loss", "brier", "misordered", "error_log", "error_order"):
        assert found[quantity].mean() < 0.9 * plain[quantity].mean(), quantity


def test_parity_is_judged_track_by_track() -> None:
    expected = {name: np.full((3, 1), 0.5, "float32") for name in ("p_right", "error")}
    other = {name: column.copy() for name, column in expected.items()}
    other["p_right"][1] += 4e-3
    other["error"][2] += 2e-2
    excess = QualityTask().parity().excess({}, expected, other)
    np.testing.assert_allclose(excess, [0.0, 2.0, 4.0], rtol=1e-3)


def test_options_decide_what_is_read() -> None:
    for hits, kind in (("finder", QualityTask), ("spoiled", SpoiledQualityTask)):
        for target, unit in (("relative", "1"), ("chi2", "GeV")):
            run = load_run("quality_small", [f"model.hits={hits}", f"model.target={target}"])
            task = find_task("dimuon", "quality").for_model(run.model)
            assert type(task) is kind
            assert task.signature().outputs[1].unit == unit
            assert ("found_elements" in (task.columns or ())) == (hits == "finder")
