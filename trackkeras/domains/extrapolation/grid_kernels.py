"""Interpolation of a field on a grid of nodes, read by compiled functions: nearest node, trilinear, tricubic.

**Memory.** Nodes are `(nx, ny, nz, 4)` float32: Bx, By, Bz [T] and a flag, so that one load fetches a node
and the two ends of a cell along z lie side by side. The flag is not 0 where the grid is not to be used, see
`trackkeras.domains.extrapolation.grid_mask`. All arithmetic is in double precision.

**Parameters.** Origin and step of x, y and z [mm], interleaved; then 1 if any flag is set. Where the steps
vary, the coordinates of all nodes follow: x, y, z.

**Speed.** Numba does not turn eight loads of four numbers into vector instructions, so `blend` says it in
LLVM's own terms. Where all points of a block lie on one plane of nodes, as they do at the ends of steps from
plane to plane, only that plane is read.

**Cubic.** Along each axis the cubic of Hermite with the slopes of a parabola through three neighbours
(R. Keys, IEEE Trans. ASSP 29, 1153 (1981), for equal steps; one-sided at the ends). It passes through the
nodes, its first derivatives are continuous, and its error falls with the third power of the step. It reads
4 x 4 x 4 nodes and nothing beyond, so that a wrong node spoils its neighbourhood only.

Outside the grid every function reads the nearest cell; NaN stays NaN.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

MASKED = 6
"""Where `params` says whether any node is flagged; without that number none is."""

AXES = 7
"""Numbers in `params` before the coordinates of variable steps."""

_NODE = 4

_ON_PLANE = 1e-12
"""Distance from a plane of nodes, in steps, that counts as rounding."""


def _blend(typing_context, values, base, stride_x, stride_y, weights_x, weights_y, weights_z):
    """Return the weighted sums of Bx, By and Bz over a box of nodes.

    The lengths of the three tuples of weights are the size of the box.

    Args:
        typing_context: Given by the compiler.
        values: Nodes, C-contiguous, 4 numbers each.
        base: Index of the first number of the box's first node.
        stride_x: Numbers from one node to the next in x.
        stride_y: Numbers from one node to the next in y.
        weights_x: Tuple of float64.
        weights_y: Tuple of float64.
        weights_z: Tuple of float64.
    """
    signature = types.UniTuple(types.float64, 3)(
        values, types.int64, types.int64, types.int64, weights_x, weights_y, weights_z
    )

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        number = context.get_data_type(signature.args[0].dtype)
        loaded, wide = ir.VectorType(number, _NODE), ir.VectorType(ir.DoubleType(), _NODE)
        lane = ir.IntType(32)
        contract = ("contract",)

        def splat(scalar):
            vector = builder.insert_element(ir.Constant(wide, ir.Undefined), scalar, lane(0))
            return builder.shuffle_vector(
                vector, vector, ir.Constant(ir.VectorType(lane, _NODE), [0] * _NODE)
            )

        def node(index):
            pointer = builder.bitcast(builder.gep(array.data, [index]), loaded.as_pointer())
            vector = builder.load(pointer, align=signature.args[0].dtype.bitwidth // 8)
            return vector if number == ir.DoubleType() else builder.fpext(vector, wide)

        def total(weights, parts):
            terms = (builder.fmul(w, part, flags=contract) for w, part in zip(weights, parts, strict=True))
            result = next(terms)
            for term in terms:
                result = builder.fadd(result, term, flags=contract)
            return result

        _, base, stride_x, stride_y, *weights = arguments
        index = base.type
        along_x, along_y, along_z = (
            [splat(builder.extract_value(values, k)) for k in range(kind.count)]
            for values, kind in zip(weights, signature.args[4:], strict=True)
        )
        sides = []
        for i in range(len(along_x)):
            rows = []
            for j in range(len(along_y)):
                row = builder.add(base, builder.mul(stride_x, index(i)))
                row = builder.add(row, builder.mul(stride_y, index(j)))
                nodes = [node(builder.add(row, index(_NODE * k))) for k in range(len(along_z))]
                rows.append(total(along_z, nodes))
            sides.append(total(along_y, rows))
        result = total(along_x, sides)
        components = [builder.extract_element(result, lane(k)) for k in range(3)]
        return context.make_tuple(builder, signature.return_type, components)

    return signature, generate


blend: Callable[..., tuple[float, float, float]] = intrinsic(_blend)
"""`_blend` for compiled functions, which give all arguments but the first."""


# -- cells -------------------------------------------------------------------------------------------------
# A cell is the index of its first node, counted in numbers, and the place within it, 0 to 1 along each axis.


@njit(cache=True, nogil=True, fastmath={"contract"})
def _regular_cells(params, values, x, y, z, base, fx, fy, fz):
    """Fill the cells of a grid with equal steps."""
    last_x, last_y, last_z = values.shape[0] - 2.0, values.shape[1] - 2.0, values.shape[2] - 2.0
    stride_y = values.shape[2] * _NODE
    stride_x = values.shape[1] * stride_y
    origin_x, origin_y, origin_z = params[0], params[2], params[4]
    inverse_x, inverse_y, inverse_z = 1.0 / params[1], 1.0 / params[3], 1.0 / params[5]
    for i in range(x.shape[0]):
        u = (x[i] - origin_x) * inverse_x
        v = (y[i] - origin_y) * inverse_y
        w = (z[i] - origin_z) * inverse_z
        # Every comparison with NaN is false, so that NaN reads the first cell.
        a = u if u > 0.0 else 0.0
        b = v if v > 0.0 else 0.0
        c = w if w > 0.0 else 0.0
        j = int(a if a < last_x else last_x)
        k = int(b if b < last_y else last_y)
        m = int(c if c < last_z else last_z)
        fx[i] = u - j
        fy[i] = v - k
        fz[i] = w - m
        base[i] = j * stride_x + k * stride_y + m * _NODE


@njit(cache=True, nogil=True)
def _find_cell(coordinates, first, nodes, position):
    """Return the cell of a position among ascending `coordinates[first : first + nodes]`, by bisection."""
    low, high = 0, nodes - 1
    while high - low > 1:
        middle = (low + high) // 2
        if coordinates[first + middle] <= position:
            low = middle
        else:
            high = middle
    return low


@njit(cache=True, nogil=True, fastmath={"contract"})
def _variable_cells(position, params, first, nodes, stride, base, fraction):
    """Add the index along one axis to `base` and fill `fraction`."""
    for i in range(position.shape[0]):
        k = _find_cell(params, first, nodes, position[i])
        left = params[first + k]
        fraction[i] = (position[i] - left) / (params[first + k + 1] - left)
        base[i] += k * stride


@njit(cache=True, nogil=True)
def _cells(variable, params, values, x, y, z, base, fx, fy, fz):
    """Fill the cells of all points."""
    if variable:
        nx, ny, nz = values.shape[0], values.shape[1], values.shape[2]
        base[:] = 0
        _variable_cells(x, params, AXES, nx, ny * nz * _NODE, base, fx)
        _variable_cells(y, params, AXES + nx, ny, nz * _NODE, base, fy)
        _variable_cells(z, params, AXES + nx + ny, nz, _NODE, base, fz)
    else:
        _regular_cells(params, values, x, y, z, base, fx, fy, fz)


@njit(cache=True, nogil=True)
def _shared_plane(z, place):
    """Return 0 or 1 if all points lie on the first or second plane of one cell along z, else -1."""
    differing = 0
    for i in range(z.shape[0]):
        differing += z[i] != z[0]
    if differing > 0:
        return -1
    if abs(place[0]) < _ON_PLANE:
        return 0
    return 1 if abs(place[0] - 1.0) < _ON_PLANE else -1


# -- interpolation -----------------------------------------------------------------------------------------


@njit(cache=True, nogil=True, fastmath={"contract"})
def linear_block(variable, params, values, x, y, z, bx, by, bz):
    """Fill `bx`, `by`, `bz` by trilinear interpolation."""
    stride_y = values.shape[2] * _NODE
    stride_x = values.shape[1] * stride_y
    base = np.empty(x.shape[0], np.int64)
    # The components hold the place within the cell until they are known.
    _cells(variable, params, values, x, y, z, base, bx, by, bz)
    plane = _shared_plane(z, bz)
    if plane >= 0:
        for i in range(x.shape[0]):
            fx, fy = bx[i], by[i]
            bx[i], by[i], bz[i] = blend(
                values, base[i] + plane * _NODE, stride_x, stride_y, (1.0 - fx, fx), (1.0 - fy, fy), (1.0,)
            )
    else:
        for i in range(x.shape[0]):
            fx, fy, fz = bx[i], by[i], bz[i]
            bx[i], by[i], bz[i] = blend(
                values, base[i], stride_x, stride_y, (1.0 - fx, fx), (1.0 - fy, fy), (1.0 - fz, fz)
            )


@njit(cache=True, nogil=True)
def nearest_block(variable, params, values, x, y, z, bx, by, bz):
    """Fill `bx`, `by`, `bz` with the nearest node of each point; halfway, the one further up."""
    stride_y = values.shape[2] * _NODE
    stride_x = values.shape[1] * stride_y
    base = np.empty(x.shape[0], np.int64)
    _cells(variable, params, values, x, y, z, base, bx, by, bz)
    for i in range(x.shape[0]):
        lost = bx[i] + by[i] + bz[i]
        node = base[i] + (bx[i] >= 0.5) * stride_x + (by[i] >= 0.5) * stride_y + (bz[i] >= 0.5) * _NODE
        bx[i], by[i], bz[i] = blend(values, node, stride_x, stride_y, (1.0,), (1.0,), (1.0,))
        if lost != lost:
            bx[i] = by[i] = bz[i] = np.nan


@njit(cache=True, nogil=True, fastmath={"contract"})
def cubic_weights(place, before, width, after):
    """Return the weights of four nodes for a point between the middle two.

    Args:
        place: 0 at the second node, 1 at the third.
        before: Distance of the first two nodes.
        width: Distance of the middle two.
        after: Distance of the last two.
    """
    t, rest = place, 1.0 - place
    # Cubic of Hermite: its slopes at both ends, times the width, are sums over three nodes each.
    left_slope, right_slope = t * rest * rest * width, -t * t * rest * width
    left, right = rest * rest * (1.0 + 2.0 * t), t * t * (3.0 - 2.0 * t)
    a = left_slope / (before + width)
    b = right_slope / (width + after)
    return (
        -a * width / before,
        left + a * (width / before - before / width) - b * after / width,
        right + a * before / width + b * (after / width - width / after),
        b * width / after,
    )


@njit(cache=True, nogil=True, fastmath={"contract"})
def _ghost(place, width, second, third):
    """Return the weight that a node mirrored beyond the end gives to the three last nodes.

    The node stands one `width` outside the end, and its value is that of the parabola through the three last
    nodes, whose distances are `width` and `second`; `third` is the weight of the node itself.
    """
    far = width + second
    return (
        third * 2.0 * (width + far) / far,
        -third * (width + far) / second,
        third * 2.0 * width * width / (far * second),
    )


@njit(cache=True, nogil=True, fastmath={"contract"})
def cubic_axis(variable, params, axis, first, nodes, position):
    """Return the first of four nodes along one axis, and their weights.

    Args:
        variable: Whether the steps vary.
        params: Of the grid.
        axis: 0, 1 or 2.
        first: Where the coordinates of this axis begin in `params`, if the steps vary.
        nodes: Number of nodes, at least 4.
        position: [mm].
    """
    if variable:
        k = _find_cell(params, first, nodes, position)
        width = params[first + k + 1] - params[first + k]
        place = (position - params[first + k]) / width
        before = params[first + k] - params[first + k - 1] if k > 0 else width
        after = params[first + k + 2] - params[first + k + 1] if k < nodes - 2 else width
    else:
        u = (position - params[2 * axis]) / params[2 * axis + 1]
        limited = u if u > 0.0 else 0.0
        last = nodes - 2.0
        k = int(limited if limited < last else last)
        place = u - k
        before = width = after = 1.0
    w0, w1, w2, w3 = cubic_weights(place, before, width, after)
    if k == 0:
        g0, g1, g2 = _ghost(place, width, after, w0)
        return 0, (w1 + g0, w2 + g1, w3 + g2, 0.0)
    if k == nodes - 2:
        g0, g1, g2 = _ghost(place, width, before, w3)
        return nodes - 4, (0.0, w0 + g2, w1 + g1, w2 + g0)
    return k - 1, (w0, w1, w2, w3)


@njit(cache=True, nogil=True, fastmath={"contract"})
def cubic_block(variable, params, values, x, y, z, bx, by, bz):
    """Fill `bx`, `by`, `bz` by tricubic interpolation; at least 4 nodes along each axis."""
    nx, ny, nz = values.shape[0], values.shape[1], values.shape[2]
    stride_y = nz * _NODE
    stride_x = ny * stride_y
    for i in range(x.shape[0]):
        ix, weights_x = cubic_axis(variable, params, 0, AXES, nx, x[i])
        iy, weights_y = cubic_axis(variable, params, 1, AXES + nx, ny, y[i])
        iz, weights_z = cubic_axis(variable, params, 2, AXES + nx + ny, nz, z[i])
        base = ix * stride_x + iy * stride_y + iz * _NODE
        bx[i], by[i], bz[i] = blend(values, base, stride_x, stride_y, weights_x, weights_y, weights_z)


@njit(cache=True, nogil=True)
def clear_masked(variable, nearest, params, values, x, y, z, flag):
    """Set `flag` to 0 where a point lies in a flagged cell or, if `nearest`, next to a flagged node."""
    n = x.shape[0]
    stride_y = values.shape[2] * _NODE
    stride_x = values.shape[1] * stride_y
    base, fx, fy, fz = np.empty(n, np.int64), np.empty(n), np.empty(n), np.empty(n)
    _cells(variable, params, values, x, y, z, base, fx, fy, fz)
    numbers = values.reshape(values.size)
    for i in range(n):
        node = base[i] + _NODE - 1
        if nearest:
            node += (fx[i] >= 0.5) * stride_x + (fy[i] >= 0.5) * stride_y + (fz[i] >= 0.5) * _NODE
        if numbers[node] != 0.0:
            flag[i] = 0.0
