"""States at given planes: what a propagation to each plane would give."""

import numpy as np
import pytest

from trackkeras.domains.extrapolation.fields import make_field
from trackkeras.domains.extrapolation.propagation import Status, propagate
from trackkeras.domains.extrapolation.tableaus import TABLEAUS
from trackkeras.errors import UserError

LHCB = make_field("lhcb")


def tracks(n=60, seed=3, p_min=4.0):
    rng = np.random.default_rng(seed)
    momentum = 1000.0 * np.exp(rng.uniform(np.log(p_min), np.log(100), n))
    place, slope = rng.uniform(-400, 400, (n, 2)), rng.uniform(-0.12, 0.12, (n, 2))
    return np.column_stack([place, slope, rng.choice([-1.0, 1.0], n) / momentum])


@pytest.mark.parametrize("method", TABLEAUS)
@pytest.mark.parametrize(("z0", "dz"), [(2000.0, 8000.0), (10_000.0, -8000.0)])
def test_each_state_is_that_of_a_propagation_to_its_plane(method, z0, dz):
    state, planes = tracks(), np.array([7300.0, 2000.0, 3333.0, 10_000.0, 3333.0])
    options = {"method": method, "step": 10.0, "tolerance": 1e-9}
    if TABLEAUS[method].order < 4:
        options["step"] = 1.0
    done = propagate(LHCB, state, z0, dz, planes=planes, **options)
    assert done.states.shape == (len(state), 5, 5)
    exact = {"method": "dormand_prince45", "tolerance": 1e-10}
    limit = {2: 1e-4, 3: 1e-8}.get(TABLEAUS[method].order, 1e-7)
    for column, plane in enumerate(planes):
        expected = propagate(LHCB, state, z0, plane - z0, **exact).state
        np.testing.assert_allclose(done.states[:, column], expected, rtol=0, atol=limit)
    np.testing.assert_array_equal(done.states[:, 2], done.states[:, 4])
    end = 3 if dz > 0 else 1
    np.testing.assert_array_equal(done.state, done.states[:, end])


@pytest.mark.parametrize("method", ["midpoint", "ralston3", "rk4", "nystrom4"])
def test_states_on_the_way_have_the_order_of_the_method(method):
    field, state, planes = make_field("gaussian"), tracks(), np.linspace(2500, 9500, 8)
    exact = propagate(field, state, 2000.0, 8000.0, planes=planes, step=5.0).states
    steps = np.array([500.0, 250.0, 125.0])
    errors = [
        np.abs(
            propagate(field, state, 2000.0, 8000.0, planes=planes, step=step, method=method).states - exact
        )[:, :, 0].mean()
        for step in steps
    ]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(TABLEAUS[method].order, abs=0.35)


def test_every_track_may_have_its_own_planes_and_direction():
    state, rng = tracks(), np.random.default_rng(2)
    dz = np.where(rng.random(len(state)) < 0.5, 3000.0, -3000.0)
    planes = 5000.0 + rng.uniform(0, 1, (len(state), 4)) * dz[:, None]
    done = propagate(LHCB, state, 5000.0, dz, planes=planes, method="tsitouras5", tolerance=1e-8)
    for row in range(0, len(state), 9):
        for column in range(4):
            alone = propagate(LHCB, state[row : row + 1], 5000.0, planes[row, column] - 5000.0, step=10.0)
            np.testing.assert_allclose(done.states[row, column], alone.state[0], rtol=0, atol=1e-6)


def test_error_control_does_not_begin_anew_at_every_plane():
    state, planes = tracks(), np.linspace(2000, 10_000, 6)
    options = {"method": "dormand_prince45", "tolerance": 1e-6}
    whole = propagate(LHCB, state, 2000.0, 8000.0, **options)
    dense = propagate(LHCB, state, 2000.0, 8000.0, planes=planes, **options)
    assert (dense.steps <= whole.steps + 2 * len(planes)).all()
    assert dense.rejected.sum() <= whole.rejected.sum() + len(planes) * len(state)


def test_a_track_that_fails_has_states_up_to_there():
    row = [4500.0, 0.0, 0.2, 0.0, 1e-9]  # leaves at z = 3500
    done = propagate(LHCB, [row, [0, 0, 0, 0, 1e-5]], 1000.0, 5000.0, planes=[3000.0, 4000.0, 2000.0])
    assert done.status.tolist() == [Status.LEFT_VOLUME, Status.OK]
    assert np.isnan(done.state[0]).all()
    assert np.isnan(done.states[0, 1]).all()
    np.testing.assert_allclose(done.states[0, [0, 2], 0], [4900.0, 4700.0])
    assert np.isfinite(done.states[1]).all()


def test_counts_and_shapes_without_any_plane_or_track():
    none = propagate(LHCB, tracks(), 2000.0, 8000.0, planes=[])
    assert none.states.shape == (60, 0, 5)
    np.testing.assert_array_equal(none.state, propagate(LHCB, tracks(), 2000.0, 8000.0).state)
    assert propagate(LHCB, np.empty((0, 5)), 2000.0, 8000.0, planes=[3000.0]).states.shape == (0, 1, 5)


@pytest.mark.parametrize(
    ("planes", "message"),
    [
        (
            [1999.0],
            r"planes must lie between z0 and z0 \+ dz, received 1999 mm in row 0, which goes from 2000",
        ),
        ([10_001.0], "received 10001 mm"),
        ([np.nan], "received nan mm"),
        (3000.0, r"planes must have shape \(k,\) or \(60, k\), received shape \(\)"),
        (np.full((3, 2), 3000.0), r"received shape \(3, 2\)"),
    ],
)
def test_bad_planes_are_one_clear_line(planes, message):
    with pytest.raises(UserError, match=message):
        propagate(LHCB, tracks(), 2000.0, 8000.0, planes=planes)
