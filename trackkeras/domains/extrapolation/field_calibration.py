"""Calibrate a field with tracks of known states at two planes, by differentiating through the integrator.

One pass of a fixed-step Nystroem integrator in TensorFlow records where every track asked for the field.
Reverse differentiation gives how each component of the final state responds to a change of the field at each
of these places, and so, by the chain rule, to any parameter of any field: the gradients are taken along the
path once per component, whatever the number of parameters. Gauss-Newton steps with these derivatives replace
thousands of steps of gradient descent.

Two fields can be calibrated:

- `calibrate_terms`: peak, centre, width and `sin2` of every term of `maxwell`. The result has two planes of
  symmetry and is a field of that name.
- `calibrate_harmonics`: `Harmonics` without symmetry that are added to a given field. Their coefficients are
  linear, and a ridge keeps those small that no track asks for. The result is a map on a grid.

Tracks are compared relative to `floor` plus a fraction of how far the field moved them, with a soft-L1 loss:
slow tracks, and those that come close to coils and yoke, would otherwise be the whole fit. A calibrated field
is known where its tracks were, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from scipy.optimize import least_squares

from trackkeras.domains.extrapolation import kernels
from trackkeras.domains.extrapolation.field_fit import (
    NO_SLOPE_LIMIT,
    Tracks,
    components,
    rounded,
    track_errors,
    write_terms,
)
from trackkeras.domains.extrapolation.field_harmonics import Harmonics
from trackkeras.domains.extrapolation.field_protocol import FieldProtocol
from trackkeras.domains.extrapolation.field_tf import field_twin
from trackkeras.domains.extrapolation.fields import VOLUME, Field, make_field
from trackkeras.domains.extrapolation.grid_nodes import Grid, node_axes
from trackkeras.domains.extrapolation.maxwell import Terms
from trackkeras.domains.extrapolation.propagation import propagate
from trackkeras.errors import UserError
from trackkeras.units import KAPPA

Array = NDArray[np.float64]

STEEPEST = 3.0
"""Slopes beyond this one bend as if they were of this size: such tracks are lost, but must stay finite."""

BOX = Harmonics()
"""The default box holds the tracks between UT and T."""

CHUNK = 200
"""Tracks whose harmonics are held in memory at a time."""


@dataclass(frozen=True)
class CalibrationOptions:
    """What counts as one unit of disagreement, and how far the search goes.

    Attributes:
        floor: Position error [mm] of a track that is not bent.
        fraction: Further position error, as a fraction of the displacement by the field.
        slope_lever: Length [mm] that turns a slope error into a position error.
        ridge: Coefficient [T] of a harmonic that counts as one unit.
        steps: Integration steps.
        rounds: Linearisations of `calibrate_harmonics`.
        reweightings: Least-squares solutions per linearisation, each with the weights of the last.
        evaluations: Limit of evaluations of `calibrate_terms`.
        centre: Range of the centres [mm].
        width: Range of the widths [mm].
        sin2: Range of `sin2`.
    """

    floor: float = 0.05
    fraction: float = 1e-4
    slope_lever: float = 1000.0
    ridge: float = 0.1
    steps: int = 26
    rounds: int = 3
    reweightings: int = 4
    evaluations: int = 30
    centre: tuple[float, float] = (0.0, 11000.0)
    width: tuple[float, float] = (1100.0, 4000.0)
    sin2: tuple[float, float] = (-1.5, 0.89)


@dataclass(frozen=True)
class Sensitivity:
    """Final states, and what the field at every place of the path does to them.

    Attributes:
        end: x, y, tx, ty, `(n, 4)`.
        places: Where the field was asked for, `(n, m, 3)` [mm].
        response: Derivative of `end` along the field at the places, `(n, 4, m, 3)` [mm/T, 1/T].
    """

    end: Array
    places: Array
    response: Array


def sensitivity(field: FieldProtocol, tracks: Tracks, steps: int) -> Sensitivity:
    """Integrate tracks and differentiate their final states along the field.

    The method is `tableaus.TABLEAUS["nystrom4"]`, two field points per step.

    Args:
        field: Any field; beyond its volume tracks go on in whatever its twin gives.
        tracks: The tracks; their ends are not read.
        steps: Number of equal steps.
    """
    twin = field_twin(field, "float64")
    start = tf.constant(tracks.start, tf.float64)
    # A change of the field at each place, of no size: what the final state is differentiated along.
    change = [tf.zeros((len(tracks), 3), tf.float64) for _ in range(2 * steps + 1)]
    places: list[tf.Tensor] = []
    step = (tracks.z1 - tracks.z0) / steps
    bend = KAPPA * start[:, 4:5]

    def at(position: tf.Tensor) -> tf.Tensor:
        index = len(places)
        x, y = tf.unstack(tf.clip_by_value(position, VOLUME[0], VOLUME[1]), axis=1)
        z = tf.fill(tf.shape(x), tf.constant(tracks.z0 + 0.5 * index * step, tf.float64))
        places.append(tf.stack([x, y, z], axis=1))
        return twin(x, y, z) + change[index]

    def turn(slope: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        bounded = tf.clip_by_value(slope, -STEEPEST, STEEPEST)
        tx, ty = bounded[:, 0:1], bounded[:, 1:2]
        bx, by, bz = b[:, 0:1], b[:, 1:2], b[:, 2:3]
        factor = bend * tf.sqrt(1.0 + tx * tx + ty * ty)
        turn_x = tx * ty * bx - (1.0 + tx * tx) * by + ty * bz
        turn_y = (1.0 + ty * ty) * bx - tx * ty * by - tx * bz
        return factor * tf.concat([turn_x, turn_y], axis=1)

    with tf.GradientTape(persistent=True) as tape:
        tape.watch(change)
        position, slope = start[:, 0:2], start[:, 2:4]
        b = at(position)
        for _ in range(steps):
            first = turn(slope, b)
            b = at(position + slope * (0.5 * step) + first * (0.125 * step * step))
            second = turn(slope + first * (0.5 * step), b)
            third = turn(slope + second * (0.5 * step), b)
            b = at(position + slope * step + third * (0.5 * step * step))
            last = turn(slope + third * step, b)
            position = position + step * slope + (step * step / 6.0) * (first + second + third)
            slope = slope + (step / 6.0) * (first + 2.0 * (second + third) + last)
        end = tf.concat([position, slope], axis=1)
        parts = tf.unstack(end, axis=1)
    # Rows are independent: the gradient of a sum over rows holds each row's own.
    response = [np.stack([part.numpy() for part in tape.gradient(one, change)], axis=1) for one in parts]
    return Sensitivity(
        end.numpy(), np.stack([place.numpy() for place in places], axis=1), np.stack(response, axis=1)
    )


def calibrate_terms(
    tracks: Tracks,
    terms: Terms,
    options: CalibrationOptions = CalibrationOptions(),
    log: Callable[[str], None] | None = None,
) -> tuple[tuple[float, ...], ...]:
    """Calibrate all numbers of the terms of a `maxwell` field.

    Args:
        tracks: Tracks whose ends are known.
        terms: `(n, 4)` starting values: peak [T], centre [mm], width [mm], sin2.
        options: Weights and ranges.
        log: Called with one line at the end, if given.

    Returns:
        The terms in order of the centres, rounded.

    Raises:
        UserError: Fewer tracks than terms.
    """
    start = np.array(terms, dtype=np.float64)
    if len(tracks) < len(start):
        raise UserError(f"{len(start)} terms cannot be calibrated with {len(tracks)} tracks")
    scale = np.tile([0.3, 300.0, 300.0, 0.1], len(start))
    weight = _weights(tracks, options)
    limits = ((-6.0, 6.0), options.centre, options.width, options.sin2)
    low, high = (np.tile([pair[k] for pair in limits], len(start)) for k in (0, 1))

    def magnet(flat: Array) -> Field:
        return make_field("maxwell", terms=flat.reshape(-1, 4).tolist())

    def residuals(flat: Array) -> Array:
        length = tracks.z1 - tracks.z0
        reached = propagate(
            magnet(flat),
            tracks.start,
            tracks.z0,
            length,
            step=abs(length) / options.steps,
            method="nystrom4",
            max_slope=NO_SLOPE_LIMIT,
        ).state
        return np.nan_to_num((reached[:, :4] - tracks.end[:, :4]) * weight, nan=1e4).ravel()

    def jacobian(flat: Array) -> Array:
        found = sensitivity(magnet(flat), tracks, options.steps)
        points = np.ascontiguousarray(found.places.reshape(-1, 3).T)
        response = found.response.reshape(len(tracks), 4, -1)
        columns = []
        for index, size in enumerate(1e-4 * scale):
            term, number = divmod(index, 4)
            near = flat.reshape(-1, 4)[[term, term]]
            near[:, number] += size, -size
            up, down = (components([row], points) for row in near.tolist())
            b = ((up - down) / (2.0 * size)).T.reshape(len(tracks), -1)
            columns.append((np.einsum("nip,np->ni", response, b) * weight).ravel())
        return np.stack(columns, axis=1)

    found = least_squares(
        residuals,
        np.clip(start.ravel(), low + 1e-6, high - 1e-6),
        jac=jacobian,
        bounds=(low, high),
        x_scale=scale,
        loss="soft_l1",
        max_nfev=options.evaluations,
    )
    if log:
        log(f"{len(start)} terms: cost {found.cost:.1f} after {found.nfev} evaluations")
    rows = found.x.reshape(-1, 4)
    return rounded(rows[np.argsort(rows[:, 1])].tolist())


def write_calibrated_terms(path: Path, terms: Terms, tracks: Tracks) -> None:
    """Write calibrated terms as a field file: what `model.field`, generators and the command line take.

    Args:
        path: YAML file; it appears when it is complete.
        terms: From `calibrate_terms`.
        tracks: Those that it was given; the file says how well they are followed and where they were.
    """
    errors = track_errors(make_field("maxwell", terms=terms), tracks)
    middle, high = np.percentile(errors, [50, 95])
    planes = f"z = {tracks.z0:g} to {tracks.z1:g} mm"
    about = (
        f"# {len(terms)} terms calibrated with {len(tracks)} tracks from {planes}\n"
        f"# position error of these tracks: median {middle:.4g} mm, p95 {high:.4g} mm\n"
        "# known where these tracks were, and nowhere else\n"
    )
    write_terms(path, about, terms)


def calibrate_harmonics(
    tracks: Tracks,
    base: Field,
    harmonics: Harmonics = BOX,
    options: CalibrationOptions = CalibrationOptions(),
    log: Callable[[str], None] | None = None,
) -> Array:
    """Calibrate the coefficients of harmonics that are added to a field.

    Args:
        tracks: Tracks whose ends are known.
        base: The field that they are added to.
        harmonics: Which ones.
        options: Weights.
        log: Called with one line per linearisation, if given.

    Returns:
        `(len(harmonics),)` [T].
    """
    weight = _weights(tracks, options)
    coefficients, field = np.zeros(len(harmonics)), base
    for number in range(options.rounds):
        found = sensitivity(field, tracks, options.steps)
        design = _design(found, harmonics)
        error = tracks.end[:, :4] - found.end
        if log:
            log(f"round {number + 1} of {options.rounds}: starts at {_summary(error)}")
        target = error + design @ coefficients
        coefficients = _robust_ridge(design * weight[..., None], target * weight, coefficients, options)
        field = calibrated_map(base, harmonics, coefficients)
    return coefficients


def _summary(error: Array) -> str:
    middle, high = np.percentile(np.hypot(error[:, 0], error[:, 1]), [50, 95])
    return f"median {middle:.4g} mm, p95 {high:.4g} mm"


def _design(found: Sensitivity, harmonics: Harmonics) -> Array:
    """Return the derivative of the final states along the coefficients, `(n, 4, len(harmonics))`."""
    response = found.response.reshape(len(found.end), 4, -1)
    design = np.empty((len(found.end), 4, len(harmonics)))
    for first in range(0, len(design), CHUNK):
        part = slice(first, first + CHUNK)
        b = harmonics(*found.places[part].reshape(-1, 3).T).reshape(len(design[part]), -1, len(harmonics))
        design[part] = response[part] @ b
    return design


def harmonic_field(harmonics: Harmonics, coefficients: Array, places: Array) -> Array:
    """Return the sum of the harmonics [T] at places `(..., 3)` [mm], of the same shape."""
    points = places.reshape(-1, 3)
    parts = [
        harmonics(*points[first : first + 50 * CHUNK].T) @ coefficients
        for first in range(0, len(points), 50 * CHUNK)
    ]
    return np.concatenate(parts).reshape(places.shape)


def _robust_ridge(design: Array, target: Array, start: Array, options: CalibrationOptions) -> Array:
    """Return the coefficients of least soft-L1 loss plus ridge, by iteratively reweighted least squares."""
    flat, wanted = design.reshape(-1, design.shape[-1]), target.ravel()
    ridge = np.eye(flat.shape[1]) / options.ridge**2
    found = start
    for _ in range(options.reweightings):
        weights = 1.0 / np.sqrt(1.0 + (wanted - flat @ found) ** 2)
        weighted = flat * weights[:, None]
        found = np.asarray(np.linalg.solve(weighted.T @ flat + ridge, weighted.T @ wanted), np.float64)
    return found


def _weights(tracks: Tracks, options: CalibrationOptions) -> Array:
    """Return what x, y, tx, ty errors are multiplied by, `(n, 4)`."""
    straight = tracks.start[:, :2] + (tracks.z1 - tracks.z0) * tracks.start[:, 2:4]
    moved = np.hypot(*(tracks.end[:, :2] - straight).T)
    lever = np.array([1.0, 1.0, options.slope_lever, options.slope_lever])
    return lever / (options.floor + options.fraction * moved)[:, None]


NODES = ((-4400.0, 4400.0, 100.0), (-2000.0, 2000.0, 100.0), (2600.0, 7900.0, 100.0))
"""First node, last node and step of x, y and z of a calibrated map [mm]: the box that the tracks cross."""


def calibrated_map(base: Field, harmonics: Harmonics, coefficients: Array) -> Field:
    """Return base field plus harmonics as a map with cubic interpolation, on `NODES`."""
    axes = node_axes(NODES)
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    b = base.field(*places.reshape(-1, 3).T).reshape(places.shape)
    grid = Grid(axes, (b + harmonic_field(harmonics, coefficients, places)).astype(np.float32))
    return replace(
        base,
        name="grid",
        kind=kernels.GRID_CUBIC,
        params=grid.params(masked=False),
        values=grid.values(None, 1),
        volume=np.array([limit for first, last, _ in NODES for limit in (first, last)]),
        description=f"{base.name} plus {len(harmonics)} harmonics calibrated with tracks",
        options={},
        restriction="",
    )
