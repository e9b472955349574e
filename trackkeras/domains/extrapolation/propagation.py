"""Runge-Kutta propagation of tracks through a magnetic field, in double precision.

The state is a function of z (Lorentz force with z as the independent variable):

    dx/dz  = tx
    dy/dz  = ty
    dtx/dz = KAPPA qop N (tx ty Bx - (1 + tx^2) By + ty Bz)
    dty/dz = KAPPA qop N ((1 + ty^2) Bx - tx ty By - tx Bz)        N = sqrt(1 + tx^2 + ty^2)

Every track takes `ceil(|dz| / step)` equal steps. Tracks advance in blocks of 64, structure of arrays, so
that the compiler turns each inner loop into vector instructions; tracks with similar numbers of steps share a
block. A track's result depends neither on its neighbours in the block nor on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from trackkeras.domains.extrapolation.fields import Field
from trackkeras.domains.extrapolation.kernels import allowed_block, field_block
from trackkeras.domains.extrapolation.tableaus import DEFAULT_STEP, Tableau, find_tableau
from trackkeras.errors import UserError
from trackkeras.units import KAPPA, STATE

BLOCK = 64
BLOCKS_PER_TASK = 32

Array = NDArray[np.float64]


class Status(IntEnum):
    """How the propagation of one track ended."""

    OK = 0
    LEFT_VOLUME = 1
    SLOPE_LIMIT = 2
    NOT_FINITE = 3

    @property
    def text(self) -> str:
        """What happened, in words."""
        return _STATUS_TEXT[self]


_STATUS_TEXT = {
    Status.OK: "reached z0 + dz",
    Status.LEFT_VOLUME: "left the volume in which the field is known",
    Status.SLOPE_LIMIT: "|tx| or |ty| went over the limit",
    Status.NOT_FINITE: "the state became infinite or not a number",
}

_LEFT_VOLUME = int(Status.LEFT_VOLUME)
_SLOPE_LIMIT = int(Status.SLOPE_LIMIT)
_NOT_FINITE = int(Status.NOT_FINITE)


@dataclass(frozen=True)
class Propagated:
    """Result of a propagation.

    Attributes:
        state: `(n, 5)` float64 at `z0 + dz`, in [mm, mm, 1, 1, 1/MeV]. All five components are NaN where
            `status` is not 0: a failed track has no state that could be taken for an answer.
        status: `(n,)` int8, values of `Status`.
    """

    state: Array
    status: NDArray[np.int8]


def propagate(
    field: Field,
    state: ArrayLike,
    z0: ArrayLike,
    dz: ArrayLike,
    step: float = DEFAULT_STEP,
    method: str = "rk4",
    max_slope: float = 1.0,
    threads: int | None = None,
) -> Propagated:
    """Propagate tracks from the planes `z0` to `z0 + dz`.

    Args:
        field: The magnetic field.
        state: `(n, 5)`: x [mm], y [mm], tx, ty, q/p [1/MeV]; q/p = 0 gives a straight line.
        z0: Start planes [mm], scalar or `(n,)`.
        dz: Signed distances along z [mm], scalar or `(n,)`; 0 returns the state unchanged.
        step: Longest step [mm]; each track takes `ceil(|dz| / step)` equal ones.
        method: Name of a tableau in `TABLEAUS`.
        max_slope: Limit of |tx| and |ty| at the start and after every step.
        threads: Number of threads; 1 if None. The result does not depend on it.

    Returns:
        Final states, and one status per track. A track that fails does not disturb the others.

    Raises:
        UserError: Wrong shape, a value that is not finite (p = 0), a step that is not positive, an unknown
            method, or a start or end plane outside the field's volume.
    """
    tableau = find_tableau(method)
    if not step > 0 or not np.isfinite(step):
        raise UserError(f"step must be a positive length in mm, received {step!r}")
    checked, starts, distances = _check_tracks(field, state, z0, dz)
    steps = np.ceil(np.abs(distances) / step).astype(np.int64)
    return integrate(field, checked, starts, distances, steps, tableau, max_slope, threads)


def integrate(
    field: Field,
    state: Array,
    z0: Array,
    dz: Array,
    steps: NDArray[np.int64],
    tableau: Tableau,
    max_slope: float = 1.0,
    threads: int | None = None,
) -> Propagated:
    """Propagate checked tracks with a given number of equal steps each; see `propagate`.

    Args:
        field: The magnetic field.
        state: `(n, 5)` float64.
        z0: `(n,)` float64.
        dz: `(n,)` float64.
        steps: `(n,)` number of steps; at least 1 where `dz` is not 0.
        tableau: The method.
        max_slope: Limit of |tx| and |ty|.
        threads: Number of threads.
    """
    if not max_slope > 0:
        raise UserError(f"max_slope must be positive, received {max_slope!r}")
    if threads is not None and threads < 1:
        raise UserError(f"threads must be at least 1, received {threads!r}")
    n = len(state)
    result = Propagated(np.full((n, 5), np.nan), np.zeros(n, np.int8))
    limit = min(float(max_slope), np.finfo(np.float64).max)  # an infinite slope is over any limit
    order = np.argsort(steps, kind="stable")  # tracks of similar length share a block
    data = [_read_only(array) for array in (field.params, field.values, field.volume, *_stage_table(tableau))]
    tracks = [_read_only(array) for array in (state, z0, dz, steps)]
    kernel: Callable[..., None] = _advance

    def run(first: int) -> None:
        block = _read_only(order[first : first + BLOCK * BLOCKS_PER_TASK])
        # KAPPA is an argument because compiled code in a cache would keep an old value.
        kernel(KAPPA, limit, field.kind, *data, block, *tracks, result.state, result.status)

    tasks = range(0, n, BLOCK * BLOCKS_PER_TASK)
    if threads is None or threads == 1 or len(tasks) < 2:
        for first in tasks:
            run(first)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, tasks))
    return result


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


def _stage_table(tableau: Tableau) -> tuple[Array, Array]:
    """Return `(s + 1, s)` weights, the last row being the final sum, and `(s,)` nodes."""
    weights = np.zeros((tableau.stages + 1, tableau.stages))
    for stage, row in enumerate(tableau.a):
        weights[stage, : len(row)] = row
    weights[-1] = tableau.b
    return weights, np.array(tableau.c)


# -- kernel ------------------------------------------------------------------------------------------------
# Each helper writes one array and reads few: with more, the compiler gives up proving that they do not
# overlap and emits scalar code. They are plain loops over BLOCK lanes.


@njit(cache=True, nogil=True, fastmath={"contract"})
def _sum_stages(out, start, h, weights, slopes, count):
    """`out = start + h * sum_j weights[j] * slopes[j]` over the first `count` stages."""
    for lane in range(BLOCK):
        out[lane] = start[lane]
    for j in range(count):
        if weights[j] != 0.0:
            for lane in range(BLOCK):
                out[lane] += weights[j] * h[lane] * slopes[j, lane]


@njit(cache=True, nogil=True, fastmath={"contract"})
def _bending(out, bend, tx, ty):
    for lane in range(BLOCK):
        out[lane] = bend[lane] * np.sqrt(1.0 + tx[lane] * tx[lane] + ty[lane] * ty[lane])


@njit(cache=True, nogil=True, fastmath={"contract"})
def _slope_change_x(out, factor, tx, ty, bx, by, bz):
    for lane in range(BLOCK):
        u = tx[lane]
        v = ty[lane]
        out[lane] = factor[lane] * (u * v * bx[lane] - (1.0 + u * u) * by[lane] + v * bz[lane])


@njit(cache=True, nogil=True, fastmath={"contract"})
def _slope_change_y(out, factor, tx, ty, bx, by, bz):
    for lane in range(BLOCK):
        u = tx[lane]
        v = ty[lane]
        out[lane] = factor[lane] * ((1.0 + v * v) * bx[lane] - u * v * by[lane] - u * bz[lane])


@njit(cache=True, nogil=True, fastmath={"contract"})
def _keep_within(flag, value, low, high):
    """Clear the flag of lanes whose value is not in [low, high]; NaN is not."""
    for lane in range(BLOCK):
        flag[lane] = flag[lane] if (value[lane] >= low) & (value[lane] <= high) else 0.0


@njit(cache=True, nogil=True)
def _clear_outside(flag, value, low, high):
    """Clear the flag of lanes whose value is a number outside [low, high]; infinity and NaN are no places."""
    for lane in range(BLOCK):
        v = value[lane]
        flag[lane] = 0.0 if ((v < low) & (v > -np.inf)) | ((v > high) & (v < np.inf)) else flag[lane]


@njit(cache=True, nogil=True, fastmath={"contract"})
def _copy(out, value):
    for lane in range(BLOCK):
        out[lane] = value[lane]


@njit(cache=True, nogil=True)
def _advance(
    kappa,
    max_slope,
    kind,
    params,
    values,
    volume,
    weights,
    nodes,
    order,
    state,
    z0,
    dz,
    steps,
    out,
    status,
):
    """Propagate the tracks `order` in blocks; fills their rows of `out` and `status`."""
    stages = len(nodes)
    x_min, x_max, y_min, y_max = volume[0], volume[1], volume[2], volume[3]
    x, y, tx, ty = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    new_x, new_y, new_tx, new_ty = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    bx, by, bz, z = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    bend, factor, inside, good = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    # Plane and step of each track, and the step in force: 0 once the track has arrived or failed.
    start, length, h = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    wanted = np.empty(BLOCK, np.int64)
    slope_x, slope_y = np.empty((stages, BLOCK)), np.empty((stages, BLOCK))
    change_x, change_y = np.empty((stages, BLOCK)), np.empty((stages, BLOCK))

    for first in range(0, len(order), BLOCK):
        lanes = min(BLOCK, len(order) - first)
        longest = 0
        for lane in range(BLOCK):
            # A lane without a live track rests in the middle of the volume, where the field is finite.
            x[lane], y[lane], tx[lane], ty[lane] = 0.5 * (x_min + x_max), 0.5 * (y_min + y_max), 0.0, 0.0
            start[lane], length[lane], bend[lane] = 0.5 * (volume[4] + volume[5]), 0.0, 0.0
            wanted[lane] = 0
            if lane >= lanes:
                continue
            track = order[first + lane]
            if not (x_min <= state[track, 0] <= x_max and y_min <= state[track, 1] <= y_max):
                status[track] = _LEFT_VOLUME
            elif not (abs(state[track, 2]) <= max_slope and abs(state[track, 3]) <= max_slope):
                status[track] = _SLOPE_LIMIT
            else:
                x[lane], y[lane] = state[track, 0], state[track, 1]
                tx[lane], ty[lane] = state[track, 2], state[track, 3]
                start[lane] = z0[track]
                bend[lane] = kappa * state[track, 4]
                wanted[lane] = steps[track]
                longest = max(longest, wanted[lane])
                if wanted[lane] > 0:
                    length[lane] = dz[track] / wanted[lane]

        done = 0
        while done < longest:
            for lane in range(BLOCK):
                h[lane] = length[lane] if done < wanted[lane] else 0.0
                inside[lane] = 1.0
            for stage in range(stages):
                u, v, row = slope_x[stage], slope_y[stage], weights[stage]
                _sum_stages(new_x, x, h, row, slope_x, stage)
                _sum_stages(new_y, y, h, row, slope_y, stage)
                _sum_stages(u, tx, h, row, change_x, stage)
                _sum_stages(v, ty, h, row, change_y, stage)
                _clear_outside(inside, new_x, x_min, x_max)
                _clear_outside(inside, new_y, y_min, y_max)
                for lane in range(BLOCK):
                    z[lane] = start[lane] + (done + nodes[stage]) * h[lane]
                allowed_block(kind, params, values, new_x, new_y, z, inside)
                field_block(kind, params, values, new_x, new_y, z, bx, by, bz)
                _bending(factor, bend, u, v)
                _slope_change_x(change_x[stage], factor, u, v, bx, by, bz)
                _slope_change_y(change_y[stage], factor, u, v, bx, by, bz)
            row = weights[stages]
            _sum_stages(new_x, x, h, row, slope_x, stages)
            _sum_stages(new_y, y, h, row, slope_y, stages)
            _sum_stages(new_tx, tx, h, row, change_x, stages)
            _sum_stages(new_ty, ty, h, row, change_y, stages)
            done += 1
            for lane in range(BLOCK):
                z[lane] = start[lane] + done * h[lane]
            allowed_block(kind, params, values, new_x, new_y, z, inside)

            _copy(good, inside)
            _keep_within(good, new_x, x_min, x_max)
            _keep_within(good, new_y, y_min, y_max)
            _keep_within(good, new_tx, -max_slope, max_slope)
            _keep_within(good, new_ty, -max_slope, max_slope)
            if good.min() == 1.0:
                _copy(x, new_x)
                _copy(y, new_y)
                _copy(tx, new_tx)
                _copy(ty, new_ty)
                continue
            longest = 0
            for lane in range(BLOCK):
                if good[lane] == 1.0:
                    x[lane], y[lane], tx[lane], ty[lane] = (
                        new_x[lane],
                        new_y[lane],
                        new_tx[lane],
                        new_ty[lane],
                    )
                elif done <= wanted[lane]:  # a lane at rest cannot fail
                    steep = not (abs(new_tx[lane]) <= max_slope and abs(new_ty[lane]) <= max_slope)
                    track = order[first + lane]
                    if inside[lane] == 0.0:
                        status[track] = _LEFT_VOLUME
                    elif not np.isfinite(new_x[lane] + new_y[lane] + new_tx[lane] + new_ty[lane]):
                        status[track] = _NOT_FINITE
                    else:
                        status[track] = _SLOPE_LIMIT if steep else _LEFT_VOLUME
                    wanted[lane] = 0
                longest = max(longest, wanted[lane])

        for lane in range(lanes):
            track = order[first + lane]
            if status[track] == 0:
                out[track, 0], out[track, 1], out[track, 2], out[track, 3] = (
                    x[lane],
                    y[lane],
                    tx[lane],
                    ty[lane],
                )
                out[track, 4] = state[track, 4]
