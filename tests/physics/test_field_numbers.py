"""What `describe` and the companions say, against independent computations."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from trackkeras.domains.extrapolation.field_companions import GAUSSIAN, PROFILE, THINNED, write_companions
from trackkeras.domains.extrapolation.field_report import (
    compare,
    describe,
    describe_nodes,
    fit_gaussian,
    node_profile,
    ray_integral,
)
from trackkeras.domains.extrapolation.fields import field_options, make_field
from trackkeras.domains.extrapolation.grid import write_grid
from trackkeras.domains.extrapolation.propagation import propagate
from trackkeras.errors import UserError
from trackkeras.units import GEV

LIMITS = ((-1000.0, 1000.0, 200.0), (-1000.0, 1000.0, 200.0), (0.0, 13000.0, 200.0))


@settings(deadline=None, max_examples=25)
@given(
    peak=st.floats(0.05, 2),
    sign=st.sampled_from([-1, 1]),
    centre=st.floats(3000, 9000),
    width=st.floats(500, 2500),
)
def test_the_gaussian_fit_finds_a_gaussian(peak, sign, centre, width):
    z = np.arange(-500.0, 14001.0, 100.0)
    found = fit_gaussian(z, sign * peak * np.exp(-0.5 * ((z - centre) / width) ** 2))
    assert found.peak_T == pytest.approx(sign * peak, rel=1e-5)
    assert found.centre_mm == pytest.approx(centre, abs=0.1)
    assert found.width_mm == pytest.approx(width, rel=1e-5)
    assert found.rms_T < 1e-6


def test_what_is_left_of_a_fit_is_counted():
    z = np.arange(0.0, 10_000.0, 50.0)
    ripple = 0.01 * np.sin(z / 37.0)
    found = fit_gaussian(z, np.exp(-0.5 * ((z - 5000.0) / 1500.0) ** 2) + ripple)
    assert found.rms_T == pytest.approx(np.sqrt(np.mean(ripple**2)), rel=0.05)
    with pytest.raises(UserError, match="no Gaussian fits"):
        fit_gaussian(z, np.zeros_like(z))


@pytest.mark.parametrize(("tx", "ty"), [(0.0, 0.0), (0.2, -0.1), (-0.15, 0.2)])
def test_ray_integrals_equal_quadrature(tx, ty):
    field = make_field("lhcb", volume=(-5000, 5000, -5000, 5000, 0, 13000))
    report = ray_integral(field, tx, ty)
    length = np.sqrt(1 + tx * tx + ty * ty)
    expected = []
    for component in range(3):

        def along(z, k=component):
            return field.field(tx * z, ty * z, z)[0, k]

        expected.append(quad(along, 0, 13000, limit=200)[0] * length / 1000)
    found = list(report["integral_Tm"].values())
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)
    assert report["along_Tm"] == pytest.approx(np.dot(found, [tx, ty, 1]) / length, abs=1e-12)


def test_the_kick_is_what_a_stiff_track_gets():
    field = make_field("lhcb")
    momentum = 5000.0
    track = propagate(field, [[0.0, 0.0, 0.0, 0.0, 1 / (momentum * GEV)]], -500.0, 14500.0, step=50.0).state[
        0
    ]
    assert momentum * abs(track[2]) == pytest.approx(ray_integral(field, 0.0, 0.0)["kick_GeV"], rel=1e-3)


def test_a_ray_stops_where_the_field_does():
    field = make_field("lhcb", volume=(-1000, 1000, -1000, 1000, 0, 13000))
    assert ray_integral(field, 0.2, 0.0)["z_mm"] == pytest.approx([0, 5000], abs=10)
    with pytest.raises(UserError, match="does not meet"):
        ray_integral(make_field("lhcb", volume=(500, 1000, -100, 100, 0, 1000)), -0.1, 0.0)


def test_comparison_of_a_field_with_itself_and_its_negation():
    field = make_field("lhcb")
    same = compare(field, make_field("lhcb"), n=2000)
    assert same["difference_T"] == {"mean": 0.0, "p95": 0.0, "max": 0.0}
    opposite = compare(field, make_field("lhcb", polarity=-1), n=2000)
    assert opposite["relative"] == pytest.approx(2.0)
    integral = describe(field, n=500)["integral_Tm"]["By"]
    assert opposite["integral_difference_Tm"] == pytest.approx(2 * integral)
    far = make_field("lhcb", volume=(4000, 5000, 4000, 5000, 0, 100))
    with pytest.raises(UserError, match="share no point"):
        compare(field, far, n=500)


def test_describe_of_a_map_counts_its_nodes(tmp_path):
    path = tmp_path / "map.txt"
    write_grid(make_field("two_dipole"), path, ((-4000, 4000, 400), (-4000, 4000, 400), (0, 13000, 400 / 4)))
    field = make_field("grid", path=path, mask=True)
    report = describe(field, n=2000, rays=[(0.05, 0.02)], against=make_field("two_dipole"))
    json.dumps(report, allow_nan=False)
    nodes = report["grid"]
    assert nodes["shape"] == [21, 21, 131]
    assert nodes["step_mm"] == {"x": 400.0, "y": 400.0, "z": 100.0}
    assert nodes["suspicious"]["too_strong"]["largest_T"] == pytest.approx(16.512 / 0.1**3, rel=1e-3)
    assert 0.01 < nodes["suspicious"]["By_too_strong_fraction"] < 0.06
    assert nodes["divergence_rms_T_per_mm"] < 0.05 * nodes["gradient_rms_T_per_mm"]
    assert report["polarity"] == "-y (down)"
    assert report["against"]["difference_T"]["mean"] < 0.005
    exact = ray_integral(make_field("two_dipole", volume=field.volume.tolist()), 0.05, 0.02)
    assert report["rays"][0]["integral_Tm"]["By"] == pytest.approx(exact["integral_Tm"]["By"], rel=2e-3)
    np.testing.assert_array_equal(node_profile(field)[0], np.arange(0, 13001, 100))


def test_node_residuals_see_a_field_that_is_no_vacuum_field(tmp_path):
    residuals = {}
    for name in ("lhcb", "gaussian"):
        path = tmp_path / f"{name}.txt"
        write_grid(make_field(name), path, ((-1000, 1000, 100), (-1000, 1000, 100), (3000, 7000, 100)))
        residuals[name] = describe_nodes(make_field("grid", path=path))
    curl = {
        name: found["curl_rms_T_per_mm"] / found["gradient_rms_T_per_mm"] for name, found in residuals.items()
    }
    assert curl["lhcb"] < 0.01
    assert curl["gaussian"] == pytest.approx(1.0, abs=1e-6)


def test_companions_agree_with_the_field(tmp_path):
    field = make_field("two_dipole")
    paths = write_companions(field, tmp_path / "new" / "folder")
    assert [path.name for path in paths] == [PROFILE, GAUSSIAN, THINNED]
    profile = np.load(paths[0])
    assert profile.shape == (146, 2)
    np.testing.assert_array_equal(profile[:, 0], np.arange(-500, 14001, 100))
    np.testing.assert_allclose(profile[:, 1], field.field(0.0, 0.0, profile[:, 0])[:, 1], rtol=1e-15)
    gaussian = json.loads(paths[1].read_text())
    assert gaussian["B0"] == pytest.approx(-1.0153, abs=1e-4)
    assert gaussian["rms"] == pytest.approx(0.0123, abs=1e-4)
    curve = gaussian["B0"] * np.exp(
        -0.5 * ((profile[:, 0] - gaussian["z_center"]) / gaussian["z_width"]) ** 2
    )
    assert np.sqrt(np.mean((curve - profile[:, 1]) ** 2)) == pytest.approx(gaussian["rms"])
    with np.load(paths[2]) as thinned:
        assert thinned["By"].size == 245_426
        assert thinned["Bx"].shape == tuple(len(thinned[name]) for name in "xyz") == (41, 41, 146)
        expected = field.field(thinned["x"][7], thinned["y"][30], thinned["z"][100])[0]
        found = [thinned[name][7, 30, 100] for name in ("Bx", "By", "Bz")]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_companions_never_replace_unasked(tmp_path):
    folder = tmp_path / "companions"
    write_companions(make_field("gaussian"), folder, LIMITS)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match="exists"):
        write_companions(make_field("lhcb"), folder, LIMITS)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    write_companions(make_field("lhcb"), folder, LIMITS, overwrite=True)
    assert (folder / PROFILE).read_bytes() != before[PROFILE]
    with pytest.raises(UserError, match="is a file"):
        write_companions(make_field("lhcb"), folder / PROFILE, LIMITS)


def test_a_field_is_named_by_word_map_or_options_file(tmp_path):
    assert field_options("lhcb", {"polarity": -1}) == {"name": "lhcb", "polarity": -1}
    assert field_options("some/map.txt") == {"name": "grid", "path": "some/map.txt"}
    options = tmp_path / "field.yaml"
    options.write_text("name: maxwell\nterms: [[-1.0, 5000.0, 1700.0, 0.1]]\n")
    assert make_field(**field_options(str(options), {"polarity": -1})).field(0, 0, 5000)[
        0, 1
    ] == pytest.approx(1.0)
    options.write_text("terms: []\n")
    with pytest.raises(UserError, match="need a name"):
        field_options(str(options))
    with pytest.raises(UserError, match="no such file"):
        field_options(str(tmp_path / "absent.yaml"))


def test_a_gap_on_the_axis_counts_as_zero(tmp_path):
    path = tmp_path / "map.txt"
    write_grid(make_field("lhcb"), path, LIMITS)
    whole, gap = (make_field("grid", path=path, mask={"strength": limit}) for limit in (1e3, 0.9))
    reports = [describe(field, n=2000) for field in (whole, gap)]
    assert reports[0]["axis_known"] == 1.0
    assert 0.5 < reports[1]["axis_known"] < 0.95
    assert reports[1]["peak_T"] < 0.95 < reports[0]["peak_T"]
    assert 0 > reports[1]["integral_Tm"]["By"] > 0.9 * reports[0]["integral_Tm"]["By"]
