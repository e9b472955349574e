"""Kernel for embedded pairs: every track chooses its own steps by the error that it estimates.

The error of a step is what it adds to the position at the end plane: the estimated errors of x and y, and
those of the slopes carried along a straight line over the distance that remains. It must not be above the
tolerance [mm]. The next step is `h * 0.9 (tolerance / error)^(1 / (q + 1))`, at least a fifth and at most
five times h, where q is the order of the embedded method, and not longer than h after a step that was
rejected. A step of `SHORTEST_STEP` is accepted whatever its error, so that a field with jumps cannot hold a
track for ever.

A block holds 64 tracks, each with its own step. A lane whose track ends takes the next one at once. The first
stage of new tracks is computed for 64 of them together, ahead of their turn, so that methods whose last stage
is the first of the next step never compute it twice. A track's result is the same in any lane, beside any
neighbours.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from trackkeras.domains.extrapolation.blocks import (
    bending,
    clear_outside,
    copy,
    failure_status,
    fill,
    keep_within,
    slope_change_x,
    slope_change_y,
    start_status,
    sum_position,
    sum_slope,
    take,
)
from trackkeras.domains.extrapolation.field_gradients import gradient_block
from trackkeras.domains.extrapolation.kernels import (
    BLOCK,
    allowed_block,
    exponential,
    field_block,
    restricted,
)
from trackkeras.domains.extrapolation.status import LEFT_VOLUME
from trackkeras.domains.extrapolation.variations import (
    COLUMNS,
    PARTIALS,
    change_variations,
    fill_partials,
    reset_variation,
    reset_variations,
    store_jacobian,
    sum_variations,
    take_variations,
)

FIRST_STEP = 100.0
"""First step of a track [mm], if the track and the longest step allow it."""

SHORTEST_STEP = 0.01
"""A step of this length [mm] is accepted whatever its error."""

LEAVING_STEP = 1.0
"""A track leaves the volume, or becomes infinite, if it does so in a step that is not longer [mm]."""

SAFETY, LEAST, MOST = 0.9, 0.2, 5.0

HUGE = 1e300

_LN2 = math.log(2.0)


@njit(cache=True, nogil=True, fastmath={"contract"})
def _error_at_end(out, end_error_x, end_error_y):
    for lane in range(BLOCK):
        out[lane] = max(abs(end_error_x[lane]), abs(end_error_y[lane]))


@njit(cache=True, nogil=True, fastmath={"contract"})
def _carried(out, place_weights, slope_weights, h, lever, changes, stages):
    """`out = |h² sum_j p_j k_j| + |lever h sum_j a_j k_j|`: errors of place and slope at the end plane."""
    for lane in range(BLOCK):
        place, slope = 0.0, 0.0
        for j in range(stages):
            place += place_weights[j] * changes[j, lane]
            slope += slope_weights[j] * changes[j, lane]
        out[lane] = abs(h[lane] * h[lane] * place) + abs(lever[lane] * h[lane] * slope)


@njit(cache=True, nogil=True)
def _growth(out, error, tolerance, exponent):
    """`out = SAFETY (tolerance / error) ** exponent` within limits; its logarithm is good to 9 %.

    The bits of a double, read as an integer, are its logarithm to base 2 up to scale, offset and that error.
    """
    for lane in range(BLOCK):
        ratio = error[lane] / tolerance
        ratio = min(max(ratio, 1e-30), 1e30) if ratio >= 0.0 else 1e30
        log2 = np.float64(np.float64(ratio).view(np.int64)) * 2.0**-52 - 1023.0
        out[lane] = min(max(SAFETY * exponential(-log2 * _LN2 * exponent), LEAST), MOST)


@njit(cache=True, nogil=True)
def advance_adaptive(
    kappa,
    max_slope,
    kind,
    params,
    values,
    volume,
    positions,
    slopes,
    nodes,
    place_error,
    slope_error,
    exponent,
    last_is_first,
    longest,
    tolerance,
    order,
    state,
    z0,
    dz,
    out,
    jacobian,
    status,
    proposal,
    accepted,
    attempts,
):
    """Propagate the tracks `order`; fills their rows of `out`, `jacobian`, `status` and of the counts.

    Args:
        kappa: See `advance_fixed`, like all that is not named here.
        max_slope: See `kappa`.
        kind: See `kappa`.
        params: See `kappa`.
        values: See `kappa`.
        volume: See `kappa`.
        positions: See `kappa`.
        slopes: See `kappa`.
        nodes: See `kappa`.
        place_error: `(s,)` weights of the error of the position.
        slope_error: `(s,)` weights of the error of the slope.
        exponent: `1 / (q + 1)`.
        last_is_first: Whether the last stage is the first of the next step.
        longest: Longest step [mm].
        tolerance: See the module [mm].
        order: See `kappa`.
        state: See `kappa`.
        z0: See `kappa`.
        dz: See `kappa`.
        out: See `kappa`.
        jacobian: See `kappa`.
        status: See `kappa`.
        proposal: `(n,)` length of the first step on entry, of the step that would come next on return [mm].
        accepted: `(n,)` int64, steps that count.
        attempts: `(n,)` int64, steps that were computed.
    """
    stages = len(nodes) - 1
    with_jacobian, limited = jacobian.shape[0] > 0, restricted(kind, params)
    x_min, x_max, y_min, y_max = volume[0], volume[1], volume[2], volume[3]
    rest_x, rest_y, rest_z = 0.5 * (x_min + x_max), 0.5 * (y_min + y_max), 0.5 * (volume[4] + volume[5])
    x, y, tx, ty = np.full(BLOCK, rest_x), np.full(BLOCK, rest_y), np.zeros(BLOCK), np.zeros(BLOCK)
    new_x, new_y, new_tx, new_ty = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    bx, by, bz, z = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.full(BLOCK, rest_z)
    bend, factor, inside, good = np.zeros(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    stage_z, end, h, square = np.empty(BLOCK), np.full(BLOCK, rest_z), np.zeros(BLOCK), np.zeros(BLOCK)
    lever, error_x, error_y, error = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    growth, possible = np.empty(BLOCK), np.empty(BLOCK)
    step, may_grow = np.zeros(BLOCK), np.ones(BLOCK)
    change_x, change_y = np.zeros((stages, BLOCK)), np.zeros((stages, BLOCK))
    tracks = np.full(BLOCK, -1)
    extra = BLOCK if with_jacobian else 0
    variation, new_variation = np.empty((4, COLUMNS, extra)), np.empty((4, COLUMNS, extra))
    variation_changes = np.zeros((2, stages, COLUMNS, extra))
    partials, gradient, kappas = np.empty((PARTIALS, extra)), np.empty((6, extra)), np.full(extra, kappa)
    if with_jacobian:
        reset_variations(variation)

    # The next tracks, with their first stage.
    wait_x, wait_y, wait_tx, wait_ty = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    wait_z, wait_bend, wait_allowed = np.empty(BLOCK), np.empty(BLOCK), np.ones(BLOCK)
    wait_change_x, wait_change_y = np.empty(BLOCK), np.empty(BLOCK)
    wait_partials = np.empty((PARTIALS, extra))
    waiting = np.empty(BLOCK, np.int64)
    following, ready, used, live = 0, 0, 0, 0

    while True:
        for lane in range(BLOCK):
            if tracks[lane] >= 0:
                continue
            if used == ready and following < len(order):
                ready, used = 0, 0
                fill(wait_x, rest_x)
                fill(wait_y, rest_y)
                fill(wait_tx, 0.0)
                fill(wait_ty, 0.0)
                fill(wait_z, rest_z)
                fill(wait_bend, 0.0)
                while ready < BLOCK and following < len(order):
                    track = order[following]
                    following += 1
                    status[track] = start_status(
                        volume, max_slope, state[track, 0], state[track, 1], state[track, 2], state[track, 3]
                    )
                    if status[track] != 0:
                        continue
                    if dz[track] == 0.0:
                        out[track] = state[track]
                        if with_jacobian:
                            jacobian[track] = np.eye(5)
                        continue
                    waiting[ready] = track
                    wait_x[ready], wait_y[ready] = state[track, 0], state[track, 1]
                    wait_tx[ready], wait_ty[ready] = state[track, 2], state[track, 3]
                    wait_z[ready], wait_bend[ready] = z0[track], kappa * state[track, 4]
                    ready += 1
                if limited:
                    fill(wait_allowed, 1.0)
                    allowed_block(kind, params, values, wait_x, wait_y, wait_z, wait_allowed)
                field_block(kind, params, values, wait_x, wait_y, wait_z, bx, by, bz)
                bending(factor, wait_bend, wait_tx, wait_ty)
                slope_change_x(wait_change_x, factor, wait_tx, wait_ty, bx, by, bz)
                slope_change_y(wait_change_y, factor, wait_tx, wait_ty, bx, by, bz)
                if with_jacobian:
                    gradient_block(kind, params, values, wait_x, wait_y, wait_z, gradient)
                    fill_partials(
                        wait_partials, factor, wait_bend, kappas, wait_tx, wait_ty, bx, by, bz, gradient
                    )
            while used < ready and wait_allowed[used] == 0.0:
                status[waiting[used]] = LEFT_VOLUME
                used += 1
            if used == ready:
                continue
            track = waiting[used]
            tracks[lane] = track
            x[lane], y[lane], tx[lane], ty[lane] = (
                wait_x[used],
                wait_y[used],
                wait_tx[used],
                wait_ty[used],
            )
            z[lane], bend[lane] = wait_z[used], wait_bend[used]
            end[lane] = z0[track] + dz[track]
            step[lane] = proposal[track]
            may_grow[lane] = 1.0
            change_x[0, lane], change_y[0, lane] = wait_change_x[used], wait_change_y[used]
            if with_jacobian:
                reset_variation(variation, lane)
                for axis in range(2):
                    for column in range(COLUMNS):
                        variation_changes[axis, 0, column, lane] = wait_partials[
                            COLUMNS * axis + column, used
                        ]
            used += 1
            live += 1
        if live == 0:
            if used == ready and following == len(order):
                break
            continue

        for lane in range(BLOCK):
            remaining = end[lane] - z[lane]
            length = min(step[lane], longest)
            # What remains is one step, or two equal ones rather than a long and a short one.
            length = length if length < 0.5 * abs(remaining) else 0.5 * abs(remaining)
            length = abs(remaining) if min(step[lane], longest) >= abs(remaining) else length
            h[lane] = math.copysign(length, remaining)
        for lane in range(BLOCK):
            square[lane] = h[lane] * h[lane]
        fill(inside, 1.0)
        for stage in range(1, stages):
            node, place_row, slope_row = nodes[stage], positions[stage], slopes[stage]
            sum_position(new_x, x, tx, node, h, square, place_row, change_x, stage)
            sum_position(new_y, y, ty, node, h, square, place_row, change_y, stage)
            sum_slope(new_tx, tx, h, slope_row, change_x, stage)
            sum_slope(new_ty, ty, h, slope_row, change_y, stage)
            clear_outside(inside, new_x, x_min, x_max)
            clear_outside(inside, new_y, y_min, y_max)
            for lane in range(BLOCK):
                stage_z[lane] = z[lane] + node * h[lane]
            if limited:
                allowed_block(kind, params, values, new_x, new_y, stage_z, inside)
            field_block(kind, params, values, new_x, new_y, stage_z, bx, by, bz)
            bending(factor, bend, new_tx, new_ty)
            slope_change_x(change_x[stage], factor, new_tx, new_ty, bx, by, bz)
            slope_change_y(change_y[stage], factor, new_tx, new_ty, bx, by, bz)
            if with_jacobian:
                gradient_block(kind, params, values, new_x, new_y, stage_z, gradient)
                sum_variations(
                    new_variation, variation, node, h, square, place_row, slope_row, variation_changes, stage
                )
                fill_partials(partials, factor, bend, kappas, new_tx, new_ty, bx, by, bz, gradient)
                change_variations(variation_changes, stage, partials, new_variation, new_variation)
        place_row, slope_row = positions[stages], slopes[stages]
        sum_position(new_x, x, tx, 1.0, h, square, place_row, change_x, stages)
        sum_position(new_y, y, ty, 1.0, h, square, place_row, change_y, stages)
        sum_slope(new_tx, tx, h, slope_row, change_x, stages)
        sum_slope(new_ty, ty, h, slope_row, change_y, stages)
        if with_jacobian:
            sum_variations(
                new_variation, variation, 1.0, h, square, place_row, slope_row, variation_changes, stages
            )

        for lane in range(BLOCK):
            lever[lane] = end[lane] - z[lane] - h[lane]
        _carried(error_x, place_error, slope_error, h, lever, change_x, stages)
        _carried(error_y, place_error, slope_error, h, lever, change_y, stages)
        _error_at_end(error, error_x, error_y)
        _growth(growth, error, tolerance, exponent)

        if limited:
            for lane in range(BLOCK):
                stage_z[lane] = z[lane] + h[lane]
            allowed_block(kind, params, values, new_x, new_y, stage_z, inside)
        copy(possible, inside)
        keep_within(possible, new_x, x_min, x_max)
        keep_within(possible, new_y, y_min, y_max)
        keep_within(possible, new_tx, -HUGE, HUGE)
        keep_within(possible, new_ty, -HUGE, HUGE)
        for lane in range(BLOCK):
            small = (error[lane] <= tolerance) | (abs(h[lane]) <= SHORTEST_STEP)
            good[lane] = possible[lane] if small else 0.0

        for lane in range(BLOCK):
            track = tracks[lane]
            if track < 0:
                good[lane] = 0.0
                continue
            attempts[track] += 1
            if good[lane] == 1.0:
                accepted[track] += 1
                longer = abs(h[lane]) * (growth[lane] if may_grow[lane] == 1.0 else min(growth[lane], 1.0))
                # A step shortened to end on the plane says nothing against the one that was proposed.
                step[lane] = max(longer, step[lane]) if abs(h[lane]) < step[lane] else longer
                may_grow[lane] = 1.0
                steep = not (abs(new_tx[lane]) <= max_slope and abs(new_ty[lane]) <= max_slope)
                arrived = h[lane] == end[lane] - z[lane]
                z[lane] = end[lane] if arrived else z[lane] + h[lane]
                if not (steep or arrived):
                    continue
                if steep:
                    status[track] = failure_status(
                        max_slope, 1.0, new_x[lane], new_y[lane], new_tx[lane], new_ty[lane]
                    )
                else:
                    out[track, 0], out[track, 1] = new_x[lane], new_y[lane]
                    out[track, 2], out[track, 3] = new_tx[lane], new_ty[lane]
                    out[track, 4] = state[track, 4]
                    proposal[track] = step[lane]
                    if with_jacobian:
                        store_jacobian(jacobian, track, new_variation, lane)
            else:
                impossible = possible[lane] == 0.0
                if not impossible or abs(h[lane]) > LEAVING_STEP:
                    step[lane] = max(
                        abs(h[lane]) * (LEAST if impossible else min(growth[lane], SAFETY)), SHORTEST_STEP
                    )
                    may_grow[lane] = 0.0
                    continue
                status[track] = failure_status(
                    max_slope, inside[lane], new_x[lane], new_y[lane], new_tx[lane], new_ty[lane]
                )
            # The track has ended: its lane rests until it takes another.
            tracks[lane] = -1
            live -= 1
            good[lane] = 0.0
            x[lane], y[lane], tx[lane], ty[lane] = rest_x, rest_y, 0.0, 0.0
            z[lane], end[lane], bend[lane], step[lane] = rest_z, rest_z, 0.0, 0.0
            change_x[0, lane], change_y[0, lane] = 0.0, 0.0

        take(x, new_x, good)
        take(y, new_y, good)
        take(tx, new_tx, good)
        take(ty, new_ty, good)
        if with_jacobian:
            take_variations(variation, new_variation, good)
        if last_is_first:
            take(change_x[0], change_x[stages - 1], good)
            take(change_y[0], change_y[stages - 1], good)
            if with_jacobian:
                for axis in range(2):
                    for column in range(COLUMNS):
                        take(
                            variation_changes[axis, 0, column],
                            variation_changes[axis, stages - 1, column],
                            good,
                        )
        else:
            field_block(kind, params, values, x, y, z, bx, by, bz)
            bending(factor, bend, tx, ty)
            slope_change_x(change_x[0], factor, tx, ty, bx, by, bz)
            slope_change_y(change_y[0], factor, tx, ty, bx, by, bz)
            if with_jacobian:
                gradient_block(kind, params, values, x, y, z, gradient)
                fill_partials(partials, factor, bend, kappas, tx, ty, bx, by, bz, gradient)
                change_variations(variation_changes, 0, partials, variation, variation)
