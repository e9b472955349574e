"""Methods by name: orders, error control, steps that end on planes, and what each method counts."""

import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from trackkeras.domains.extrapolation.fields import make_field
from trackkeras.domains.extrapolation.propagation import BLOCK, Status, integrate, propagate
from trackkeras.domains.extrapolation.tableaus import TABLEAUS, TIGHTEST_TOLERANCE, Tableau
from trackkeras.errors import UserError
from trackkeras.units import KAPPA

LHCB = make_field("lhcb")
ADAPTIVE = [name for name, tableau in TABLEAUS.items() if tableau.adaptive]
GRID_FIRST = [-5000.0, -5000.0, -500.0]
STRAIGHT = [0.0, 0.0, 0.1, 0.05, 1e-5]


def tracks(n, p_min=2.0, p_max=100.0, seed=3):
    rng = np.random.default_rng(seed)
    momentum = 1000.0 * np.exp(rng.uniform(np.log(p_min), np.log(p_max), n))
    place, slope = rng.uniform(-400, 400, (n, 2)), rng.uniform(-0.12, 0.12, (n, 2))
    return np.column_stack([place, slope, rng.choice([-1.0, 1.0], n) / momentum])


def mixed_tracks(n, seed=5):
    """Tracks of all lengths and directions, some of which fail."""
    rng = np.random.default_rng(seed)
    place, slope = rng.uniform(-4500, 4500, (n, 2)), rng.uniform(-0.4, 0.4, (n, 2))
    qop = rng.choice([-1, 1], n) * np.exp(rng.uniform(np.log(1e-5), np.log(3e-3), n))
    return np.column_stack([place, slope, qop]), rng.uniform(6000, 8000, n), rng.uniform(-6000, 6000, n)


def grid_field(values, first, spacing):
    """A field read from a file with these nodes, `(nx, ny, nz, 3)`."""
    index = np.indices(values.shape[:3]).reshape(3, -1).T
    table = np.column_stack([np.array(first) + index * np.array(spacing), values.reshape(-1, 3)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "nodes.txt"
        np.savetxt(path, table, fmt="%.12g")
        return make_field("grid", path=path, length="mm", field="T")


def random_grid(nodes=(4, 5, 30), seed=8):
    """A field without any symmetry, known for |x|, |y| <= 5 m and z from -500 to 14,000 mm."""
    values = np.random.default_rng(seed).normal(0.0, 0.3, (*nodes, 3))
    return grid_field(values, GRID_FIRST, [10_000.0 / (nodes[0] - 1), 10_000.0 / (nodes[1] - 1), 500.0])


# -- orders ------------------------------------------------------------------------------------------------


def observed_order(tableau, field, steps=(400.0, 200.0, 100.0)):
    """Fit the power of the step with which the error falls."""
    state, z0, dz = tracks(50, p_min=4.0), np.full(50, 2000.0), np.full(50, 8000.0)
    exact = propagate(field, state, z0, dz, method="dormand_prince45", tolerance=1e-11).state

    def error(step):
        done = integrate(field, state, z0, dz, np.full(50, round(8000.0 / step)), tableau)
        return np.abs(done.state - exact)[:, 0].mean()

    return np.polyfit(np.log(steps), np.log([error(step) for step in steps]), 1)[0]


@pytest.mark.parametrize("method", ADAPTIVE)
def test_order_of_the_embedded_methods(method):
    tableau = TABLEAUS[method]
    embedded = np.subtract(tableau.b, tableau.error)
    other = replace(tableau, b=tuple(embedded), error=(), error_order=0)
    assert observed_order(other, make_field("gaussian"), (200.0, 100.0, 50.0)) == pytest.approx(
        tableau.error_order, abs=0.35
    )


@pytest.mark.parametrize("method", ADAPTIVE)
def test_both_methods_of_a_pair_integrate_polynomials(method):
    tableau = TABLEAUS[method]
    embedded = np.subtract(tableau.b, tableau.error)
    for weights, order in ((tableau.b, tableau.order), (embedded, tableau.error_order)):
        for power in range(order):
            moment = math.fsum(weight * node**power for weight, node in zip(weights, tableau.c, strict=True))
            assert moment == pytest.approx(1 / (power + 1), abs=2e-15)
        power = tableau.error_order
    moment = math.fsum(weight * node**power for weight, node in zip(embedded, tableau.c, strict=True))
    assert abs(moment - 1 / (power + 1)) > 1e-4, "the embedded method must be of lower order"


def test_a_field_used_again_costs_little_accuracy():
    """Nyström's method takes half the field calls of RK4; off the axis its order is a little below 4."""
    assert 3.0 < observed_order(TABLEAUS["nystrom4"], LHCB, (200.0, 100.0, 50.0)) < 4.3
    state = tracks(200)
    exact = propagate(LHCB, state, 2000.0, 8000.0, step=10.0).state
    errors, calls = {}, {}
    for method in ("rk4", "nystrom4"):
        done = propagate(LHCB, state, 2000.0, 8000.0, step=100.0, method=method)
        errors[method], calls[method] = np.abs(done.state - exact)[:, :2].mean(), done.field_calls.max()
    assert calls == {"rk4": 320, "nystrom4": 161}
    assert errors["nystrom4"] < 5 * errors["rk4"]


def test_the_field_calls_of_the_tableaus():
    calls = {name: tableau.field_calls for name, tableau in TABLEAUS.items()}
    assert calls["rk4"] == 4
    assert calls["nystrom4"] == 2
    assert calls["cash_karp"] == calls["dormand_prince45"] == calls["tsitouras5"] == 6


# -- error control -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize(("z0", "dz"), [(2000.0, 8000.0), (9500.0, -7000.0)])
def test_the_error_follows_the_tolerance(method, z0, dz):
    state = tracks(100)
    exact = propagate(LHCB, state, z0, dz, method="dormand_prince45", tolerance=1e-11, max_slope=5.0).state
    steps = []
    for tolerance in (1e-1, 1e-3, 1e-5, 1e-7):
        done = propagate(LHCB, state, z0, dz, method=method, tolerance=tolerance, max_slope=5.0)
        assert (done.status == Status.OK).all()
        error = np.hypot(*(done.state - exact)[:, :2].T)
        assert error.max() < done.steps.max() * tolerance
        assert np.median(error) > 1e-6 * tolerance
        steps.append(done.steps.mean())
    assert (np.diff(steps) > 0).all()


@pytest.mark.parametrize("method", ADAPTIVE)
def test_there_and_back_at_the_tightest_tolerance(method):
    """5 m across the magnet and back, p >= 2 GeV."""
    state = tracks(100)
    options = {"method": method, "tolerance": TIGHTEST_TOLERANCE, "max_slope": 5.0}
    there = propagate(LHCB, state, 2500.0, 5000.0, **options)
    back = propagate(LHCB, there.state, 7500.0, -5000.0, **options)
    assert (back.status == Status.OK).all()
    assert np.abs(back.state - state)[:, :2].max() < 1e-9
    assert np.abs(there.state - state)[:, :2].max() > 100.0


def dop853(field, state, z0, dz):
    """The Lorentz force on momentum vectors, not the slope equations, by SciPy's DOP853."""
    n = len(state)
    force = KAPPA * np.sign(state[:, 4])
    pz = 1.0 / (np.abs(state[:, 4]) * np.sqrt(1 + state[:, 2] ** 2 + state[:, 3] ** 2))

    def derivative(z, flat):
        position, p = flat.reshape(2, 3, n)
        b = field.field(position[0], position[1], np.full(n, z)).T
        return np.concatenate([p / p[2], force * np.cross(p, b, axis=0) / p[2]]).ravel()

    momentum = np.stack([state[:, 2] * pz, state[:, 3] * pz, pz])
    start = np.concatenate([state[:, :2].T, np.full((1, n), z0), momentum]).ravel()
    scale = np.repeat([1.0, 1e4], 3 * n)  # mm and MeV
    solved = solve_ivp(
        derivative, (z0, z0 + dz), start, method="DOP853", rtol=1e-13, atol=1e-10 * scale, max_step=100.0
    )
    position, p = solved.y[:, -1].reshape(2, 3, n)
    return np.stack([position[0], position[1], p[0] / p[2], p[1] / p[2], state[:, 4]], axis=1)


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize(("z0", "dz"), [(2500.0, 5000.0), (9500.0, -7000.0)])
def test_agrees_with_dop853(method, z0, dz):
    state = tracks(12)
    done = propagate(LHCB, state, z0, dz, method=method, tolerance=1e-9, max_slope=5.0)
    expected = dop853(LHCB, state, z0, dz)
    assert np.abs(done.state[:, :2] - expected[:, :2]).max() < 1e-7
    assert np.abs(done.state[:, 2:4] - expected[:, 2:4]).max() < 1e-10


@pytest.mark.parametrize("method", ADAPTIVE)
def test_steps_grow_again_behind_a_short_magnet(method):
    magnet = make_field("gaussian", peak=-4.0, centre=2500.0, width=150.0)
    state, options = [[0.0, 0.0, 0.0, 0.0, 1 / 5000.0]], {"method": method, "tolerance": 1e-6}
    whole = propagate(magnet, state, 0.0, 13_000.0, planes=[4000.0], **options)
    through = propagate(magnet, state, 0.0, 4000.0, **options)
    # Nine metres without field: at most a few steps to grow, then the longest one.
    assert whole.steps[0] - through.steps[0] <= 4 + 9
    assert through.steps[0] > 30


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("longest", [70.0, 300.0])
def test_no_step_is_longer_than_asked_for(method, longest):
    done = propagate(LHCB, tracks(20), 2000.0, 8000.0, method=method, tolerance=10.0, step=longest)
    assert (done.steps >= math.ceil(8000.0 / longest)).all()


@pytest.mark.parametrize("method", ADAPTIVE)
def test_counts_are_those_of_the_steps(method):
    done = propagate(LHCB, tracks(100), 2000.0, 8000.0, method=method, tolerance=1e-6)
    tableau = TABLEAUS[method]
    attempts = done.steps + done.rejected
    assert done.rejected.sum() > 0
    if tableau.first_same_as_last:
        np.testing.assert_array_equal(done.field_calls, 1 + attempts * (tableau.stages - 1))
    else:
        np.testing.assert_array_equal(done.field_calls, 1 + done.steps + attempts * (tableau.stages - 1))


def test_a_field_with_jumps_does_not_hold_a_track():
    """A grid with one cell of steep walls: the shortest step is accepted whatever its error."""
    values = np.zeros((2, 2, 200, 3))
    values[:, :, 100:102, 1] = 5.0
    wall = grid_field(values, [-5000.0, -5000.0, 0.0], [10_000.0, 10_000.0, 0.05])
    done = propagate(wall, [STRAIGHT], 0.0, 9.0, method="tsitouras5", tolerance=1e-11)
    assert done.status[0] == Status.OK
    assert done.steps[0] <= 1000


# -- steps that end on planes ------------------------------------------------------------------------------


def plane_by_plane(field, state, z0, dz, origin, length):
    """RK4 steps between consecutive planes, by one call each."""
    sign = math.copysign(1.0, dz)
    first, last = sorted(((z0 - origin) / length, (z0 + dz - origin) / length))
    inner = [
        origin + k * length
        for k in range(math.ceil(first), math.floor(last) + 1)
        if first + 1e-9 < k < last - 1e-9
    ]
    stops = [*inner[:: int(sign)], z0 + dz]
    for stop in stops:
        done = integrate(
            field,
            state,
            np.full(len(state), z0),
            np.full(len(state), stop - z0),
            np.ones(len(state), np.int64),
            TABLEAUS["rk4"],
        )
        state, z0 = done.state, stop
    return state, len(stops)


@settings(max_examples=40, deadline=None)
@given(
    z0=st.floats(-500, 14_000),
    z1=st.floats(-500, 14_000),
    step=st.sampled_from([1000.0, 500.0, 250.0, 170.0, 300.0]),
    grid=st.booleans(),
)
@example(z0=0.0, z1=501.0, step=1000.0, grid=True)  # one plane on the way and no whole step
@example(z0=501.0, z1=0.0, step=1000.0, grid=True)
@example(z0=0.0, z1=500.0, step=1000.0, grid=True)
@example(z0=500.0, z1=800.0, step=1000.0, grid=True)
@example(z0=1500.0, z1=500.0, step=1000.0, grid=True)
def test_aligned_steps_are_those_between_planes(z0, z1, step, grid):
    field = random_grid() if grid else LHCB  # planes 500 mm apart, or multiples of the step
    dz = z1 - z0
    if dz == 0:
        return
    spacing = 500.0
    length = spacing * (step // spacing or 1 / math.ceil(spacing / step)) if grid else step
    origin = -500.0 if grid else 0.0
    beside = [abs(math.remainder(z - origin, length)) for z in (z0, z1)]
    assume(all(distance == 0 or distance > 1e-6 for distance in beside))  # nearer is taken to be on the plane
    state = tracks(5, p_min=30.0)
    done = propagate(field, state, z0, dz, step=step, method="rk4_aligned")
    expected, steps = plane_by_plane(field, state, z0, z1 - z0, origin, length)
    assert (done.steps == steps).all()
    np.testing.assert_allclose(done.state, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("step", [500.0, 1000.0, 250.0])
def test_tracks_that_start_and_end_on_planes(step):
    field, state = random_grid(), tracks(200, p_min=20.0)
    for z0, dz in ((1500.0, 8000.0), (12_500.0, -11_000.0), (-500.0, 14_000.0), (13_500.0, -14_000.0)):
        done = propagate(field, state, z0, dz, step=step, method="rk4_aligned")
        equal = propagate(field, state, z0, dz, step=step, method="rk4")
        np.testing.assert_array_equal(done.steps, equal.steps)
        np.testing.assert_array_equal(done.status, equal.status)
        np.testing.assert_allclose(done.state, equal.state, rtol=0, atol=1e-8)


def test_the_kernel_for_planes_gives_the_statuses_of_the_other():
    state, z0, dz = mixed_tracks(2000)
    z0, dz = 500.0 * np.round(z0 / 500), 500.0 * np.round(dz / 500)
    field = random_grid()
    done = propagate(field, state, z0, dz, step=500.0, method="rk4_aligned")
    equal = propagate(field, state, z0, dz, step=500.0, method="rk4")
    assert set(done.status) == {Status.OK, Status.LEFT_VOLUME, Status.SLOPE_LIMIT}
    np.testing.assert_array_equal(done.status, equal.status)
    np.testing.assert_allclose(done.state, equal.state, rtol=0, atol=1e-7)


def test_only_planes_make_a_trilinear_field_smooth():
    """Steps across the planes of the nodes lose the order that steps between them keep."""
    nodes = np.linspace(-500.0, 14_000.0, 30)
    by = LHCB.field(0.0, 0.0, nodes)
    values = np.broadcast_to(by, (4, 5, 30, 3))
    field = grid_field(values, GRID_FIRST, [10_000.0 / 3, 2500.0, 500.0])
    state = tracks(50, p_min=5.0)
    exact = propagate(field, state, 2000.0, 8000.0, step=2.0).state
    errors = {}
    for z0 in (2000.0, 2080.0):
        begin = propagate(field, state, 2000.0, z0 - 2000.0, step=2.0).state
        done = propagate(field, begin, z0, 10_000.0 - z0, step=500.0)
        errors[z0] = np.abs(done.state - exact)[:, 0].mean()
    aligned = propagate(field, begin, 2080.0, 7920.0, step=500.0, method="rk4_aligned")
    assert np.abs(aligned.state - exact)[:, 0].mean() < 2 * errors[2000.0]
    assert errors[2080.0] > 10 * errors[2000.0]


# -- the contract of every method --------------------------------------------------------------------------

FIELDS = {"closed form": LHCB, "grid": random_grid()}


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
@pytest.mark.parametrize("method", ["rk4_aligned", "nystrom4", *ADAPTIVE])
def test_a_track_alone_gives_the_same_bits(method, field):
    state, z0, dz = mixed_tracks(9 * BLOCK + 5)
    dz[::17] = 0.0
    done = propagate(field, state, z0, dz, method=method)
    assert len(set(done.status)) >= 3
    for row in range(0, len(state), 41):
        alone = propagate(field, state[row : row + 1], z0[row], dz[row], method=method)
        assert alone.status[0] == done.status[row]
        assert alone.steps[0] == done.steps[row]
        np.testing.assert_array_equal(alone.state[0], done.state[row])
    np.testing.assert_array_equal(
        done.state[::17][done.status[::17] == 0], state[::17][done.status[::17] == 0]
    )


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
@pytest.mark.parametrize("method", ["rk4_aligned", *ADAPTIVE])
def test_threads_and_order_do_not_change_bits(method, field):
    state, z0, dz = mixed_tracks(20_000)
    shuffled = np.random.default_rng(1).permutation(len(state))
    options = {"method": method, "tolerance": 0.1, "step": 500.0}
    one = propagate(field, state, z0, dz, **options)
    two = propagate(field, state[shuffled], z0[shuffled], dz[shuffled], threads=2, **options)
    for name in ("state", "status", "steps", "rejected"):
        np.testing.assert_array_equal(getattr(two, name), getattr(one, name)[shuffled])


@pytest.mark.parametrize("method", ["rk4_aligned", "nystrom4", *ADAPTIVE])
class TestStatuses:
    """A failing track gets its reason, and its neighbour is not disturbed."""

    def status_of(self, method, row, field=LHCB, z0=1000.0, dz=5000.0, **options):
        done = propagate(field, [row, STRAIGHT], z0, dz, method=method, **options)
        assert done.status[1] == Status.OK
        assert np.isfinite(done.state[1]).all()
        assert np.isnan(done.state[0]).all() == (done.status[0] != Status.OK)
        return Status(done.status[0])

    def test_leaving_the_volume(self, method):
        assert self.status_of(method, [4900.0, 0.0, 0.2, 0.0, 1e-9]) is Status.LEFT_VOLUME
        assert self.status_of(method, [0.0, -4900.0, 0.0, -0.2, 1e-9]) is Status.LEFT_VOLUME
        assert self.status_of(method, [0.0, -5001.0, 0.0, -0.2, 1e-9]) is Status.LEFT_VOLUME

    def test_the_border_is_inside(self, method):
        assert self.status_of(method, [4999.0, 0.0, 0.0, 0.0, 0.0]) is Status.OK
        assert self.status_of(method, [4000.0, 0.0, 0.2, 0.0, 0.0], dz=4999.0) is Status.OK

    def test_the_slope_limit(self, method):
        assert self.status_of(method, [0.0, 0.0, 0.0, 0.0, 1 / 800.0], z0=3000.0) is Status.SLOPE_LIMIT
        assert self.status_of(method, [0.0, 0.0, 1.01, 0.0, 1e-9]) is Status.SLOPE_LIMIT

    def test_not_finite(self, method):
        broken = replace(make_field("gaussian"), params=np.array([np.nan, 5000.0, 1e-7]))
        done = propagate(broken, [STRAIGHT], 1000.0, 500.0, method=method)
        assert done.status[0] == Status.NOT_FINITE

    def test_neutral_tracks_are_straight(self, method):
        state = tracks(70) * np.array([1, 1, 1, 1, 0.0])
        done = propagate(LHCB, state, 2000.0, 8000.0, method=method)
        assert (done.state[:, 2:] == state[:, 2:]).all()
        assert np.abs(done.state[:, :2] - state[:, :2] - 8000.0 * state[:, 2:4]).max() < 1e-9

    def test_polarity_and_charge_reversed_together_change_nothing(self, method):
        state = tracks(70)
        here = propagate(LHCB, state, 2000.0, 8000.0, method=method).state
        other = make_field("lhcb", polarity=-1)
        there = propagate(other, state * np.array([1, 1, 1, 1, -1.0]), 2000.0, 8000.0, method=method).state
        assert (there[:, :4] == here[:, :4]).all()


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, 1e-12])
def test_a_tolerance_that_cannot_be_kept_is_refused(value):
    with pytest.raises(UserError, match=r"tolerance must be at least 1e-11 mm, received "):
        propagate(LHCB, [STRAIGHT], 1000.0, 500.0, method="cash_karp", tolerance=value)


def test_a_tableau_is_data():
    """Heun's method, named nowhere, runs as soon as it is written down."""
    heun = Tableau(order=2, a=((), (1.0,)), b=(0.5, 0.5), c=(0.0, 1.0))
    assert observed_order(heun, make_field("gaussian")) == pytest.approx(2, abs=0.1)
