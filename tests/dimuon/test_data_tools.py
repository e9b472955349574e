"""Separation, training arrays, mixing, background and noise: what must stay, what may change, how often."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackkeras.domains.dimuon import loops
from trackkeras.domains.dimuon.detectors import DETECTORS, plane_drift, plane_elements
from trackkeras.domains.dimuon.events import Events, Hits
from trackkeras.domains.dimuon.mixing import (
    SingleMuons,
    add_background,
    background_chunks,
    combine,
)
from trackkeras.domains.dimuon.muons import background_tracks, hit_arrays, muon_rows
from trackkeras.domains.dimuon.noise import Noise, add_noise
from trackkeras.domains.dimuon.occupancy import Occupancy
from trackkeras.domains.dimuon.random_streams import chunk_rng
from trackkeras.domains.dimuon.rus_writing import write_rus
from trackkeras.domains.dimuon.training_files import finder_events, momentum_events, paired, separate
from trackkeras.errors import UserError


@pytest.fixture(scope="module")
def single(muons: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 90 single mu-."""
    path = tmp_path_factory.mktemp("single") / "single.root"
    write_rus(path, [muons(90, (-1,), seed=3)])
    return path


def signal_hits(events: Events) -> Events:
    return events.with_hits((events.hits.track == 1) | (events.hits.track == 2))


# -- separation --------------------------------------------------------------------------------------------
def test_separated_muons_keep_their_hits_and_truth(sample: Events) -> None:
    plus, minus, lost = separate(sample)
    assert lost == 0
    for part, number, charge in ((plus, 1, 1), (minus, 2, -1)):
        own = sample.hits.track == number
        for name, column in part.hits.columns().items():
            np.testing.assert_array_equal(column, getattr(sample.hits, name)[own])
        np.testing.assert_array_equal(part.tracks.momentum, sample.tracks.momentum[number - 1 :: 2])
        assert (part.tracks.charge == charge).all()
        assert (part.columns["eventID"] == sample.columns["eventID"]).all()


def test_events_with_one_muon_are_left_out_of_both_files(sample: Events) -> None:
    kept = np.ones(24, dtype=bool)
    kept[[2, 7]] = False  # the mu+ of event 1, the mu- of event 3
    plus, minus, lost = separate(sample.with_tracks(kept))
    assert lost == 2
    left = np.delete(np.arange(12), [1, 3])
    for part in (plus, minus):
        np.testing.assert_array_equal(part.columns["eventID"], sample.columns["eventID"][left])


def test_separation_goes_by_charge_not_by_order(sample: Events) -> None:
    tracks = replace(sample.tracks, charge=-sample.tracks.charge)
    plus, minus, _ = separate(replace(sample, tracks=tracks))
    assert set(plus.hits.track.tolist()) == {2}
    assert set(minus.hits.track.tolist()) == {1}


def test_training_events_put_the_muons_together_again(sample: Events, same: Any) -> None:
    plus, minus, _ = separate(sample)
    finder = finder_events(plus, minus)
    same(Events(finder.hits, finder.tracks, finder.hit_offsets, finder.track_offsets, sample.columns), sample)
    elements, drift = hit_arrays(sample, muon_rows(sample))
    np.testing.assert_array_equal(finder.columns["HitArray_mup"], elements[:, 0])
    np.testing.assert_array_equal(finder.columns["HitArray_mum"], elements[:, 1])
    assert (finder.columns["muID"] == [1, 2]).all()
    for index, part in enumerate((plus, minus)):
        array = momentum_events(part).columns["HitArray"]
        assert array.shape == (12, 62, 2)
        np.testing.assert_array_equal(array[:, :, 0], elements[:, index])
        np.testing.assert_array_equal(array[:, :, 1], drift[:, index])


def test_files_of_other_events_are_not_paired(sample: Events, tmp_path: Path) -> None:
    plus, minus, _ = separate(sample)
    first, second = tmp_path / "plus.root", tmp_path / "minus.root"
    write_rus(first, [plus])
    write_rus(second, [minus])
    assert [len(one) for one, _ in paired(first, second)] == [12]
    with pytest.raises(UserError, match=r"plus\.root must have one truth track of charge -1"):
        list(paired(first, first))
    write_rus(second, [minus[:11]])
    with pytest.raises(UserError, match="different numbers of events"):
        list(paired(first, second))
    write_rus(second, [minus[[0, 1, 3, 2, *range(4, 12)]]])
    with pytest.raises(UserError, match=r"event 2 has eventID 2 in .* and 3 in"):
        list(paired(first, second))


# -- mixing ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("most", "expected"), [(None, 14), (6, 6), (5, 5), (1, 1), (100, 14)])
def test_events_of_two_files_alternate_from_the_first(
    muons: Any, tmp_path: Path, most: int | None, expected: int
) -> None:
    plus, minus = muons(7, (1,)), muons(9, (-1,), seed=2)
    write_rus(tmp_path / "plus.root", [plus])
    write_rus(tmp_path / "minus.root", [minus])
    mixed = Events.concatenate(list(combine(tmp_path / "plus.root", tmp_path / "minus.root", most)))
    assert len(mixed) == expected
    assert mixed.columns["eventID"].tolist() == list(range(expected))
    for index in range(expected):
        source = (plus, minus)[index % 2][index // 2 : index // 2 + 1]
        np.testing.assert_array_equal(mixed[index : index + 1].tracks.momentum, source.tracks.momentum)
        np.testing.assert_array_equal(mixed.columns["fpgaTrigger"][index], source.columns["fpgaTrigger"][0])


@settings(max_examples=8, deadline=None)
@given(sizes=st.lists(st.integers(0, 70), max_size=6))
def test_background_goes_round_and_misses_none(single: Path, sizes: list[int]) -> None:
    muons = SingleMuons(single)
    taken = [muons.take(size).tracks.momentum for size in sizes]
    whole = SingleMuons(single).take(sum(sizes)).tracks.momentum
    np.testing.assert_array_equal(np.concatenate([np.empty((0, 3)), *taken]), whole)
    np.testing.assert_array_equal(whole[90:180], whole[: max(len(whole) - 90, 0)][:90])
    assert muons.passes == pytest.approx(sum(sizes) / 90)


def test_background_must_be_single_muons(sample: Events, tmp_path: Path) -> None:
    write_rus(tmp_path / "a.root", [sample])
    with pytest.raises(UserError, match=r"one muon in each event to be background, .* 2 truth tracks"):
        SingleMuons(tmp_path / "a.root").take(1)


@pytest.mark.parametrize("model", ["gaussian", "linear", "exponential", "flat"])
def test_the_signal_survives_its_background(sample: Events, same: Any, single: Path, model: Any) -> None:
    occupancy = Occupancy(model, upper=9)
    mixed = add_background(sample, SingleMuons(single), occupancy, chunk_rng(1, "messy"))
    same(signal_hits(mixed).with_tracks(mixed.tracks.number < 3), sample)
    source = {
        (int(d), int(e), float(x))
        for d, e, x in zip(
            *[getattr(SingleMuons(single).take(90).hits, n) for n in ("detector", "element", "drift")],
            strict=True,
        )
    }
    added = mixed.with_hits(mixed.hits.track > 2).hits
    assert {
        (int(d), int(e), float(x)) for d, e, x in zip(added.detector, added.element, added.drift, strict=True)
    } <= source
    # numbers 3, 4, ... without a gap, each with truth and at least one hit
    for index in range(len(mixed)):
        event = mixed[index : index + 1]
        numbers = event.tracks.number[event.tracks.number > 2]
        assert numbers.tolist() == list(range(3, 3 + len(numbers)))
        assert set(event.hits.track[event.hits.track > 2].tolist()) == set(numbers.tolist())
    np.testing.assert_array_equal(background_tracks(mixed), mixed.track_counts - 2)


def test_background_that_keeps_everything_is_the_muons_themselves(single: Path, sample: Events) -> None:
    occupancy = Occupancy("flat", efficiency=1.0, spread=0.0, lower=4, upper=4)
    mixed = add_background(sample, SingleMuons(single), occupancy, chunk_rng(1, "messy"))
    muons = SingleMuons(single).take(48)
    seen = muons.hit_counts > 0
    np.testing.assert_array_equal(mixed.tracks.momentum[mixed.tracks.number > 2], muons.tracks.momentum[seen])
    for name in ("detector", "element", "drift", "process"):
        added = getattr(mixed.hits, name)[mixed.hits.track > 2]
        np.testing.assert_array_equal(added, getattr(muons.hits, name))


def test_kept_shares_follow_the_model(muons: Any, tmp_path: Path) -> None:
    """Detector by detector, within six standard deviations of a binomial draw."""
    write_rus(tmp_path / "a.root", [muons(300, (1,))])
    occupancy = Occupancy("gaussian", sigma=20.0, efficiency=0.8, spread=0.05, lower=30, upper=30)
    signal = muons(100, seed=9)
    mixed = add_background(signal, SingleMuons(tmp_path / "a.root"), occupancy, chunk_rng(5, "messy"))
    offered = SingleMuons(tmp_path / "a.root").take(3000).hits
    n = np.bincount(offered.detector, minlength=63)
    kept = np.bincount(mixed.hits.detector[mixed.hits.track > 2], minlength=63)
    p = 0.8 * np.exp(-0.5 * ((np.arange(63) - 1) / 20.0) ** 2)
    # muons have a share of their own, which adds to the spread
    spread = np.sqrt(n * p * (1 - p) + 3000 * (0.05 * p / 0.8) ** 2) + 1
    assert (np.abs(kept - n * p) < 6 * spread).all()
    assert kept[:30].sum() > kept[30:].sum()


@pytest.mark.parametrize("counts", ["uniform", "skewed"])
def test_numbers_of_tracks_cover_their_range(counts: Any) -> None:
    drawn = Occupancy(lower=4, upper=12, counts=counts).draw_counts(np.random.default_rng(1), 18_000)
    found = np.bincount(drawn, minlength=13)
    assert not found[:4].any()
    weights = np.ones(9) if counts == "uniform" else np.repeat([2.0, 3.0, 4.0], 3)
    expected = 18_000 * weights / weights.sum()
    assert ((found[4:] - expected) ** 2 / expected).sum() < 40  # chi2 with 8 degrees of freedom


def test_weights_are_those_of_the_models() -> None:
    d = np.arange(1, 63)
    for occupancy, expected in (
        (Occupancy("gaussian", sigma=10), np.exp(-((d - 1.0) ** 2) / 200)),
        (Occupancy("linear"), 1 - d / 100),
        (Occupancy("exponential", decay=15), np.exp(-d / 15)),
        (Occupancy("flat"), np.ones(62)),
    ):
        np.testing.assert_allclose(occupancy.weights()[1:], expected)
        assert occupancy.weights()[0] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lower": 5, "upper": 4}, "0 <= lower <= upper, received 5 and 4"),
        ({"lower": -1}, "received -1 and 50"),
        ({"sigma": 0}, "sigma must be positive"),
        ({"decay": -1}, "decay must be positive"),
        ({"efficiency": 1.2}, "efficiency must be from 0 to 1, received 1.2"),
        ({"spread": -0.1}, "spread must not be negative"),
    ],
)
def test_bad_occupancies_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Occupancy(**options)


def test_background_events_have_no_signal(single: Path) -> None:
    occupancy = Occupancy("flat", efficiency=1.0, spread=0.0, lower=1, upper=20)
    chunks = list(background_chunks(single, 2500, occupancy, seed=1))
    assert [len(chunk) for chunk in chunks] == [2048, 452]
    events = Events.concatenate(chunks)
    assert (muon_rows(events) == -1).all()
    assert events.columns["eventID"].tolist() == list(range(2500))
    assert not events.columns["HitArray_mup"].any()
    assert events.track_counts.max() == 20
    assert len(set(events.track_counts.tolist())) >= 20
    # with replacement: some event has one muon twice
    twice = 0
    for event in (events[index : index + 1] for index in range(100)):
        twice += len(event.tracks) - len(np.unique(event.tracks.momentum[:, 0]))
        assert event.tracks.number.tolist() == list(range(3, 3 + len(event.tracks)))
    assert twice > 0


# -- noise -------------------------------------------------------------------------------------------------
def test_noise_fires_only_what_exists_and_is_free(sample: Events, same: Any) -> None:
    noisy = add_noise(sample, Noise(0.05, 0.5), chunk_rng(1, "noise"))
    added = noisy.hits.track == 0
    same(noisy.with_hits(~added), sample)
    hits, event = noisy.hits, noisy.hit_event
    assert added.sum() > 12 * 100
    assert (hits.element[added] >= 1).all()
    assert (hits.element[added] <= plane_elements()[hits.detector[added]]).all()
    assert all(DETECTORS[d - 1].present for d in set(hits.detector[added].tolist()))
    assert 62 in hits.detector[added]
    cell = (event * 64 + hits.detector) * 256 + hits.element
    assert len(np.unique(cell[added])) == added.sum()
    assert not set(cell[added].tolist()) & set(cell[~added].tolist())
    width = plane_drift()[hits.detector[added]]
    assert (np.abs(hits.drift[added]) <= width).all()
    assert ((hits.drift[added] != 0) == (width > 0)).all(), "noise cannot be known by its drift distance"
    for index in range(12):  # behind the event's own hits
        part = added[noisy.hit_offsets[index] : noisy.hit_offsets[index + 1]]
        assert (np.diff(part.astype(int)) >= 0).all()


def test_electronic_noise_has_its_rate_everywhere(muons: Any) -> None:
    events = muons(400, (1,))
    empty = events.with_hits(np.zeros(len(events.hits), dtype=bool))
    chance = 0.01
    hits = add_noise(empty, Noise(chance, 0.0), chunk_rng(3, "noise")).hits
    sizes = plane_elements()
    found, trials = np.bincount(hits.detector, minlength=63), 400.0 * sizes
    assert (np.abs(found - trials * chance) <= 6 * np.sqrt(trials * chance)).all()
    low = hits.element * 2 <= sizes[hits.detector]
    assert abs(low.mean() - 0.5) < 6 * 0.5 / np.sqrt(len(low))


def test_clusters_are_runs_of_neighbours(muons: Any) -> None:
    events = muons(200, (1,))
    empty = events.with_hits(np.zeros(len(events.hits), dtype=bool))
    noisy = add_noise(empty, Noise(0.0, 0.1, 2, 4), chunk_rng(3, "noise"))
    lengths = []
    for event in loops.as_lists(noisy):
        hits = sorted(zip(event["detector"], event["element"], strict=True))
        for _, group in itertools.groupby(hits, key=lambda hit: hit[0]):
            elements = [element for _, element in group]
            assert elements == list(range(elements[0], elements[0] + len(elements)))
            lengths.append(len(elements))
    assert set(lengths) == {2, 3, 4}
    present = sum(plane.present for plane in DETECTORS)
    assert abs(len(lengths) - 200 * present * 0.1) < 6 * np.sqrt(200 * present * 0.1)


def test_noise_of_loops_has_the_same_rates(muons: Any) -> None:
    events = muons(60)
    noise = Noise(0.01, 0.1)
    ours = len(add_noise(events, noise, chunk_rng(1, "noise")).hits) - len(events.hits)
    theirs = sum(len(event["element"]) for event in loops.add_noise(loops.as_lists(events), noise, 1))
    theirs -= len(events.hits)
    assert abs(ours - theirs) < 6 * np.sqrt(ours + theirs)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"electronic": 1.5}, "electronic must be a chance from 0 to 1"),
        ({"cluster": -0.1}, "cluster must be a chance"),
        ({"shortest": 0}, "1 <= shortest <= longest"),
        ({"shortest": 5}, "received 5 and 4"),
        ({"longest": 16}, "as the smallest detector"),
    ],
)
def test_bad_noise_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Noise(**options)


def test_no_noise_changes_nothing(sample: Events, same: Any) -> None:
    same(add_noise(sample, Noise(0.0, 0.0), chunk_rng(1, "noise")), sample)
    full = add_noise(sample, Noise(1.0, 0.0), chunk_rng(1, "noise"))
    assert len(full.hits) == 12 * plane_elements().sum() + _doubled(sample)


def _doubled(events: Events) -> int:
    cell = (events.hit_event * 64 + events.hits.detector) * 256 + events.hits.element
    return len(cell) - len(np.unique(cell))


def test_one_seed_gives_one_result(sample: Events, same: Any, single: Path) -> None:
    def make(seed: int) -> Events:
        mixed = add_background(sample, SingleMuons(single), Occupancy(upper=5), chunk_rng(seed, "messy"))
        return add_noise(mixed, Noise(), chunk_rng(seed, "noise"))

    same(make(1), make(1))
    assert (
        chunk_rng(1, "messy").random() != chunk_rng(1, "noise").random() != chunk_rng(1, "noise", 1).random()
    )
    assert len(make(1).hits) != len(make(2).hits)
    with pytest.raises(UserError, match="seed must not be negative"):
        chunk_rng(-1, "messy")


def test_no_background_and_no_events(sample: Events, same: Any, single: Path) -> None:
    nothing = Occupancy(lower=0, upper=0)
    same(add_background(sample, SingleMuons(single), nothing, chunk_rng(1, "messy")), sample)
    empty = sample[:0]
    assert len(add_background(empty, SingleMuons(single), nothing, chunk_rng(1, "messy"))) == 0
    assert len(add_noise(empty, Noise(), chunk_rng(1, "noise"))) == 0
    assert len(Hits.of([], [])) == 0
