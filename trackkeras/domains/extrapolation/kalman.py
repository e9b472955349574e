"""A Kalman fit of simulated tracks through UT and SciFi, with any extrapolator that gives state and Jacobian.

The fit is linear around a reference trajectory (Fruehwirth, Nucl. Instrum. Meth. A 262, 1987, 444): a
reference state goes from plane to plane by the extrapolator, and the filter carries the deviation from it by
the Jacobians. It runs forward, from there backward, and again, each pass around what the one before found.
The last backward pass has seen all hits when it arrives at the first plane. Hits are smeared true positions:
there is no material, and no noise or wrong hit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trackkeras.domains.extrapolation.fields import Field
from trackkeras.domains.extrapolation.legs import UT, T
from trackkeras.domains.extrapolation.propagation import propagate
from trackkeras.errors import UserError
from trackkeras.units import GEV, STATE

Array = NDArray[np.float64]

Transport = Callable[[Array, float, float], tuple[Array, Array]]
"""Function `(state (n, 5), z0 [mm], dz [mm]) -> (state (n, 5), jacobian (n, 5, 5))`."""

Predict = Callable[[dict[str, NDArray[np.float32]]], Mapping[str, NDArray[Any]]]
"""A network's function `state_and_jacobian`, from columns to columns."""

NETWORK_REACH = (1000.0, 10_000.0)
"""Distances [mm] that networks of the default contract are trained for."""

PRIOR = (100.0, 100.0, 0.1, 0.1, 1.0)
"""Standard deviations of x, y [mm], tx, ty and, as a share of it, q/p before the first hit: next to no
knowledge."""
SEED = (1.0, 1.0, 1e-3, 1e-3, 0.1)
"""Smearing of the true state, in the same units, that stands for a track found before the fit."""
ITERATIONS = 3
"""Forward and backward passes; the third changes nothing but at the lowest momenta."""


@dataclass(frozen=True)
class Layers:
    """Planes that measure one coordinate each, `x cos(angle) + y sin(angle)`.

    Attributes:
        z: `(k,)` [mm], ascending.
        angle: `(k,)` [rad].
        resolution: `(k,)` Gaussian standard deviation of a hit [mm].
    """

    z: Array
    angle: Array
    resolution: Array

    @property
    def projection(self) -> Array:
        """`(k, 5)`: what a layer measures of a state."""
        zero = np.zeros_like(self.angle)
        return np.stack([np.cos(self.angle), np.sin(self.angle), zero, zero, zero], axis=1)


def upgraded_detector() -> Layers:
    """Return UT and SciFi: stations of x, u, v, x layers with stereo angles of 5 degrees (LHCB-TDR-015).

    Resolutions are 0.05 mm in UT (strips of 190 um, divided by the root of 12) and 0.1 mm in SciFi.
    """
    stereo = np.radians(5.0)
    angles = np.tile([0.0, stereo, -stereo, 0.0], 1 + len(T) // 4)
    resolution = np.repeat([0.05, 0.1], [len(UT), len(T)])
    return Layers(np.array([*UT, *T]), angles, resolution)


# -- extrapolators -----------------------------------------------------------------------------------------


def runge_kutta(field: Field, step: float = 50.0) -> Transport:
    """Return the fourth-order method with its exact Jacobian, in steps [mm]."""

    def transport(state: Array, z0: float, dz: float) -> tuple[Array, Array]:
        # A lost track is NaN from there on; it goes on as one on the axis, whose result is thrown away.
        found = np.isfinite(state).all(axis=1, keepdims=True)
        start = np.where(found, state, 0.0)
        result = propagate(field, start, z0, dz, step=step, jacobian=True)
        assert result.jacobian is not None
        return np.where(found, result.state, np.nan), result.jacobian

    return transport


def network(predict: Predict, short: Transport, reach: tuple[float, float] = NETWORK_REACH) -> Transport:
    """Return an extrapolator that uses a network where it was trained, and another one elsewhere.

    Args:
        predict: The network's `state_and_jacobian`.
        short: Takes the legs out of reach, such as those between the planes of one station.
        reach: Smallest and largest |dz| of the network [mm].
    """

    def transport(state: Array, z0: float, dz: float) -> tuple[Array, Array]:
        if not reach[0] <= abs(dz) <= reach[1]:
            return short(state, z0, dz)
        shape = (len(state), 1)
        inputs = {
            "state": np.nan_to_num(state).astype(np.float32),
            "z0": np.full(shape, z0, np.float32),
            "dz": np.full(shape, dz, np.float32),
        }
        outputs = predict(inputs)
        found = np.isfinite(state).all(axis=1, keepdims=True)
        final = np.where(found, np.asarray(outputs["final_state"], float), np.nan)
        return final, np.asarray(outputs["jacobian"], float)

    return transport


def network_legs(layers: Layers, reach: tuple[float, float] = NETWORK_REACH) -> int:
    """Return how many legs between neighbouring layers are within a network's reach."""
    lengths = np.diff(layers.z)
    return int(((lengths >= reach[0]) & (lengths <= reach[1])).sum())


# -- simulation --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tracks:
    """Simulated tracks.

    Attributes:
        states: `(n, k, 5)` true states at the layers.
        hits: `(n, k)` measured coordinates [mm].
        seeds: `(n, 5)` rough states at the first layer.
    """

    states: Array
    hits: Array
    seeds: Array


def simulate(
    field: Field, layers: Layers, count: int, seed: int, p_min: float = 2.0, p_max: float = 100.0
) -> Tracks:
    """Draw tracks from the origin that reach the last layer, and smear their positions.

    Momenta are log-uniform, slopes uniform within 0.2 (tx) and 0.15 (ty), charges equally likely; the true
    path is integrated in steps of 10 mm.

    Args:
        field: The magnetic field.
        layers: Where they are measured.
        count: Number of tracks.
        seed: Seed of all random numbers.
        p_min: Smallest momentum [GeV].
        p_max: Largest momentum [GeV].

    Raises:
        UserError: A number that is not positive, or a field in which fewer than a tenth of the tracks arrive.
    """
    if count < 1 or not 0 < p_min <= p_max:
        raise UserError(
            f"at least one track and momenta 0 < p_min <= p_max, received {count}, {p_min:g}, {p_max:g}"
        )
    rng = np.random.default_rng(seed)
    draws = 2 * count + 100
    kept: list[Array] = []
    for _ in range(10):
        slopes = rng.uniform(-1.0, 1.0, (draws, 2)) * (0.2, 0.15)
        momentum = GEV * np.exp(rng.uniform(np.log(p_min), np.log(p_max), draws))
        charge = rng.choice([-1.0, 1.0], draws)
        start = np.column_stack([np.zeros((draws, 2)), slopes, charge / momentum])
        result = propagate(field, start, 0.0, layers.z[-1], step=10.0, planes=layers.z)
        assert result.states is not None
        kept.append(result.states[result.status == 0])
        if sum(map(len, kept)) >= count:
            break
    else:
        raise UserError(f"fewer than {count} of {10 * draws} tracks reach the last layer in {field.name!r}")
    states = np.concatenate(kept)[:count]
    clean = np.einsum("nki,ki->nk", states, layers.projection)
    hits = clean + rng.normal(size=clean.shape) * layers.resolution
    first = states[:, 0]
    return Tracks(states, hits, first + rng.normal(size=first.shape) * _spread(SEED, first))


def _spread(spread: Sequence[float], state: Array) -> Array:
    """Return standard deviations `(n, 5)`, that of q/p as a share of it."""
    result = np.tile(np.array(spread), (len(state), 1))
    result[:, 4] *= np.abs(state[:, 4])
    return result


# -- the fit -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Filtered:
    """Estimates at the last plane of a pass.

    Attributes:
        state: `(n, 5)`.
        covariance: `(n, 5, 5)`.
        chi2: `(n,)` sum over the hits of the squared distance from the prediction, in standard deviations.
    """

    state: Array
    covariance: Array
    chi2: Array


def filter_hits(
    transport: Transport, layers: Layers, hits: Array, start: Array, order: Sequence[int]
) -> Filtered:
    """Run through the layers once, with next to no knowledge at the beginning.

    Args:
        transport: The extrapolator.
        layers: The layers.
        hits: `(n, k)`.
        start: `(n, 5)` reference at the first layer of `order`.
        order: Indices of the layers, ascending or descending.
    """
    reference = start
    deviation = np.zeros_like(start)
    covariance = np.square(_spread(PRIOR, start))[:, :, None] * np.eye(5)
    chi2 = np.zeros(len(start))
    for place, layer in enumerate(order):
        if place:
            before = layers.z[order[place - 1]]
            reference, jacobian = transport(reference, before, layers.z[layer] - before)
            deviation = np.einsum("nij,nj->ni", jacobian, deviation)
            covariance = jacobian @ covariance @ jacobian.transpose(0, 2, 1)
        projection, variance = layers.projection[layer], layers.resolution[layer] ** 2
        residual = hits[:, layer] - (reference + deviation) @ projection
        share = covariance @ projection
        total = share @ projection + variance
        gain = share / total[:, None]
        deviation = deviation + gain * residual[:, None]
        # Joseph's form: stays symmetric and positive where 1 - gain * projection all but cancels.
        left = np.eye(5) - gain[:, :, None] * projection
        noise = gain[:, :, None] * gain[:, None, :] * variance
        covariance = left @ covariance @ left.transpose(0, 2, 1) + noise
        chi2 = chi2 + residual**2 / total
    return Filtered(reference + deviation, covariance, chi2)


def fit(transport: Transport, layers: Layers, hits: Array, seeds: Array) -> Filtered:
    """Fit tracks forward and backward; the result is at the first layer and has seen all hits.

    Args:
        transport: The extrapolator.
        layers: The layers.
        hits: `(n, k)`.
        seeds: `(n, 5)` rough states at the first layer.

    Returns:
        Estimates at the first layer; NaN for a track that the extrapolator loses.
    """
    forward = range(len(layers.z))
    state = seeds
    for _ in range(ITERATIONS):
        ahead = filter_hits(transport, layers, hits, state, forward)
        result = filter_hits(transport, layers, hits, ahead.state, forward[::-1])
        state = result.state
    return result


def quality(layers: Layers, truth: Array, fitted: Filtered) -> dict[str, Any]:
    """Return what a fit is judged by, at the first layer.

    Args:
        layers: The layers, for the degrees of freedom.
        truth: `(n, 5)` true states.
        fitted: The estimates.

    Returns:
        Numbers of tracks and lost tracks; mean and median of chi2 per degree of freedom; median and central
        68 % half-width of p / p_true - 1; and the same two of the pulls of each component.
    """
    variances = np.diagonal(fitted.covariance, axis1=1, axis2=2)
    good = np.isfinite(fitted.state).all(axis=1) & np.isfinite(fitted.chi2) & (variances > 0).all(axis=1)
    if not good.any():
        raise UserError(f"all {len(truth)} tracks are lost in the fit")
    true, state = truth[good], fitted.state[good]
    per_degree = fitted.chi2[good] / (len(layers.z) - len(STATE))
    momentum = np.abs(true[:, 4] / state[:, 4]) - 1.0
    pulls = (state - true) / np.sqrt(variances[good])
    return {
        "tracks": len(truth),
        "lost": int((~good).sum()),
        "chi2_per_ndof_mean": float(per_degree.mean()),
        "chi2_per_ndof_median": float(np.median(per_degree)),
        "momentum_bias": float(np.median(momentum)),
        "momentum_resolution": _half_width(momentum),
        "pulls": {
            name: {"median": float(np.median(pull)), "half_width_68": _half_width(pull)}
            for name, pull in zip(STATE, pulls.T, strict=True)
        },
    }


def _half_width(values: Array) -> float:
    low, high = np.quantile(values, [0.16, 0.84])
    return float(high - low) / 2
