"""Refinement to real hits, drift distances, matrices and declustering, beside plain loops over hits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackkeras.domains.dimuon import loops
from trackkeras.domains.dimuon.events import Events, Hits, Tracks
from trackkeras.domains.dimuon.hit_matrix import hit_matrices, matrix_blocks
from trackkeras.domains.dimuon.muons import hit_arrays, muon_rows
from trackkeras.domains.dimuon.refinement import Declustering, decluster, drift_of, refine
from trackkeras.domains.dimuon.tools_bench import measure, sample_events
from trackkeras.errors import UserError


def event(detector: list[int], element: list[int], **columns: list[float]) -> Events:
    nothing = np.zeros((0, 3))
    return Events.of(
        [len(detector)], Hits.of(detector, element, **columns), [0], Tracks.of([], [], nothing, nothing)
    )


def predicted(plus: int, minus: int, plane: int = 2) -> np.ndarray:
    elements = np.zeros((1, 2, 62), dtype=int)
    elements[0, :, plane - 1] = plus, minus
    return elements


def pair(fired: list[int], plus: int, minus: int, window: int | None = None) -> tuple[int, int]:
    found = refine(event([2] * len(fired), fired), predicted(plus, minus), window)
    assert not np.delete(found, 1, axis=2).any()
    return int(found[0, 0, 1]), int(found[0, 1, 1])


Fired = st.lists(st.integers(1, 200), max_size=8, unique=True)
Element = st.integers(0, 200)


@settings(deadline=None)
@given(fired=Fired, plus=Element, minus=Element)
def test_pairs_are_the_best_that_share_no_hit(fired: list[int], plus: int, minus: int) -> None:
    first, second = pair(fired, plus, minus)
    assert {first, second} <= {0, *fired}
    assert (first > 0) <= (plus > 0)
    assert (second > 0) <= (minus > 0)
    if first and second:
        assert first != second
    wanted = [element for element in (plus, minus) if element]
    got = [found for found in (first, second) if found]
    assert len(got) == min(len(wanted), len(fired))
    if len(wanted) == 2 and len(fired) > 1:
        best = min(abs(plus - a) + abs(minus - b) for a, b in itertools.permutations(fired, 2))
        assert abs(plus - first) + abs(minus - second) == best
    elif len(wanted) == 1 and fired:
        assert abs(wanted[0] - got[0]) == min(abs(wanted[0] - hit) for hit in fired)


def test_one_hit_goes_to_the_nearer_muon() -> None:
    assert pair([50], 48, 49) == (0, 50)
    assert pair([50], 49, 48) == (50, 0)
    assert pair([50], 49, 51) == (50, 0), "equal: the mu+"
    assert pair([50, 60], 52, 53) == (50, 60)
    assert pair([50, 50], 52, 53) == (50, 50), "two hits in one element serve both"
    assert pair([40, 60], 50, 0) == (40, 0), "of equals the lower"
    assert pair([], 50, 60) == (0, 0)


def test_a_window_limits_how_far_a_prediction_moves() -> None:
    assert pair([50, 100], 55, 95, window=4) == (0, 0)
    assert pair([50, 100], 55, 96, window=4) == (0, 100)
    assert pair([50], 200, 0) == (50, 0)


@pytest.fixture(scope="module")
def busy() -> Events:
    return sample_events(40, 150, 2, np.random.default_rng(1))


def test_refinement_is_that_of_loops_where_no_hit_is_shared(busy: Events) -> None:
    elements, _ = hit_arrays(busy, muon_rows(busy))
    moved = np.where(elements > 0, np.clip(elements + 4, 1, 200), 0)
    ours, theirs = refine(busy, moved), loops.refine(loops.as_arrays(busy), moved)
    apart = theirs[:, 0] != theirs[:, 1]
    for muon in range(2):
        # Of two equally near elements the loops take either.
        ways = (np.abs(found[:, muon] - moved[:, muon])[apart] for found in (ours, theirs))
        np.testing.assert_array_equal(*ways)
    assert apart.mean() > 0.3
    np.testing.assert_array_equal(refine(busy, np.zeros_like(moved)), np.zeros_like(moved))


def test_true_hits_stay_where_they_are(sample: Events) -> None:
    elements, drift = hit_arrays(sample, muon_rows(sample))
    np.testing.assert_array_equal(refine(sample, elements), elements)
    found = drift_of(sample, elements)
    once = np.array([len(d) == len(set(zip(d, e, strict=True))) for d, e in _cells(sample)])
    np.testing.assert_array_equal(found[once], drift[once])


def _cells(events: Events) -> list[tuple[list[int], list[int]]]:
    return [(event["detector"], event["element"]) for event in loops.as_lists(events)]


def test_drift_distances_are_those_of_loops(busy: Events) -> None:
    elements, _ = hit_arrays(busy, muon_rows(busy))
    elements[:, :, ::3] += 1  # some where nothing fired
    np.testing.assert_array_equal(drift_of(busy, elements), loops.drift_of(loops.as_arrays(busy), elements))


def test_matrices_are_those_of_loops(busy: Events) -> None:
    timed = Events.of(
        busy.hit_counts,
        Hits(**{**busy.hits.columns(), "tdc": np.arange(len(busy.hits)) * 1.0 + 1.0}),
        busy.track_counts,
        busy.tracks,
    )
    fired, drift, tdc = loops.matrices(loops.as_arrays(timed))
    np.testing.assert_array_equal(hit_matrices(timed), fired)
    for block in (7, 64):
        parts = [[matrix.copy() for matrix in found[1:]] for found in matrix_blocks(timed, block)]
        ours = (np.concatenate(part) for part in zip(*parts, strict=True))
        for one, other in zip(ours, (fired, drift, tdc), strict=True):
            np.testing.assert_array_equal(one, other)
    assert [found.first for found in matrix_blocks(timed, 16)] == [0, 16, 32]
    assert not list(matrix_blocks(timed[:0]))
    elements, _ = hit_arrays(busy, muon_rows(busy))
    index = np.nonzero(elements)
    assert hit_matrices(busy)[index[0], index[2], elements[index]].all(), (
        "row of the matrix is slot of the array"
    )


def test_wrong_arrays_are_refused(busy: Events) -> None:
    with pytest.raises(UserError, match=r"must have shape \(40, 2, 62\), received \(40, 62\)"):
        refine(busy, np.zeros((40, 62), dtype=int))
    with pytest.raises(UserError, match="from 0 to 200, received 0 to 201"):
        drift_of(busy, np.pad(np.array([[[201]]]), ((0, 39), (0, 1), (0, 61))))


def test_events_without_times_are_not_declustered(busy: Events, sample: Events) -> None:
    for events in (busy, sample):
        np.testing.assert_array_equal(decluster(events).hits.drift, events.hits.drift)


@pytest.mark.parametrize(
    ("element", "drift", "tdc", "kept"),
    [
        ([10, 11], [0.31, 0.2], [10, 100], [11]),  # the far one of a pair is crosstalk of the near one
        ([11, 10], [0.2, -0.31], [10, 100], [11]),  # its sign and the order do not matter
        ([10, 11], [0.31, 0.05], [10, 100], [10, 11]),  # unless the track passed close to the other wire
        ([10, 11], [0.2, 0.1], [10, 17], []),  # at one time: electronic
        ([10, 11], [0.2, 0.1], [10, 19], [10, 11]),
        ([10, 11, 12], [0.1, 0.1, 0.1], [10, 15, 8], []),
        ([10, 11, 12], [0.1, 0.1, 0.1], [10, 40, 10], [10, 11, 12]),
        ([10, 12, 14], [0.31, 0.31, 0.31], [10, 11, 12], [10, 12, 14]),  # no neighbours
    ],
)
def test_crosstalk_goes(element: list[int], drift: list[float], tdc: list[float], kept: list[int]) -> None:
    events = event(
        [*([3] * len(element)), 31, 31], [*element, 5, 6], drift=[*drift, 0, 0], tdc=[*tdc, 500, 500]
    )
    hits = decluster(events).hits
    assert sorted(hits.element[hits.detector == 3].tolist()) == sorted(kept)
    assert (hits.detector == 31).sum() == 2, "hodoscopes stay"
    assert len(decluster(events, Declustering(far=2.0, pair_time=0.0, run_time=0.0)).hits) == len(element) + 2


def test_the_benchmark_measures_every_step() -> None:
    rows = measure(60, 1)
    assert len(rows) == 10
    assert {row["step"] for row in rows} >= {"refinement", "reconstruct", "noise", "messy, 25 tracks"}
    assert all(row["us_per_event"] > 0 and row["loop_us_per_event"] > 0 for row in rows)


def test_background_of_loops_is_as_much(busy: Events) -> None:
    from trackkeras.domains.dimuon.mixing import add_background
    from trackkeras.domains.dimuon.occupancy import Occupancy
    from trackkeras.domains.dimuon.random_streams import chunk_rng

    muons = sample_events(400, 35, 1, np.random.default_rng(2))

    class Pool:
        def take(self, n: int) -> Events:
            return Events(
                *[getattr(muons[:n], k) for k in ("hits", "tracks", "hit_offsets", "track_offsets")]
            )

    occupancy = Occupancy(sigma=20.0, lower=10, upper=10)
    ours = add_background(busy, Pool(), occupancy, chunk_rng(1, "messy"))
    theirs = loops.add_background(loops.as_lists(busy), loops.as_lists(muons), occupancy, 1)
    counts = np.array([len(ours.hits), sum(len(found["element"]) for found in theirs)]) - len(busy.hits)
    assert abs(counts[0] - counts[1]) < 6 * np.sqrt(counts.sum())
    assert max(max(found["track"]) for found in theirs) == ours.hits.track.max()
