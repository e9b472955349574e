"""Kernel for steps that are planned before the track is known: equal ones, or ones that end on planes."""

from __future__ import annotations

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
from trackkeras.domains.extrapolation.kernels import BLOCK, allowed_block, field_block, restricted
from trackkeras.domains.extrapolation.variations import (
    COLUMNS,
    PARTIALS,
    change_variations,
    fill_partials,
    reset_variations,
    store_jacobian,
    sum_variations,
    take_variations,
)


@njit(cache=True, nogil=True)
def advance_fixed(
    kappa,
    max_slope,
    kind,
    params,
    values,
    volume,
    positions,
    slopes,
    nodes,
    fresh,
    order,
    state,
    z0,
    dz,
    steps,
    first_step,
    inner_step,
    out,
    jacobian,
    status,
):
    """Propagate the tracks `order` in blocks; fills their rows of `out`, `jacobian` and `status`.

    A track takes `steps` steps: `first_step`, then `inner_step` each, the last being what remains of `dz`.

    Args:
        kappa: The bending constant; an argument because compiled code in a cache would keep an old value.
        max_slope: Limit of |tx| and |ty|.
        kind: See `field_block`, like `params` and `values`.
        params: See `kind`.
        values: See `kind`.
        volume: `(6,)`.
        positions: `(s + 1, s)` weights of the stage positions and, last, of the final position.
        slopes: `(s + 1, s)` weights of the stage slopes and, last, of the final slope.
        nodes: `(s + 1,)`, the last being 1.
        fresh: `(s,)` uint8; 0 where a stage uses the field of the evaluation before it.
        order: Rows to propagate.
        state: `(n, 5)`.
        z0: `(n,)`.
        dz: `(n,)`.
        steps: `(n,)` int64.
        first_step: `(n,)` signed length.
        inner_step: `(n,)` signed length.
        out: `(n, 5)`.
        jacobian: `(n, 5, 5)`, or `(0, 5, 5)` if it is not wanted.
        status: `(n,)` int8.
    """
    stages = len(fresh)
    with_jacobian, limited = jacobian.shape[0] > 0, restricted(kind, params)
    x_min, x_max, y_min, y_max = volume[0], volume[1], volume[2], volume[3]
    x, y, tx, ty = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    new_x, new_y, new_tx, new_ty = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    bx, by, bz, z = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    bend, factor, inside, good = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    # Plane and steps of each track, and the step in force: 0 once the track has arrived or failed.
    start, first, inner, last = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    begin, h, square = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    wanted = np.empty(BLOCK, np.int64)
    change_x, change_y = np.empty((stages, BLOCK)), np.empty((stages, BLOCK))
    extra = BLOCK if with_jacobian else 0
    variation, new_variation = np.empty((4, COLUMNS, extra)), np.empty((4, COLUMNS, extra))
    variation_changes, looked_up = np.empty((2, stages, COLUMNS, extra)), np.empty((2, COLUMNS, extra))
    partials, gradient, kappas = np.empty((PARTIALS, extra)), np.empty((6, extra)), np.full(extra, kappa)

    for block in range(0, len(order), BLOCK):
        lanes = min(BLOCK, len(order) - block)
        longest = 0
        for lane in range(BLOCK):
            # A lane without a live track rests in the middle of the volume, where the field is finite.
            x[lane], y[lane], tx[lane], ty[lane] = 0.5 * (x_min + x_max), 0.5 * (y_min + y_max), 0.0, 0.0
            start[lane], bend[lane] = 0.5 * (volume[4] + volume[5]), 0.0
            first[lane], inner[lane], last[lane] = 0.0, 0.0, 0.0
            wanted[lane] = 0
            if lane >= lanes:
                continue
            track = order[block + lane]
            status[track] = start_status(
                volume, max_slope, state[track, 0], state[track, 1], state[track, 2], state[track, 3]
            )
            if status[track] == 0:
                x[lane], y[lane] = state[track, 0], state[track, 1]
                tx[lane], ty[lane] = state[track, 2], state[track, 3]
                start[lane] = z0[track]
                bend[lane] = kappa * state[track, 4]
                wanted[lane] = steps[track]
                longest = max(longest, wanted[lane])
                first[lane], inner[lane] = first_step[track], inner_step[track]
                last[lane] = dz[track] - first[lane] - (wanted[lane] - 2) * inner[lane]
        if with_jacobian:
            reset_variations(variation)

        done = 0
        while done < longest:
            for lane in range(BLOCK):
                begin[lane] = (
                    start[lane] if done == 0 else start[lane] + first[lane] + (done - 1) * inner[lane]
                )
            for lane in range(BLOCK):
                step = first[lane] if done == 0 else (last[lane] if done == wanted[lane] - 1 else inner[lane])
                h[lane] = step if done < wanted[lane] else 0.0
            for lane in range(BLOCK):
                square[lane] = h[lane] * h[lane]
            fill(inside, 1.0)
            for stage in range(stages):
                node, place_row, slope_row = nodes[stage], positions[stage], slopes[stage]
                sum_position(new_x, x, tx, node, h, square, place_row, change_x, stage)
                sum_position(new_y, y, ty, node, h, square, place_row, change_y, stage)
                sum_slope(new_tx, tx, h, slope_row, change_x, stage)
                sum_slope(new_ty, ty, h, slope_row, change_y, stage)
                clear_outside(inside, new_x, x_min, x_max)
                clear_outside(inside, new_y, y_min, y_max)
                evaluate = fresh[stage] == 1 or (stage == 0 and done == 0)
                if evaluate:
                    for lane in range(BLOCK):
                        z[lane] = begin[lane] + node * h[lane]
                    if limited:
                        allowed_block(kind, params, values, new_x, new_y, z, inside)
                    field_block(kind, params, values, new_x, new_y, z, bx, by, bz)
                bending(factor, bend, new_tx, new_ty)
                slope_change_x(change_x[stage], factor, new_tx, new_ty, bx, by, bz)
                slope_change_y(change_y[stage], factor, new_tx, new_ty, bx, by, bz)
                if with_jacobian:
                    sum_variations(
                        new_variation,
                        variation,
                        node,
                        h,
                        square,
                        place_row,
                        slope_row,
                        variation_changes,
                        stage,
                    )
                    if evaluate:
                        gradient_block(kind, params, values, new_x, new_y, z, gradient)
                        looked_up[:] = new_variation[:2]
                    fill_partials(partials, factor, bend, kappas, new_tx, new_ty, bx, by, bz, gradient)
                    change_variations(variation_changes, stage, partials, looked_up, new_variation)
            place_row, slope_row = positions[stages], slopes[stages]
            sum_position(new_x, x, tx, 1.0, h, square, place_row, change_x, stages)
            sum_position(new_y, y, ty, 1.0, h, square, place_row, change_y, stages)
            sum_slope(new_tx, tx, h, slope_row, change_x, stages)
            sum_slope(new_ty, ty, h, slope_row, change_y, stages)
            if with_jacobian:
                sum_variations(
                    new_variation,
                    variation,
                    1.0,
                    h,
                    square,
                    place_row,
                    slope_row,
                    variation_changes,
                    stages,
                )
            if limited:
                for lane in range(BLOCK):
                    z[lane] = begin[lane] + h[lane]
                allowed_block(kind, params, values, new_x, new_y, z, inside)
            done += 1

            copy(good, inside)
            keep_within(good, new_x, x_min, x_max)
            keep_within(good, new_y, y_min, y_max)
            keep_within(good, new_tx, -max_slope, max_slope)
            keep_within(good, new_ty, -max_slope, max_slope)
            take(x, new_x, good)
            take(y, new_y, good)
            take(tx, new_tx, good)
            take(ty, new_ty, good)
            if with_jacobian:
                take_variations(variation, new_variation, good)
            if good.min() == 1.0:
                continue
            longest = 0
            for lane in range(BLOCK):
                if good[lane] != 1.0 and done <= wanted[lane]:  # a lane at rest cannot fail
                    status[order[block + lane]] = failure_status(
                        max_slope, inside[lane], new_x[lane], new_y[lane], new_tx[lane], new_ty[lane]
                    )
                    wanted[lane] = 0
                longest = max(longest, wanted[lane])

        for lane in range(lanes):
            track = order[block + lane]
            if status[track] == 0:
                out[track, 0], out[track, 1] = x[lane], y[lane]
                out[track, 2], out[track, 3] = tx[lane], ty[lane]
                out[track, 4] = state[track, 4]
                if with_jacobian:
                    store_jacobian(jacobian, track, variation, lane)
