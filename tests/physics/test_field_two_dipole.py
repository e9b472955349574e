"""Two point dipoles: closed form, published statistics of the map that they make, and the refused spots."""

import csv

import numpy as np
import pytest

from trackkeras.domains.extrapolation import kernels
from trackkeras.domains.extrapolation.field_report import (
    axis_integral,
    fit_gaussian,
    maxwell_residuals,
    node_profile,
)
from trackkeras.domains.extrapolation.fields import make_field
from trackkeras.domains.extrapolation.grid_nodes import NODES, at_nodes, node_axes
from trackkeras.domains.extrapolation.propagation import Status, propagate
from trackkeras.domains.extrapolation.real_data import data_folder
from trackkeras.errors import UserError

FIELD = make_field("two_dipole")


def dipoles(points, moment=-16.512, half=4000.0, centre=5000.0):
    """The textbook formula with vectors, in metres."""
    total = np.zeros_like(points)
    for y in (-half, half):
        r = (points - np.array([0, y, centre])) / 1000.0
        size = np.linalg.norm(r, axis=1, keepdims=True)
        unit = r / size
        total += moment * (3 * unit[:, 1:2] * unit - np.array([0, 1, 0])) / size**3
    return total


def test_equals_the_textbook_formula():
    rng = np.random.default_rng(3)
    points = rng.uniform([-5000, -5000, -500], [5000, 5000, 14000], (4000, 3))
    points = points[FIELD.inside(*points.T)]
    assert len(points) > 3900
    np.testing.assert_allclose(FIELD.field(*points.T), dipoles(points), rtol=1e-12, atol=1e-15)


def test_the_map_has_its_published_statistics():
    """On 81 x 81 x 146 nodes: mean By 0.122926 T, standard deviations, share above 2 T, peak."""
    b = at_nodes(FIELD, node_axes(NODES))
    assert b[..., 1].mean() == pytest.approx(0.122926, abs=5e-7)
    assert b[..., 1].std() == pytest.approx(71.6093, abs=1e-4)
    assert b[..., 0].std() == pytest.approx(22.1466, abs=1e-4)
    assert np.mean(np.abs(b[..., 1]) > 2) == pytest.approx(0.0298, abs=5e-5)
    assert np.abs(b).max() == pytest.approx(33024.05, abs=0.05)
    # At a dipole stands the field of the other one, 8 m away.
    np.testing.assert_allclose(b[40, [0, 80], 55], [[0, -16.512 * 2 / 8**3, 0]] * 2, rtol=1e-12)
    assert axis_integral(FIELD)[1] == pytest.approx(-4.4439, abs=5e-5)
    found = fit_gaussian(*node_profile(FIELD))
    assert found.peak_T == pytest.approx(-1.0153, abs=1e-4)
    assert found.centre_mm == pytest.approx(5000, abs=1)
    assert found.width_mm == pytest.approx(1757, abs=1)


@pytest.mark.data
def test_the_tabulated_profile_is_reproduced():
    folder = data_folder()
    if folder is None or not (folder / "lhcb").is_dir():
        pytest.skip("no experiment data beside the project")
    with (folder / "lhcb" / "twodip_onaxis_By_146.csv").open() as lines:
        table = np.array(
            [[float(row["z_mm"]), float(row["By_T_loader_sign"])] for row in csv.DictReader(lines)]
        )
    by = make_field("two_dipole", polarity=-1).field(0.0, 0.0, table[:, 0])[:, 1]
    assert len(table) == 146
    assert np.abs(by - table[:, 1]).max() < 5.1e-7  # half of the last printed digit, plus rounding


def test_is_free_of_divergence_and_curl():
    rng = np.random.default_rng(4)
    points = rng.uniform([-2000, -2000, 0], [2000, 2000, 13000], (500, 3)).T
    divergence, curl = maxwell_residuals(FIELD, points)
    assert np.abs(divergence).max() < 1e-10
    assert np.abs(curl).max() < 1e-10


def test_polarity_is_the_exact_negation():
    points = np.random.default_rng(5).uniform([-2000, -2000, 0], [2000, 2000, 13000], (200, 3)).T
    up = make_field("two_dipole", polarity=-1)
    np.testing.assert_array_equal(up.field(*points), -FIELD.field(*points))
    assert make_field(**up.options).options == up.options


@pytest.mark.parametrize("y", [-4000.0, 4000.0])
def test_the_singular_spots_are_refused(y):
    direction = np.array([0.6, 0.0, 0.8])
    radii = np.array([0.0, 1.0, 599.0, 601.0])
    points = (np.array([0.0, y, 5000.0]) + radii[:, None] * direction).T
    assert FIELD.inside(*points).tolist() == [False, False, False, True]
    with pytest.raises(
        UserError, match=r"at least 600 mm from \(0, ±4000, 5000\) mm; received 3 of 4 points"
    ):
        FIELD.field(*points)
    wide = make_field("two_dipole", exclusion=1000.0)
    assert not wide.inside(*points).any()


def test_the_kernel_is_finite_at_a_dipole():
    components = np.empty((3, 1))
    place = (np.zeros(1), np.full(1, 4000.0), np.full(1, 5000.0))
    kernels.field_points(FIELD.kind, FIELD.params, FIELD.values, *place, components)
    assert np.isfinite(components).all()


@pytest.mark.parametrize("step", [20.0, 100.0])
def test_a_track_that_enters_a_refused_spot_gets_a_status(step):
    """Straight at a dipole, past it, and one that starts in the spot; their neighbours do not notice."""
    qop = np.array([0.0, 0.0, 0.0, 1e-4])
    state = np.zeros((4, 5))
    state[:, 1] = [4000.0, 3300.0, 4000.0, 0.0]
    state[:, 4] = qop
    z0 = np.array([2000.0, 2000.0, 5100.0, 2000.0])
    found = propagate(FIELD, state, z0, 4000.0, step=step)
    assert found.status.tolist() == [Status.LEFT_VOLUME, 0, Status.LEFT_VOLUME, 0]
    assert np.isnan(found.state[[0, 2]]).all()
    alone = propagate(FIELD, state[3:], z0[3:], 4000.0, step=step)
    np.testing.assert_array_equal(found.state[3:], alone.state)


def test_a_track_may_not_end_in_a_refused_spot():
    """The last step ends 50 mm inside; all stages before lie outside."""
    state = np.array([[0.0, 4000.0, 0.0, 0.0, 0.0]])
    assert propagate(FIELD, state, 4300.0, 50.0, step=50.0).status[0] == 0
    assert propagate(FIELD, state, 4300.0, 150.0, step=150.0).status[0] == Status.LEFT_VOLUME
