"""Propagation against closed forms, conservation laws, symmetries and an independent integrator."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.special import erf

from trackkeras.domains.extrapolation.fields import make_field
from trackkeras.domains.extrapolation.generation_options import GenerateOptions
from trackkeras.domains.extrapolation.propagation import propagate
from trackkeras.domains.extrapolation.sampling import draw_tracks
from trackkeras.domains.extrapolation.tableaus import TABLEAUS
from trackkeras.units import KAPPA


@pytest.fixture(scope="module")
def lhcb():
    return make_field("lhcb")


@pytest.fixture(scope="module")
def gaussian():
    return make_field("gaussian")


def tracks(n, p_min=4.0, p_max=100.0, seed=3):
    """Tracks near the axis at z = 2000 mm that reach z = 10,000 mm inside every field used here."""
    rng = np.random.default_rng(seed)
    momentum = 1000.0 * np.exp(rng.uniform(np.log(p_min), np.log(p_max), n))
    return np.stack(
        [
            rng.uniform(-500, 500, n),
            rng.uniform(-500, 500, n),
            rng.uniform(-0.15, 0.15, n),
            rng.uniform(-0.12, 0.12, n),
            rng.choice([-1.0, 1.0], n) / momentum,
        ],
        axis=1,
    )


def momenta(state):
    """p [MeV] `(n, 3)`, unit charge."""
    tx, ty, qop = state[:, 2], state[:, 3], state[:, 4]
    pz = 1.0 / (np.abs(qop) * np.sqrt(1 + tx**2 + ty**2))
    return np.stack([tx * pz, ty * pz, pz], axis=1)


@pytest.mark.parametrize("charge", [1, -1])
def test_circle_in_a_uniform_field(charge):
    by, p, dz = -1.1, 4000.0, 6000.0
    field = make_field("gaussian", peak=by, centre=5000.0, width=1e10)
    tx0 = 0.1
    done = propagate(field, [[20.0, -5.0, tx0, 0.0, charge / p]], 1000.0, dz, step=5.0)
    # sin(theta) grows linearly along z on a circle of radius p / (KAPPA |B|).
    sine0 = tx0 / math.hypot(1, tx0)
    sine1 = sine0 - charge * KAPPA * by / p * dz
    radius = -p / (charge * KAPPA * by)
    x1 = 20.0 + radius * (math.sqrt(1 - sine0**2) - math.sqrt(1 - sine1**2))
    assert done.state[0, 0] == pytest.approx(x1, abs=1e-7)
    assert done.state[0, 2] == pytest.approx(sine1 / math.sqrt(1 - sine1**2), abs=1e-11)
    assert done.state[0, 1] == -5.0


def test_conserved_quantities_in_a_field_of_by_z_alone(gaussian):
    """By(z) = dA/dz with A of z alone: p_y and p_x + q KAPPA A do not change."""
    state, z0, dz = tracks(200, p_min=3.0), 2000.0, 8000.0
    done = propagate(gaussian, state, z0, dz, step=5.0, max_slope=5.0)
    assert (done.status == 0).all()
    peak, centre, width = -1.0182, 5007.0, 1744.0
    a0, a1 = (
        peak * width * math.sqrt(math.pi / 2) * erf((z - centre) / (width * math.sqrt(2)))
        for z in (z0, z0 + dz)
    )
    before, after = momenta(state), momenta(done.state)
    scale = 1.0 / np.abs(state[:, 4])
    kick = np.sign(state[:, 4]) * KAPPA * (a1 - a0)
    assert np.abs((after[:, 1] - before[:, 1]) / scale).max() < 1e-9
    assert np.abs((after[:, 0] + kick - before[:, 0]) / scale).max() < 1e-9
    assert (done.state[:, 4] == state[:, 4]).all()


def test_neutral_tracks_are_straight(lhcb):
    state = tracks(100)
    state[:, 4] = 0.0
    done = propagate(lhcb, state, 2000.0, 8000.0)
    assert (done.state[:, 2:] == state[:, 2:]).all()
    assert np.abs(done.state[:, :2] - state[:, :2] - 8000.0 * state[:, 2:4]).max() < 1e-10


def dop853(field, state, z0, dz):
    """The Lorentz force on momentum vectors, not the slope equations, by SciPy's DOP853."""
    n = len(state)
    force = KAPPA * np.sign(state[:, 4])

    def derivative(z, flat):
        position, p = flat.reshape(2, 3, n)
        b = field.field(position[0], position[1], np.full(n, z)).T
        dp = force * np.cross(p, b, axis=0) / p[2]
        return np.concatenate([p / p[2], dp]).ravel()

    start = np.concatenate([state[:, :2].T, np.full((1, n), z0), momenta(state).T]).ravel()
    scale = np.repeat([1.0, 1e4], 3 * n)  # mm and MeV
    solved = solve_ivp(
        derivative, (z0, z0 + dz), start, method="DOP853", rtol=1e-13, atol=1e-9 * scale, max_step=200.0
    )
    position, p = solved.y[:, -1].reshape(2, 3, n)
    return np.stack([position[0], position[1], p[0] / p[2], p[1] / p[2], state[:, 4]], axis=1)


@pytest.mark.parametrize(("z0", "dz"), [(2000.0, 8000.0), (9500.0, -7000.0)])
def test_agrees_with_dop853(lhcb, z0, dz):
    state = tracks(20, p_min=2.0)
    done = propagate(lhcb, state, z0, dz, step=5.0, max_slope=5.0)
    expected = dop853(lhcb, state, z0, dz)
    assert (done.status == 0).all()
    assert np.abs(done.state[:, :2] - expected[:, :2]).max() < 1e-6
    assert np.abs(done.state[:, 2:4] - expected[:, 2:4]).max() < 1e-9


def test_the_default_step_is_good_to_a_micrometre_on_the_default_contract(lhcb):
    draws = draw_tracks(GenerateOptions(), np.random.default_rng(6), 2000)
    arguments = (lhcb, *(array[draws.inside] for array in (draws.state, draws.z0, draws.dz)))
    coarse, fine = propagate(*arguments), propagate(*arguments, step=10.0)
    both = (coarse.status == 0) & (fine.status == 0)
    assert both.sum() > 1000
    assert np.hypot(*(coarse.state - fine.state)[both, :2].T).mean() < 1e-3


@pytest.mark.parametrize("flips", [(-1, 1, -1, 1, -1), (1, -1, 1, -1, 1)], ids=["x and charge", "y"])
def test_mirror_symmetry(lhcb, flips):
    """By is even in x and y, Bx odd in both, Bz odd in y: both mirrors map tracks to tracks."""
    state, flips = tracks(130), np.array(flips, float)
    here = propagate(lhcb, state, 2000.0, 8000.0).state
    there = propagate(lhcb, state * flips, 2000.0, 8000.0).state
    np.testing.assert_allclose(there, here * flips, rtol=0, atol=1e-9)


def test_opposite_charges_on_the_axis_bend_oppositely(lhcb):
    done = propagate(lhcb, [[0, 0, 0, 0, 1e-4], [0, 0, 0, 0, -1e-4]], 2000.0, 8000.0).state
    assert done[0, 0] > 100.0  # By < 0 bends a positive charge to +x
    assert done[1, 0] == pytest.approx(-done[0, 0], abs=1e-9)


def test_polarity_and_charge_reversed_together_change_nothing(lhcb):
    state = tracks(100)
    other = state * np.array([1, 1, 1, 1, -1.0])
    here = propagate(lhcb, state, 2000.0, 8000.0).state
    there = propagate(make_field("lhcb", polarity=-1), other, 2000.0, 8000.0).state
    assert (there[:, :4] == here[:, :4]).all()


@pytest.mark.parametrize("method", TABLEAUS)
def test_order_of_every_method(gaussian, method):
    """The error falls as step ** order."""
    state, steps = tracks(50), np.array([400.0, 200.0, 100.0])
    exact = propagate(gaussian, state, 2000.0, 8000.0, step=4.0).state
    errors = [
        np.abs(propagate(gaussian, state, 2000.0, 8000.0, step=step, method=method).state - exact)[
            :, 0
        ].mean()
        for step in steps
    ]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(TABLEAUS[method].order, abs=0.35)


@pytest.mark.parametrize("method", TABLEAUS)
def test_tableaus_are_consistent(method):
    tableau = TABLEAUS[method]
    assert len(tableau.a) == len(tableau.c) == tableau.stages
    assert math.fsum(tableau.b) == pytest.approx(1.0, abs=1e-15)
    for stage, (row, node) in enumerate(zip(tableau.a, tableau.c, strict=True)):
        assert len(row) == stage
        assert math.fsum(row) == pytest.approx(node, abs=1e-15)


def test_there_and_back(lhcb):
    """5 m across the magnet and back in 5 mm steps, p >= 2 GeV."""
    state = tracks(200, p_min=2.0)
    there = propagate(lhcb, state, 2500.0, 5000.0, step=5.0, max_slope=5.0)
    back = propagate(lhcb, there.state, 7500.0, -5000.0, step=5.0, max_slope=5.0)
    assert (there.status == 0).all()
    assert (back.status == 0).all()
    assert np.abs(back.state - state)[:, :2].max() < 1e-6
    assert np.abs(back.state - state)[:, 2:4].max() < 1e-9


def test_a_path_in_two_parts_is_the_same_path(lhcb):
    state = tracks(100)
    middle = propagate(lhcb, state, 2000.0, 3000.0, step=50.0).state
    parts = propagate(lhcb, middle, 5000.0, 5000.0, step=50.0).state
    whole = propagate(lhcb, state, 2000.0, 8000.0, step=50.0).state
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-9)


def test_field_strength_and_charge_enter_as_a_product(gaussian):
    """Twice the field acts as twice the charge."""
    state = tracks(64)
    double = replace(gaussian, params=gaussian.params * np.array([2.0, 1.0, 1.0]))
    strong = propagate(double, state, 2000.0, 8000.0).state
    charged = propagate(gaussian, state * np.array([1, 1, 1, 1, 2.0]), 2000.0, 8000.0).state
    np.testing.assert_allclose(strong[:, :4], charged[:, :4], rtol=0, atol=1e-9)
