"""Lookup between nodes: order of convergence, smoothness across cells, variable steps, planes, neighbours."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator

from trackkeras.domains.extrapolation import kernels
from trackkeras.domains.extrapolation.fields import make_field
from trackkeras.domains.extrapolation.grid_nodes import Grid, at_nodes, axes_of, node_axes
from trackkeras.errors import UserError

KINDS = {
    "linear": (kernels.GRID, kernels.VARIABLE_GRID),
    "cubic": (kernels.GRID_CUBIC, kernels.VARIABLE_GRID_CUBIC),
    "nearest": (kernels.GRID_NEAREST, kernels.VARIABLE_GRID_NEAREST),
}
BOX = ((-800.0, 800.0), (-600.0, 600.0), (4000.0, 6000.0))


def read(kind, params, values, points):
    components = np.empty((3, points.shape[1]))
    kernels.field_points(kind, params, values, *(np.ascontiguousarray(axis) for axis in points), components)
    return components.T


def lookup(axes, nodes, order, points):
    grid = Grid(axes, nodes.astype(np.float32))
    return read(KINDS[order][grid.variable], grid.params(masked=False), grid.values(), points)


def uneven_axes(seed, counts=(6, 5, 9)):
    rng = np.random.default_rng(seed)
    return tuple(
        low + (high - low) * np.concatenate([[0.0], np.cumsum(steps) / steps.sum()])
        for (low, high), steps in zip(BOX, (rng.uniform(0.4, 1.6, n - 1) for n in counts), strict=True)
    )


def even_axes(counts=(6, 5, 9)):
    return tuple(np.linspace(low, high, n) for (low, high), n in zip(BOX, counts, strict=True))


def inside(n, seed=0):
    low, high = np.array(BOX).T
    return np.random.default_rng(seed).uniform(low, high, (n, 3)).T


def polynomial(points, degree):
    """Three components, each a product of polynomials of one variable of this degree."""
    rng = np.random.default_rng(degree)
    scaled = [(axis - low) / (high - low) for axis, (low, high) in zip(points, BOX, strict=True)]
    parts = [[np.polyval(rng.normal(size=degree + 1), s) for s in scaled] for _ in range(3)]
    return np.stack([x * y * z for x, y, z in parts], axis=-1)


def sampled(axes, degree):
    mesh = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    return polynomial(mesh, degree).reshape(*map(len, axes), 3)


@pytest.mark.parametrize("axes", [even_axes(), uneven_axes(1)], ids=["even", "uneven"])
@pytest.mark.parametrize(("order", "degree"), [("linear", 1), ("cubic", 2), ("nearest", 0)])
def test_reproduces_the_polynomials_of_its_order(axes, order, degree):
    """The cubic uses parabolas for its slopes: degree 2 exactly, the outermost cells included."""
    points = inside(3000)
    found = lookup(axes, sampled(axes, degree), order, points)
    np.testing.assert_allclose(found, polynomial(points, degree), rtol=0, atol=3e-6)  # single-precision nodes


@pytest.mark.parametrize("axes", [even_axes(), uneven_axes(2)], ids=["even", "uneven"])
@pytest.mark.parametrize("order", ["linear", "cubic", "nearest"])
def test_passes_through_the_nodes(axes, order):
    nodes = np.random.default_rng(3).normal(size=(*map(len, axes), 3))
    mesh = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    found = lookup(axes, nodes, order, mesh)
    np.testing.assert_allclose(found, nodes.reshape(-1, 3), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", [4, 5])
def test_variable_steps_equal_scipy(seed):
    axes = uneven_axes(seed)
    nodes = np.random.default_rng(seed).normal(size=(*map(len, axes), 3)).astype(np.float32)
    points = inside(2000, seed)
    for order in ("linear", "nearest"):
        reference = RegularGridInterpolator(axes, nodes.astype(float), method=order)(points.T)
        np.testing.assert_allclose(lookup(axes, nodes, order, points), reference, rtol=0, atol=1e-13)


@pytest.mark.parametrize("order", ["linear", "cubic", "nearest"])
def test_even_steps_give_the_same_by_both_roads(order):
    axes = even_axes()
    grid = Grid(axes, np.random.default_rng(6).normal(size=(6, 5, 9, 3)).astype(np.float32))
    points, values, params = inside(2000, 7), grid.values(), grid.params(masked=False)
    regular, variable = KINDS[order]
    found = read(variable, np.concatenate([params, *axes]), values, points)
    np.testing.assert_allclose(found, read(regular, params, values, points), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("order", "lowest", "highest"), [("nearest", 0.8, 1.2), ("linear", 1.85, 2.15), ("cubic", 2.7, 4.2)]
)
def test_order_of_convergence(order, lowest, highest):
    field = make_field("lhcb")
    points = np.random.default_rng(8).uniform([-700, -500, 4100], [700, 500, 5900], (3000, 3)).T
    truth, steps = field.field(*points), np.array([400.0, 200.0, 100.0])
    errors = []
    for step in steps:
        axes = node_axes(((-1600, 1600, step), (-1600, 1600, step), (3200, 6800, step)))
        found = lookup(axes, at_nodes(field, axes), order, points)
        errors.append(np.sqrt(np.mean((found - truth) ** 2)))
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert lowest < slope < highest


@pytest.mark.parametrize("axes", [even_axes(), uneven_axes(9)], ids=["even", "uneven"])
def test_cubic_is_smooth_across_cells_and_linear_is_not(axes):
    """One-sided slopes on both sides of every inner plane of nodes; random nodes leave nothing to luck."""
    nodes = np.random.default_rng(10).normal(size=(*map(len, axes), 3))
    jumps = {}
    for order in ("linear", "cubic"):
        worst = 0.0
        for axis in range(3):
            for plane in axes[axis][1:-1]:
                points = inside(40, 11)
                points[axis] = plane
                slopes = []
                for side in (-1.0, 1.0):
                    values = []
                    for shift in (0.0, 0.02, 0.04):
                        moved = points.copy()
                        moved[axis] += side * shift
                        values.append(lookup(axes, nodes, order, moved))
                    # Second-order one-sided difference.
                    slopes.append(side * (-3 * values[0] + 4 * values[1] - values[2]) / 0.04)
                worst = max(worst, np.abs(slopes[0] - slopes[1]).max())
        jumps[order] = worst
    assert jumps["cubic"] < 1e-8
    assert jumps["linear"] > 1e-3


@settings(deadline=None, max_examples=30)
@given(order=st.sampled_from(["linear", "cubic", "nearest"]), n=st.integers(2, 130), seed=st.integers(0, 999))
def test_a_shared_plane_does_not_change_the_result(order, n, seed):
    """A block at one z is read in another way than a block of many; the field is the same."""
    axes = even_axes()
    nodes = np.random.default_rng(12).normal(size=(*map(len, axes), 3))
    points = inside(n, seed)
    points[2] = np.random.default_rng(seed).choice([4250.0, 4375.0, 4001.0, 4000.0, 6000.0])
    together = lookup(axes, nodes, order, points)
    mixed = points.copy()
    mixed[2, 1:] += 1.0 if mixed[2, 0] < 5999 else -1.0
    np.testing.assert_allclose(together[0], lookup(axes, nodes, order, mixed)[0], rtol=0, atol=1e-13)
    alone = lookup(axes, nodes, order, points[:, -1:])[0]
    np.testing.assert_allclose(together[-1], alone, rtol=0, atol=1e-13)


def test_nearest_takes_the_upper_node_halfway():
    axes = tuple(np.array([0.0, 10.0, 20.0]) for _ in range(3))
    nodes = np.arange(81.0).reshape(3, 3, 3, 3)
    points = np.array([[4.9, 5.0, 15.0], [0.0, 0.0, 20.0], [20.0, 0.0, 14.9]])
    expected = [nodes[0, 0, 2], nodes[1, 0, 0], nodes[2, 2, 1]]
    np.testing.assert_array_equal(lookup(axes, nodes, "nearest", points), expected)


@pytest.fixture
def uneven_file(tmp_path):
    axes = uneven_axes(13)
    nodes = at_nodes(make_field("lhcb"), axes)
    mesh = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    path = tmp_path / "uneven.txt"
    np.savetxt(path, np.concatenate([mesh, nodes], axis=-1).reshape(-1, 6), header="[mm, T]")
    return path, axes


@pytest.mark.parametrize("order", ["linear", "cubic", "nearest"])
def test_a_file_with_variable_steps(uneven_file, order):
    path, axes = uneven_file
    field = make_field("grid", path=path, interpolation=order)
    assert field.kind == KINDS[order][1]
    for found, expected in zip(axes_of(field), axes, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-3)
    np.testing.assert_allclose(field.volume, np.array([(a[0], a[-1]) for a in axes]).ravel(), atol=1e-3)
    again = make_field(**field.options)
    points = inside(100, 14)
    points = points[:, field.inside(*points)]
    np.testing.assert_array_equal(again.field(*points), field.field(*points))
    up = make_field(**(field.options | {"polarity": -1}))
    np.testing.assert_array_equal(up.field(*points), -field.field(*points))


def test_cubic_needs_four_nodes(tmp_path):
    axes = node_axes(((0, 200, 100), (0, 300, 100), (0, 300, 100)))
    mesh = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    path = tmp_path / "small.txt"
    np.savetxt(path, np.column_stack([mesh, mesh]), header="[mm, T]")
    with pytest.raises(UserError, match="at least 4 nodes along each axis, received 3 x 4 x 4"):
        make_field("grid", path=path, interpolation="cubic")


def test_arrays_that_the_kernels_cannot_read_are_refused():
    field = make_field("gaussian")
    for values in (np.zeros((3, 3, 3, 3), np.float32), np.zeros((3, 3, 3, 4)), np.zeros((3, 4), np.float32)):
        with pytest.raises(UserError, match=r"must be \(nx, ny, nz, 4\) float32, received"):
            replace(field, kind=kernels.GRID, values=values)
