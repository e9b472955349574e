"""Maxwell's equations, symmetries and the stated properties of the fields."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from trackkeras.domains.extrapolation import lhcb
from trackkeras.domains.extrapolation.field_report import (
    acceptance_points,
    axis_integral,
    describe,
    maxwell_residuals,
)
from trackkeras.domains.extrapolation.fields import VOLUME, field_names, make_field
from trackkeras.domains.extrapolation.maxwell import check_terms
from trackkeras.errors import UserError

POINTS = acceptance_points(make_field("lhcb"), 3000, seed=5)

terms = st.lists(
    st.tuples(
        st.floats(-2, 2),
        st.floats(2000, 9000),
        st.floats(1200, 3000),
        st.one_of(st.just(0.0), st.floats(-1, 0.9)),
    ),
    min_size=1,
    max_size=4,
)


def derivatives(field, points, step):
    """Plain central differences: `[axis, component, point]`."""
    gradient = []
    for axis in range(3):
        shift = np.zeros((3, 1))
        shift[axis] = step
        gradient.append((field.field(*(points + shift)) - field.field(*(points - shift))).T / (2 * step))
    return np.array(gradient)


def test_lhcb_is_free_of_divergence_and_curl():
    divergence, curl = maxwell_residuals(make_field("lhcb"), POINTS)
    assert np.abs(divergence).max() < 1e-9
    assert np.abs(curl).max() < 1e-9


@settings(deadline=None, max_examples=30)
@given(terms=terms)
def test_any_sum_of_terms_obeys_maxwell(terms):
    field = make_field("maxwell", terms=terms)
    points = POINTS[:, :300]
    # Richardson: the combination cancels the second-order error of the plain differences.
    gradient = (4 * derivatives(field, points, 10.0) - derivatives(field, points, 20.0)) / 3
    scale = np.abs(gradient).max() + 1e-6
    assert np.abs(np.trace(gradient)).max() < 1e-5 * scale
    assert np.abs(gradient - gradient.transpose(1, 0, 2)).max() < 1e-5 * scale


def test_the_residuals_see_a_field_that_is_no_vacuum_field():
    divergence, curl = maxwell_residuals(make_field("gaussian"), POINTS)
    assert np.abs(divergence).max() < 1e-12
    assert np.abs(curl).max() > 1e-4  # dBy/dz of By(z) alone


@settings(deadline=None, max_examples=50)
@given(terms=terms, x=st.floats(-2500, 2500), y=st.floats(-2500, 2500), z=st.floats(0, 13000))
def test_planes_of_symmetry(terms, x, y, z):
    field = make_field("maxwell", terms=terms)
    b = field.field(x, y, z)[0]
    tolerance = 1e-13 * (1 + np.abs(b).sum()) * 100
    np.testing.assert_allclose(field.field(-x, y, z)[0], b * (-1, 1, 1), rtol=0, atol=tolerance)
    np.testing.assert_allclose(field.field(x, -y, z)[0], b * (-1, 1, -1), rtol=0, atol=tolerance)
    np.testing.assert_allclose(field.field(0, 0, z)[0, ::2], 0, atol=tolerance)


@settings(deadline=None, max_examples=20)
@given(terms=terms)
def test_profile_on_the_axis_does_not_depend_on_sin2(terms):
    z = np.linspace(0, 13000, 50)
    unrotated = [(*term[:3], 0.0) for term in terms]
    on_axis = [make_field("maxwell", terms=t).field(0, 0, z)[:, 1] for t in (terms, unrotated)]
    np.testing.assert_allclose(*on_axis, rtol=0, atol=1e-13 * len(terms) * 10)


def test_default_maxwell_has_the_profile_of_gaussian():
    z = np.linspace(-500, 14000, 100)
    np.testing.assert_allclose(
        make_field("maxwell").field(0, 0, z), make_field("gaussian").field(0, 0, z), rtol=0, atol=1e-14
    )


def test_gaussian_has_the_stated_defaults():
    by = make_field("gaussian").field(800.0, -300.0, [5007.0, 5007.0 + 1744.0])
    np.testing.assert_allclose(by[:, 1], [-1.0182, -1.0182 * np.exp(-0.5)], rtol=1e-15)
    assert not by[:, ::2].any()


def test_lhcb_integral_and_sign():
    field = make_field("lhcb")
    by = quad(lambda z: field.field(0, 0, z)[0, 1], *field.volume[4:], limit=200)[0] / 1000
    assert abs(by / lhcb.PROFILE_INTEGRAL - 1) < 0.01
    assert abs(axis_integral(field)[1] - by) < 1e-4
    assert (field.field(0, 0, lhcb.PROFILE_Z)[:, 1] < 0).all()


def test_lhcb_follows_the_profile():
    by = make_field("lhcb").field(0, 0, lhcb.PROFILE_Z)[:, 1]
    assert np.abs(-by - lhcb.PROFILE_ABS_B).max() < 0.04
    assert np.sqrt(np.mean((-by - lhcb.PROFILE_ABS_B) ** 2)) < 0.018


def test_lhcb_tails_are_small_and_have_one_sign():
    field = make_field("lhcb")
    upstream = field.field(0, 0, np.linspace(-500, 2648, 200))[:, 1]
    downstream = field.field(0, 0, np.linspace(7826, 14000, 200))[:, 1]
    for tail in (upstream, downstream):
        assert tail.max() < 0.002
        assert tail.min() > -0.32
    assert np.abs(downstream[-60:]).max() < 0.02
    assert np.abs(upstream[:60]).max() < 0.06


def test_lhcb_strength_is_bounded():
    field = make_field("lhcb")
    for region in (lhcb.ACCEPTANCE, lhcb.START_REGION):
        surface = np.linalg.norm(field.field(*region.surface(261, 41)), axis=1)
        assert surface.max() < region.limit
    inside = np.linalg.norm(field.field(*acceptance_points(field, 20_000, seed=8)), axis=1)
    assert inside.max() < lhcb.ACCEPTANCE.limit


@pytest.mark.parametrize("name", ["lhcb", "maxwell", "gaussian"])
def test_polarity_is_the_exact_negation(name):
    down, up = make_field(name), make_field(name, polarity=-1)
    np.testing.assert_array_equal(up.field(*POINTS), -down.field(*POINTS))
    assert up.description != down.description


@pytest.mark.parametrize("name", ["lhcb", "maxwell", "gaussian"])
def test_options_and_pickle_make_the_same_field(name):
    field = make_field(name, polarity=-1, volume=(-4500, 4500, -4000, 4000, 0, 14000))
    for copy in (make_field(**json.loads(json.dumps(field.options))), pickle.loads(pickle.dumps(field))):
        assert copy.options == field.options
        np.testing.assert_array_equal(copy.volume, field.volume)
        np.testing.assert_array_equal(copy.field(*POINTS), field.field(*POINTS))


def test_volume_is_part_of_the_field():
    field = make_field("lhcb", volume=(-100, 100, -200, 200, 0, 1000))
    x, y, z = [0, 101, 0, 0, 100], [0, 0, -201, 0, -200], [0, 500, 500, np.nan, 1000]
    assert field.inside(x, y, z).tolist() == [True, False, False, False, True]
    with pytest.raises(UserError, match=r"3 of 5 points outside it, the first \(101, 0, 500\)"):
        field.field(x, y, z)
    assert make_field("lhcb").volume.tolist() == list(VOLUME)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lhbc", {}, "did you mean 'lhcb'.*gaussian"),
        ("lhcb", {"polarty": 1}, "polarty.*did you mean 'polarity'"),
        ("lhcb", {"polarity": 2}, "polarity.*received 2"),
        ("lhcb", {"volume": [0, 1, 0, 1, 1, 0]}, "minimum below its maximum"),
        ("gaussian", {"width": 0}, "width.*received 0"),
        ("gaussian", {"peak": float("nan")}, "peak"),
        ("maxwell", {"terms": []}, "at least one term"),
        ("maxwell", {"terms": [[1, 5000, -1500, 0]]}, "width must be positive"),
        ("maxwell", {"terms": [[1, 5000, 1500, 1]]}, "sin2 is at most 0.9"),
        ("maxwell", {"terms": [[1, 5000, 300, 0]]}, "use at least 457 mm"),
        ("grid", {"path": "map.txt", "length": "inch", "field": "T"}, "length.*'mm', 'cm' or 'm'.*inch"),
    ],
)
def test_bad_options_are_one_clear_line(name, options, message):
    with pytest.raises(UserError, match=message) as caught:
        make_field(name, **options)
    assert "\n" not in str(caught.value)


@settings(deadline=None, max_examples=30)
@given(width=st.floats(100, 3000), sin2=st.floats(-1, 0.9))
def test_accepted_terms_never_reach_the_bound_of_the_exponent(width, sin2):
    try:
        check_terms([(1.0, 5000.0, width, sin2)], VOLUME)
    except UserError:
        assume(False)
    field = make_field("maxwell", terms=[(1.0, 5000.0, width, sin2)])
    y = np.linspace(4990.0, 5000.0, 3)
    by = np.abs(field.field(0.0, y, 5000.0)[:, 1])
    assert (np.diff(by) > 0).all()  # a clipped exponent would be constant


def test_describe_names_peak_component_and_integral():
    report = describe(make_field("lhcb", polarity=-1), n=2000)
    json.dumps(report)
    assert report["dominant"] == "By"
    assert report["sign"] == "+"
    assert abs(report["integral_Tm"]["By"] / -lhcb.PROFILE_INTEGRAL - 1) < 0.01
    assert 4500 < report["peak_z_mm"] < 5000
    assert report["divergence_T_per_mm"] < 1e-9 > report["curl_T_per_mm"]
    assert report["acceptance_max_T"] < 2
    assert field_names()[0] == report["name"] == "lhcb"


def test_describe_needs_a_part_of_the_acceptance():
    field = make_field("lhcb", volume=(-100, 100, -100, 100, 13500, 14000))
    with pytest.raises(UserError, match="no part in the acceptance"):
        describe(field, n=500)
