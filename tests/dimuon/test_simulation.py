"""Simulated events: determinism, background, noise, shares, and options that make no sense."""

import numpy as np
import pytest
from pydantic import ValidationError

from tfrecords_tools.generate import Recipe, generate
from tfrecords_tools.reader import Dataset
from trackkeras.config import validate
from trackkeras.domains.dimuon.events import FIRST_BACKGROUND, Events
from trackkeras.domains.dimuon.kinematics import CHARGES
from trackkeras.domains.dimuon.muons import background_tracks, hit_arrays, muon_rows
from trackkeras.domains.dimuon.records import check_rows, dimuon_schema
from trackkeras.domains.dimuon.simulate import CODES, make_shard, simulate
from trackkeras.domains.dimuon.simulation_bench import SAMPLES, measure
from trackkeras.domains.dimuon.simulation_options import PRESETS, PROCESSES, GenerateOptions
from trackkeras.domains.dimuon.spectrometer import FMAG_END, STATIONS
from trackkeras.errors import UserError


def events_of(n, seed=1, **options):
    parts = [events for events, _ in simulate(GenerateOptions(**options), np.random.default_rng(seed), n)]
    return Events.concatenate(parts)


@pytest.fixture(scope="module")
def dimuons():
    return events_of(1500)


def test_every_event_has_two_muons_with_all_stations(dimuons):
    assert len(dimuons) == 1500
    assert (dimuons.track_counts == 2).all()
    rows = muon_rows(dimuons)
    assert (dimuons.tracks.charge[rows] == [1, -1]).all()
    elements, _ = hit_arrays(dimuons, rows)
    for numbers, least in STATIONS:
        fired = (elements[:, :, np.array(numbers) - 1] > 0).sum(axis=2)
        assert (fired >= least).all()
    np.testing.assert_array_equal(dimuons.columns["eventID"], np.arange(1500))


def test_truth_goes_with_the_hits(dimuons):
    tracks = dimuons.tracks
    lost = np.linalg.norm(tracks.momentum, axis=1) - np.linalg.norm(tracks.momentum_st1, axis=1)
    assert (lost > 0.012 * (FMAG_END - tracks.vertex[:, 2])).all()
    kick = tracks.charge * (tracks.momentum_st3[:, 0] - tracks.momentum_st1[:, 0])
    assert np.median(kick) == pytest.approx(0.4146, abs=0.002)
    assert (np.diff(dimuons.hits.track)[np.diff(dimuons.hit_event) == 0] >= 0).all()
    assert set(np.unique(dimuons.hits.process)) == set(CODES["jpsi"])


def test_same_stream_same_events_and_another_stream_others():
    one, two, other = events_of(50, seed=3), events_of(50, seed=3), events_of(50, seed=4)
    for name, column in one.hits.columns().items():
        np.testing.assert_array_equal(column, two.hits.columns()[name])
    assert not np.isin(one.tracks.momentum[:, 0], other.tracks.momentum[:, 0]).any()


def test_shards_are_a_function_of_recipe_and_number(tmp_path):
    config = GenerateOptions(background={"upper": 3}, noise={"electronic": 0.001}).model_dump(mode="json")
    function = "trackkeras.domains.dimuon.simulate:make_shard"
    recipe = Recipe(dimuon_schema(), function, config, 7, 240, 3, "test")
    whole = generate(tmp_path / "whole", recipe)
    generate(tmp_path / "parts", recipe, only=[2])
    parts = generate(tmp_path / "parts", recipe)
    assert whole is not None
    assert parts is not None
    for split in whole.splits:
        ours, theirs = whole.splits[split].shards, parts.splits[split].shards
        assert [shard.crc32c for shard in ours] == [shard.crc32c for shard in theirs]
    rows = Dataset(tmp_path / "whole").read("train")
    assert not check_rows(rows)
    assert len(np.unique(rows["group"])) == len(rows["group"])
    assert (rows["hit_drift"] >= 0).all()


def test_rows_and_counts_of_a_shard():
    config = {"signed": True, "max_hits": 90}
    rows, counts = zip(*make_shard(config, np.random.default_rng(1), 60), strict=True)
    assert sum(len(part["muon"]) for part in rows) == 60
    assert sum(count["tried"] - count["not_accepted"] for count in counts) == 60
    assert rows[0]["hit_drift"].shape == (60, 90)
    assert (rows[0]["hit_drift"] < 0).any()
    assert (rows[0]["muon"] == 1).all()
    assert not rows[0]["background_tracks"].any()


def test_background_is_drawn_between_the_limits_and_leaves_the_signal():
    events = events_of(300, background={"lower": 2, "upper": 5, "pool": 200})
    counts = background_tracks(events)
    assert counts.min() >= 1  # a track may keep no hit
    assert counts.max() == 5
    assert counts.mean() == pytest.approx(3.5, abs=0.3)
    own = events.hits.track < FIRST_BACKGROUND
    assert (np.bincount(events.hit_event[own], minlength=300) > 60).all()
    kept = (~own).sum() / counts.sum()
    assert kept == pytest.approx(0.78 * 35.2, rel=0.05)  # kept share of the gaussian model of width 60
    assert set(np.unique(events.hits.process[~own])) == {78, 88}


def test_rows_have_room_for_the_fullest_events():
    config = {"background": {"lower": 50, "upper": 50, "pool": 300}, "noise": {"electronic": 0.01}}
    options = validate(GenerateOptions, config, "generate dimuon")
    ((rows, _),) = make_shard(config, np.random.default_rng(1), 40)
    assert rows["hit_detector"].shape == (40, options.row_hits())
    assert 1000 < rows["hit_count"].max() < options.row_hits()
    assert GenerateOptions().row_hits() == 1024
    assert GenerateOptions(max_hits=70).row_hits() == 70


def test_noise_has_no_track():
    events = events_of(100, noise={"electronic": 0.01, "cluster": 0.05})
    noise = events.hits.track == 0
    assert noise.sum() > 1000
    assert (events.hits.track[~noise] >= 1).all()


def test_processes_have_their_shares_and_tracks():
    shares = {"psi_prime": 0.25, "combinatorial": 0.25, "mu_plus": 0.25, "mu_minus": 0.25}
    events = events_of(600, processes=shares)
    first = events.hits.process[events.hit_offsets[:-1]]
    single = events.track_counts == 1
    assert single.mean() == pytest.approx(0.5, abs=0.1)
    assert (first == CODES["psi_prime"][0]).mean() == pytest.approx(0.25, abs=0.08)
    charge = events.tracks.charge[events.track_offsets[:-1]]
    assert (charge[single] < 0).any()
    assert (charge[~single] > 0).all()


def test_any_acceptance_keeps_every_draw():
    ((events, counts),) = simulate(GenerateOptions(acceptance="any"), np.random.default_rng(0), 100)
    assert counts == {"tried": 100}
    assert len(events) == 100
    assert events.hit_counts.min() < 35


def test_every_process_has_a_code_for_each_muon():
    assert set(CODES) == set(CHARGES) == set(PROCESSES)
    assert all(len(CODES[name]) == len(CHARGES[name]) for name in PROCESSES)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_options(name):
    options = validate(GenerateOptions, PRESETS[name], "generate dimuon")
    assert options != GenerateOptions()
    assert options.row_hits() >= 88 + 34 * options.background.upper


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"processes": {"upsilon": 1.0}}, "processes"),
        ({"processes": {"jpsi": -1.0}}, "not negative"),
        ({"processes": {}}, "shares"),
        ({"processes": {"jpsi": 0.0}}, "all 0"),
        ({"xf_min": 0.4, "xf_max": 0.2}, "xf_min"),
        ({"mass_min": 5.0, "mass_max": 4.0}, "mass_min"),
        ({"single_pz_min": 90.0}, "single_pz_min"),
        ({"background": {"lower": 3, "upper": 2}}, "lower"),
        ({"background": {"uper": 2}}, "uper"),
        ({"noise": {"shortest": 4, "longest": 3}}, "shortest"),
        ({"chamber_efficiency": 1.2}, "chamber_efficiency"),
        ({"acceptance": "most"}, "acceptance"),
    ],
)
def test_options_that_make_no_sense(values, message):
    with pytest.raises(UserError, match=message):
        validate(GenerateOptions, values, "generate dimuon")


def test_options_are_frozen():
    with pytest.raises(ValidationError):
        GenerateOptions().halo = 0.1


def test_hopeless_options_end_with_a_reason():
    options = GenerateOptions(processes="mu_plus", single_pz_min=5.0, single_pz_max=6.0)
    with pytest.raises(UserError, match="only 0 of"):
        list(simulate(options, np.random.default_rng(0), 1))


def test_too_many_hits_for_a_row():
    config = {"max_hits": 40}
    with pytest.raises(UserError, match="max_hits"):
        list(make_shard(config, np.random.default_rng(1), 10))


def test_the_benchmark_times_every_sample():
    rows = measure(12)
    assert [row["sample"] for row in rows] == list(SAMPLES)
    assert all(row["us_per_event"] > 0 and row["drawn_per_event"] >= 1 for row in rows)
