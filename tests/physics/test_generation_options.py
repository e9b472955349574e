"""What the options of the generator add: planes, legs, quasi-random points, importance, named samples."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats
from scipy.stats import qmc

from trackkeras.config import validate
from trackkeras.domain import find_domain
from trackkeras.domains.extrapolation.generation_options import PRESETS, GenerateOptions
from trackkeras.domains.extrapolation.legs import LEGS, UT, T
from trackkeras.domains.extrapolation.propagation import propagate
from trackkeras.domains.extrapolation.sampling import Points, draw_tracks
from trackkeras.domains.extrapolation.sanity import check_rows
from trackkeras.domains.extrapolation.simulate import extrapolation_schema, make_shard
from trackkeras.errors import UserError


def shard(rows, seed=1, **config):
    chunks = list(make_shard(config, np.random.default_rng(seed), rows))
    columns = {name: np.concatenate([chunk[name] for chunk, _ in chunks]) for name in chunks[0][0]}
    schema = extrapolation_schema(GenerateOptions(**config))
    assert set(columns) == set(schema.names)
    for feature in schema.features:
        assert columns[feature.name].shape == (rows, *feature.shape)
        assert columns[feature.name].dtype == feature.dtype
    return columns


def momentum(columns):
    return 1e-3 / np.abs(columns["state"][:, 4].astype(float))


# -- planes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", ["equal", "random"])
def test_states_at_planes_are_those_of_a_propagation_to_each(spacing):
    rows = shard(400, planes=4, plane_spacing=spacing)
    state, z0, dz, planes = (rows[name].astype(float) for name in ("state", "z0", "dz", "planes"))
    share = (planes - z0) / dz
    assert (np.diff(share, axis=1) >= 0).all()
    assert ((share >= 0) & (share <= 1)).all()
    if spacing == "equal":
        np.testing.assert_allclose(share, np.tile([0.2, 0.4, 0.6, 0.8], (400, 1)), atol=1e-6)
    else:
        assert stats.kstest(share.ravel(), "uniform").pvalue > 1e-3
    field = GenerateOptions().make_field()
    stops = [*(planes - z0).T, dz[:, 0]]
    found = [*np.moveaxis(rows["states_at"], 1, 0), rows["final_state"]]
    for stop, reached in zip(stops, found, strict=True):
        fine = propagate(field, state, z0[:, 0], stop, step=25.0).state
        # The rounding of float32 at 5 m, and the mean error of 150 mm steps at the end of a hard track.
        assert np.quantile(np.abs(reached - fine)[:, :2].max(axis=1), 0.95) < 2e-3
        np.testing.assert_array_equal(reached[:, 4], rows["state"][:, 4])


def test_one_long_leg_and_many_short_ones_agree():
    alone, split = shard(300, seed=4, step=50.0), shard(300, seed=4, step=50.0, planes=7)
    np.testing.assert_array_equal(alone["state"], split["state"])
    difference = np.abs(alone["final_state"] - split["final_state"])
    assert np.quantile(difference[:, :2].max(axis=1), 0.95) < 1e-3


# -- legs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEGS)
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_leg_joins_its_planes(name, direction):
    rows = shard(600, legs=[name], direction=direction, p_min=5.0)
    z0, dz = rows["z0"][:, 0].astype(float), rows["dz"][:, 0].astype(float)
    assert (np.sign(dz) == (1 if direction == "forward" else -1)).all()
    ends = np.sort(np.stack([z0, z0 + dz], axis=1), axis=1)
    if LEGS[name].reach:
        assert ((ends[:, 0] >= LEGS[name].z_min) & (ends[:, 0] <= LEGS[name].pairs[0][0])).all()
        assert set(np.round(ends[:, 1], 2)) == {last for _, last in LEGS[name].pairs}
    else:
        assert {tuple(pair) for pair in np.round(ends, 2)} == set(LEGS[name].pairs)
    assert check_rows(rows) == []


def test_legs_are_equally_likely_whatever_their_number_of_pairs():
    chosen = GenerateOptions(legs=("ut_steps", "t_steps"), direction="forward")
    draws = draw_tracks(chosen, np.random.default_rng(3), 20_000)
    assert stats.binomtest(int((draws.z0 < 3000).sum()), 20_000).pvalue > 1e-3
    counts = np.unique(draws.z0[draws.z0 > 3000], return_counts=True)[1]
    assert len(counts) == len(T) - 1
    assert stats.chisquare(counts).pvalue > 1e-3


def test_legs_hold_the_planes_of_the_detector():
    assert len(UT) == 4
    assert len(T) == 12
    for leg in LEGS.values():
        assert all(0 <= leg.z_min <= first < last <= leg.z_max for first, last in leg.pairs)


# -- quasi-random points -----------------------------------------------------------------------------------


def test_sobol_points_cover_the_cube_more_evenly_than_random_ones():
    sizes = {
        name: np.mean(
            [
                qmc.discrepancy(Points(name, np.random.default_rng(seed)).draw(1024).T, method="MD")
                for seed in range(4)
            ]
        )
        for name in ("random", "sobol")
    }
    assert sizes["sobol"] < 0.5 * sizes["random"]


def test_sobol_draws_follow_the_same_law():
    chosen = GenerateOptions(sampling="sobol")
    draws = draw_tracks(chosen, np.random.default_rng(5), 16_384)
    log_p = np.sort(np.log(1e-3 / np.abs(draws.state[:, 4].astype(float))))
    quantiles = (log_p - np.log(0.5)) / np.log(200)
    # A net is far closer to its law than 16,384 random numbers, whose distance is 0.007 on average.
    assert np.abs(quantiles - np.arange(16_384) / 16_384).max() < 5e-4
    plain = draw_tracks(GenerateOptions(), np.random.default_rng(6), 16_384)
    for column in range(4):
        assert stats.ks_2samp(draws.state[:, column], plain.state[:, column]).pvalue > 1e-3


def test_sobol_shards_are_functions_of_their_stream_and_share_no_rows():
    first, again, other = (shard(5000, seed, sampling="sobol") for seed in (1, 1, 2))
    for name, column in first.items():
        np.testing.assert_array_equal(column, again[name])
    both = np.concatenate([first["state"], other["state"]])
    assert len(np.unique(both, axis=0)) == 10_000


# -- importance --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["random", "sobol"])
@pytest.mark.parametrize("power", [0.5, 1.0, 1.5])
def test_weighted_draws_are_those_of_the_plain_law(power, sampling):
    chosen = GenerateOptions(importance=power, sampling=sampling)
    draws = draw_tracks(chosen, np.random.default_rng(7), 65_536)
    p = 1e-3 / np.abs(draws.state[:, 4].astype(float))
    weight = draws.weight.astype(float)
    spread = weight.std() / np.sqrt(len(weight))
    assert abs(weight.mean() - 1) < 5 * spread
    edges = np.geomspace(0.5, 100, 5)
    for low, high in pairwise(edges):
        inside = (p >= low) & (p < high)
        value = np.where(inside, weight, 0.0)
        assert abs(value.mean() - 0.25) < 5 * value.std() / np.sqrt(len(p))
    assert (p < 2).mean() > 1.3 * np.log(4) / np.log(200)  # more low momenta than the plain law has
    # weight * density of the draws is the same for all: p^-a * weight is constant
    ratio = p**-power * weight
    assert np.ptp(ratio) < 1e-4 * ratio.mean()


def test_the_weight_is_stored():
    rows = shard(2000, importance=1.0)
    assert (rows["weight"] > 0).all()
    assert np.corrcoef(np.log(rows["weight"][:, 0]), np.log(momentum(rows)))[0, 1] > 0.999
    assert "weight" not in shard(100)


# -- names and bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_named_samples_are_valid_and_differ(name):
    assert find_domain("extrapolation").generation_presets is PRESETS
    rows = shard(300, **PRESETS[name])
    p = momentum(rows)
    assert PRESETS[name].get("p_min", 0.5) * (1 - 1e-6) <= p.min()
    assert p.max() <= PRESETS[name].get("p_max", 100.0) * (1 + 1e-6)
    if name == "backward":
        assert (rows["dz"] < 0).all()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"legs": ["ut_tt"]}, "no leg named 'ut_tt'; there are: velo_ut, ut_t"),
        (
            {"legs": ["ut_t"], "z_end": 5000.0, "dz_max": 4000.0},
            "'ut_t' runs from 2597.5 to 8036 mm, outside",
        ),
        ({"planes": -1}, "planes"),
        ({"importance": 5.0}, "importance"),
        ({"sampling": "halton"}, "sampling"),
    ],
)
def test_bad_options_are_named(config, message):
    with pytest.raises(UserError, match=message):
        validate(GenerateOptions, config, "generate extrapolation")
