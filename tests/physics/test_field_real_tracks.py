"""The default field against tracks through the real map, and the fit that made it."""

import numpy as np
import pytest

from trackkeras.domains.extrapolation import real_data
from trackkeras.domains.extrapolation.field_fit import (
    FitOptions,
    Profile,
    Tracks,
    exponential_tails,
    fit_maxwell,
    rounded,
    track_errors,
)
from trackkeras.domains.extrapolation.fields import make_field
from trackkeras.domains.extrapolation.lhcb import PROFILE_ABS_B, PROFILE_INTEGRAL, PROFILE_Z, TERMS
from trackkeras.domains.extrapolation.propagation import propagate


def test_tails_continue_the_profile_and_carry_the_rest_of_the_integral():
    profile = Profile(PROFILE_Z, -PROFILE_ABS_B, PROFILE_INTEGRAL)
    z, by = exponential_tails(profile, step=10.0)
    order = np.argsort(z)
    z, by = z[order], by[order]
    assert (by < 0).all()
    assert (np.diff(by[z < PROFILE_Z[0]]) < 0).all()
    assert (np.diff(by[z > PROFILE_Z[-1]]) > 0).all()
    both = np.argsort(np.concatenate([z, PROFILE_Z]))
    integral = (
        np.trapezoid(np.concatenate([by, -PROFILE_ABS_B])[both], np.concatenate([z, PROFILE_Z])[both]) / 1000
    )
    assert abs(integral / PROFILE_INTEGRAL - 1) < 0.005


def test_fit_finds_a_field_from_its_own_tracks():
    truth = make_field("maxwell", terms=[[-1.0, 5000.0, 1700.0, -0.06]])
    rng = np.random.default_rng(0)
    n = 120
    tx, ty = rng.uniform(-0.2, 0.2, n), rng.uniform(-0.2, 0.2, n)
    qop = rng.choice([-1, 1], n) / rng.uniform(5e3, 5e4, n)
    start = np.stack([2600 * tx, 2600 * ty, tx, ty, qop], axis=1)
    end = propagate(truth, start, 2600.0, 5000.0, step=100.0).state
    z = np.linspace(2600, 7600, 40)
    profile = Profile(z, truth.field(0, 0, z)[:, 1], -4.2613)
    options = FitOptions(starts=1, evaluations=25, ridge=1e3, tail_error=1.0)
    result = fit_maxwell(profile, Tracks(start, end, 2600.0, 7600.0), terms=1, options=options)
    np.testing.assert_allclose(result.terms[0], (-1.0, 5000.0, 1700.0, -0.06), rtol=5e-3)
    assert result.cost == min(result.costs)


def test_shipped_terms_have_the_digits_that_the_script_prints():
    assert rounded(TERMS) == TERMS


@pytest.fixture(scope="module")
def folder():
    found = real_data.data_folder()
    if found is None or not (found / "lhcb").is_dir():
        pytest.skip("no experiment data")
    return found


def errors(rows):
    z0, dz = rows["z0"][0, 0], rows["dz"][0, 0]
    return track_errors(
        make_field("lhcb"), Tracks(rows["state"], rows["final_state"], z0, z0 + dz), step=25.0
    )


@pytest.mark.data
def test_tracks_that_the_fit_never_saw(folder):
    found = errors(real_data.real_field_crossing(folder))
    assert len(found) == 2800
    assert np.median(found) <= 0.6
    assert np.percentile(found, 95) <= 14


@pytest.mark.data
def test_wrong_polarity_is_far_off(folder):
    rows = real_data.real_field_crossing(folder)
    tracks = Tracks(rows["state"], rows["final_state"], *real_data.CROSSING_Z)[:200]
    wrong = track_errors(make_field("lhcb", polarity=-1), tracks)
    assert np.median(wrong) > 100


@pytest.mark.data
def test_cpp_states_are_reached(folder):
    rows = real_data.cpp_states(folder)
    z1 = rows["z0"][0, 0] + rows["dz"][0, 0]
    straight = rows["state"][:, :2] + rows["dz"] * rows["state"][:, 2:4]
    bent = np.hypot(*(rows["final_state"][:, :2] - straight).T)
    assert z1 == 12000
    assert np.median(errors(rows)) < 0.05 * np.median(bent)
