"""The TensorFlow twins against the kernels."""

import numpy as np
import pytest
import tensorflow as tf

from trackkeras.domains.extrapolation.field_report import acceptance_points, maxwell_residuals
from trackkeras.domains.extrapolation.field_tf import field_twin, twin_error
from trackkeras.domains.extrapolation.fields import make_field
from trackkeras.domains.extrapolation.grid import write_grid


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    folder = tmp_path_factory.mktemp("map")
    path, uneven = folder / "map.txt", folder / "uneven.txt"
    write_grid(make_field("lhcb"), path, ((-2000, 2000, 500), (-1500, 1500, 500), (0, 13000, 500)))
    table = np.loadtxt(path)
    table[:, 0] += 40 * np.sin(table[:, 0])
    table[:, 2] *= 1 + table[:, 2] / 1e5
    np.savetxt(uneven, table, header="[mm, T]")
    grids = {
        f"{name} {order}": make_field("grid", path=file, interpolation=order)
        for name, file in (("grid", path), ("uneven", uneven))
        for order in ("linear", "cubic", "nearest")
    }
    return {
        **{name: make_field(name) for name in ("lhcb", "maxwell", "gaussian", "two_dipole")},
        "up": make_field("lhcb", polarity=-1),
        **grids,
        "grid": grids["grid linear"],
    }


GRIDS = [f"{name} {order}" for name in ("grid", "uneven") for order in ("linear", "cubic", "nearest")]


@pytest.mark.parametrize("name", ["lhcb", "maxwell", "gaussian", "two_dipole", "up", *GRIDS])
def test_float64_twin_equals_the_kernels(fields, name):
    field = fields[name]
    points = acceptance_points(field, 5000, seed=2)
    found = field_twin(field, "float64")(*(tf.constant(axis) for axis in points))
    np.testing.assert_allclose(found.numpy(), field.field(*points), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["lhcb", "gaussian", "grid", "two_dipole", "grid cubic", "uneven cubic"])
def test_float32_error_is_measured(fields, name):
    error = twin_error(fields[name], n=5000, seed=3)
    assert error["float64_max"] < 1e-9
    assert 1e-9 < error["float32_mean"] < error["float32_max"] < 1e-4


@pytest.mark.parametrize("name", ["lhcb", "gaussian", "two_dipole", *GRIDS])
def test_shapes_are_kept_inside_a_graph(fields, name):
    field = fields[name]
    twin = field_twin(field, "float64")
    points = acceptance_points(field, 4000, seed=4)[:, :1000]
    graph = tf.function(twin, input_signature=[tf.TensorSpec((None, 10), tf.float64)] * 3)
    found = graph(*(tf.constant(axis.reshape(-1, 10)) for axis in points))
    assert found.shape == (points.shape[1] // 10, 10, 3)
    np.testing.assert_allclose(found.numpy().reshape(-1, 3), twin(*points).numpy(), rtol=0, atol=1e-12)


def test_gradient_equals_finite_differences(fields):
    field = fields["lhcb"]
    points = acceptance_points(field, 200, seed=5)
    axes = [tf.constant(axis) for axis in points]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(axes)
        bx, by, bz = tf.unstack(field_twin(field, "float64")(*axes), axis=-1)
    gradient = np.array(
        [[tape.gradient(component, axis).numpy() for component in (bx, by, bz)] for axis in axes]
    )
    step = 0.5
    for axis in range(3):
        shift = np.zeros((3, 1))
        shift[axis] = step
        difference = (field.field(*(points + shift)) - field.field(*(points - shift))).T / (2 * step)
        np.testing.assert_allclose(gradient[axis], difference, rtol=0, atol=1e-8)
    # Maxwell's equations by automatic differentiation, which no step size limits.
    assert np.abs(np.trace(gradient)).max() < 1e-15
    assert np.abs(gradient - gradient.transpose(1, 0, 2)).max() < 1e-15
    divergence, _ = maxwell_residuals(field, points)
    assert np.abs(divergence).max() < 1e-9


DIPOLE = (0.0, 4000.0, 5000.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["lhcb", "gaussian", "two_dipole", *GRIDS])
def test_far_outside_values_and_gradients_stay_finite(fields, name, dtype):
    far = np.array([-1e5, -6e3, 0.0, 6e3, 1e5])
    points = [
        np.append(axis.ravel(), extra) for axis, extra in zip(np.meshgrid(far, far, far), DIPOLE, strict=True)
    ]
    axes = [tf.constant(axis, dtype) for axis in points]
    with tf.GradientTape() as tape:
        tape.watch(axes)
        b = field_twin(fields[name], dtype)(*axes)
        total = tf.reduce_sum(tf.asinh(b))
    assert np.isfinite(b.numpy()).all()
    for gradient in tape.gradient(total, axes):
        assert gradient is None or np.isfinite(gradient.numpy()).all()


def test_the_graph_does_not_grow_with_the_number_of_terms():
    def operations(terms):
        twin = field_twin(make_field("maxwell", terms=[[-1.0, 5000.0, 1700.0, 0.1]] * terms))
        graph = tf.function(twin).get_concrete_function(*[tf.TensorSpec((None,), tf.float32)] * 3).graph
        return len(graph.get_operations())

    assert operations(1) == operations(8)
