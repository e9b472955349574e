"""The fitted polynomial: recovery, symmetries, limits, and its counted cost."""

import numpy as np
import pytest

from trackkeras.domains.extrapolation import polynomial
from trackkeras.domains.extrapolation.baselines import straight_line
from trackkeras.domains.extrapolation.generation_options import GenerateOptions
from trackkeras.domains.extrapolation.models import BendSize
from trackkeras.domains.extrapolation.polynomial import bend_size, fit_polynomial, polynomial_of
from trackkeras.domains.extrapolation.simulate import make_shard

CROSSING = {"z_start": 2665.0, "z_end": 7826.0, "dz_min": 5161.0, "dz_max": 5161.0, "direction": "forward"}


def sample(seed, n, **options):
    config = GenerateOptions(**options).model_dump(mode="json")
    chunks = [rows for rows, _ in make_shard(config, np.random.default_rng(seed), n)]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def position_error(rows, pred):
    return np.hypot(*(pred["final_state"] - rows["final_state"])[:, :2].T)


@pytest.fixture(scope="module")
def crossing():
    rows = sample(1, 8000, p_min=2.0, pv_fraction=1.0, **CROSSING)
    return {name: values[:6000] for name, values in rows.items()}, {
        name: values[6000:] for name, values in rows.items()
    }


@pytest.fixture(scope="module")
def fitted(crossing):
    return fit_polynomial(crossing[0], degree=6)


def test_unseen_tracks_of_a_crossing_are_met(crossing, fitted):
    """A thousandth of the bend; and more terms are better."""
    unseen = crossing[1]
    line = np.median(position_error(unseen, straight_line(unseen)))
    medians = [np.median(position_error(unseen, fit_polynomial(crossing[0], d)(unseen))) for d in (2, 4, 6)]
    assert medians == sorted(medians, reverse=True)
    assert medians[-1] < 2e-3 * line


def test_a_fixed_plane_has_no_terms(fitted):
    assert fitted.plane_powers.tolist() == [[0, 0]]
    assert (fitted.half[5:] == 0).all()


def test_mirror_images_stay_mirror_images(crossing, fitted):
    rows = crossing[1]
    for signs in ([-1, 1, -1, 1, -1], [1, -1, 1, -1, 1]):
        mirrored = rows | {"state": rows["state"] * np.array(signs)}
        expected = fitted(rows)["final_state"] * np.array(signs)
        np.testing.assert_allclose(fitted(mirrored)["final_state"], expected, rtol=1e-9, atol=1e-9)


def test_without_charge_it_is_the_straight_line(crossing, fitted):
    neutral = crossing[1] | {"state": crossing[1]["state"] * np.array([1, 1, 1, 1, 0.0])}
    np.testing.assert_array_equal(fitted(neutral)["final_state"], straight_line(neutral)["final_state"])


def test_the_symmetric_terms_are_a_part_of_all(crossing):
    """Without the symmetries the same field is met as well by a third of the products."""
    every = fit_polynomial(crossing[0], degree=4, symmetric=False)
    half = fit_polynomial(crossing[0], degree=4)
    assert every.terms == 2 * 2 * 126
    assert half.terms == 172  # 86 of 252 products
    ratio = np.median(position_error(crossing[1], half(crossing[1]))) / np.median(
        position_error(crossing[1], every(crossing[1]))
    )
    assert 0.7 < ratio < 1.3


def test_the_default_sample_is_fitted_once_and_always_alike(monkeypatch):
    monkeypatch.setattr(polynomial, "FIT_ROWS", 3000)
    polynomial._fitted.cache_clear()
    config = GenerateOptions(dz_min=4000.0).model_dump(mode="json")
    first = polynomial_of(config)
    assert polynomial_of(config | {"source": "a merged dataset"}) is first
    polynomial._fitted.cache_clear()
    second = polynomial_of(config)
    polynomial._fitted.cache_clear()  # not to be taken for the full fit by other tests
    np.testing.assert_array_equal(first.coefficients[0], second.coefficients[0])
    rows = sample(7, 500, dz_min=4000.0)
    assert np.median(position_error(rows, second(rows))) < 0.5 * np.median(
        position_error(rows, straight_line(rows))
    )


def test_size_of_the_bend_is_that_of_the_networks():
    rows = sample(3, 200)
    arrays = rows["state"][:, 4:5].astype(float), rows["z0"].astype(float), rows["dz"].astype(float)
    layer = BendSize(polynomial.CENTRE, polynomial.WIDTH, dtype="float64")
    for own, other in zip(bend_size(*arrays), layer.sizes(*arrays), strict=True):
        np.testing.assert_allclose(own, other.numpy(), rtol=1e-12)


def test_operations_are_counted_term_by_term(fitted):
    """Independently of the arrays: factors of each product less one, and two per coefficient and sum."""
    products = sum(
        max(sum(power > 0 for power in row) - 1, 0)
        for powers in (*fitted.powers, fitted.plane_powers)
        for row in powers.tolist()
    )
    terms = sum(len(powers) for powers in fitted.powers)
    scaling, recurrence = 7 * 2, 7 * 2 * 5  # T_2 to T_6
    assert fitted.operations == scaling + recurrence + products + 2 * 2 * terms * (1 + 1)
