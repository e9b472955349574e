"""Runge-Kutta propagation of tracks through a magnetic field, in double precision.

The state is a function of z (Lorentz force with z as the independent variable):

    dx/dz  = tx
    dy/dz  = ty
    dtx/dz = KAPPA qop N (tx ty Bx - (1 + tx^2) By + ty Bz)
    dty/dz = KAPPA qop N ((1 + ty^2) Bx - tx ty By - tx Bz)        N = sqrt(1 + tx^2 + ty^2)

Tracks advance in blocks of 64, structure of arrays, so that the compiler turns each inner loop into vector
instructions. A track's result depends neither on its neighbours in the block nor on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trackkeras.domains.extrapolation.adaptive import FIRST_STEP, advance_adaptive
from trackkeras.domains.extrapolation.fields import Field
from trackkeras.domains.extrapolation.fixed_steps import advance_fixed
from trackkeras.domains.extrapolation.grid_planes import TASK as ON_PLANES
from trackkeras.domains.extrapolation.grid_planes import advance_on_planes, plane_nodes
from trackkeras.domains.extrapolation.kernels import BLOCK, GRID, restricted
from trackkeras.domains.extrapolation.status import Status
from trackkeras.domains.extrapolation.tableaus import (
    DEFAULT_LONGEST_STEP,
    DEFAULT_STEP,
    DEFAULT_TOLERANCE,
    TIGHTEST_TOLERANCE,
    Tableau,
    find_tableau,
)
from trackkeras.errors import UserError
from trackkeras.units import KAPPA, STATE

__all__ = ["BLOCK", "BLOCKS_PER_TASK", "Propagated", "Status", "integrate", "propagate"]

BLOCKS_PER_TASK = 32

SAME_PLANE = 1e-9
"""A start this near to a plane, in steps, is on it."""

Array = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Propagated:
    """Result of a propagation.

    Attributes:
        state: `(n, 5)` float64 at `z0 + dz`, in [mm, mm, 1, 1, 1/MeV]. All five components are NaN where
            `status` is not 0: a failed track has no state that could be taken for an answer.
        status: `(n,)` int8, values of `Status`.
        steps: `(n,)` int64, steps taken; of a method without error control, those that were planned.
        rejected: `(n,)` int64, steps that error control threw away.
        field_calls: `(n,)` int64, places at which the field was looked up for the track.
        jacobian: `(n, 5, 5)` if asked for: element i, j is the derivative of component i at `z0 + dz` along
            component j at `z0`, in the order and the units of the state; NaN where `status` is not 0.
        states: `(n, k, 5)` at the `planes`, if asked for; NaN from the plane on that a track does not reach.
    """

    state: Array
    status: NDArray[np.int8]
    steps: Counts
    rejected: Counts
    field_calls: Counts
    jacobian: Array | None = None
    states: Array | None = None


def propagate(
    field: Field,
    state: ArrayLike,
    z0: ArrayLike,
    dz: ArrayLike,
    step: float | None = None,
    method: str = "rk4",
    max_slope: float = 1.0,
    threads: int | None = None,
    *,
    tolerance: float = DEFAULT_TOLERANCE,
    jacobian: bool = False,
    planes: ArrayLike | None = None,
) -> Propagated:
    """Propagate tracks from the planes `z0` to `z0 + dz`.

    Args:
        field: The magnetic field.
        state: `(n, 5)`: x [mm], y [mm], tx, ty, q/p [1/MeV]; q/p = 0 gives a straight line.
        z0: Start planes [mm], scalar or `(n,)`.
        dz: Signed distances along z [mm], scalar or `(n,)`; 0 returns the state unchanged.
        step: Longest step [mm]. A method without error control takes `ceil(|dz| / step)` equal ones, 100 mm
            if None. An aligned method ends its steps on the planes of a field's grid, or on a whole multiple
            or fraction of their spacing that is not longer; without a grid, on multiples of `step`. A method
            with error control chooses its own steps up to this limit, 1000 mm if None.
        method: Name of a tableau in `TABLEAUS`.
        max_slope: Limit of |tx| and |ty| at the start and after every step.
        threads: Number of threads; 1 if None. The result does not depend on it.
        tolerance: Error [mm] that a step of a method with error control may add to the position at
            `z0 + dz`; read by no other method.
        jacobian: Whether to compute the transport Jacobians.
        planes: Planes between `z0` and `z0 + dz` [mm], `(k,)` or `(n, k)`, at which states are wanted. Steps
            end on them; a plane at the start gives the state there.

    Returns:
        Final states, and one status per track. A track that fails does not disturb the others.

    Raises:
        UserError: Wrong shape, a value that is not finite (p = 0), a step or tolerance that is not positive,
            an unknown method, or a plane outside the field's volume or outside the track's path.
    """
    tableau = find_tableau(method)
    if step is None:
        step = DEFAULT_LONGEST_STEP if tableau.adaptive else DEFAULT_STEP
    if not step > 0 or not np.isfinite(step):
        raise UserError(f"step must be a positive length in mm, received {step!r}")
    if not (TIGHTEST_TOLERANCE <= tolerance < np.inf):
        raise UserError(f"tolerance must be at least {TIGHTEST_TOLERANCE:g} mm, received {tolerance!r}")
    checked, starts, distances = _check_tracks(field, state, z0, dz)
    run = _Run(field, tableau, float(step), float(tolerance), max_slope, threads, jacobian)
    if planes is None:
        return run(checked, starts, distances, np.full(len(checked), FIRST_STEP))
    from trackkeras.domains.extrapolation.dense import through_planes

    return through_planes(run, checked, starts, distances, planes)


def integrate(
    field: Field,
    state: Array,
    z0: Array,
    dz: Array,
    steps: NDArray[np.int64],
    tableau: Tableau,
    max_slope: float = 1.0,
    threads: int | None = None,
    *,
    jacobian: bool = False,
) -> Propagated:
    """Propagate checked tracks with a given number of equal steps each, see `propagate`.

    Args:
        field: The magnetic field.
        state: `(n, 5)` float64.
        z0: `(n,)` float64.
        dz: `(n,)` float64.
        steps: `(n,)` number of steps; at least 1 where `dz` is not 0.
        tableau: The method.
        max_slope: Limit of |tx| and |ty|.
        threads: Number of threads.
        jacobian: Whether to compute the transport Jacobians.
    """
    run = _Run(field, tableau, DEFAULT_STEP, DEFAULT_TOLERANCE, max_slope, threads, jacobian)
    each = np.divide(dz, steps, out=np.zeros_like(dz), where=steps > 0)
    return run.fixed(state, z0, dz, steps, each, each)


@dataclass(frozen=True)
class _Run:
    """What all tracks of a call share; called, it propagates checked tracks."""

    field: Field
    tableau: Tableau
    step: float
    tolerance: float
    max_slope: float
    threads: int | None
    jacobian: bool

    def __post_init__(self) -> None:
        if not self.max_slope > 0:
            raise UserError(f"max_slope must be positive, received {self.max_slope!r}")
        if self.threads is not None and self.threads < 1:
            raise UserError(f"threads must be at least 1, received {self.threads!r}")

    def __call__(self, state: Array, z0: Array, dz: Array, proposal: Array) -> Propagated:
        """Propagate; methods with error control begin with the steps `proposal` [mm] and leave their last."""
        if self.tableau.adaptive:
            return self._adaptive(state, z0, dz, proposal)
        if self.tableau.aligned:
            return self._aligned(state, z0, dz)
        steps = np.ceil(np.abs(dz) / self.step).astype(np.int64)
        each = np.divide(dz, steps, out=np.zeros_like(dz), where=steps > 0)
        return self.fixed(state, z0, dz, steps, each, each)

    def fixed(
        self, state: Array, z0: Array, dz: Array, steps: Counts, first: Array, inner: Array
    ) -> Propagated:
        """Propagate by `steps` steps: `first`, then `inner` each, the last one ending at `dz`."""
        tableau = self.tableau
        result = self._empty(len(state))
        fresh = np.ones(tableau.stages, np.uint8)
        fresh[list(tableau.same_field)] = 0
        fresh[0] = not tableau.reuse
        each = int(fresh.sum())
        result.steps[:] = steps
        result.field_calls[:] = steps * each + (0 if fresh[0] else np.minimum(steps, 1))
        arrays = [*self._field_arrays(), *(_read_only(array) for array in (*stage_table(tableau), fresh))]
        tracks = [_read_only(array) for array in (state, z0, dz, steps, first, inner)]
        self._spread(
            advance_fixed,
            np.argsort(steps, kind="stable"),  # tracks of similar length share a block
            [self.field.kind, *arrays],
            [*tracks, result.state, _or_empty(result.jacobian), result.status],
        )
        return result

    def _adaptive(self, state: Array, z0: Array, dz: Array, proposal: Array) -> Propagated:
        tableau = self.tableau
        result = self._empty(len(state))
        error = np.array(tableau.error)
        place_error = error @ _square(tableau.a)
        constants = [
            1.0 / (tableau.error_order + 1),
            tableau.first_same_as_last,
            self.step,
            self.tolerance,
        ]
        weights = (*stage_table(tableau), place_error, error)
        arrays = [*self._field_arrays(), *(_read_only(array) for array in weights)]
        attempts = np.zeros(len(state), np.int64)
        self._spread(
            advance_adaptive,
            np.argsort(-np.abs(dz), kind="stable"),  # the last lanes to work have short tracks
            [self.field.kind, *arrays, *constants],
            [
                *(_read_only(array) for array in (state, z0, dz)),
                result.state,
                _or_empty(result.jacobian),
                result.status,
                proposal,
                result.steps,
                attempts,
            ],
        )
        result.rejected[:] = attempts - result.steps
        if tableau.first_same_as_last:
            result.field_calls[:] = attempts * (tableau.stages - 1) + (attempts > 0)
        else:
            result.field_calls[:] = attempts * (tableau.stages - 1) + result.steps + (attempts > 0)
        return result

    def _aligned(self, state: Array, z0: Array, dz: Array) -> Propagated:
        origin, length, planes_per_step = _aligned_step(self.field, self.step)
        direction = np.sign(dz)
        # Places along the direction of the track, in steps, counted from the grid's first plane.
        start = direction * (z0 - origin) / length
        stop = direction * (z0 + dz - origin) / length
        first = np.floor(start + SAME_PLANE) + 1.0
        last = np.ceil(stop - SAME_PLANE) - 1.0
        steps = np.maximum(last - first + 2.0, 1.0).astype(np.int64) * (dz != 0)
        first_step = np.where(steps > 1, origin + direction * first * length - z0, dz)
        if planes_per_step == 0.0 or self.jacobian:
            return self.fixed(state, z0, dz, steps, first_step, direction * length)

        # On a trilinear grid the whole steps are taken by the kernel for planes, the two ends by the other.
        on_plane = np.abs(start - np.round(start)) <= SAME_PLANE
        ends = np.abs(stop - np.round(stop)) <= SAME_PLANE
        begin = np.where(on_plane, np.round(start), first)
        whole = np.maximum(np.where(ends, np.round(stop), last) - begin, 0.0).astype(np.int64) * (dz != 0)
        begin_z = np.where((whole > 0) | (steps > 1), origin + direction * begin * length, z0)
        lead_in = np.where(on_plane, 0.0, begin_z - z0)
        result = self.fixed(state, z0, lead_in, (lead_in != 0).astype(np.int64), lead_in, lead_in)
        done = self._on_planes(
            result, direction * begin * planes_per_step, direction * planes_per_step, whole
        )
        reached_z = np.where(whole > 0, origin + direction * (begin + whole) * length, begin_z)
        lead_out = np.where(ends & (whole > 0), 0.0, z0 + dz - reached_z)
        final = self._continued(done, reached_z, lead_out)
        final.steps[:] = steps
        final.field_calls[:] = steps * self.tableau.stages
        return final

    def _on_planes(self, before: Propagated, begin: Array, per_step: Array, steps: Counts) -> Propagated:
        after = self._empty(len(steps))
        after.status[:] = before.status
        after.state[:] = before.state
        alive = np.flatnonzero((before.status == 0) & (steps > 0))
        # Neighbours in a block have as many steps, the same planes and like directions: they read like nodes.
        order = alive[np.lexsort((before.state[alive, 2], begin[alive], steps[alive]))]
        shape = np.array(self.field.values.shape[:3])
        arrays = (self.field.params, shape, plane_nodes(self.field), self.field.volume)
        self._spread(
            advance_on_planes,
            order,
            [_read_only(array) for array in (*arrays, *stage_table(self.tableau))],
            [
                *(_read_only(array) for array in (before.state, begin, per_step, steps)),
                after.state,
                after.status,
            ],
            ON_PLANES,
        )
        after.state[after.status != 0] = np.nan
        return after

    def _continued(self, before: Propagated, z: Array, distance: Array) -> Propagated:
        """Propagate good tracks by one more step."""
        moving = np.flatnonzero((before.status == 0) & (distance != 0))
        if len(moving):
            rest = distance[moving]
            steps = np.ones(len(moving), np.int64)
            end = self.fixed(before.state[moving], z[moving], rest, steps, rest, rest)
            before.state[moving] = end.state
            before.status[moving] = end.status
        return before

    def _empty(self, n: int) -> Propagated:
        return Propagated(
            state=np.full((n, 5), np.nan),
            status=np.zeros(n, np.int8),
            steps=np.zeros(n, np.int64),
            rejected=np.zeros(n, np.int64),
            field_calls=np.zeros(n, np.int64),
            jacobian=np.full((n, 5, 5), np.nan) if self.jacobian else None,
        )

    def _field_arrays(self) -> list[NDArray[Any]]:
        field = self.field
        return [_read_only(array) for array in (field.params, field.values, field.volume)]

    def _spread(
        self,
        kernel: Callable[..., None],
        order: NDArray[np.intp],
        before: list[Any],
        after: list[Any],
        blocks: int = BLOCKS_PER_TASK,
    ) -> None:
        """Call the kernel for parts of `order`, on all threads."""
        limit = min(float(self.max_slope), np.finfo(np.float64).max)  # an infinite slope is over any limit

        def work(first: int) -> None:
            part = _read_only(order[first : first + BLOCK * blocks])
            kernel(KAPPA, limit, *before, part, *after)

        tasks = range(0, len(order), BLOCK * blocks)
        if self.threads is None or self.threads == 1 or len(tasks) < 2:
            for first in tasks:
                work(first)
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                list(pool.map(work, tasks))


def _aligned_step(field: Field, step: float) -> tuple[float, float, float]:
    """Return a plane [mm], the length of a step [mm], and the planes of a trilinear grid in it or 0."""
    if field.kind != GRID or restricted(field.kind, field.params):
        return 0.0, step, 0.0
    origin, spacing = float(field.params[4]), float(field.params[5])
    ratio = step / spacing
    planes = (
        np.floor(ratio + SAME_PLANE) if ratio >= 1.0 - SAME_PLANE else 1.0 / np.ceil(1.0 / ratio - SAME_PLANE)
    )
    return origin, spacing * planes, float(planes)


def _or_empty(jacobian: Array | None) -> Array:
    return np.empty((0, 5, 5)) if jacobian is None else jacobian


def _check_tracks(field: Field, state: ArrayLike, z0: ArrayLike, dz: ArrayLike) -> tuple[Array, Array, Array]:
    states = np.ascontiguousarray(state, dtype=np.float64)
    if states.ndim != 2 or states.shape[1] != len(STATE):
        raise UserError(f"state must have shape (n, 5), received shape {np.shape(state)}")
    bad = ~np.isfinite(states)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        hint = ": p = 0 is no track" if STATE[column] == "qop" else ""
        raise UserError(
            f"state must be finite, received {STATE[column]} = {states[row, column]} in row {row}{hint}"
        )
    starts, distances = _per_track("z0", z0, len(states)), _per_track("dz", dz, len(states))
    z_min, z_max = float(field.volume[4]), float(field.volume[5])
    for name, z in (("z0", starts), ("z0 + dz", starts + distances)):
        outside = ~((z >= z_min) & (z <= z_max))  # NaN is outside too
        if outside.any():
            row = int(np.argmax(outside))
            raise UserError(
                f"{name} = {z[row]:g} mm in row {row} lies outside the field {field.name!r}, "
                f"which is known for z from {z_min:g} to {z_max:g} mm"
            )
    return states, starts, distances


def _per_track(name: str, value: ArrayLike, n: int) -> Array:
    plane = np.asarray(value, dtype=np.float64)
    if plane.shape not in ((), (n,)):
        raise UserError(f"{name} must be a number or have shape ({n},), received shape {plane.shape}")
    return np.ascontiguousarray(np.broadcast_to(plane, n))


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Return a view that cannot be written: one type for the compiler, whatever the caller's array allows."""
    view = array.view()
    view.flags.writeable = False
    return view


def _square(a: tuple[tuple[float, ...], ...]) -> Array:
    """Return `a` as a matrix."""
    matrix = np.zeros((len(a), len(a)))
    for stage, row in enumerate(a):
        matrix[stage, : len(row)] = row
    return matrix


def stage_table(tableau: Tableau) -> tuple[Array, Array, Array]:
    """Return the weights of positions and of slopes, `(s + 1, s)` each, and the nodes, `(s + 1,)`.

    The last rows are the final sums.
    """
    a, b = _square(tableau.a), np.array(tableau.b)
    slopes = np.vstack([a, b])
    if tableau.position_b:
        positions = np.vstack([_square(tableau.positions), tableau.position_b])
    else:
        positions = slopes @ a
    return positions, slopes, np.array([*tableau.c, 1.0])
