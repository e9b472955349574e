"""Draws stay inside their contract and follow its law; shards are a function of their seed alone."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from trackkeras.config import validate
from trackkeras.domains.extrapolation.generation_options import GenerateOptions
from trackkeras.domains.extrapolation.propagation import Status, propagate
from trackkeras.domains.extrapolation.sampling import draw_tracks
from trackkeras.domains.extrapolation.sanity import check_rows
from trackkeras.domains.extrapolation.simulate import extrapolation_schema, make_shard
from trackkeras.errors import UserError

REASONS = ("outside_box", "left_volume", "slope_limit", "not_finite")


@st.composite
def options(draw):
    z_start, z_end = sorted(draw(st.lists(st.floats(-500, 14000), min_size=2, max_size=2)))
    z_end = max(z_end, z_start + 10.0) if z_start < 13990 else 14000.0
    z_start = min(z_start, 13990.0)
    room = z_end - z_start
    dz_min, dz_max = sorted(draw(st.lists(st.floats(0.01, 1.0), min_size=2, max_size=2)))
    p_min, p_max = sorted(draw(st.lists(st.floats(0.1, 1000.0), min_size=2, max_size=2)))
    return GenerateOptions(
        field="gaussian",
        p_min=p_min,
        p_max=p_max,
        charge=draw(st.sampled_from(["both", "positive", "negative"])),
        direction=draw(st.sampled_from(["both", "forward", "backward"])),
        z_start=z_start,
        z_end=z_end,
        dz_min=dz_min * room,
        dz_max=dz_max * room,
        x_max=draw(st.floats(1, 5000)),
        y_max=draw(st.floats(1, 5000)),
        tx_max=draw(st.floats(1e-3, 1)),
        ty_max=draw(st.floats(1e-3, 1)),
        pv_fraction=draw(st.floats(0, 1)),
        pv_spread=draw(st.floats(0, 500)),
    )


@settings(max_examples=60, deadline=None)
@given(options(), st.integers(0, 2**32 - 1))
def test_draws_stay_inside_the_options(chosen, seed):
    draws = draw_tracks(chosen, np.random.default_rng(seed), 500)
    for array in (draws.state, draws.z0, draws.dz):
        assert array.dtype == np.float32
        assert np.isfinite(array).all()
    state, z0, dz = (array[draws.inside].astype(float) for array in (draws.state, draws.z0, draws.dz))
    ulp = 1 + 1e-6  # rounding to float32
    for column, limit in enumerate((chosen.x_max, chosen.y_max)):
        assert (np.abs(state[:, column]) <= limit).all()
    for column, limit in enumerate((chosen.tx_max, chosen.ty_max)):
        assert (np.abs(state[:, 2 + column]) <= limit * ulp).all()
    for z in (z0, z0 + dz):
        assert (z >= chosen.z_start).all()
        assert (z <= chosen.z_end).all()
    assert (np.abs(dz) >= chosen.dz_min / ulp).all()
    assert (np.abs(dz) <= chosen.dz_max * ulp).all()
    momentum = 1e-3 / np.abs(state[:, 4])
    assert (momentum >= chosen.p_min / ulp).all()
    assert (momentum <= chosen.p_max * ulp).all()
    if chosen.charge != "both":
        assert (np.sign(state[:, 4]) == {"positive": 1, "negative": -1}[chosen.charge]).all()
    if chosen.direction != "both":
        assert (np.sign(dz) == {"forward": 1, "backward": -1}[chosen.direction]).all()


def test_the_default_law():
    """Kolmogorov-Smirnov and binomial tests of 20,000 draws."""
    chosen = GenerateOptions()
    draws = draw_tracks(chosen, np.random.default_rng(11), 20_000)
    log_p = np.log(1e-3 / np.abs(draws.state[:, 4].astype(float)))
    uniform = {
        "dz": (np.abs(draws.dz), 1000, 10000),
        "log p": (log_p, np.log(0.5), np.log(100)),
        "tx": (draws.state[:, 2], -0.3, 0.3),
        "ty": (draws.state[:, 3], -0.25, 0.25),
    }
    for name, (values, low, high) in uniform.items():
        assert stats.kstest((values - low) / (high - low), "uniform").pvalue > 1e-3, name
    for signs in (draws.state[:, 4], draws.dz):
        assert stats.binomtest(int((signs > 0).sum()), 20_000).pvalue > 1e-3
    first = np.minimum(draws.z0, draws.z0 + draws.dz) / (13000 - np.abs(draws.dz))
    assert stats.kstest(first, "uniform").pvalue > 1e-3


def test_pointing_and_free_draws():
    draws = draw_tracks(GenerateOptions(), np.random.default_rng(12), 20_000)
    miss = (draws.state[:, :2] - draws.state[:, 2:4] * draws.z0[:, None]) / 100.0
    # Within three widths in x and y: nearly every pointing draw and next to no free one.
    near = (np.abs(miss) < 3).all(axis=1)
    assert near.mean() == pytest.approx(0.7, abs=0.02)
    pointing = draw_tracks(GenerateOptions(pv_fraction=1), np.random.default_rng(13), 20_000)
    miss = (pointing.state[:, :2] - pointing.state[:, 2:4] * pointing.z0[:, None]) / 100.0
    for component in miss.T:
        assert stats.kstest(component, "norm").pvalue > 1e-3
    assert not pointing.inside.all()
    free = draw_tracks(GenerateOptions(pv_fraction=0), np.random.default_rng(14), 20_000)
    assert free.inside.mean() > 0.999
    assert stats.kstest(free.state[:, 0] / 6000 + 0.5, "uniform").pvalue > 1e-3


# -- shards ------------------------------------------------------------------------------------------------


def shard(rows, seed=1, **config):
    chunks = list(make_shard(config, np.random.default_rng(seed), rows))
    columns = {name: np.concatenate([chunk[name] for chunk, _ in chunks]) for name in chunks[0][0]}
    counts = {name: sum(count[name] for _, count in chunks) for name in chunks[0][1]}
    return columns, counts


@pytest.fixture(scope="module")
def default_shard():
    return shard(20_000)


def test_shapes_follow_the_schema(default_shard):
    columns, _ = default_shard
    schema = extrapolation_schema()
    assert list(columns) == list(schema.names)
    for feature in schema.features:
        assert columns[feature.name].shape == (20_000, *feature.shape)
        assert columns[feature.name].dtype == feature.dtype


@pytest.mark.parametrize("rows", [1, 63, 5000])
def test_counts_add_up(rows):
    columns, counts = shard(rows)
    assert len(columns["state"]) == rows
    assert set(counts) == {"tried", *REASONS}
    assert counts["tried"] - sum(counts[reason] for reason in REASONS) == rows
    assert counts["not_finite"] == 0


def test_a_shard_is_a_function_of_its_seed(default_shard):
    columns, counts = default_shard
    again, counted = shard(20_000)
    other, _ = shard(20_000, seed=2)
    assert counted == counts
    for name, column in columns.items():
        np.testing.assert_array_equal(again[name], column)
        assert not np.array_equal(other[name], column)


def test_records_can_be_recomputed_from_their_own_rounded_inputs(default_shard):
    columns, _ = default_shard
    chosen = GenerateOptions()
    tracks = columns["state"], columns["z0"][:, 0], columns["dz"][:, 0]
    how = {"step": chosen.step, "method": chosen.method, "tolerance": chosen.tolerance}
    done = propagate(chosen.make_field(), *tracks, **how)
    assert (done.status == Status.OK).all()
    np.testing.assert_array_equal(done.state.astype(np.float32), columns["final_state"])


@pytest.mark.parametrize(
    ("options", "method", "step"),
    [
        ({}, "dormand_prince45", 500.0),
        ({"field": "gaussian"}, "dormand_prince45", 500.0),
        ({"method": "rk4"}, "rk4", 100.0),
        ({"method": "rk4", "step": 30.0}, "rk4", 30.0),
        ({"step": 50.0}, "dormand_prince45", 50.0),
    ],
)
def test_integration_suits_field_and_method(options, method, step):
    chosen = GenerateOptions(**options)
    assert (chosen.method, chosen.step) == (method, step)


def test_generated_tracks_err_by_less_than_a_micrometre(default_shard):
    """The stated accuracy of the default contract, against steps of 5 mm; records are rounded to float32."""
    columns, _ = default_shard
    chosen = GenerateOptions()
    tracks = chosen.make_field(), columns["state"], columns["z0"][:, 0], columns["dz"][:, 0]
    how = {"step": chosen.step, "method": chosen.method, "tolerance": chosen.tolerance}
    exact = propagate(*tracks, step=5.0)
    reached = exact.status == Status.OK
    assert (~reached).sum() <= 1e-4 * len(reached), "a slope over the limit between two steps is rare"
    difference = (propagate(*tracks, **how).state - exact.state)[reached, :2]
    assert np.linalg.norm(difference, axis=1).mean() < 1e-3


def test_the_acceptance_is_that_of_the_draws(default_shard):
    """The reasons are counted over exactly the draws that were needed."""
    _, counts = default_shard
    chosen = GenerateOptions()
    draws = draw_tracks(chosen, np.random.default_rng(99), 30_000)
    inside = draws.inside
    status = propagate(chosen.make_field(), draws.state[inside], draws.z0[inside], draws.dz[inside]).status
    expected = {"outside_box": (~inside).sum()} | {
        status_name.name.lower(): (status == status_name).sum() for status_name in Status if status_name
    }
    for reason, number in expected.items():
        rate, other = counts[reason] / counts["tried"], number / 30_000
        assert abs(rate - other) <= 5 * np.sqrt(other / 30_000 + rate / counts["tried"]) + 1e-12, reason


def test_a_generated_sample_is_sane(default_shard):
    assert check_rows(default_shard[0]) == []


def test_polarity_reverses_the_bending():
    ordinary, _ = shard(2000, field={"name": "lhcb", "polarity": 1}, charge="positive", direction="forward")
    reversed_, _ = shard(2000, field={"name": "lhcb", "polarity": -1}, charge="positive", direction="forward")
    kicks = [(rows["final_state"] - rows["state"])[:, 2].mean() for rows in (ordinary, reversed_)]
    assert kicks[0] > 0 > kicks[1]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"p_mim": 1.0}, r"unknown key 'p_mim' \(did you mean 'p_min'\?\)"),
        ({"p_min": 0.0}, "p_min: .*greater than 0, received 0.0"),
        ({"p_min": 5.0, "p_max": 2.0}, "p_max: must not be below p_min, 5 GeV, received 2.0"),
        (
            {"z_end": 20000.0},
            "z_end: the field 'lhcb' is known for z from -500 to 14000 mm only, received 20000.0",
        ),
        ({"z_start": 5000.0, "z_end": 4000.0}, "z_end: must be larger than z_start, 5000 mm"),
        ({"dz_min": 3000.0, "dz_max": 2000.0}, "dz_max: must not be below dz_min, 3000 mm"),
        ({"dz_max": 14000.0}, "dz_max: must fit between z_start and z_end, which leave 13000 mm"),
        ({"x_max": 6000.0}, "x_max: the field 'lhcb' is known for x from -5000 to 5000 mm only"),
        ({"tx_max": 1.5}, "tx_max: must not be above 1, received 1.5"),
        ({"pv_fraction": 1.5}, "pv_fraction: .*less than or equal to 1"),
        ({"field": "lhbc"}, "field: no field named 'lhbc'"),
        ({"field": {"polarity": 1}}, "field: a field needs a name"),
        ({"field": {"name": "lhcb", "strength": 2}}, "unknown key 'strength'"),
        ({"method": "euler"}, "method: no integration method named 'euler'"),
        ({"step": 0}, "step: .*greater than 0"),
        ({"charge": "neutral"}, "charge: .*'both', 'positive' or 'negative'"),
    ],
)
def test_bad_options_are_one_clear_line(config, message):
    with pytest.raises(UserError) as caught:
        next(make_shard(config, np.random.default_rng(1), 10))
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_hopeless_options_end_with_an_error():
    config = {
        "p_min": 0.01,
        "p_max": 0.011,
        "z_start": 4000.0,
        "z_end": 6000.0,
        "dz_min": 1900.0,
        "dz_max": 2000.0,
    }
    with pytest.raises(UserError, match=r"only 0 of .* drawn tracks stay inside"):
        list(make_shard(config, np.random.default_rng(1), 10))


def test_options_survive_json():
    chosen = GenerateOptions(field="gaussian", p_max=20.0)
    assert validate(GenerateOptions, chosen.model_dump(mode="json"), "again") == chosen


# -- sanity rules ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "index", "value", "message"),
    [
        ("state", 4, 0.0, "1 of 20000 tracks have no momentum"),
        ("state", 4, np.nan, "1 of 20000 tracks have no momentum"),
        ("final_state", 4, 0.001, "1 of 20000 tracks have q/p at the end that differs"),
        ("final_state", 0, -10_000.0, r"1 of 20000 tracks have \|x\| of 10 m or more \(first: row 77\)"),
        ("state", 0, np.nan, r"1 of 20000 tracks have \|x\| of 10 m or more"),
        ("final_state", 2, -1.001, r"1 of 20000 tracks have \|tx\| above 1"),
    ],
)
def test_one_bad_row_is_found(default_shard, column, index, value, message):
    rows = {name: array.copy() for name, array in default_shard[0].items()}
    rows[column][77, index] = value
    assert any(re.search(message, line) for line in check_rows(rows)), check_rows(rows)


def test_charges_that_bend_alike_are_found(default_shard):
    rows = {name: array.copy() for name, array in default_shard[0].items()}
    kick = rows["final_state"][:, 2] - rows["state"][:, 2]
    rows["final_state"][:, 2] = rows["state"][:, 2] + np.sign(rows["dz"][:, 0]) * np.abs(kick)
    assert any("same side" in line for line in check_rows(rows))
    few = {name: array[:50] for name, array in rows.items()}
    assert check_rows(few) == []
