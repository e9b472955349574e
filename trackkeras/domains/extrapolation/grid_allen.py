"""Field maps in the binary layout that LHCb's Allen reads (`magfield.bin`), lossless in both directions.

Little-endian, in this order: the inverse steps of x, y and z [1/mm] and a pad, 4 float32; the numbers of
nodes along x, y and z and a pad, 4 int32; the first node [mm] and a pad, 4 float32; then Bx, By, Bz and a pad
as float32 for every node, x fastest, z slowest. Nothing is asked of the pads. The layout carries no unit of
the field: maps are in tesla or in the units of Gaudi, see `FIELD_UNITS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tfrecords_tools.files import new_file
from trackkeras.domains.extrapolation.field_protocol import FieldProtocol
from trackkeras.domains.extrapolation.grid import check_new
from trackkeras.domains.extrapolation.grid_nodes import (
    FIELD_UNITS,
    NODES,
    Grid,
    Report,
    at_nodes,
    check_fits,
    check_units,
    node_axes,
)
from trackkeras.errors import UserError

HEADER = np.dtype([("inverse_step", "<f4", 4), ("nodes", "<i4", 4), ("first", "<f4", 4)])

STEP_DIGITS = 6
"""Significant digits of a step: its inverse is stored in single precision."""


def read_allen(path: Path, field: str = "T") -> Grid:
    """Read a map in Allen's layout.

    Args:
        path: The file.
        field: Unit of the field: a key of `FIELD_UNITS`.

    Raises:
        UserError: An unknown unit, no such file, a header that makes no sense, a size that does not fit it,
            or a node that is not finite.
    """
    path = Path(path)
    check_units("mm", field)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read field file {path}: {error.strerror}") from None
    if len(content) < HEADER.itemsize:
        raise UserError(f"{path} is no map in Allen's layout: {len(content)} bytes, less than its header")
    header = np.frombuffer(content, HEADER, 1)[0]
    inverse, counts, first = (header[name][:3] for name in ("inverse_step", "nodes", "first"))
    if not (np.isfinite([*inverse, *first]).all() and (inverse > 0).all() and (counts >= 2).all()):
        raise UserError(
            f"{path} is no map in Allen's layout: its header says steps of 1 / {inverse.tolist()} mm, "
            f"{counts.tolist()} nodes from {first.tolist()} mm"
        )
    shape = [int(count) for count in counts]
    expected = HEADER.itemsize + 16 * shape[0] * shape[1] * shape[2]
    if len(content) != expected:
        raise UserError(
            f"{path}: {' x '.join(map(str, shape))} nodes take {expected} bytes, received {len(content)}; "
            "the file is cut off or no map in Allen's layout"
        )
    nodes = np.frombuffer(content, "<f4", offset=HEADER.itemsize).reshape(*shape[::-1], 4)[..., :3]
    bad = np.argwhere(~np.isfinite(nodes))
    if len(bad):
        z, y, x, component = bad[0].tolist()
        raise UserError(f"{path}: B{'xyz'[component]} of node {(x, y, z)} is not finite ({len(bad)} such)")
    steps = [float(f"{1.0 / float(number):.{STEP_DIGITS}g}") for number in inverse]
    x_axis, y_axis, z_axis = (
        float(start) + step * np.arange(count, dtype=np.float64)
        for start, step, count in zip(first, steps, shape, strict=True)
    )
    scaled = nodes.transpose(2, 1, 0, 3) * np.float32(FIELD_UNITS[field])
    return Grid((x_axis, y_axis, z_axis), np.ascontiguousarray(scaled, np.float32))


def write_allen(
    field: FieldProtocol,
    path: Path,
    nodes: Sequence[Sequence[float]] = NODES,
    *,
    overwrite: bool = False,
    report: Report | None = None,
) -> int:
    """Write a field in Allen's layout, in tesla; the file appears when it is complete.

    Args:
        field: Any field whose volume holds the grid.
        path: The file to write.
        nodes: First node, last node and step of x, y and z [mm].
        overwrite: Whether to replace a file of this name.
        report: Called with the nodes written and the nodes in all.

    Returns:
        The number of nodes.

    Raises:
        UserError: The file exists, the steps do not fit the range, or the grid exceeds the field's volume.
    """
    path = Path(path)
    check_new(path, overwrite)
    axes = node_axes(nodes)
    check_fits(field, axes)
    header = np.zeros((), HEADER)
    header["inverse_step"][:3] = [(len(axis) - 1) / (axis[-1] - axis[0]) for axis in axes]
    header["nodes"][:3] = [len(axis) for axis in axes]
    header["first"][:3] = [axis[0] for axis in axes]
    x, y, z = axes
    total = len(x) * len(y) * len(z)
    with new_file(path) as out:
        out.write(header.tobytes())
        for number, position in enumerate(z, start=1):
            plane = np.zeros((len(y), len(x), 4), "<f4")
            plane[..., :3] = at_nodes(field, (x, y, np.array([position])))[:, :, 0].transpose(1, 0, 2)
            out.write(plane.tobytes())
            if report:
                report(total * number // len(z), total)
    return total
