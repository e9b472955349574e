"""Transport Jacobians against central differences, Liouville's theorem, chains, and values made elsewhere."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

from trackkeras.domains.extrapolation import real_data
from trackkeras.domains.extrapolation.field_gradients import difference_gradient, gradient_block
from trackkeras.domains.extrapolation.fields import make_field
from trackkeras.domains.extrapolation.propagation import Status, propagate
from trackkeras.domains.extrapolation.tableaus import TABLEAUS
from trackkeras.units import qop_from_allen

LHCB = make_field("lhcb")


def grid_field(values, first, spacing):
    """A field read from a file with these nodes, `(nx, ny, nz, 3)`."""
    index = np.indices(values.shape[:3]).reshape(3, -1).T
    table = np.column_stack([np.array(first) + index * np.array(spacing), values.reshape(-1, 3)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "nodes.txt"
        np.savetxt(path, table, fmt="%.12g")
        return make_field("grid", path=path, length="mm", field="T")


ONE_CELL = grid_field(
    np.random.default_rng(0).normal(0.0, 0.5, (2, 2, 2, 3)), [-5000.0, -5000.0, -500.0], [1e4, 1e4, 14_500.0]
)
FIELDS = {
    "lhcb": LHCB,
    "gaussian": make_field("gaussian"),
    "maxwell": make_field("maxwell", terms=[[-1.0, 5000.0, 1700.0, 0.3], [0.3, 6000.0, 1900.0, -0.5]]),
    "trilinear": ONE_CELL,
}


def tracks(n=40, seed=3):
    rng = np.random.default_rng(seed)
    momentum = 1000.0 * np.exp(rng.uniform(np.log(2), np.log(100), n))
    place, slope = rng.uniform(-400, 400, (n, 2)), rng.uniform(-0.12, 0.12, (n, 2))
    return np.column_stack([place, slope, rng.choice([-1.0, 1.0], n) / momentum])


def differences(field, state, z0, dz, **options):
    """Central differences of sixth order, `(n, 5, 5)`."""
    result = np.zeros((len(state), 5, 5))
    for column, size in enumerate((0.5, 0.5, 1e-4, 1e-4, None)):
        move = np.zeros_like(state)
        move[:, column] = size or 1e-3 * np.abs(state[:, 4])
        for count, weight in ((1, 3 / 4), (2, -3 / 20), (3, 1 / 60)):
            ahead = propagate(field, state + count * move, z0, dz, max_slope=9.0, **options).state
            behind = propagate(field, state - count * move, z0, dz, max_slope=9.0, **options).state
            result[:, :, column] += weight * (ahead - behind) / move[:, column, None]
    return result


def natural_size(state, dz):
    """Size of each element where the magnet matters: lengths count in |dz|, q/p in itself, `(n, 5, 5)`."""
    n, length = len(state), np.abs(dz)
    final = np.stack(np.broadcast_arrays(length, length, 1.0, 1.0, 1.0), axis=-1) * np.ones((n, 1))
    initial = final.copy()
    final[:, 4] = initial[:, 4] = np.abs(state[:, 4])
    return final[:, :, None] / initial[:, None, :]


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
@pytest.mark.parametrize("method", TABLEAUS)
def test_agrees_with_central_differences(field, method):
    state = tracks()
    for z0, dz in ((2000.0, 8000.0), (9510.0, -7020.0)):
        options = {"method": method, "tolerance": 1e-9}
        done = propagate(field, state, z0, dz, jacobian=True, max_slope=9.0, **options)
        assert (done.status == Status.OK).all()
        error = np.abs(done.jacobian - differences(field, state, z0, dz, **options))
        assert (error / natural_size(state, np.full(len(state), dz))).max() < 1e-7


@pytest.mark.parametrize("method", ["rk4", "rk4_aligned", "dormand_prince45"])
def test_the_state_is_that_without_the_jacobian(method):
    state = tracks(100)
    with_jacobian = propagate(LHCB, state, 2000.0, 8000.0, method=method, jacobian=True)
    without = propagate(LHCB, state, 2000.0, 8000.0, method=method)
    assert without.jacobian is None
    np.testing.assert_array_equal(with_jacobian.state, without.state)


def test_shape_and_trivial_elements():
    state = tracks(70)
    done = propagate(LHCB, state, 2000.0, 8000.0, jacobian=True).jacobian
    assert done.shape == (70, 5, 5)
    assert (done[:, 4] == [0, 0, 0, 0, 1]).all()
    still = propagate(LHCB, state, 2000.0, 0.0, jacobian=True, method="cash_karp").jacobian
    assert (still == np.eye(5)).all()
    neutral = propagate(
        make_field("gaussian", peak=0.0), state, 2000.0, 3000.0, jacobian=True, method="tsitouras5"
    ).jacobian
    straight = np.eye(5)
    straight[0, 2] = straight[1, 3] = 3000.0
    np.testing.assert_allclose(neutral, np.broadcast_to(straight, (70, 5, 5)), rtol=1e-14, atol=1e-9)


def test_phase_space_is_conserved():
    """Liouville: d(x, y, px, py) keeps its volume; d(px, py) = p² (1 + tx² + ty²)^-2 d(tx, ty)."""
    state = tracks(200)
    done = propagate(
        LHCB, state, 2000.0, 8000.0, jacobian=True, method="dormand_prince45", tolerance=1e-10, max_slope=5.0
    )
    before = (1 + state[:, 2] ** 2 + state[:, 3] ** 2) ** -2
    after = (1 + done.state[:, 2] ** 2 + done.state[:, 3] ** 2) ** -2
    volume = np.linalg.det(done.jacobian[:, :4, :4]) * after / before
    np.testing.assert_allclose(volume, 1.0, rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", ["rk4", "dormand_prince45"])
def test_jacobians_of_parts_multiply(method):
    state, options = tracks(), {"method": method, "tolerance": 1e-9, "jacobian": True, "max_slope": 5.0}
    first = propagate(LHCB, state, 2000.0, 3000.0, **options)
    second = propagate(LHCB, first.state, 5000.0, 5000.0, **options)
    whole = propagate(LHCB, state, 2000.0, 8000.0, **options)
    planes = propagate(LHCB, state, 2000.0, 8000.0, planes=[5000.0], **options)
    size = natural_size(state, np.full(len(state), 8000.0))
    assert (np.abs(second.jacobian @ first.jacobian - whole.jacobian) / size).max() < 1e-8
    assert (np.abs(planes.jacobian - whole.jacobian) / size).max() < 1e-8


def test_backward_is_the_inverse():
    state, options = (
        tracks(),
        {"method": "tsitouras5", "tolerance": 1e-10, "jacobian": True, "max_slope": 5.0},
    )
    there = propagate(LHCB, state, 2000.0, 8000.0, **options)
    back = propagate(LHCB, there.state, 10_000.0, -8000.0, **options)
    size = natural_size(state, np.full(len(state), 8000.0))
    assert (np.abs(back.jacobian @ there.jacobian - np.eye(5)) / size).max() < 1e-9


@pytest.mark.parametrize("method", ["rk4", "cash_karp", "dormand_prince45"])
def test_neighbours_and_threads_do_not_matter(method):
    rng = np.random.default_rng(2)
    n = 5000
    state = tracks(n)
    state[::7, :2] *= 12.0  # some leave the volume
    z0, dz = rng.uniform(2000, 8000, n), rng.uniform(-2500, 5000, n)
    options = {"method": method, "jacobian": True, "step": 800.0}
    one = propagate(LHCB, state, z0, dz, **options)
    two = propagate(LHCB, state[::-1], z0[::-1], dz[::-1], threads=2, **options)
    np.testing.assert_array_equal(one.jacobian, two.jacobian[::-1])
    failed = one.status != Status.OK
    assert failed.any()
    assert np.isnan(one.jacobian[failed]).all()
    assert np.isfinite(one.jacobian[~failed]).all()


# -- gradients of the field --------------------------------------------------------------------------------


def gradients(function, *arguments, n):
    result = np.empty((6, n))
    function(*arguments, result)
    return result


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
def test_gradients_agree_with_differences_of_the_field(field):
    rng = np.random.default_rng(1)
    point = rng.uniform(-2000, 2000, 500), rng.uniform(-2000, 2000, 500), rng.uniform(500, 12_000, 500)
    arguments = field.kind, field.params, field.values, *point
    exact = gradients(gradient_block, *arguments, n=500)
    near = gradients(difference_gradient, *arguments, n=500)
    assert np.abs(exact - near).max() < 1e-7 * max(np.abs(exact).max(), 1e-6)


@pytest.mark.parametrize("name", ["lhcb", "maxwell"])
def test_the_gradient_has_no_curl_along_z(name):
    field = FIELDS[name]
    rng = np.random.default_rng(4)
    point = rng.uniform(-2500, 2500, 500), rng.uniform(-2500, 2500, 500), rng.uniform(0, 13_000, 500)
    found = gradients(gradient_block, field.kind, field.params, field.values, *point, n=500)
    np.testing.assert_allclose(found[1], found[3], rtol=0, atol=1e-12 * np.abs(found).max())


# -- values made elsewhere ---------------------------------------------------------------------------------


@pytest.mark.data
def test_shape_and_convention_of_jacobians_in_the_real_field():
    folder = real_data.data_folder()
    if folder is None or not (folder / "lhcb" / "jacobian_states_300.npy").is_file():
        pytest.skip("no experiment data")
    rows = np.load(folder / "lhcb" / "jacobian_states_300.npy")
    reference = np.load(folder / "lhcb" / "jacobian_reference_300.npy")
    state, z0, dz = rows[:, :5].copy(), rows[:, 5], rows[:, 6]
    state[:, 4] = qop_from_allen(state[:, 4])
    done = propagate(LHCB, state, z0, dz, jacobian=True, max_slope=9.0)
    good = done.status == Status.OK
    assert good.sum() > 250
    ours = done.jacobian[good]
    ours[:, :4, 4] *= qop_from_allen(1.0)
    assert ours.shape == reference[good].shape
    size = natural_size(rows[good], dz[good])
    size[:, :4, 4] *= np.abs(state[good, 4] / rows[good, 4])[:, None] ** 0
    # The field differs from the real map in its details: the median agrees to a few percent of the effect.
    error = np.median(np.abs(ours - reference[good]) / size, axis=0)
    assert error.max() < 5e-3
    for row, column in ((0, 2), (0, 4), (1, 3), (2, 4)):
        assert np.corrcoef(ours[:, row, column], reference[good][:, row, column])[0, 1] > 0.99
