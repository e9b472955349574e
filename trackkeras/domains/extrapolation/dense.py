"""States at given planes along the way: steps end on every plane, so that they are as exact as the method."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trackkeras.domains.extrapolation.adaptive import FIRST_STEP
from trackkeras.domains.extrapolation.propagation import Propagated
from trackkeras.errors import UserError

Array = NDArray[np.float64]


def through_planes(
    run: Callable[[Array, Array, Array, Array], Propagated],
    state: Array,
    z0: Array,
    dz: Array,
    planes: ArrayLike,
) -> Propagated:
    """Propagate from plane to plane and on to `z0 + dz`.

    Args:
        run: Propagates checked tracks, given their states, planes, distances and first steps.
        state: `(n, 5)`.
        z0: `(n,)` [mm].
        dz: `(n,)` [mm].
        planes: `(k,)` or `(n, k)` [mm], in any order.

    Returns:
        The result with `states` `(n, k, 5)` in the order of `planes`.

    Raises:
        UserError: Wrong shape, or a plane that does not lie between `z0` and `z0 + dz`.
    """
    wanted = _check_planes(planes, z0, dz)
    n, k = wanted.shape
    along = np.argsort(np.where(dz < 0, -1.0, 1.0)[:, None] * wanted, axis=1, kind="stable")
    stops = np.column_stack([np.take_along_axis(wanted, along, axis=1), z0 + dz])

    states = np.full((n, k + 1, 5), np.nan)
    status = np.zeros(n, np.int8)
    counts = np.zeros((3, n), np.int64)
    jacobian: Array | None = None
    proposal = np.full(n, FIRST_STEP)
    now, z = state.copy(), z0.copy()
    alive = np.arange(n)
    for number in range(k + 1):
        first_steps = proposal[alive]
        part = run(now[alive], z[alive], stops[alive, number] - z[alive], first_steps)
        proposal[alive] = first_steps
        status[alive] = part.status
        states[alive, number] = now[alive] = part.state
        counts[:, alive] += (part.steps, part.rejected, part.field_calls)
        if part.jacobian is not None:
            if jacobian is None:
                jacobian = np.full((n, 5, 5), np.nan)
                jacobian[:] = np.eye(5)
            jacobian[alive] = part.jacobian @ jacobian[alive]
        z[alive] = stops[alive, number]
        alive = alive[part.status == 0]

    at_planes = np.empty((n, k, 5))
    np.put_along_axis(at_planes, along[:, :, None], states[:, :k], axis=1)
    steps, rejected, field_calls = counts
    return Propagated(states[:, k], status, steps, rejected, field_calls, jacobian, at_planes)


def _check_planes(planes: ArrayLike, z0: Array, dz: Array) -> Array:
    given = np.asarray(planes, dtype=np.float64)
    if given.ndim not in (1, 2) or (given.ndim == 2 and len(given) != len(z0)):
        raise UserError(f"planes must have shape (k,) or ({len(z0)}, k), received shape {given.shape}")
    wanted = np.broadcast_to(given, (len(z0), given.shape[-1]))
    low, high = np.minimum(z0, z0 + dz)[:, None], np.maximum(z0, z0 + dz)[:, None]
    outside = ~((wanted >= low) & (wanted <= high))  # NaN is outside too
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise UserError(
            f"planes must lie between z0 and z0 + dz, received {wanted[row, column]:g} mm in row {row}, "
            f"which goes from {z0[row]:g} to {z0[row] + dz[row]:g} mm"
        )
    return np.array(wanted)
