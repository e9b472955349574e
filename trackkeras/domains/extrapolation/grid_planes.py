"""RK steps between the planes of a regular grid, where trilinear interpolation is cheapest.

A step that begins and ends on planes of nodes needs one plane for its first and last stage and two for the
others. All tracks of a task advance together, plane by plane, so that the planes in use stay in the cache.

Nodes are stored plane by plane, four numbers each (Bx, By, Bz and a zero), so that one vector load gets a
node. Numba does not form such loads by itself: `_one_plane` and `_two_planes` emit them.
"""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

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
from trackkeras.domains.extrapolation.fields import Field
from trackkeras.domains.extrapolation.kernels import BLOCK

NODE = 4
"""Numbers per node."""

_LAYOUTS: WeakKeyDictionary[Field, NDArray[np.float64]] = WeakKeyDictionary()
_LOCK = threading.Lock()


def plane_nodes(field: Field) -> NDArray[np.float64]:
    """Return the nodes of a grid plane by plane, `(nz * nx * ny * NODE,)` [T]; made once per field."""
    with _LOCK:
        if field not in _LAYOUTS:
            values = np.asarray(field.values)[..., :3]
            nx, ny, nz = values.shape[:3]
            nodes = np.zeros((nz, nx, ny, NODE))
            nodes[..., :3] = values.transpose(2, 0, 1, 3)
            _LAYOUTS[field] = nodes.ravel()
        return _LAYOUTS[field]


# -- vector loads ------------------------------------------------------------------------------------------

_CONTRACT = ("contract",)
_VECTOR = ir.VectorType(ir.DoubleType(), NODE)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    data = cgutils.create_struct_proxy(array_type)(context, builder, value=array).data
    return builder.bitcast(builder.gep(data, [index]), _VECTOR.as_pointer())


def _splat(builder: Any, number: Any) -> Any:
    undefined, lane = ir.Constant(_VECTOR, ir.Undefined), ir.Constant(ir.IntType(32), 0)
    mask = ir.Constant(ir.VectorType(ir.IntType(32), NODE), [0] * NODE)
    return builder.shuffle_vector(builder.insert_element(undefined, number, lane), undefined, mask)


def _bilinear(context: Any, builder: Any, array_type: Any, nodes: Any, place: Any, row: Any, weights: Any) -> Any:
    """Emit the weighted sum of the four nodes around a point of one plane."""
    total = None
    for corner, weight in enumerate(weights):
        index = builder.add(place, row) if corner >= 2 else place
        index = builder.add(index, ir.Constant(index.type, NODE * (corner % 2)))
        node = builder.load(_pointer(context, builder, array_type, nodes, index), align=8)
        term = builder.fmul(_splat(builder, weight), node, flags=_CONTRACT)
        total = term if total is None else builder.fadd(total, term, flags=_CONTRACT)
    return total


@intrinsic
def _one_plane(typing_context, nodes, place, row, w00, w01, w10, w11, out, slot):
    """`out[slot : slot + 4] =` the sum of the nodes at `place` and `place + row` and their right neighbours."""
    signature = types.void(nodes, place, row, w00, w01, w10, w11, out, slot)

    def emit(context, builder, signature, arguments):
        nodes, place, row, *weights, out, slot = arguments
        value = _bilinear(context, builder, signature.args[0], nodes, place, row, weights)
        builder.store(value, _pointer(context, builder, signature.args[7], out, slot), align=8)
        return context.get_dummy_value()

    return signature, emit


@intrinsic
def _two_planes(typing_context, nodes, place, row, plane, w00, w01, w10, w11, share, out, slot):
    """As `_one_plane`, between the plane at `place` and, with weight `share`, the one at `place + plane`."""
    signature = types.void(nodes, place, row, plane, w00, w01, w10, w11, share, out, slot)

    def emit(context, builder, signature, arguments):
        nodes, place, row, plane, *weights, share, out, slot = arguments
        kind = signature.args[0]
        here = _bilinear(context, builder, kind, nodes, place, row, weights)
        there = _bilinear(context, builder, kind, nodes, builder.add(place, plane), row, weights)
        difference = builder.fsub(there, here, flags=_CONTRACT)
        value = builder.fmul(_splat(builder, share), difference, flags=_CONTRACT)
        value = builder.fadd(here, value, flags=_CONTRACT)
        builder.store(value, _pointer(context, builder, signature.args[9], out, slot), align=8)
        return context.get_dummy_value()

    return signature, emit


# -- kernel ------------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True, fastmath={"contract"})
def _scaled(out, value, origin, inverse):
    for lane in range(BLOCK):
        out[lane] = (value[lane] - origin) * inverse


@njit(cache=True, nogil=True, fastmath={"contract"})
def _cell(out, scaled, cells):
    """Fill the index of the cell; outside the grid, that of the nearest one; of NaN, the first."""
    for lane in range(BLOCK):
        inside = scaled[lane] if scaled[lane] > 0.0 else 0.0
        out[lane] = np.int32(inside if inside < cells - 1.0 else cells - 1.0)


@njit(cache=True, nogil=True)
def _places(out, plane_index, cell_x, cell_y, plane, row):
    """Fill where the lower node of each lane's cell starts."""
    for lane in range(BLOCK):
        out[lane] = plane_index[lane] * plane + cell_x[lane] * row + cell_y[lane] * np.int32(NODE)


@njit(cache=True, nogil=True, fastmath={"contract"})
def _fraction(out, scaled, cell):
    for lane in range(BLOCK):
        out[lane] = scaled[lane] - cell[lane]


@njit(cache=True, nogil=True, fastmath={"contract"})
def _interpolate_in_plane(nodes, places, row, fx, fy, out):
    for lane in range(BLOCK):
        u, v = fx[lane], fy[lane]
        w11 = u * v
        _one_plane(
            nodes,
            np.int64(places[lane]),
            np.int64(row),
            1.0 - u - v + w11,
            v - w11,
            u - w11,
            w11,
            out,
            np.int64(NODE * lane),
        )


@njit(cache=True, nogil=True, fastmath={"contract"})
def _interpolate_between_planes(nodes, places, row, plane, fx, fy, fz, out):
    for lane in range(BLOCK):
        u, v = fx[lane], fy[lane]
        w11 = u * v
        _two_planes(
            nodes,
            np.int64(places[lane]),
            np.int64(row),
            np.int64(plane),
            1.0 - u - v + w11,
            v - w11,
            u - w11,
            w11,
            fz[lane],
            out,
            np.int64(NODE * lane),
        )


@njit(cache=True, nogil=True)
def _component(out, field, k):
    for lane in range(BLOCK):
        out[lane] = field[NODE * lane + k]


@njit(cache=True, nogil=True)
def advance_on_planes(
    kappa,
    max_slope,
    params,
    shape,
    nodes,
    volume,
    positions,
    slopes,
    stage_nodes,
    order,
    state,
    first_plane,
    planes_per_step,
    steps,
    out,
    status,
):
    """Propagate the tracks `order` from plane to plane; fills their rows of `out` and `status`.

    Args:
        kappa: See `advance_fixed`, like all that is not named here.
        max_slope: See `kappa`.
        params: `(6,)`: origin and step of x, y and z [mm], interleaved.
        shape: `(3,)` int64, nodes along x, y, z.
        nodes: See `plane_nodes`.
        volume: See `kappa`.
        positions: See `kappa`.
        slopes: See `kappa`.
        stage_nodes: See `nodes` of `advance_fixed`.
        order: See `kappa`.
        state: See `kappa`.
        first_plane: `(n,)` where a track starts, in planes.
        planes_per_step: `(n,)` signed.
        steps: See `kappa`.
        out: See `kappa`.
        status: See `kappa`.
    """
    stages = len(stage_nodes) - 1
    blocks = (len(order) + BLOCK - 1) // BLOCK
    x_min, x_max, y_min, y_max = volume[0], volume[1], volume[2], volume[3]
    row, plane = np.int32(NODE * shape[1]), np.int32(NODE * shape[0] * shape[1])
    # Tracks of the whole task; what lies below them is scratch for one block.
    xs, ys = np.full((blocks, BLOCK), 0.5 * (x_min + x_max)), np.full((blocks, BLOCK), 0.5 * (y_min + y_max))
    txs, tys = np.zeros((blocks, BLOCK)), np.zeros((blocks, BLOCK))
    bends, begins, strides = np.zeros((blocks, BLOCK)), np.zeros((blocks, BLOCK)), np.zeros((blocks, BLOCK))
    wanted, longest = np.zeros((blocks, BLOCK), np.int64), np.zeros(blocks, np.int64)
    new_x, new_y, new_tx, new_ty = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    bx, by, bz, field = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(NODE * BLOCK)
    factor, inside, good = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    h, square, stride = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    scaled_x, scaled_y, at = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    fx, fy, fz = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    cell_x, cell_y, cell_z = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.int32), np.empty(BLOCK, np.int32)
    places = np.empty(BLOCK, np.int32)
    change_x, change_y = np.empty((stages, BLOCK)), np.empty((stages, BLOCK))

    for index in range(len(order)):
        block, lane, track = index // BLOCK, index % BLOCK, order[index]
        status[track] = start_status(
            volume, max_slope, state[track, 0], state[track, 1], state[track, 2], state[track, 3]
        )
        if status[track] == 0:
            xs[block, lane], ys[block, lane] = state[track, 0], state[track, 1]
            txs[block, lane], tys[block, lane] = state[track, 2], state[track, 3]
            bends[block, lane] = kappa * state[track, 4]
            begins[block, lane], strides[block, lane] = first_plane[track], planes_per_step[track]
            wanted[block, lane] = steps[track]
            longest[block] = max(longest[block], steps[track])

    done = 0
    while done < longest.max():
        for block in range(blocks):
            if done >= longest[block]:
                continue
            x, y, tx, ty, bend = xs[block], ys[block], txs[block], tys[block], bends[block]
            for lane in range(BLOCK):
                stride[lane] = strides[block, lane] if done < wanted[block, lane] else 0.0
            for lane in range(BLOCK):
                h[lane] = stride[lane] * params[5]
            for lane in range(BLOCK):
                square[lane] = h[lane] * h[lane]
            fill(inside, 1.0)
            for stage in range(stages):
                node, place_row, slope_row = stage_nodes[stage], positions[stage], slopes[stage]
                sum_position(new_x, x, tx, node, h, square, place_row, change_x, stage)
                sum_position(new_y, y, ty, node, h, square, place_row, change_y, stage)
                sum_slope(new_tx, tx, h, slope_row, change_x, stage)
                sum_slope(new_ty, ty, h, slope_row, change_y, stage)
                clear_outside(inside, new_x, x_min, x_max)
                clear_outside(inside, new_y, y_min, y_max)
                for lane in range(BLOCK):
                    at[lane] = begins[block, lane] + (done + node) * stride[lane]
                _cell(cell_z, at, shape[2] - 1)
                _fraction(fz, at, cell_z)
                _scaled(scaled_x, new_x, params[0], 1.0 / params[1])
                _scaled(scaled_y, new_y, params[2], 1.0 / params[3])
                _cell(cell_x, scaled_x, shape[0] - 1)
                _cell(cell_y, scaled_y, shape[1] - 1)
                _fraction(fx, scaled_x, cell_x)
                _fraction(fy, scaled_y, cell_y)
                _places(places, cell_z, cell_x, cell_y, plane, row)
                if fz.max() == 0.0:
                    _interpolate_in_plane(nodes, places, row, fx, fy, field)
                else:
                    _interpolate_between_planes(nodes, places, row, plane, fx, fy, fz, field)
                _component(bx, field, 0)
                _component(by, field, 1)
                _component(bz, field, 2)
                bending(factor, bend, new_tx, new_ty)
                slope_change_x(change_x[stage], factor, new_tx, new_ty, bx, by, bz)
                slope_change_y(change_y[stage], factor, new_tx, new_ty, bx, by, bz)
            place_row, slope_row = positions[stages], slopes[stages]
            sum_position(new_x, x, tx, 1.0, h, square, place_row, change_x, stages)
            sum_position(new_y, y, ty, 1.0, h, square, place_row, change_y, stages)
            sum_slope(new_tx, tx, h, slope_row, change_x, stages)
            sum_slope(new_ty, ty, h, slope_row, change_y, stages)

            copy(good, inside)
            keep_within(good, new_x, x_min, x_max)
            keep_within(good, new_y, y_min, y_max)
            keep_within(good, new_tx, -max_slope, max_slope)
            keep_within(good, new_ty, -max_slope, max_slope)
            take(x, new_x, good)
            take(y, new_y, good)
            take(tx, new_tx, good)
            take(ty, new_ty, good)
            if good.min() == 1.0:
                continue
            longest[block] = 0
            for lane in range(BLOCK):
                if good[lane] != 1.0 and done < wanted[block, lane]:  # a lane at rest cannot fail
                    status[order[block * BLOCK + lane]] = failure_status(
                        max_slope, inside[lane], new_x[lane], new_y[lane], new_tx[lane], new_ty[lane]
                    )
                    wanted[block, lane] = 0
                longest[block] = max(longest[block], wanted[block, lane])
        done += 1

    for index in range(len(order)):
        block, lane, track = index // BLOCK, index % BLOCK, order[index]
        if status[track] == 0:
            out[track, 0], out[track, 1] = xs[block, lane], ys[block, lane]
            out[track, 2], out[track, 3] = txs[block, lane], tys[block, lane]
            out[track, 4] = state[track, 4]
