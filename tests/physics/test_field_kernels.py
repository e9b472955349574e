"""The kernels against independent evaluations of the same formulas."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from trackkeras.domains.extrapolation import kernels
from trackkeras.domains.extrapolation.fields import make_field
from trackkeras.domains.extrapolation.lhcb import TERMS


@njit
def _exponential(v, out):
    for i in range(len(v)):
        out[i] = kernels.exponential(v[i])


@njit
def _sine_cosine(v, sine, cosine):
    for i in range(len(v)):
        sine[i], cosine[i] = kernels.sine_cosine(v[i])


def test_exponential_equals_the_math_library():
    v = np.linspace(kernels.EXPONENT_MIN, kernels.EXPONENT_MAX, 100_003)
    found = np.empty_like(v)
    _exponential(v, found)
    np.testing.assert_allclose(found, np.exp(v), rtol=1e-15)


def test_sine_and_cosine_equal_the_math_library():
    quarter_turns = np.arange(-400, 400) * (np.pi / 2)
    v = np.concatenate([np.linspace(-700, 700, 100_003), quarter_turns, quarter_turns + np.pi / 4, [0.0]])
    sine, cosine = np.empty_like(v), np.empty_like(v)
    _sine_cosine(v, sine, cosine)
    np.testing.assert_allclose(sine, np.sin(v), atol=3e-16, rtol=0)
    np.testing.assert_allclose(cosine, np.cos(v), atol=3e-16, rtol=0)


def complex_gaussians(terms, x, y, z):
    """The formula with complex numbers: B is the gradient of Im F(w), F' = f, averaged over +-phi."""
    total = np.zeros((3, len(x)), dtype=complex)
    for peak, centre, width, sin2 in terms:
        phi = np.arcsin(np.sqrt(complex(sin2)))
        for angle in (phi, -phi):
            # dw/dx = i sin, dw/dy = i cos, dw/dz = 1; for an imaginary angle i sin is real
            dw = np.array([1j * np.sin(angle), 1j * np.cos(angle), 1.0])
            f = (
                peak
                / np.cos(angle)
                / 2
                * np.exp(-((dw @ np.stack([x, y, z]) - centre) ** 2) / (2 * width**2))
            )
            total += (dw[:, None] * f).imag
    return total.real.T


def test_maxwell_equals_complex_arithmetic():
    rng = np.random.default_rng(3)
    x, y, z = rng.uniform(-3000, 3000, 500), rng.uniform(-2500, 2500, 500), rng.uniform(0, 13000, 500)
    expected = complex_gaussians(TERMS, x, y, z)
    scale = sum(complex_gaussians([(abs(t[0]), *t[1:])], x, y, z)[:, 1].__abs__() for t in TERMS) + 1
    difference = np.abs(make_field("lhcb").field(x, y, z) - expected).max(axis=1)
    assert (difference / scale).max() < 1e-13


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 200), seed=st.integers(0, 1000))
def test_a_point_does_not_depend_on_its_neighbours(n, seed):
    rng = np.random.default_rng(seed)
    x, y, z = rng.uniform(-2000, 2000, n), rng.uniform(-2000, 2000, n), rng.uniform(0, 13000, n)
    field = make_field("lhcb")
    together = field.field(x, y, z)
    k = int(rng.integers(n))
    # Vector and scalar code may round differently in the last bits.
    np.testing.assert_allclose(field.field(x[k], y[k], z[k])[0], together[k], rtol=0, atol=1e-14)


def test_far_outside_the_volume_the_kernels_stay_finite():
    far = np.array([-1e7, -1e5, 0.0, 1e5, 1e7])
    x, y, z = (axis.ravel().copy() for axis in np.meshgrid(far, far, far))
    nodes = np.ones((5, 4, 6, 4), np.float32)
    axes = [np.arange(count, dtype=float) for count in nodes.shape[:3]]
    params = np.concatenate([[0.0, 1.0] * 3, [0.0], *axes])
    analytic = [make_field(name) for name in ("lhcb", "gaussian", "two_dipole")]
    cases = [(field.kind, field.params, field.values) for field in analytic]
    cases += [(kind, params, nodes) for kind in GRIDS]
    for case in cases:
        components = np.empty((3, len(x)))
        kernels.field_points(*case, x, y, z, components)
        assert np.isfinite(components).all()


GRIDS = [kernels.GRID, *range(kernels.GRID_CUBIC, kernels.VARIABLE_GRID_NEAREST + 1)]


@pytest.mark.parametrize("kind", GRIDS)
def test_nan_stays_nan_on_a_grid(kind):
    nodes = np.ones((4, 4, 4, 4), np.float32)
    axes = [np.arange(4.0)] * 3
    params = np.concatenate([[0.0, 1.0] * 3, [0.0], *axes])
    points = np.full((3, 4), 1.5)
    for axis in range(3):
        points[axis, axis] = np.nan
    components = np.empty((3, 4))
    kernels.field_points(kind, params, nodes, *points, components)
    assert np.isnan(components[:, :3]).all()
    np.testing.assert_allclose(components[:, 3], 1.0, rtol=1e-15)
