"""Fits of a `maxwell` field: to a whole map, or to a profile, its integral and tracks of an unknown field.

**A map** (`fit_map`): the field is compared at points of the acceptance. The peaks enter linearly, so only
centres, widths and `sin2` are searched for; for each of their values the peaks follow from linear least
squares (variable projection, G. H. Golub and V. Pereyra, SIAM J. Numer. Anal. 10, 413 (1973)).

**Profile and tracks** (`fit_maxwell`): all unknowns - peak, centre, width and `sin2` of every term - are
found together by robust least squares. The parts of the residual vector, each divided by what counts as one
unit of disagreement (`FitOptions`), are:

- the profile on the axis, and the integral of By over the axis of the volume;
- the end states of tracks, relative to `track_floor` plus a fraction of how far the field moved the track,
  with a soft-L1 loss: slow tracks cross regions that no smooth field describes;
- |B| above a limit on the surface of a `Region`, so that the field stays harmless where no track was;
- beyond the ends of the profile, its exponential continuation;
- the peaks themselves (ridge): large terms that cancel each other fit no better and extrapolate worse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.optimize import least_squares

from tfrecords_tools.files import new_file
from trackkeras.domains.extrapolation import kernels
from trackkeras.domains.extrapolation.field_protocol import FieldProtocol
from trackkeras.domains.extrapolation.field_report import acceptance_points, axis_integral
from trackkeras.domains.extrapolation.fields import VOLUME, Field, make_field
from trackkeras.domains.extrapolation.lhcb import ACCEPTANCE, START_REGION, Region
from trackkeras.domains.extrapolation.maxwell import Terms, maxwell_params
from trackkeras.domains.extrapolation.propagation import propagate
from trackkeras.errors import UserError

Array = NDArray[np.float64]

STEP = 100.0
"""Runge-Kutta step of the fit [mm]."""

NO_SLOPE_LIMIT = 100.0


@dataclass(frozen=True)
class Profile:
    """By on the axis.

    Attributes:
        z: `(n,)` [mm].
        by: `(n,)` [T].
        integral: By integrated over the axis of the whole volume [T m].
    """

    z: Array
    by: Array
    integral: float


@dataclass(frozen=True)
class Tracks:
    """Tracks between two planes.

    Attributes:
        start: `(n, 5)` states at `z0` in [mm, mm, 1, 1, 1/MeV].
        end: `(n, 4)` or `(n, 5)` states at `z1`.
        z0: First plane [mm].
        z1: Last plane [mm].
    """

    start: Array
    end: Array
    z0: float
    z1: float

    def __getitem__(self, rows: Any) -> Tracks:
        """Return the tracks of these rows."""
        return replace(self, start=self.start[rows], end=self.end[rows])

    def __len__(self) -> int:
        """Return the number of tracks."""
        return len(self.start)


@dataclass(frozen=True)
class FitOptions:
    """What counts as one unit of disagreement, and where the search may go.

    Attributes:
        profile_error: [T].
        integral_error: [T m].
        track_floor: Position error [mm] of a track that is not bent.
        track_fraction: Further position error, as a fraction of the displacement by the field.
        slope_lever: Length [mm] that turns a slope error into a position error.
        regions: Where |B| is limited, and to what; the fit aims at 9/10 of the limit.
        region_error: Fraction of a region's limit.
        tail_error: The same for the exponential continuation of the profile, see `exponential_tails` [T].
        ridge: Peak [T] that counts as one unit.
        centre: Range of the centres [mm].
        width: Range of the widths [mm].
        sin2: Range of `sin2`.
        starts: Number of random starting points; the best fit wins.
        evaluations: Limit of residual evaluations per start.
    """

    profile_error: float = 0.004
    integral_error: float = 0.005
    track_floor: float = 0.2
    track_fraction: float = 0.001
    slope_lever: float = 1000.0
    regions: tuple[Region, ...] = (ACCEPTANCE, START_REGION)
    region_error: float = 0.03
    tail_error: float = 0.003
    ridge: float = 1.0
    centre: tuple[float, float] = (0.0, 11000.0)
    width: tuple[float, float] = (900.0, 4000.0)
    sin2: tuple[float, float] = (-1.0, 0.8)
    starts: int = 6
    evaluations: int = 100


@dataclass(frozen=True)
class FitResult:
    """Outcome of a fit.

    Attributes:
        terms: `(n, 4)` peak [T], centre [mm], width [mm], sin2, in order of the centres.
        cost: Half the sum of the losses.
        costs: The same of every start.
    """

    terms: tuple[tuple[float, ...], ...]
    cost: float
    costs: tuple[float, ...] = field(default=())


@dataclass(frozen=True)
class MapFit:
    """Outcome of a fit to a map.

    Attributes:
        terms: `(n, 4)` peak [T], centre [mm], width [mm], sin2, in order of the centres, rounded.
        rms_T: Root mean square of |B - B'| at points that the fit did not use [T].
        p95_T: Its 95th percentile [T].
        max_T: Its largest value [T].
        field_rms_T: Root mean square of |B| of the map at these points [T].
        starts: What is left, root mean square at the points of the fit, for every start [T].
    """

    terms: tuple[tuple[float, ...], ...]
    rms_T: float
    p95_T: float
    max_T: float
    field_rms_T: float
    starts: tuple[float, ...]


def fit_map(
    target: FieldProtocol,
    terms: int,
    seed: int = 1,
    points: int = 2000,
    starts: int | None = None,
    options: FitOptions = FitOptions(ridge=30.0),
    log: Callable[[str], None] | None = None,
) -> MapFit:
    """Fit `terms` terms of a `maxwell` field to a whole field, in the part of the acceptance that it knows.

    Args:
        target: Any field; one that is no vacuum field, or has fewer symmetries, is met as well as possible.
        terms: Number of terms.
        seed: Seed of the points and of the starting values.
        points: Number of points in the acceptance, half of them for the fit and half for its test.
        starts: Number of random starting values; None takes that of the options.
        options: `centre`, `width`, `sin2`, `starts` and `evaluations` as they say; `ridge` is the peak [T]
            that counts as much as 1 T of difference at one point.
        log: Called with one line per start, if given.

    Raises:
        UserError: Too few points for so many terms, or no term.
    """
    if terms < 1:
        raise UserError(f"a fit needs at least one term, received {terms}")
    drawn = acceptance_points(target, points, seed)
    fitted, held = (np.ascontiguousarray(drawn[:, first::2]) for first in (0, 1))
    if fitted.shape[1] < 10 * terms:
        raise UserError(
            f"{fitted.shape[1]} points of the acceptance are known to field {target.name!r}, too few for "
            f"{terms} terms; ask for more points or fewer terms"
        )
    wanted = np.concatenate([target.field(*fitted).T.ravel(), np.zeros(terms)])

    def solve(flat: Array) -> tuple[Array, Array]:
        shapes = flat.reshape(-1, 3)
        basis = np.empty((wanted.size, terms))
        for column, shape in enumerate(shapes):
            basis[: 3 * fitted.shape[1], column] = components([(1.0, *shape)], fitted).ravel()
        basis[-terms:] = np.eye(terms) / options.ridge
        peaks = np.linalg.lstsq(basis, wanted)[0]
        return peaks, basis @ peaks - wanted

    rng = np.random.default_rng(seed)
    limits = (options.centre, options.width, options.sin2)
    low, high = (np.tile([pair[k] for pair in limits], terms) for k in (0, 1))
    profile_z = np.linspace(*options.centre, 200)
    known = target.inside(0.0, 0.0, profile_z)
    if not known.any():
        raise UserError(f"field {target.name!r} does not know the axis between {options.centre} mm")
    by = target.field(0.0, 0.0, profile_z[known])[:, 1]
    middle = float(np.average(profile_z[known], weights=np.abs(by) + 1e-12))
    fits = []
    total = options.starts if starts is None else starts
    for number in range(total):
        centres = middle + np.linspace(-2000.0, 2000.0, terms) * (terms > 1) + rng.normal(0.0, 400.0, terms)
        start = np.column_stack(
            [centres, rng.uniform(1200.0, 2400.0, terms), rng.normal(0.0, 0.15, terms)]
        ).ravel()
        found = least_squares(
            lambda flat: solve(flat)[1],
            np.clip(start, low + 1e-6, high - 1e-6),
            bounds=(low, high),
            x_scale=np.tile([1000.0, 500.0, 0.3], terms),
            max_nfev=options.evaluations,
        )
        fits.append(found)
        if log:
            left = np.sqrt(2.0 * found.cost / fitted.shape[1])
            log(f"start {number + 1} of {total}: {left:.4g} T left after {found.nfev} steps")
    best = min(fits, key=lambda found: found.cost)
    rows = np.column_stack([solve(best.x)[0], best.x.reshape(-1, 3)])
    ordered = rounded(rows[np.argsort(rows[:, 1])].tolist())
    truth = target.field(*held)
    apart = np.linalg.norm(components(ordered, held).T - truth, axis=1)
    return MapFit(
        terms=ordered,
        rms_T=float(np.sqrt(np.mean(apart**2))),
        p95_T=float(np.percentile(apart, 95)),
        max_T=float(apart.max()),
        field_rms_T=float(np.sqrt(np.mean(np.sum(truth**2, axis=1)))),
        starts=tuple(float(np.sqrt(2.0 * found.cost / fitted.shape[1])) for found in fits),
    )


def components(terms: Terms, points: Array) -> Array:
    """Return Bx, By, Bz of some terms at points, `(3, n)`, without making and checking a field."""
    b = np.empty((3, points.shape[1]))
    x, y, z = points
    no_nodes = np.zeros((1, 1, 1, 4), np.float32)
    kernels.field_points(kernels.MAXWELL, maxwell_params(terms), no_nodes, x, y, z, b)
    return b


def write_fit(fit: MapFit, target: FieldProtocol, path: Path) -> None:
    """Write a fit as options of a field, for `field_options` and the command line.

    Args:
        fit: The terms.
        target: What was fitted; the new field claims the same volume as far as the acceptance reaches.
        path: YAML file; it appears when it is complete.
    """
    half_x = ACCEPTANCE.slope_x * ACCEPTANCE.z_max + ACCEPTANCE.x
    half_y = ACCEPTANCE.slope_y * ACCEPTANCE.z_max + ACCEPTANCE.y
    reach = np.array([-half_x, half_x, -half_y, half_y, ACCEPTANCE.z_min, ACCEPTANCE.z_max])
    volume = np.where([True, False] * 3, np.maximum(target.volume, reach), np.minimum(target.volume, reach))
    about = (
        f"# {len(fit.terms)} terms fitted to: {' '.join(target.description.split())}\n"
        f"# left at points of the acceptance that the fit did not use: rms {fit.rms_T:.4g} T, 95 % below "
        f"{fit.p95_T:.4g} T, at most {fit.max_T:.4g} T, of {fit.field_rms_T:.4g} T rms\n"
        f"# acceptance: {ACCEPTANCE.text}\n"
    )
    write_terms(path, about, fit.terms, volume=[float(limit) for limit in volume])


def write_terms(path: Path, about: str, terms: Terms, **options: Any) -> None:
    """Write terms as a YAML file of options of a `maxwell` field, for `field_options` and the command line.

    Args:
        path: YAML file; it appears when it is complete.
        about: Comment lines at its beginning.
        terms: `(n, 4)`, see `maxwell`.
        options: Further options of the field.
    """
    content = {"name": "maxwell", **options, "terms": [list(term) for term in terms]}
    with new_file(path) as out:
        out.write((about + yaml.safe_dump(content, sort_keys=False, default_flow_style=None)).encode())


def track_errors(magnet: Field, tracks: Tracks, step: float = STEP) -> Array:
    """Return the position error [mm] of every track at its end, `(n,)`; infinite where it did not arrive."""
    reached = propagate(
        magnet, tracks.start, tracks.z0, tracks.z1 - tracks.z0, step=step, max_slope=NO_SLOPE_LIMIT
    ).state
    errors = np.hypot(reached[:, 0] - tracks.end[:, 0], reached[:, 1] - tracks.end[:, 1])
    return np.where(np.isfinite(errors), errors, np.inf)


def fit_maxwell(
    profile: Profile,
    tracks: Tracks,
    terms: int,
    seed: int = 1,
    options: FitOptions = FitOptions(),
    log: Callable[[str], None] | None = None,
) -> FitResult:
    """Fit `terms` terms of a `maxwell` field.

    Args:
        profile: By on the axis and its integral.
        tracks: Tracks that crossed the field.
        terms: Number of terms.
        seed: Seed of the starting points.
        options: Weights and ranges.
        log: Called with one line per start, if given.
    """
    rng = np.random.default_rng(seed)
    low, high = (
        np.tile([limits[k] for limits in ((-3.0, 3.0), options.centre, options.width, options.sin2)], terms)
        for k in (0, 1)
    )
    residuals = _Residuals(profile, tracks, options)
    fits = []
    for number in range(options.starts):
        start = _start(profile, terms, rng)
        found = least_squares(
            residuals,
            np.clip(start, low + 1e-6, high - 1e-6),
            bounds=(low, high),
            x_scale="jac",
            diff_step=1e-5,
            max_nfev=options.evaluations,
        )
        fits.append(found)
        if log:
            log(f"start {number + 1} of {options.starts}: cost {found.cost:.1f} after {found.nfev} steps")
    best = min(fits, key=lambda found: found.cost)
    rows = best.x.reshape(-1, 4)
    ordered = tuple(tuple(float(number) for number in row) for row in rows[np.argsort(rows[:, 1])])
    return FitResult(ordered, float(best.cost), tuple(float(found.cost) for found in fits))


def _start(profile: Profile, terms: int, rng: np.random.Generator) -> Array:
    """Return terms spread along the profile whose sum is the profile, with a little randomness."""
    peak = profile.z[np.argmax(np.abs(profile.by))]
    centres = peak + np.linspace(-2500.0, 3500.0, terms) + rng.normal(0.0, 300.0, terms)
    widths = rng.uniform(1300.0, 2300.0, terms)
    shapes = np.exp(-0.5 * ((profile.z[:, None] - centres) / widths) ** 2)
    ridge = 0.3 * np.eye(terms)
    peaks = np.linalg.lstsq(np.vstack([shapes, ridge]), np.concatenate([profile.by, np.zeros(terms)]))[0]
    return np.column_stack([peaks, centres, widths, rng.normal(0.0, 0.1, terms)]).ravel()


def exponential_tails(profile: Profile, step: float = 250.0) -> tuple[Array, Array]:
    """Continue a profile at both ends so that By falls exponentially and the integral is met.

    Upstream the decay length is that of the profile's first two points; downstream it is what the rest of the
    integral asks for.

    Args:
        profile: By on part of the axis, and the integral of the whole.
        step: Distance of the points [mm].

    Returns:
        z [mm] and By [T] of the points beyond both ends of the profile, within the default volume.
    """
    z, by = profile.z, profile.by
    upstream_length = (z[1] - z[0]) / np.log(by[1] / by[0])
    rest = 1000.0 * profile.integral - np.trapezoid(by, z) - by[0] * upstream_length
    downstream_length = rest / by[-1]
    upstream = np.arange(z[0] - step, VOLUME[4], -step)
    downstream = np.arange(z[-1] + step, VOLUME[5], step)
    tails = (
        by[0] * np.exp((upstream - z[0]) / upstream_length),
        by[-1] * np.exp((z[-1] - downstream) / downstream_length),
    )
    return np.concatenate([upstream, downstream]), np.concatenate(tails)


class _Residuals:
    """Everything that the fit compares, as one vector; soft-L1 is applied to the tracks alone."""

    def __init__(self, profile: Profile, tracks: Tracks, options: FitOptions) -> None:
        self.profile, self.tracks, self.options = profile, tracks, options
        straight = tracks.start[:, :2] + (tracks.z1 - tracks.z0) * tracks.start[:, 2:4]
        moved = np.hypot(*(tracks.end[:, :2] - straight).T)
        self.unit = (options.track_floor + options.track_fraction * moved)[:, None]
        self.surfaces = [(region.surface(), region.limit) for region in options.regions]
        tail_z, tail_by = exponential_tails(profile)
        self.axis = np.concatenate([profile.z, tail_z])
        self.by = np.concatenate([profile.by, tail_by])
        errors = [np.full_like(profile.z, options.profile_error), np.full_like(tail_z, options.tail_error)]
        self.by_error = np.concatenate(errors)

    def __call__(self, flat: Array) -> Array:
        options, terms = self.options, flat.reshape(-1, 4)
        magnet = make_field("maxwell", terms=terms.tolist())
        profile = (magnet.field(0.0, 0.0, self.axis)[:, 1] - self.by) / self.by_error
        integral = (axis_integral(magnet)[1] - self.profile.integral) / options.integral_error
        strengths = [np.linalg.norm(magnet.field(*points), axis=1) / limit for points, limit in self.surfaces]
        excess = [(strength - 0.9) / options.region_error for strength in strengths]
        one_sided = np.maximum(np.concatenate(excess), 0.0)
        ridge = terms[:, 0] / options.ridge
        return np.concatenate([profile, [integral], one_sided, ridge, self.track_residuals(magnet)])

    def track_residuals(self, magnet: Field) -> Array:
        tracks, options = self.tracks, self.options
        reached = propagate(
            magnet, tracks.start, tracks.z0, tracks.z1 - tracks.z0, step=STEP, max_slope=NO_SLOPE_LIMIT
        ).state
        difference = reached[:, :4] - tracks.end[:, :4]
        difference[:, 2:] *= options.slope_lever
        pull = np.nan_to_num(difference / self.unit, nan=1e4).ravel()
        # r -> sign(r) sqrt(2 (sqrt(1 + r²) - 1)): its square is the soft-L1 loss of r.
        return np.asarray(np.sign(pull) * np.sqrt(2.0 * (np.sqrt(1.0 + pull * pull) - 1.0)))


def rounded(terms: Terms) -> tuple[tuple[float, ...], ...]:
    """Return the terms with the digits that matter: 1e-6 T, 0.01 mm, 0.01 mm, 1e-6."""
    digits: Sequence[int] = (6, 2, 2, 6)
    return tuple(tuple(round(number, d) for number, d in zip(row, digits, strict=True)) for row in terms)
