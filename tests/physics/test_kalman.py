"""The Kalman fit: equal to least squares where all is linear, honest pulls where it is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trackkeras.domains.extrapolation import kalman, make_field
from trackkeras.errors import UserError
from trackkeras.units import STATE

SCRIPT = Path(__file__).parents[2] / "scripts" / "kalman_example.py"
LAYERS = kalman.upgraded_detector()


def straight(state: np.ndarray, z0: float, dz: float) -> tuple[np.ndarray, np.ndarray]:
    jacobian = np.eye(5)
    jacobian[0, 2] = jacobian[1, 3] = dz
    return state @ jacobian.T, np.tile(jacobian, (len(state), 1, 1))


@pytest.fixture(scope="module")
def tracks() -> kalman.Tracks:
    return kalman.simulate(make_field("lhcb"), LAYERS, 400, seed=3)


@pytest.fixture(scope="module")
def classical(tracks: kalman.Tracks) -> kalman.Filtered:
    return kalman.fit(kalman.runge_kutta(make_field("lhcb")), LAYERS, tracks.hits, tracks.seeds)


def test_equal_to_least_squares_on_straight_lines() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(20, 5)) * (100, 100, 0.1, 0.1, 1e-4)
    dz = LAYERS.z - LAYERS.z[0]
    design = np.stack([(LAYERS.projection @ straight(truth, 0, d)[1][0])[k] for k, d in enumerate(dz)])[:, :4]
    hits = truth[:, :4] @ design.T + rng.normal(size=(20, len(dz))) * LAYERS.resolution
    seeds = truth + rng.normal(size=truth.shape) * (1, 1, 1e-3, 1e-3, 1e-5)
    fitted = kalman.fit(straight, LAYERS, hits, seeds)
    weighted = design / LAYERS.resolution[:, None]
    covariance = np.linalg.inv(weighted.T @ weighted)
    expected = (hits / LAYERS.resolution) @ weighted @ covariance
    sigma = np.sqrt(np.diag(covariance))
    assert (np.abs(fitted.state[:, :4] - expected) < 1e-4 * sigma).all()
    np.testing.assert_allclose(
        fitted.covariance[:, :4, :4] / np.outer(sigma, sigma),
        np.tile(covariance / np.outer(sigma, sigma), (20, 1, 1)),
        atol=1e-4,
    )
    chi2 = (((hits - expected @ design.T) / LAYERS.resolution) ** 2).sum(axis=1)
    np.testing.assert_allclose(fitted.chi2, chi2, rtol=1e-4)


def test_pulls_and_chi2_are_those_of_gaussian_hits(tracks: kalman.Tracks, classical: kalman.Filtered) -> None:
    found = kalman.quality(LAYERS, tracks.states[:, 0], classical)
    assert found["lost"] <= 4
    assert 0.93 < found["chi2_per_ndof_mean"] < 1.07
    assert abs(found["momentum_bias"]) < 3e-4
    assert 5e-4 < found["momentum_resolution"] < 5e-3
    for name in STATE:
        assert abs(found["pulls"][name]["median"]) < 0.25, name
        assert 0.85 < found["pulls"][name]["half_width_68"] < 1.15, name


def test_a_network_takes_the_long_leg_alone(tracks: kalman.Tracks, classical: kalman.Filtered) -> None:
    exact = kalman.runge_kutta(make_field("lhcb"))
    asked: list[tuple[float, float]] = []

    def predict(inputs: dict[str, np.ndarray]) -> dict[str, Any]:
        assert {value.dtype.name for value in inputs.values()} == {"float32"}
        asked.append((float(inputs["z0"][0, 0]), float(inputs["dz"][0, 0])))
        state, jacobian = exact(inputs["state"].astype(float), *asked[-1])
        return {"final_state": state.astype("float32"), "jacobian": jacobian.astype("float32")}

    few = slice(0, 60)
    transport = kalman.network(predict, exact)
    fitted = kalman.fit(transport, LAYERS, tracks.hits[few], tracks.seeds[few])
    assert asked == [(2652.5, 5173.5), (7826.0, -5173.5)] * kalman.ITERATIONS
    assert kalman.network_legs(LAYERS) == 1
    sigma = np.sqrt(np.diagonal(classical.covariance[few], axis1=1, axis2=2))
    good = np.isfinite(classical.state[few]).all(axis=1)
    assert (np.abs(fitted.state - classical.state[few])[good] < 0.05 * sigma[good]).all()


def test_a_wrong_extrapolator_is_seen(tracks: kalman.Tracks) -> None:
    exact = kalman.runge_kutta(make_field("lhcb"))

    def predict(inputs: dict[str, np.ndarray]) -> dict[str, Any]:
        args = inputs["state"].astype(float), float(inputs["z0"][0, 0]), float(inputs["dz"][0, 0])
        state, jacobian = exact(*args)
        state[:, 1] += 50.0  # mm, in the direction that no momentum explains
        return {"final_state": state, "jacobian": jacobian}

    few = slice(0, 60)
    fitted = kalman.fit(kalman.network(predict, exact), LAYERS, tracks.hits[few], tracks.seeds[few])
    assert kalman.quality(LAYERS, tracks.states[few, 0], fitted)["chi2_per_ndof_median"] > 3


def test_lost_tracks_are_counted_and_disturb_no_other(
    tracks: kalman.Tracks, classical: kalman.Filtered
) -> None:
    some = np.flatnonzero(np.isfinite(classical.state).all(axis=1))[:8]
    truth, hits, seeds = tracks.states[some, 0], tracks.hits[some], tracks.seeds[some]
    seeds[3, 4] = 1.0  # p = 1 MeV curls up
    fitted = kalman.fit(kalman.runge_kutta(make_field("lhcb")), LAYERS, hits, seeds)
    assert kalman.quality(LAYERS, truth, fitted)["lost"] == 1
    others = np.arange(8) != 3
    np.testing.assert_allclose(fitted.state[others], classical.state[some][others], rtol=1e-9, atol=1e-12)
    lost = kalman.Filtered(fitted.state[3:4], fitted.covariance[3:4], fitted.chi2[3:4])
    with pytest.raises(UserError, match="all 1 tracks are lost"):
        kalman.quality(LAYERS, truth[3:4], lost)


@pytest.mark.parametrize("options", [{"count": 0}, {"p_min": -1.0}, {"p_min": 5.0, "p_max": 2.0}])
def test_bad_options(options: dict[str, Any]) -> None:
    arguments = {"field": make_field("lhcb"), "layers": LAYERS, "count": 10, "seed": 1} | options
    with pytest.raises(UserError, match="at least one track"):
        kalman.simulate(**arguments)


def test_the_script() -> None:
    command = [sys.executable, str(SCRIPT), "--tracks", "50", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert report["legs_of_the_network"] == 0
    assert set(report["fits"]) == {"Runge-Kutta"}
    done = subprocess.run([*command, "--model", "x"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "name a network by --bundle" in done.stderr
