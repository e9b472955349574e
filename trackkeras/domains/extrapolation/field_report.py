"""What a field is like, in numbers: strength, integrals, profile, residuals of Maxwell's equations, nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion
from scipy.optimize import curve_fit

from trackkeras.domains.extrapolation.field_protocol import FieldProtocol
from trackkeras.domains.extrapolation.fields import known_text
from trackkeras.domains.extrapolation.grid_mask import DEFAULT_MASK, Mask, mask_report, suspicious
from trackkeras.domains.extrapolation.grid_nodes import Grid, axes_of, is_grid
from trackkeras.domains.extrapolation.lhcb import ACCEPTANCE
from trackkeras.errors import UserError
from trackkeras.units import KAPPA

Array = NDArray[np.float64]

COMPONENTS = ("Bx", "By", "Bz")


def acceptance_points(field: FieldProtocol, n: int, seed: int) -> Array:
    """Return random points of the acceptance that lie in the field's volume, `(3, m)` [mm] with `m <= n`.

    Args:
        field: Its volume limits the points.
        n: Number of points drawn.
        seed: Seed.
    """
    rng = np.random.default_rng(seed)
    z = rng.uniform(ACCEPTANCE.z_min, ACCEPTANCE.z_max, n)
    x = rng.uniform(-1.0, 1.0, n) * (ACCEPTANCE.slope_x * z + ACCEPTANCE.x)
    y = rng.uniform(-1.0, 1.0, n) * (ACCEPTANCE.slope_y * z + ACCEPTANCE.y)
    return np.stack([x, y, z])[:, field.inside(x, y, z)]


def axis_profile(field: FieldProtocol, step: float = 10.0) -> tuple[Array, Array]:
    """Return z `(n,)` [mm] and B `(n, 3)` [T] along the axis x = y = 0, where the field is known.

    Args:
        field: The field.
        step: Largest distance of two points [mm], unless part of the axis is not known.

    Raises:
        UserError: The field is not known anywhere on the axis.
    """
    z = _along(field, step)
    z = z[field.inside(0.0, 0.0, z)]
    if not len(z):
        raise UserError(
            f"field {field.name!r} is not known on the axis x = y = 0, but for {known_text(field)}"
        )
    return z, field.field(0.0, 0.0, z)


def axis_integral(field: FieldProtocol) -> Array:
    """Return Bx, By, Bz integrated along the axis, `(3,)` [T m], by the trapezoidal rule.

    Where the field is not known it counts as zero.
    """
    z = _along(field, 10.0)
    return np.asarray(np.trapezoid(_or_zero(field, 0.0 * z, 0.0 * z, z), z, axis=0)) / 1000.0


def _along(field: FieldProtocol, step: float) -> Array:
    first, last = field.volume[4:]
    return np.linspace(first, last, int(np.ceil((last - first) / step)) + 1)


def _or_zero(field: FieldProtocol, x: Array, y: Array, z: Array) -> Array:
    inside = field.inside(x, y, z)
    b = np.zeros((len(z), 3))
    b[inside] = field.field(x[inside], y[inside], z[inside])
    return b


@dataclass(frozen=True)
class GaussianProfile:
    """By(z) on the axis as a Gaussian.

    Attributes:
        peak_T: By at the centre, with its sign.
        centre_mm: [mm].
        width_mm: Standard deviation [mm].
        rms_T: Root mean square of what is left over the profile [T].
    """

    peak_T: float
    centre_mm: float
    width_mm: float
    rms_T: float


def node_profile(field: FieldProtocol, step: float = 100.0) -> tuple[Array, Array]:
    """Return z `(n,)` [mm] and By `(n,)` [T] on the axis: at a grid's planes, else at multiples of `step`."""
    if is_grid(field):
        z = axes_of(field)[2]
    else:
        z = np.arange(np.ceil(field.volume[4] / step), np.floor(field.volume[5] / step) + 1) * step
    inside = field.inside(0.0, 0.0, z)
    return z[inside], field.field(0.0, 0.0, z[inside])[:, 1]


def fit_gaussian(z: Array, by: Array) -> GaussianProfile:
    """Fit a Gaussian to a profile by least squares, every point with equal weight.

    Args:
        z: `(n,)` [mm].
        by: `(n,)` [T].

    Raises:
        UserError: The profile is zero, or so unlike a Gaussian that the fit does not end.
    """
    top = int(np.abs(by).argmax())
    if len(z) < 4 or by[top] == 0.0:
        raise UserError(f"no Gaussian fits a profile of {len(z)} points with a peak of {by[top]:g} T")

    def shape(place: Array, peak: float, centre: float, width: float) -> Array:
        return np.asarray(peak * np.exp(-0.5 * ((place - centre) / width) ** 2))

    area = abs(float(np.trapezoid(by, z)) / by[top])
    width = max(area / np.sqrt(2.0 * np.pi), float(np.diff(z).min()))
    try:
        found, _ = curve_fit(shape, z, by, p0=(by[top], z[top], width), maxfev=5000)
    except RuntimeError:
        raise UserError("no Gaussian fits the profile of this field on the axis") from None
    rms = float(np.sqrt(np.mean((by - shape(z, *found)) ** 2)))
    return GaussianProfile(float(found[0]), float(found[1]), abs(float(found[2])), rms)


def ray_integral(
    field: FieldProtocol, tx: float, ty: float, start: float = 0.0, step: float = 10.0
) -> dict[str, Any]:
    """Integrate the field along the straight line through (0, 0, `start`) with these slopes.

    Args:
        field: The field.
        tx: Slope in x.
        ty: Slope in y.
        start: Plane in which the line crosses the axis [mm].
        step: Largest distance of two points along z [mm].

    Returns:
        JSON-like: `tx`, `ty`, `z_mm` (first and last plane in the known region), `integral_Tm` (Bx, By, Bz
        along the line), `along_Tm` (the component along the line, the integral of B dl), `bending_Tm` (the
        size of the component across it) and `kick_GeV`, the transverse momentum that it gives to charge 1.

    Raises:
        UserError: The line does not meet the known region.
    """
    z = _along(field, step)
    x, y = tx * (z - start), ty * (z - start)
    inside = field.inside(x, y, z)
    if not inside.any():
        raise UserError(f"the ray with slopes {tx:g}, {ty:g} does not meet the region {known_text(field)}")
    b = _or_zero(field, x, y, z)
    direction = np.array([tx, ty, 1.0])
    length = float(np.linalg.norm(direction))
    total = np.asarray(np.trapezoid(b, z, axis=0)) * length / 1000.0
    bending = float(np.linalg.norm(np.cross(direction / length, total)))
    return {
        "tx": tx,
        "ty": ty,
        "z_mm": [float(z[inside][0]), float(z[inside][-1])],
        "integral_Tm": dict(zip(COMPONENTS, total.tolist(), strict=True)),
        "along_Tm": float(total @ direction / length),
        "bending_Tm": bending,
        "kick_GeV": KAPPA * bending,  # MeV / (T mm) is GeV / (T m)
    }


def maxwell_residuals(field: FieldProtocol, points: Array, step: float = 4.0) -> tuple[Array, Array]:
    """Return div B `(n,)` and curl B `(n, 3)` [T/mm] by fourth-order central differences.

    Args:
        field: The field.
        points: `(3, n)` [mm], at least `2 * step` inside the volume.
        step: Distance of the differences [mm].
    """
    gradient = np.empty((3, 3, points.shape[1]))  # [axis, component, point]
    for axis in range(3):
        for weight, shift in ((8.0, step), (-8.0, -step), (-1.0, 2.0 * step), (1.0, -2.0 * step)):
            moved = points.copy()
            moved[axis] += shift
            part = weight / (12.0 * step) * field.field(*moved).T
            gradient[axis] = part if shift == step else gradient[axis] + part
    curl = [gradient[j, k] - gradient[k, j] for j, k in ((1, 2), (2, 0), (0, 1))]
    return np.trace(gradient), np.stack(curl, axis=1)


def describe(
    field: FieldProtocol,
    twin: bool = False,
    n: int = 20_000,
    seed: int = 1,
    rays: Sequence[tuple[float, float]] = (),
    against: FieldProtocol | None = None,
) -> dict[str, Any]:
    """Return what is worth knowing about a field.

    Args:
        field: Any field.
        twin: Whether to measure the TensorFlow twin as well (loads TensorFlow).
        n: Number of random points in the acceptance.
        seed: Seed of the points.
        rays: Slopes tx, ty of lines from the origin to integrate along, beside the axis.
        against: Another field to compare with.

    Returns:
        JSON-like: `name`, `description`, `options`, `volume_mm`, `known` in words; `peak_T`, the largest |B|
        on the axis, and `peak_z_mm`; `dominant`, the component with the largest mean absolute value on the
        axis, its `sign` at the peak, and the `polarity` in words; `integral_Tm` (Bx, By, Bz along the axis)
        and `axis_known`, the share of the axis that it covers; `rays`, see `ray_integral`; `gaussian`, see
        `GaussianProfile` (None where no Gaussian fits); `acceptance` in words, the largest |B| in it,
        `acceptance_max_T`, and where; `divergence_T_per_mm` and `curl_T_per_mm`, the largest absolute values
        there by finite differences; `grid`, see `describe_nodes`; `twin` if asked for, see
        `field_tf.twin_error`; `against`, see `compare`.

    Raises:
        UserError: The known region has no part in the acceptance, or a ray misses it.
    """
    z, b = axis_profile(field)
    strength = np.linalg.norm(b, axis=1)
    peak = int(strength.argmax())
    dominant = int(np.abs(b).sum(axis=0).argmax())
    points = acceptance_points(field, n, seed)
    inner = points[:, _inside_by(field, points, 10.0)]
    if not inner.size:
        raise UserError(
            f"field {field.name!r} has no part in the acceptance ({ACCEPTANCE.text}); it is known for "
            f"{known_text(field)}"
        )
    in_acceptance = np.linalg.norm(field.field(*points), axis=1)
    strongest = int(in_acceptance.argmax())
    divergence, curl = maxwell_residuals(field, inner)
    up = bool(b[peak, dominant] > 0)
    report: dict[str, Any] = {
        "name": field.name,
        "description": field.description,
        "options": field.options,
        "volume_mm": field.volume.tolist(),
        "known": known_text(field),
        "peak_T": float(strength[peak]),
        "peak_z_mm": float(z[peak]),
        "dominant": COMPONENTS[dominant],
        "sign": "+" if up else "-",
        "polarity": f"{'+' if up else '-'}{COMPONENTS[dominant][1]}{_DIRECTIONS[dominant][up]}",
        "integral_Tm": dict(zip(COMPONENTS, axis_integral(field).tolist(), strict=True)),
        "axis_known": float(np.mean(field.inside(0.0, 0.0, _along(field, 10.0)))),
        "rays": [ray_integral(field, tx, ty) for tx, ty in rays],
        "gaussian": _gaussian_or_none(field),
        "acceptance": ACCEPTANCE.text,
        "acceptance_max_T": float(in_acceptance[strongest]),
        "acceptance_max_at_mm": points[:, strongest].tolist(),
        "divergence_T_per_mm": float(np.abs(divergence).max()),
        "curl_T_per_mm": float(np.abs(curl).max()),
    }
    if is_grid(field):
        report["grid"] = describe_nodes(field)
    if twin:
        from trackkeras.domains.extrapolation.field_tf import twin_error

        report["twin"] = twin_error(field, n=n, seed=seed)
    if against is not None:
        report["against"] = compare(field, against, n, seed)
    return report


_DIRECTIONS = (("", ""), (" (down)", " (up)"), ("", ""))


def _gaussian_or_none(field: FieldProtocol) -> dict[str, float] | None:
    try:
        return asdict(fit_gaussian(*node_profile(field)))
    except UserError:
        return None


def describe_nodes(field: FieldProtocol, mask: Mask = DEFAULT_MASK) -> dict[str, Any]:
    """Return what is worth knowing about the nodes of a grid, however they are interpolated.

    Args:
        field: A field that is a grid.
        mask: Limits that count as suspicious; a mask in force does not matter here.

    Returns:
        JSON-like: `shape`; `step_mm`, a number or smallest and largest, for `x`, `y`, `z`;
        `divergence_rms_T_per_mm` and `curl_rms_T_per_mm` by differences between trusted nodes (None if there
        are too few), and the `gradient_rms_T_per_mm` that they compare with; `suspicious`, see `mask_report`.
    """
    axes = axes_of(field)
    grid = Grid(axes, np.ascontiguousarray(field.values[..., :3]))
    steps = {
        name: [round(float(pick(np.diff(axis))), 6) for pick in (np.min, np.max)]
        for name, axis in zip("xyz", axes, strict=True)
    }
    return {
        "shape": list(grid.nodes.shape[:3]),
        "step_mm": {name: low if low == high else [low, high] for name, (low, high) in steps.items()},
        **_node_residuals(grid, mask),
        "suspicious": mask_report(grid, mask),
    }


def _node_residuals(grid: Grid, mask: Mask) -> dict[str, float | None]:
    names = ("divergence_rms_T_per_mm", "curl_rms_T_per_mm", "gradient_rms_T_per_mm")
    trusted = binary_erosion(~np.logical_or(*suspicious(grid, mask)), np.ones((3, 3, 3)), border_value=0)
    if min(grid.nodes.shape[:3]) < 3 or not trusted.any():
        return dict.fromkeys(names)
    slopes = {
        (axis, component): np.gradient(grid.nodes[..., component], grid.axes[axis], axis=axis)[trusted]
        for axis in range(3)
        for component in range(3)
    }
    divergence = slopes[0, 0] + slopes[1, 1] + slopes[2, 2]
    curl = [slopes[j, k] - slopes[k, j] for j, k in ((1, 2), (2, 0), (0, 1))]
    parts = ([divergence], curl, list(slopes.values()))
    sizes = (float(np.sqrt(sum(np.mean(np.square(p, dtype=np.float64)) for p in part))) for part in parts)
    return dict(zip(names, sizes, strict=True))


def compare(field: FieldProtocol, other: FieldProtocol, n: int = 20_000, seed: int = 1) -> dict[str, Any]:
    """Return how far two fields are apart.

    Args:
        field: The field.
        other: What it is compared with.
        n: Number of random points in the acceptance.
        seed: Seed of the points.

    Returns:
        JSON-like: `name` and `description` of the other; `points` that both know; `difference_T`: `mean`,
        `p95`, `max` of |B - B'| there; `relative`, the mean of |B - B'| over the mean |B'|; `max_at_mm`;
        `axis_rms_T` of By - By' on the axis; `integral_difference_Tm` of By along the common axis.

    Raises:
        UserError: No point of the acceptance is known to both.
    """
    points = acceptance_points(field, n, seed)
    points = points[:, other.inside(*points)]
    if not points.size:
        raise UserError(f"fields {field.name!r} and {other.name!r} share no point of the acceptance")
    theirs = other.field(*points)
    apart = np.linalg.norm(field.field(*points) - theirs, axis=1)
    z, b = axis_profile(field)
    common = other.inside(0.0, 0.0, z)
    difference = b[common, 1] - other.field(0.0, 0.0, z[common])[:, 1]
    return {
        "name": other.name,
        "description": other.description,
        "points": points.shape[1],
        "difference_T": {
            "mean": float(apart.mean()),
            "p95": float(np.percentile(apart, 95)),
            "max": float(apart.max()),
        },
        "relative": float(apart.mean() / np.linalg.norm(theirs, axis=1).mean()),
        "max_at_mm": points[:, int(apart.argmax())].tolist(),
        "axis_rms_T": float(np.sqrt(np.mean(difference**2))),
        "integral_difference_Tm": float(np.trapezoid(difference, z[common])) / 1000.0,
    }


def _inside_by(field: FieldProtocol, points: Array, margin: float) -> NDArray[np.bool_]:
    """Return which points are in the known region with all that is `margin` away along an axis."""
    found = field.inside(*points)
    for axis in range(3):
        for side in (-margin, margin):
            moved = points.copy()
            moved[axis] += side
            found = found & field.inside(*moved)
    return found
