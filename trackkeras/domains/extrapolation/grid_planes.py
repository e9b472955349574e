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

from trackkeras.domains.extrapolation.blocks import failure_status, start_status
from trackkeras.domains.extrapolation.fields import Field
from trackkeras.domains.extrapolation.kernels import BLOCK

NODE = 4
"""Numbers per node."""

_LAYOUTS: WeakKeyDictionary[Field, NDArray[np.floating]] = WeakKeyDictionary()
_LOCK = threading.Lock()


def plane_nodes(field: Field) -> NDArray[np.floating]:
    """Return the nodes of a grid plane by plane, `(nz * nx * ny * NODE,)` [T], in their own precision.

    They are made once per field.
    """
    with _LOCK:
        if field not in _LAYOUTS:
            values = np.asarray(field.values)[..., :3]
            nx, ny, nz = values.shape[:3]
            nodes = np.zeros((nz, nx, ny, NODE), values.dtype)
            nodes[..., :3] = values.transpose(2, 0, 1, 3)
            _LAYOUTS[field] = nodes.ravel()
        return _LAYOUTS[field]


# -- vector loads ------------------------------------------------------------------------------------------

_CONTRACT = ("contract",)
_VECTOR = ir.VectorType(ir.DoubleType(), NODE)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any, vector: Any) -> Any:
    data = cgutils.create_struct_proxy(array_type)(context, builder, value=array).data
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def _splat(builder: Any, number: Any) -> Any:
    undefined, lane = ir.Constant(_VECTOR, ir.Undefined), ir.Constant(ir.IntType(32), 0)
    mask = ir.Constant(ir.VectorType(ir.IntType(32), NODE), [0] * NODE)
    return builder.shuffle_vector(builder.insert_element(undefined, number, lane), undefined, mask)


def _bilinear(
    context: Any, builder: Any, array_type: Any, nodes: Any, place: Any, row: Any, weights: Any
) -> Any:
    """Emit the weighted sum of the four nodes around a point of one plane."""
    total = None
    for corner, weight in enumerate(weights):
        index = builder.add(place, row) if corner >= 2 else place
        index = builder.add(index, ir.Constant(index.type, NODE * (corner % 2)))
        stored = ir.VectorType(context.get_value_type(array_type.dtype), NODE)
        node = builder.load(_pointer(context, builder, array_type, nodes, index, stored), align=4)
        if stored != _VECTOR:
            node = builder.fpext(node, _VECTOR)
        term = builder.fmul(_splat(builder, weight), node, flags=_CONTRACT)
        total = term if total is None else builder.fadd(total, term, flags=_CONTRACT)
    return total


def _one_plane(typing_context, nodes, place, row, w00, w01, w10, w11, out, slot):
    """`out[slot : slot + 4] =` the weighted nodes at `place` and `place + row` and their right neighbours."""
    signature = types.void(nodes, place, row, w00, w01, w10, w11, out, slot)

    def emit(context, builder, signature, arguments):
        nodes, place, row, *weights, out, slot = arguments
        value = _bilinear(context, builder, signature.args[0], nodes, place, row, weights)
        builder.store(value, _pointer(context, builder, signature.args[7], out, slot, _VECTOR), align=8)
        return context.get_dummy_value()

    return signature, emit


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
        builder.store(value, _pointer(context, builder, signature.args[9], out, slot, _VECTOR), align=8)
        return context.get_dummy_value()

    return signature, emit


_fill_from_one_plane: Any = intrinsic(_one_plane)
_fill_from_two_planes: Any = intrinsic(_two_planes)


# -- kernel ------------------------------------------------------------------------------------------------
# One scratch array holds a block's numbers, `BLOCK` per row. Rows at constant distances from one base are the
# one form of many arrays that the compiler knows not to overlap, so that each loop here is vector code.

STAGES = 4
"""Stages of the tableaus that this kernel takes."""

KEPT, ROWS = 6, 20
"""Rows of a block that a step leaves to the next, and all rows."""

TASK = 128
"""Blocks that one call takes together: enough to make up for loading a plane."""

(_X, _Y, _TX, _TY, _BEND, _H, _FX, _FY, _FZ, _U, _V, _INSIDE) = (BLOCK * row for row in range(12))
_CHANGE_X, _CHANGE_Y = 12 * BLOCK, 16 * BLOCK


@njit(cache=True, nogil=True, fastmath={"contract"})
def _stage_place(
    w, stage, stage_nodes, p, a, x_low, x_scale, x_cells, y_low, y_scale, y_cells, limits, places
):
    """Find a stage's state, and in which cell of its plane it stands."""
    node = stage_nodes[stage]
    p0, p1, p2 = p[stage, 0], p[stage, 1], p[stage, 2]
    a0, a1, a2 = a[stage, 0], a[stage, 1], a[stage, 2]
    x_min, x_max, y_min, y_max = limits[0], limits[1], limits[2], limits[3]
    row, neighbour = np.int32(NODE) * np.int32(y_cells + 1.0), np.int32(NODE)
    for i in range(BLOCK):
        h = w[_H + i]
        square = h * h
        x0, x1, x2 = w[_CHANGE_X + i], w[_CHANGE_X + BLOCK + i], w[_CHANGE_X + 2 * BLOCK + i]
        y0, y1, y2 = w[_CHANGE_Y + i], w[_CHANGE_Y + BLOCK + i], w[_CHANGE_Y + 2 * BLOCK + i]
        u, v = w[_TX + i], w[_TY + i]
        x = w[_X + i] + node * h * u + square * (p0 * x0 + p1 * x1 + p2 * x2)
        y = w[_Y + i] + node * h * v + square * (p0 * y0 + p1 * y1 + p2 * y2)
        w[_U + i] = u + h * (a0 * x0 + a1 * x1 + a2 * x2)
        w[_V + i] = v + h * (a0 * y0 + a1 * y1 + a2 * y2)
        outside = ((x < x_min) & (x > -np.inf)) | ((x > x_max) & (x < np.inf))
        outside |= ((y < y_min) & (y > -np.inf)) | ((y > y_max) & (y < np.inf))
        w[_INSIDE + i] = 0.0 if outside else w[_INSIDE + i]
        x = (x - x_low) * x_scale
        y = (y - y_low) * y_scale
        # Outside the grid the nearest cell is read, for NaN the first.
        inner_x = x if x > 0.0 else 0.0
        inner_y = y if y > 0.0 else 0.0
        cell_x = np.int32(inner_x if inner_x < x_cells - 1.0 else x_cells - 1.0)
        cell_y = np.int32(inner_y if inner_y < y_cells - 1.0 else y_cells - 1.0)
        w[_FX + i] = x - cell_x
        w[_FY + i] = y - cell_y
        places[i] = cell_x * row + cell_y * neighbour


@njit(cache=True, nogil=True, fastmath={"contract"})
def _stage_plane(w, block, begin, stride, offset, z_cells, plane, places):
    """Add the plane to each lane's place; return the largest distance from it, in planes."""
    for i in range(BLOCK):
        at = begin[block, i] + offset * stride[block, i]
        at = at if at > 0.0 else 0.0
        cell = np.int32(at if at < z_cells - 1.0 else z_cells - 1.0)
        w[_FZ + i] = at - cell
        places[i] += cell * plane
    farthest = 0.0
    for i in range(BLOCK):
        farthest = max(farthest, w[_FZ + i])
    return farthest


@njit(cache=True, nogil=True, fastmath={"contract"})
def _interpolate_in_plane(nodes, places, row, w, out):
    for i in range(BLOCK):
        u, v = w[_FX + i], w[_FY + i]
        w11 = u * v
        w01, w10 = v - w11, u - w11
        _fill_from_one_plane(
            nodes, np.int64(places[i]), row, 1.0 - u - w01, w01, w10, w11, out, np.int64(NODE * i)
        )


@njit(cache=True, nogil=True, fastmath={"contract"})
def _interpolate_between_planes(nodes, places, row, plane, w, out):
    for i in range(BLOCK):
        u, v = w[_FX + i], w[_FY + i]
        w11 = u * v
        w01, w10 = v - w11, u - w11
        _fill_from_two_planes(
            nodes,
            np.int64(places[i]),
            row,
            plane,
            1.0 - u - w01,
            w01,
            w10,
            w11,
            w[_FZ + i],
            out,
            np.int64(NODE * i),
        )


@njit(cache=True, nogil=True, fastmath={"contract"})
def _stage_change(w, field, stage):
    """Fill dtx/dz and dty/dz of a stage from its slopes and its field."""
    at_x, at_y = w[_CHANGE_X + stage * BLOCK :], w[_CHANGE_Y + stage * BLOCK :]
    for i in range(BLOCK):
        u, v = w[_U + i], w[_V + i]
        bx, by, bz = field[NODE * i], field[NODE * i + 1], field[NODE * i + 2]
        factor = w[_BEND + i] * np.sqrt(1.0 + u * u + v * v)
        at_x[i] = factor * (u * v * bx - (1.0 + u * u) * by + v * bz)
        at_y[i] = factor * ((1.0 + v * v) * bx - u * v * by - u * bz)


@njit(cache=True, nogil=True, fastmath={"contract"})
def _finish_step(w, p, a, max_slope, limits, new):
    """Fill the end of the step, accept it where it is good, and return 1 if it is so in every lane.

    `new` `(5 * BLOCK,)` holds x, y, tx, ty and whether they are good.
    """
    p0, p1, p2, p3 = p[STAGES, 0], p[STAGES, 1], p[STAGES, 2], p[STAGES, 3]
    a0, a1, a2, a3 = a[STAGES, 0], a[STAGES, 1], a[STAGES, 2], a[STAGES, 3]
    x_min, x_max, y_min, y_max = limits[0], limits[1], limits[2], limits[3]
    for i in range(BLOCK):
        h = w[_H + i]
        square = h * h
        x0, x1, x2 = w[_CHANGE_X + i], w[_CHANGE_X + BLOCK + i], w[_CHANGE_X + 2 * BLOCK + i]
        x3 = w[_CHANGE_X + 3 * BLOCK + i]
        y0, y1, y2 = w[_CHANGE_Y + i], w[_CHANGE_Y + BLOCK + i], w[_CHANGE_Y + 2 * BLOCK + i]
        y3 = w[_CHANGE_Y + 3 * BLOCK + i]
        u, v = w[_TX + i], w[_TY + i]
        x = w[_X + i] + h * u + square * (p0 * x0 + p1 * x1 + p2 * x2 + p3 * x3)
        y = w[_Y + i] + h * v + square * (p0 * y0 + p1 * y1 + p2 * y2 + p3 * y3)
        u = u + h * (a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3)
        v = v + h * (a0 * y0 + a1 * y1 + a2 * y2 + a3 * y3)
        good = (x >= x_min) & (x <= x_max) & (y >= y_min) & (y <= y_max)
        good &= (u >= -max_slope) & (u <= max_slope) & (v >= -max_slope) & (v <= max_slope)
        flag = w[_INSIDE + i] if good else 0.0
        new[i] = x
        new[BLOCK + i] = y
        new[2 * BLOCK + i] = u
        new[3 * BLOCK + i] = v
        new[4 * BLOCK + i] = flag
    for i in range(BLOCK):
        good = new[4 * BLOCK + i] == 1.0
        w[_X + i] = new[i] if good else w[_X + i]
        w[_Y + i] = new[BLOCK + i] if good else w[_Y + i]
        w[_TX + i] = new[2 * BLOCK + i] if good else w[_TX + i]
        w[_TY + i] = new[3 * BLOCK + i] if good else w[_TY + i]
    least = 1.0
    for i in range(BLOCK):
        least = min(least, new[4 * BLOCK + i])
    return least


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
        positions: See `kappa`; of a tableau with `STAGES` stages.
        slopes: See `positions`.
        stage_nodes: See `nodes` of `advance_fixed`.
        order: See `kappa`.
        state: See `kappa`.
        first_plane: `(n,)` where a track starts, in planes.
        planes_per_step: `(n,)` signed.
        steps: See `kappa`.
        out: See `kappa`.
        status: See `kappa`.
    """
    blocks = (len(order) + BLOCK - 1) // BLOCK
    row, plane = np.int64(NODE * shape[1]), np.int64(NODE * shape[0] * shape[1])
    # All tracks of the task, the first `KEPT` rows of `w` of each block; they and the planes that they cross
    # together stay in the cache.
    kept = np.zeros((blocks, KEPT * BLOCK))
    kept[:, _X : _X + BLOCK] = 0.5 * (volume[0] + volume[1])
    kept[:, _Y : _Y + BLOCK] = 0.5 * (volume[2] + volume[3])
    w = np.zeros(ROWS * BLOCK)
    begin, stride = np.zeros((blocks, BLOCK)), np.zeros((blocks, BLOCK))
    wanted, longest = np.zeros((blocks, BLOCK), np.int64), np.zeros(blocks, np.int64)
    places, field, new = np.empty(BLOCK, np.int32), np.empty(NODE * BLOCK), np.empty(5 * BLOCK)

    for index in range(len(order)):
        block, lane, track = index // BLOCK, index % BLOCK, order[index]
        status[track] = start_status(
            volume, max_slope, state[track, 0], state[track, 1], state[track, 2], state[track, 3]
        )
        if status[track] == 0:
            tracks = kept[block]
            tracks[_X + lane], tracks[_Y + lane] = state[track, 0], state[track, 1]
            tracks[_TX + lane], tracks[_TY + lane] = state[track, 2], state[track, 3]
            tracks[_BEND + lane] = kappa * state[track, 4]
            begin[block, lane], stride[block, lane] = first_plane[track], planes_per_step[track]
            tracks[_H + lane] = stride[block, lane] * params[5]
            wanted[block, lane] = steps[track]
            longest[block] = max(longest[block], steps[track])

    done = 0
    while done < longest.max():
        for block in range(blocks):
            if done >= longest[block]:
                continue
            tracks = kept[block]
            for lane in range(BLOCK):
                if done == wanted[block, lane]:  # arrived: it rests on the plane where it started
                    tracks[_H + lane], stride[block, lane] = 0.0, 0.0
            for i in range(KEPT * BLOCK):
                w[i] = tracks[i]
            w[_INSIDE : _INSIDE + BLOCK] = 1.0
            for stage in range(STAGES):
                _stage_place(
                    w,
                    stage,
                    stage_nodes,
                    positions,
                    slopes,
                    params[0],
                    1.0 / params[1],
                    shape[0] - 1.0,
                    params[2],
                    1.0 / params[3],
                    shape[1] - 1.0,
                    volume,
                    places,
                )
                offset = done + stage_nodes[stage]
                farthest = _stage_plane(
                    w, block, begin, stride, offset, shape[2] - 1.0, np.int32(plane), places
                )
                if farthest == 0.0:
                    _interpolate_in_plane(nodes, places, row, w, field)
                else:
                    _interpolate_between_planes(nodes, places, row, plane, w, field)
                _stage_change(w, field, stage)
            good = _finish_step(w, positions, slopes, max_slope, volume, new)
            for i in range(4 * BLOCK):
                tracks[i] = w[i]
            if good == 1.0:
                continue
            longest[block] = 0
            for lane in range(BLOCK):
                if new[4 * BLOCK + lane] != 1.0:
                    if done < wanted[block, lane]:  # a lane at rest cannot fail
                        status[order[block * BLOCK + lane]] = failure_status(
                            max_slope,
                            w[_INSIDE + lane],
                            new[lane],
                            new[BLOCK + lane],
                            new[2 * BLOCK + lane],
                            new[3 * BLOCK + lane],
                        )
                    wanted[block, lane], tracks[_BEND + lane], tracks[_H + lane] = 0, 0.0, 0.0
                    stride[block, lane] = 0.0
                    for stage in range(STAGES):
                        w[_CHANGE_X + stage * BLOCK + lane] = 0.0
                        w[_CHANGE_Y + stage * BLOCK + lane] = 0.0
                longest[block] = max(longest[block], wanted[block, lane])
        done += 1

    for index in range(len(order)):
        block, lane, track = index // BLOCK, index % BLOCK, order[index]
        if status[track] == 0:
            tracks = kept[block]
            out[track, 0], out[track, 1] = tracks[_X + lane], tracks[_Y + lane]
            out[track, 2], out[track, 3] = tracks[_TX + lane], tracks[_TY + lane]
            out[track, 4] = state[track, 4]
