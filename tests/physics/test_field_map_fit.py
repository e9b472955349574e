"""Fits of the closed form to whole maps."""

import numpy as np
import pytest

from trackkeras.domains.extrapolation.field_fit import FitOptions, fit_map, write_fit
from trackkeras.domains.extrapolation.field_report import maxwell_residuals
from trackkeras.domains.extrapolation.fields import field_options, make_field
from trackkeras.domains.extrapolation.grid import write_grid
from trackkeras.errors import UserError

TERMS = ((-1.0, 5000.0, 1700.0, 0.1), (-0.2, 6500.0, 2100.0, -0.2))


@pytest.fixture(scope="module")
def two_terms():
    return fit_map(make_field("maxwell", terms=TERMS), 2, seed=1, points=600, starts=4)


def test_a_field_of_two_terms_is_found_again(two_terms):
    """Not the terms, which need not be unique, but the field, up to what the ridge costs."""
    assert two_terms.rms_T < 0.002
    assert two_terms.rms_T <= two_terms.max_T
    assert two_terms.field_rms_T > 0.3
    assert min(two_terms.starts) == pytest.approx(two_terms.rms_T, abs=0.002)


def test_same_seed_same_fit(two_terms):
    again = fit_map(make_field("maxwell", terms=TERMS), 2, seed=1, points=600, starts=4)
    assert again == two_terms


def test_more_terms_do_not_fit_worse(tmp_path):
    path = tmp_path / "map.txt"
    write_grid(make_field("lhcb"), path, ((-2000, 2000, 250), (-2000, 2000, 250), (0, 13000, 250)))
    target = make_field("grid", path=path)
    options = FitOptions(ridge=30.0, evaluations=25)
    left = [fit_map(target, terms, points=500, starts=2, options=options).rms_T for terms in (1, 3)]
    assert left[1] < 0.6 * left[0]


def test_polarity_of_the_target_is_that_of_the_fit():
    options = FitOptions(evaluations=20, starts=1)
    down, up = (
        fit_map(make_field("gaussian", polarity=sign), 1, points=300, options=options) for sign in (1, -1)
    )
    assert down.terms[0][0] == -up.terms[0][0]
    assert down.terms[0][1:] == up.terms[0][1:]


def test_a_written_fit_is_a_field(two_terms, tmp_path):
    target = make_field("maxwell", terms=TERMS, volume=(-3000, 3000, -5000, 5000, -500, 12000))
    path = tmp_path / "fit.yaml"
    write_fit(two_terms, target, path)
    field = make_field(**field_options(str(path)))
    assert field.volume.tolist() == [-3000, 3000, -3550, 3550, 0, 12000]
    points = np.random.default_rng(1).uniform([-1000, -1000, 1000], [1000, 1000, 11000], (500, 3)).T
    assert np.abs(field.field(*points) - target.field(*points)).max() < 5 * two_terms.max_T + 0.005
    divergence, curl = maxwell_residuals(field, points)
    assert max(np.abs(divergence).max(), np.abs(curl).max()) < 1e-9
    assert f"rms {two_terms.rms_T:.4g} T" in path.read_text()


def test_impossible_fits_are_one_clear_line():
    with pytest.raises(UserError, match="at least one term, received 0"):
        fit_map(make_field("lhcb"), 0)
    with pytest.raises(UserError, match="too few for 6 terms"):
        fit_map(make_field("lhcb"), 6, points=50)
