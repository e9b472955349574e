"""What `propagate` promises beyond physics: statuses, independence of neighbours and threads, refusals."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackkeras.domains.extrapolation import propagation
from trackkeras.domains.extrapolation.fields import make_field
from trackkeras.domains.extrapolation.kernels import GRID
from trackkeras.domains.extrapolation.propagation import BLOCK, BLOCKS_PER_TASK, Status, propagate
from trackkeras.errors import UserError

FIELD = make_field("lhcb")
STRAIGHT = [0.0, 0.0, 0.1, 0.05, 1e-5]


def mixed_tracks(n, seed=5):
    """Tracks of all lengths and directions, some of which fail."""
    rng = np.random.default_rng(seed)
    dz = rng.uniform(-6000, 6000, n)
    state = np.stack(
        [
            rng.uniform(-4500, 4500, n),
            rng.uniform(-4500, 4500, n),
            rng.uniform(-0.4, 0.4, n),
            rng.uniform(-0.4, 0.4, n),
            rng.choice([-1, 1], n) * np.exp(rng.uniform(np.log(1e-5), np.log(3e-3), n)),
        ],
        axis=1,
    )
    return state, rng.uniform(6000, 8000, n), dz


def test_zero_distance_returns_the_state():
    state, z0, _ = mixed_tracks(100)
    done = propagate(FIELD, state, z0, 0.0)
    assert (done.status == Status.OK).all()
    assert (done.state == state).all()


@pytest.mark.parametrize("n", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 1000])
def test_block_boundaries(n):
    """A track alone gives the same bits as a track among others."""
    state, z0, dz = mixed_tracks(n)
    done = propagate(FIELD, state, z0, dz)
    assert done.state.shape == (n, 5)
    assert done.status.shape == (n,)
    for row in range(0, n, max(1, n // 7)):
        alone = propagate(FIELD, state[row : row + 1], z0[row], dz[row])
        assert alone.status[0] == done.status[row]
        np.testing.assert_array_equal(alone.state[0], done.state[row])


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_order_does_not_matter(n, seed):
    state, z0, dz = mixed_tracks(n, seed)
    shuffled = np.random.default_rng(seed).permutation(n)
    done = propagate(FIELD, state, z0, dz, step=200.0)
    other = propagate(FIELD, state[shuffled], z0[shuffled], dz[shuffled], step=200.0)
    np.testing.assert_array_equal(other.status, done.status[shuffled])
    np.testing.assert_array_equal(other.state, done.state[shuffled])


def grid_field():
    nodes = np.random.default_rng(8).normal(0.0, 0.3, (3, 3, 9, 4)).astype(np.float32)
    params = np.array([-5000.0, 5000.0, -5000.0, 5000.0, -500.0, 1812.5])
    return replace(FIELD, name="grid", kind=GRID, params=params, values=nodes)


@pytest.mark.parametrize("field", [FIELD, make_field("gaussian"), grid_field()], ids=lambda field: field.name)
def test_compiled_code_is_that_of_the_source(field, monkeypatch):
    """Numba's cache does not notice an edit of a function that another file's function calls.

    If this fails after an edit of kernels.py, remove the __pycache__ folders of the package.
    """
    state, z0, dz = mixed_tracks(40)
    compiled = propagate(field, state, z0, dz, step=2000.0)
    monkeypatch.setattr(propagation, "_advance", propagation._advance.py_func)
    interpreted = propagate(field, state, z0, dz, step=2000.0)
    np.testing.assert_array_equal(compiled.status, interpreted.status)
    np.testing.assert_allclose(compiled.state, interpreted.state, rtol=1e-12, atol=1e-12)


def test_threads_do_not_change_bits():
    state, z0, dz = mixed_tracks(3 * BLOCK * BLOCKS_PER_TASK + 17)
    one = propagate(FIELD, state, z0, dz, step=500.0)
    two = propagate(FIELD, state, z0, dz, step=500.0, threads=2)
    np.testing.assert_array_equal(one.status, two.status)
    np.testing.assert_array_equal(one.state, two.state)


def test_scalars_stand_for_every_track():
    state, _, _ = mixed_tracks(10)
    scalars = propagate(FIELD, state, 7000.0, -500.0)
    arrays = propagate(FIELD, state, np.full(10, 7000.0), np.full(10, -500.0))
    np.testing.assert_array_equal(scalars.state, arrays.state)


def test_inputs_are_left_alone():
    state, z0, dz = mixed_tracks(100)
    copies = state.copy(), z0.copy(), dz.copy()
    propagate(FIELD, state, z0, dz)
    for array, copy in zip((state, z0, dz), copies, strict=True):
        assert (array == copy).all()


# -- statuses ----------------------------------------------------------------------------------------------


def status_of(field, row, z0=1000.0, dz=5000.0, **options):
    done = propagate(field, [row, STRAIGHT], z0, dz, **options)
    assert done.status[1] == Status.OK, "a failing track must not disturb its neighbour"
    assert np.isfinite(done.state[1]).all()
    assert np.isnan(done.state[0]).all() == (done.status[0] != Status.OK)
    return Status(done.status[0])


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("side", [-1, 1])
def test_leaving_the_volume(axis, side):
    row = [0.0, 0.0, 0.0, 0.0, 1e-9]
    row[axis], row[axis + 2] = side * 4900.0, side * 0.2
    assert status_of(FIELD, row) is Status.LEFT_VOLUME


@pytest.mark.parametrize("step", [100.0, 6000.0])
def test_leaving_the_volume_and_coming_back_is_leaving(step):
    """A track turns: its end lies inside, its middle does not, which one long step sees at its stages."""
    field = make_field("gaussian", peak=-1.0, centre=5000.0, width=1e10)
    row = [4950.0, 0.0, 0.3, 0.0, -1 / 3000.0]
    wide = make_field(
        "gaussian", peak=-1.0, centre=5000.0, width=1e10, volume=(-9e3, 9e3, -9e3, 9e3, -500, 14e3)
    )
    end = propagate(wide, [row], 1000.0, 6000.0, step=step).state[0]
    assert abs(end[0]) < 5000.0
    assert status_of(field, row, dz=6000.0, step=step) is Status.LEFT_VOLUME


def test_starting_outside_the_volume():
    assert status_of(FIELD, [5001.0, 0.0, 0.0, 0.0, 1e-4]) is Status.LEFT_VOLUME


def test_slope_limit_on_the_way():
    assert status_of(FIELD, [0.0, 0.0, 0.0, 0.0, 1 / 800.0], z0=3000.0) is Status.SLOPE_LIMIT


def test_slope_limit_at_the_start():
    assert status_of(FIELD, [0.0, 0.0, 1.01, 0.0, 1e-9], dz=100.0) is Status.SLOPE_LIMIT
    assert status_of(FIELD, [0.0, 0.0, 1.01, 0.0, 1e-9], dz=100.0, max_slope=1.02) is Status.OK


@settings(max_examples=20, deadline=None)
@given(st.floats(0.12, 2.0))
def test_slopes_of_good_tracks_are_within_the_limit(limit):
    state, z0, dz = mixed_tracks(200)
    done = propagate(FIELD, state, z0, dz, step=200.0, max_slope=limit)
    good = done.status == Status.OK
    assert (np.abs(done.state[good, 2:4]) <= limit).all()
    assert (np.abs(state[good, 2:4]) <= limit).all()
    assert np.isnan(done.state[~good]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(value):
    field = make_field("gaussian")
    broken = replace(field, params=np.array([value, *field.params[1:]]))
    for limit in (1.0, np.inf):
        done = propagate(broken, [STRAIGHT], 1000.0, 500.0, max_slope=limit)
        assert done.status[0] == Status.NOT_FINITE
        assert np.isnan(done.state).all()


def test_every_status_has_words():
    assert len({status.text for status in Status}) == len(Status)


# -- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": [0.0, 0.0, 0.0, 0.0, 1e-4]}, r"shape \(n, 5\), received shape \(5,\)"),
        ({"state": np.zeros((3, 6))}, r"shape \(n, 5\), received shape \(3, 6\)"),
        ({"state": [[0.0, 0.0, 0.0, 0.0, np.inf]]}, "qop = inf in row 0: p = 0"),
        ({"state": [[0.0, np.nan, 0.0, 0.0, 1e-4]]}, "y = nan in row 0"),
        ({"z0": [0.0, 1.0]}, r"z0 must be a number or have shape \(1,\), received shape \(2,\)"),
        ({"dz": [[0.0]]}, r"dz must be a number or have shape \(1,\), received shape \(1, 1\)"),
        ({"z0": -501.0}, "z0 = -501 mm in row 0 lies outside the field 'lhcb'.*-500 to 14000 mm"),
        ({"dz": 13500.0}, r"z0 \+ dz = 14500 mm in row 0 lies outside the field 'lhcb'"),
        ({"dz": np.nan}, "z0 . dz = nan mm"),
        ({"step": 0.0}, "step must be a positive length in mm, received 0.0"),
        ({"step": -5.0}, "received -5.0"),
        ({"step": np.nan}, "received nan"),
        ({"method": "rk5"}, "no integration method named 'rk5'; there are: .*rk4"),
        ({"max_slope": 0.0}, "max_slope must be positive, received 0.0"),
        ({"threads": 0}, "threads must be at least 1, received 0"),
    ],
)
def test_bad_input_is_one_clear_line(change, message):
    arguments = {"state": [STRAIGHT], "z0": 1000.0, "dz": 500.0} | change
    with pytest.raises(UserError, match=message) as caught:
        propagate(FIELD, **arguments)
    assert "\n" not in str(caught.value)
