"""How well a network follows a track between z0 and its end, beside Runge-Kutta in the same field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trackkeras.domain import Curve, Line, Rows
from trackkeras.domains.extrapolation.fields import make_field
from trackkeras.domains.extrapolation.pinn import trajectory
from trackkeras.domains.extrapolation.propagation import propagate
from trackkeras.units import GEV

if TYPE_CHECKING:
    import keras

FRACTIONS = np.linspace(0.0, 1.0, 11)
TRACKS = 2000
"""Tracks whose errors are counted; the median of fewer would depend on the choice."""
EXAMPLES = (1.5, 5.0, 20.0)
"""Momenta [GeV] of the tracks that are shown one by one."""
WINDOW = 1.25
"""Largest ratio between an example's momentum and the wanted one."""
STRENGTH = 0.8
"""Quantile of bend times momentum of the example: a track across the magnet, but none of the extremes."""


def path_curves(model: keras.Model, rows: Rows, field: Mapping[str, Any]) -> tuple[Curve, ...]:
    """Return position errors along the path, and the bends of some tracks.

    Args:
        model: The network in training form.
        rows: Tracks; the first `TRACKS` are used.
        field: Options of `make_field`.
    """
    rows = {name: rows[name][:TRACKS] for name in ("state", "z0", "dz")}
    truth = true_states(rows, field)
    known = np.isfinite(truth).all(axis=(1, 2))
    rows, truth = {name: values[known] for name, values in rows.items()}, truth[known]
    lengths = rows["dz"].astype(float) * FRACTIONS
    line = rows["state"][:, None, :2] + lengths[..., None] * rows["state"][:, None, 2:4]
    found = trajectory(model, rows, FRACTIONS)[..., :2].astype(float)
    return (
        _errors(found - truth[..., :2], line - truth[..., :2]),
        _bends(rows, found[..., 0] - line[..., 0], truth[..., 0] - line[..., 0]),
    )


def true_states(rows: Rows, field: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return the states at `FRACTIONS` of the paths by Runge-Kutta, `(n, 11, 5)`; NaN where it fails."""
    z0, dz = (rows[name][:, 0].astype(float) for name in ("z0", "dz"))
    planes = z0[:, None] + dz[:, None] * FRACTIONS[1:-1]
    result = propagate(make_field(**field), rows["state"], z0, dz, planes=planes, max_slope=np.inf)
    assert result.states is not None
    return np.concatenate(
        [rows["state"][:, None].astype(float), result.states, result.state[:, None]], axis=1
    )


def _errors(network: NDArray[np.float64], line: NDArray[np.float64]) -> Curve:
    def shown(label: str, kind: Any, differences: NDArray[np.float64], share: float) -> Line:
        errors = np.quantile(np.hypot(differences[..., 0], differences[..., 1]), share, axis=0)
        return Line(label, kind, FRACTIONS, np.where(errors > 0, errors, np.nan))  # 0 has no logarithm

    lines = (
        shown("network, median", "network", network, 0.5),
        shown("network, 95 %", "network", network, 0.95),
        shown("straight line, median", "baseline", line, 0.5),
    )
    title = f"position error along the path, {len(network):,} tracks"
    return Curve("error_along_path", title, "fraction of the path", "position error [mm]", lines, log=True)


def _bends(rows: Rows, network: NDArray[np.float64], truth: NDArray[np.float64]) -> Curve:
    momentum = 1.0 / (np.maximum(np.abs(rows["state"][:, 4].astype(float)), 1e-12) * GEV)
    strength = np.abs(truth[:, -1]) * momentum
    lines: list[Line] = []
    for wanted in EXAMPLES:
        near = np.abs(np.log(momentum / wanted)) < np.log(WINDOW)
        if not (near & (strength > 0)).any():
            continue
        typical = np.quantile(strength[near], STRENGTH)
        distance = np.where(near & (strength > 0), np.abs(strength - typical), np.inf)
        track = int(np.argmin(distance))
        whole = truth[track, -1]
        z0, dz = (float(rows[name][track, 0]) for name in ("z0", "dz"))
        label = f"{momentum[track]:.3g} GeV, z {z0:.0f} to {z0 + dz:.0f} mm, bend {abs(whole):.3g} mm"
        lines.append(Line(label, "network", FRACTIONS, network[track] / whole))
        lines.append(Line(f"Runge-Kutta, {label}", "reference", FRACTIONS, truth[track] / whole))
    title = "bend in x of single tracks: network (lines), Runge-Kutta (points)"
    return Curve("bends", title, "fraction of the path", "bend / true bend at the end", tuple(lines))
