"""The finder `roads`: tables, search, fit, company and mixture."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackkeras.domains.dimuon.detectors import ELEMENTS, PLANES
from trackkeras.domains.dimuon.finder_models import MUONS, build_finder
from trackkeras.domains.dimuon.finder_options import FinderOptions
from trackkeras.domains.dimuon.hit_matrix import hit_matrices
from trackkeras.domains.dimuon.muons import hit_arrays, muon_rows
from trackkeras.domains.dimuon.planes import PLANES as GEOMETRY
from trackkeras.domains.dimuon.road_company import SharedHits, pair_features
from trackkeras.domains.dimuon.road_fit import RoadFit, inside, places_of
from trackkeras.domains.dimuon.road_search import RoadSearch, hit_weights, weighted_table
from trackkeras.domains.dimuon.road_tables import (
    KMAG_CENTRE,
    ROW,
    STATION_1,
    STATION_2,
    STATION_3,
    Z_2,
    front_shifts,
    half_tables,
)
from trackkeras.domains.dimuon.simulate import simulate
from trackkeras.domains.dimuon.simulation_options import GenerateOptions


@pytest.fixture(scope="module")
def clean() -> tuple[np.ndarray, np.ndarray]:
    """Hit matrices `(n, 62, 201)` of dimuons without background, and their elements `(n, 2, 62)`."""
    events = next(simulate(GenerateOptions(), np.random.default_rng(8), 24))[0]
    return hit_matrices(events).astype(np.float32), hit_arrays(events, muon_rows(events))[0]


@pytest.fixture(scope="module")
def found(clean: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, ...]:
    """Fitted tracks `(n, c, 5)` of these events, and where they cross the planes."""
    tracks, half = RoadSearch(pairs=64, lines=32, tracks=32)(clean[0])
    fitted, places, _, within = RoadFit()(clean[0], tracks, half)
    return tuple(np.asarray(value) for value in (fitted, places, within, half))


track = st.tuples(
    st.floats(-80, 80),
    st.floats(-0.1, 0.1),
    st.floats(-90, 90),
    st.floats(-0.07, 0.07),
    st.floats(-0.05, 0.05),
)


@settings(max_examples=30, deadline=None)
@given(track)
def test_places_are_those_of_a_line_with_one_kick(values: tuple[float, ...]) -> None:
    x, slope_x, y, slope_y, kick = values
    places = np.asarray(places_of(np.array([[values]], dtype=np.float32)))[0, 0]
    for plane in GEOMETRY:
        across = x + slope_x * (plane.z - Z_2) + kick * min(plane.z - KMAG_CENTRE, 0.0)
        expected = plane.place(across, y + slope_y * (plane.z - Z_2))
        assert places[plane.number - 1] == pytest.approx(float(expected), abs=2e-4)


@pytest.mark.parametrize("half", [0, 1])
def test_sums_of_tables_are_exact(half: int) -> None:
    tables, (_, shifts) = half_tables(half), front_shifts(half)
    for table in (tables.stereo_x, tables.stereo_y, tables.front_x, tables.front_y, shifts):
        assert np.array_equal(table * 256.0, np.round(table * 256.0))
        assert np.abs(table).max() < 2**14  # with 8 binary digits behind the point, float32 has room for sums
    assert tables.x_lookups.min() >= 0
    assert tables.x_lookups.max() < PLANES * ROW


def test_weights_favour_hits_more_where_few_elements_fired() -> None:
    hit, miss = hit_weights()
    present = [plane.number - 1 for plane in GEOMETRY]
    assert (hit[present, 1] > hit[present, 30]).all()
    assert (miss <= 0).all()
    assert np.array_equal(hit * 64, np.round(hit * 64))
    hits = np.zeros((1, PLANES, ELEMENTS), dtype=np.float32)
    hits[0, 0, 50] = 1.0
    table = np.asarray(weighted_table(hits))[0]
    assert np.flatnonzero(table[0]).tolist() == [199, 200, 201, 202, 203, 204]
    assert not table[1:].any()


def test_true_tracks_are_found_and_fitted(
    clean: tuple[np.ndarray, np.ndarray], found: tuple[np.ndarray, ...]
) -> None:
    fitted, places, _, half = found
    hits = good = 0
    for event, elements in enumerate(clean[1]):
        for sign, truth in zip((-1, 1), elements, strict=True):
            upper = truth[20] > 0
            rows = [n - 1 for n in (*STATION_1, *STATION_2, *STATION_3[0 if upper else 1])]
            off = np.abs(places[event][:, rows] - truth[rows]).max(axis=1)
            off[(half[event] == 0) != upper] = np.inf
            hits += 1
            good += bool((off[fitted[event, :, 4] * sign > 0] < 0.8).any())
    assert good >= 0.9 * hits


def test_a_track_is_inside_of_one_half_or_at_the_middle(found: tuple[np.ndarray, ...]) -> None:
    fitted, _, within, _ = found
    assert within.min() >= 0.0
    assert within.max() <= 1.0
    absent = [row for row in range(PLANES) if row + 1 not in {plane.number for plane in GEOMETRY}]
    assert not within[:, :, absent].any()
    height = fitted[..., 2] + fitted[..., 3] * (1930.0 - Z_2)
    far = np.abs(height) > 12.0
    assert ((within[..., 20] > 0.5) & (within[..., 26] > 0.5))[far].sum() == 0
    assert np.asarray(inside(fitted, np.full_like(within, -3.0))).max() < 1e-6  # before the first element


def test_hits_are_shared_with_others_but_not_with_copies() -> None:
    places = np.zeros((1, 3, PLANES), dtype=np.float32)
    places[0, 0] = 50.0
    places[0, 1] = 50.2  # the same track again
    places[0, 2] = np.where(np.arange(PLANES) < 10, 50.0, 90.0)  # another, with ten hits in common
    own = np.ones_like(places)
    shared = np.asarray(SharedHits()(np.ones((1, 3), dtype=np.float32), places, own))[0]
    assert shared[0, :10].min() > 0.5
    assert shared[0, 10:].max() < 0.05
    nobody = np.asarray(SharedHits()(np.zeros((1, 3), dtype=np.float32), places, own))
    assert not nobody.any()


def test_pairs_do_not_depend_on_their_order() -> None:
    rng = np.random.default_rng(1)
    scale = [50.0, 0.05, 50.0, 0.05, 0.015]
    plus, minus = (rng.normal(size=(2, 4, 5)).astype(np.float32) * scale for _ in range(2))
    both = np.asarray(pair_features(plus, minus))
    turned = np.asarray(pair_features(plus[:, ::-1], minus))
    np.testing.assert_allclose(turned, both[:, ::-1], rtol=1e-5, atol=1e-6)


def test_rows_are_probabilities_and_events_are_alone(clean: tuple[np.ndarray, np.ndarray]) -> None:
    keras.utils.set_random_seed(3)
    model = build_finder(FinderOptions(network="roads", size="tiny"), training=False)
    hits = np.concatenate([clean[0][:3], np.zeros((1, PLANES, ELEMENTS), dtype=np.float32)])
    together = model({"hits": hits})
    for name in MUONS:
        rows = np.asarray(together[name])
        assert rows.min() >= 0.0
        np.testing.assert_allclose(rows.sum(axis=-1), 1.0, atol=1e-5)
        alone = np.concatenate([np.asarray(model({"hits": hits[k : k + 1]})[name]) for k in range(4)])
        np.testing.assert_allclose(alone, rows, atol=1e-5)
        assert (rows[3].argmax(axis=-1)[[6, 54]] == 0).all()
    assert np.abs(np.asarray(together["track_mup"]) - np.asarray(together["track_mum"])).max() > 0.1
