"""What a field is like, in numbers: strength, integral, residuals of Maxwell's equations, volume."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trackkeras.domains.extrapolation.fields import FieldProtocol, volume_text
from trackkeras.domains.extrapolation.lhcb import ACCEPTANCE
from trackkeras.errors import UserError

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
    """Return z `(n,)` [mm] and B `(n, 3)` [T] along the axis x = y = 0 through the volume.

    Args:
        field: The field.
        step: Largest distance of two points [mm].
    """
    first, last = field.volume[4:]
    z = np.linspace(first, last, int(np.ceil((last - first) / step)) + 1)
    return z, field.field(0.0, 0.0, z)


def axis_integral(field: FieldProtocol) -> Array:
    """Return Bx, By, Bz integrated along the axis of the volume, `(3,)` [T m], by the trapezoidal rule."""
    z, b = axis_profile(field)
    return np.asarray(np.trapezoid(b, z, axis=0)) / 1000.0


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


def describe(field: FieldProtocol, twin: bool = False, n: int = 20_000, seed: int = 1) -> dict[str, Any]:
    """Return what is worth knowing about a field.

    Args:
        field: Any field.
        twin: Whether to measure the TensorFlow twin as well (loads TensorFlow).
        n: Number of random points in the acceptance.
        seed: Seed of the points.

    Returns:
        JSON-like: `name`, `description`, `options`, `volume_mm`; `peak_T`, the largest |B| on the axis, and
        `peak_z_mm`; `dominant`, the component with the largest mean absolute value on the axis, and its
        `sign` at the peak; `integral_Tm` (Bx, By, Bz along the axis); `acceptance` in words, the largest |B|
        in it, `acceptance_max_T`, and where; `divergence_T_per_mm` and `curl_T_per_mm`, the largest absolute
        values there by finite differences; `twin` if asked for, see `field_tf.twin_error`.

    Raises:
        UserError: The field's volume has no part in the acceptance.
    """
    z, b = axis_profile(field)
    strength = np.linalg.norm(b, axis=1)
    peak = int(strength.argmax())
    dominant = int(np.abs(b).sum(axis=0).argmax())
    points = acceptance_points(field, n, seed)
    inner = points[:, _inside_by(field, points, 10.0)]
    if not inner.size:
        raise UserError(
            f"field {field.name!r} has no part in the acceptance ({ACCEPTANCE.text}); its volume is "
            f"{volume_text(field.volume)}"
        )
    in_acceptance = np.linalg.norm(field.field(*points), axis=1)
    strongest = int(in_acceptance.argmax())
    divergence, curl = maxwell_residuals(field, inner)
    report: dict[str, Any] = {
        "name": field.name,
        "description": field.description,
        "options": field.options,
        "volume_mm": field.volume.tolist(),
        "peak_T": float(strength[peak]),
        "peak_z_mm": float(z[peak]),
        "dominant": COMPONENTS[dominant],
        "sign": "+" if b[peak, dominant] > 0 else "-",
        "integral_Tm": dict(zip(COMPONENTS, axis_integral(field).tolist(), strict=True)),
        "acceptance": ACCEPTANCE.text,
        "acceptance_max_T": float(in_acceptance[strongest]),
        "acceptance_max_at_mm": points[:, strongest].tolist(),
        "divergence_T_per_mm": float(np.abs(divergence).max()),
        "curl_T_per_mm": float(np.abs(curl).max()),
    }
    if twin:
        from trackkeras.domains.extrapolation.field_tf import twin_error

        report["twin"] = twin_error(field, n=n, seed=seed)
    return report


def _inside_by(field: FieldProtocol, points: Array, margin: float) -> NDArray[np.bool_]:
    low, high = field.volume[::2, None] + margin, field.volume[1::2, None] - margin
    return np.asarray(np.all((points >= low) & (points <= high), axis=0))
