"""The set of an event's hits, and the tracks that attend to it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trackkeras.domain import find_task
from trackkeras.domains.dimuon.detectors import DETECTORS, ELEMENTS, PLANES
from trackkeras.domains.dimuon.finder_loss import cross_entropy
from trackkeras.domains.dimuon.finder_models import MUONS, build_finder
from trackkeras.domains.dimuon.finder_options import FinderOptions
from trackkeras.domains.dimuon.hit_matrix import hit_matrices
from trackkeras.domains.dimuon.hitset_settling import SettledTracks, first_tracks, nearness, solved
from trackkeras.domains.dimuon.hitset_tokens import (
    CELLS,
    REACH,
    SCALE,
    FiredCells,
    HitFeatures,
    HitGeometry,
    neighbours,
    partner,
    track_basis,
)
from trackkeras.domains.dimuon.hitset_tracks import HitAttention, TrackEvidence
from trackkeras.domains.dimuon.muons import hit_arrays, muon_rows
from trackkeras.domains.dimuon.planes import PLANES as GEOMETRY
from trackkeras.domains.dimuon.road_fit import places_of
from trackkeras.domains.dimuon.road_tables import KICK_PER_BEND, KMAG_CENTRE, Z_2
from trackkeras.domains.dimuon.simulate import simulate
from trackkeras.domains.dimuon.simulation_options import GenerateOptions
from trackkeras.errors import UserError
from trackkeras.layers.operations import counted_operations
from trackkeras.presets import load_run

TINY = FinderOptions(network="hitset", size="tiny")
NUMBERS = st.lists(st.floats(-2, 2), min_size=5, max_size=5)


@pytest.fixture(scope="module")
def events() -> tuple[np.ndarray, np.ndarray]:
    """Hit matrices `(n, 62, 201)` of dimuons under some tracks, and their elements `(n, 2, 62)`."""
    options = GenerateOptions(background={"upper": 4, "pool": 50})
    found = next(simulate(options, np.random.default_rng(5), 8))[0]
    return hit_matrices(found).astype(np.float32), hit_arrays(found, muon_rows(found))[0]


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(2)
    return build_finder(TINY, training=True)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sets(st.integers(0, CELLS - 1), max_size=30), min_size=1, max_size=4))
def test_the_set_holds_every_hit_once(fired: list[set[int]]) -> None:
    hits = np.zeros((len(fired), PLANES, ELEMENTS), dtype=np.float32)
    for event, cells in enumerate(fired):
        hits[event].reshape(-1)[list(cells)] = 1.0
    found, there = (np.asarray(value) for value in FiredCells()(hits))
    assert found.shape[1] == max(1, *map(len, fired))
    for event, cells in enumerate(fired):
        assert found[event][there[event] > 0].tolist() == sorted(cells)
        assert not found[event][there[event] == 0].any()


def test_no_hit_is_left_out_of_the_fullest_event() -> None:
    cells, there = FiredCells()(np.ones((1, PLANES, ELEMENTS), dtype=np.float32))
    assert np.asarray(there).sum() == CELLS
    np.testing.assert_array_equal(np.asarray(cells)[0], np.arange(CELLS))


@settings(max_examples=25, deadline=None)
@given(NUMBERS)
def test_distances_are_those_from_a_line_with_one_kick(numbers: list[float]) -> None:
    x, bend, y, off_y, off_kick = np.array(numbers) * SCALE
    # the bend is the slope behind KMAG less that of a line from the origin to the kick
    slope = (x + bend * KMAG_CENTRE) / Z_2
    assert slope - (x - slope * (Z_2 - KMAG_CENTRE)) / KMAG_CENTRE == pytest.approx(bend, abs=1e-9)
    kick, slope_y = KICK_PER_BEND * bend + off_kick, y / Z_2 + off_y
    track = np.array(numbers, dtype=np.float32) @ track_basis()
    np.testing.assert_allclose(track, [x, slope, y, slope_y, kick], rtol=1e-4, atol=1e-6)
    elements = np.array([5 + 2 * (plane.number % 5) for plane in GEOMETRY])
    cells = np.array([[(plane.number - 1) * ELEMENTS for plane in GEOMETRY]]) + elements
    offset, slopes, plane = HitGeometry()(cells.astype(np.float32))
    narrow = np.full(cells.shape, 0.5, dtype=np.float32)
    weight, distance = nearness(np.array([[numbers]], dtype=np.float32), offset, slopes, narrow)
    for k, own in enumerate(GEOMETRY):
        assert np.asarray(plane)[0, k].argmax() == own.number - 1
        place = own.place(
            x + slope * (own.z - Z_2) + kick * min(own.z - KMAG_CENTRE, 0.0), y + slope_y * (own.z - Z_2)
        )
        expected = 0.5 * (elements[k] - float(place))
        assert float(distance[0, 0, k]) == pytest.approx(expected, abs=2e-3)
        assert float(weight[0, 0, k]) == pytest.approx((1 + expected**2) ** -2, rel=2e-2)


def test_neighbours_stand_about_the_hit() -> None:
    places = {plane.number: plane for plane in GEOMETRY}
    for number, own in places.items():
        other = partner(number)
        cells = neighbours().reshape(PLANES, ELEMENTS, -1)[number - 1]
        element = max(DETECTORS[number - 1].elements // 2, 3)
        assert cells[element, : 2 * REACH].tolist() == [
            (number - 1) * ELEMENTS + element + step for step in (-2, -1, 1, 2)
        ]
        assert (cells[0] % ELEMENTS == 0).all()
        if other is None:
            assert DETECTORS[number - 1].kind == "hodoscope"
            assert (cells[:, 2 * REACH :] % ELEMENTS == 0).all()
            continue
        assert partner(other) == number
        middle = cells[element, 3 * REACH]
        assert middle // ELEMENTS == other - 1
        place = places[other].origin + places[other].pitch * (middle % ELEMENTS)
        assert abs(place - own.origin - own.pitch * element) <= 0.5 * own.pitch + 1e-6


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-2, 1e3))
def test_equations_are_solved(seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    half, right = rng.normal(0.0, size, (3, 7, 5, 5)), rng.normal(size=(3, 7, 5))
    matrix = half @ half.swapaxes(-1, -2) + 0.3 * np.eye(5)
    expected = np.linalg.solve(matrix, right[..., None])[..., 0]
    np.testing.assert_allclose(
        solved(tf.constant(matrix), tf.constant(right)), expected, rtol=1e-6, atol=1e-9
    )


def test_tracks_settle_on_the_muons_of_a_clean_event() -> None:
    events = next(simulate(GenerateOptions(), np.random.default_rng(8), 6))[0]
    truth = hit_arrays(events, muon_rows(events))[0]
    cells, there = FiredCells()(hit_matrices(events).astype(np.float32))
    settle = SettledTracks(64, FinderOptions(network="hitset").hitset.settling)
    tracks = np.asarray(settle(there, *HitGeometry()(cells)))
    places = np.asarray(places_of(tracks @ track_basis()))
    assert np.sign(first_tracks(64)[:4, 1]).tolist() == [1, -1, 1, -1]
    chambers = np.arange(PLANES) < 30
    found = 0
    for event, muons in enumerate(truth):
        for elements in muons:
            fired = chambers & (elements > 0)
            found += np.abs(places[event][:, fired] - elements[fired]).max(axis=1).min() < 1.2
    assert found >= 0.9 * truth.shape[0] * 2


def test_order_of_hits_does_not_matter(events: tuple[np.ndarray, np.ndarray]) -> None:
    hits, rng = events[0][:2], np.random.default_rng(0)
    cells, there = (np.asarray(value) for value in FiredCells()(hits))
    order = rng.permutation(cells.shape[1])
    tracks, content = (rng.normal(size=(2, 4, size)).astype(np.float32) for size in (5, 6))
    settle, features = SettledTracks(4, (10.0, 2.0)), HitFeatures()
    attention, evidence = HitAttention(10.0, 3, 7), TrackEvidence()
    found = []
    for which in (np.arange(len(order)), order):
        geometry = HitGeometry()(cells[:, which])
        moved = attention(tracks, content, features(hits, cells[:, which]), there[:, which], *geometry)
        found.append([settle(there[:, which], *geometry), *moved])
        found[-1] += evidence(moved[0], there[:, which], *geometry)
    found[0][-1] = tf.gather(found[0][-1], order, axis=2)  # weights of hits go with them
    for before, after in zip(*found, strict=True):
        np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-4)


def test_rows_are_probabilities_of_fired_elements_and_events_are_alone(
    events: tuple[np.ndarray, np.ndarray], model: keras.Model
) -> None:
    hits = np.concatenate([events[0][:2], np.zeros((1, PLANES, ELEMENTS), dtype=np.float32), events[0][2:4]])
    hits[4, :, 1:20] = 1.0  # more hits than the others have
    together = {name: np.asarray(value) for name, value in model({"hits": hits}).items()}
    for name in MUONS:
        np.testing.assert_allclose(together[name].sum(axis=-1), 1.0, atol=1e-5)
        assert not together[name][:, :, 1:][hits[:, :, 1:] == 0].any()
        assert (together[name][:, :, 1:][hits[:, :, 1:] > 0] > 0).all(), "no hit is out of reach"
        assert (together[name][2, :, 0] == 1.0).all()
        for event in range(len(hits)):
            alone = model({"hits": hits[event : event + 1]})[name]
            np.testing.assert_allclose(alone[0], together[name][event], atol=1e-5)
    assert np.abs(together["track_mup"] - together["track_mum"]).max() > 1e-3


def test_loss_reaches_every_weight_and_falls(
    events: tuple[np.ndarray, np.ndarray], model: keras.Model
) -> None:
    optimizer = keras.optimizers.Adam(0.01)
    losses = []
    for step in range(25):
        with tf.GradientTape() as tape:
            outputs = model({"hits": events[0]}, training=True)
            loss = cross_entropy(events[1], *(outputs[name] for name in MUONS))
        gradients = tape.gradient(loss, model.trainable_variables)
        if step == 0:
            for weight, gradient in zip(model.trainable_variables, gradients, strict=True):
                assert np.isfinite(np.asarray(tf.convert_to_tensor(gradient))).all(), weight.path
                assert np.abs(np.asarray(tf.convert_to_tensor(gradient))).max() > 0, weight.path
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]


def test_compilation_for_a_fixed_number_of_hits_is_refused() -> None:
    run = load_run("finder_hitset_small", ["training.jit_compile=true"])
    with pytest.raises(UserError, match=r"training\.jit_compile does not go with hitset"):
        find_task("dimuon", "finder").check_data(run, {})


def test_operations_grow_with_hits() -> None:
    network = build_finder(TINY, training=False)
    few, more, most = (counted_operations(network, length) for length in (100, 200, 300))
    assert few > 0
    assert more - few == most - more > 0
