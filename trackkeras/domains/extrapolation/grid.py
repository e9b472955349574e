"""Field maps as text: any complete grid of `x y z Bx By Bz`, read with checks and written atomically."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tfrecords_tools.files import new_file
from trackkeras.domains.extrapolation.field_protocol import FieldProtocol
from trackkeras.domains.extrapolation.grid_nodes import (
    COLUMNS,
    NODES,
    Grid,
    Report,
    at_nodes,
    check_fits,
    check_units,
    grid_from_table,
    node_axes,
)
from trackkeras.errors import UserError

CHUNK_LINES = 50_000
"""Lines read between two reports."""


def read_grid(
    path: Path, length: str | None = None, field: str | None = None, report: Report | None = None
) -> Grid:
    """Read a text file of `x y z Bx By Bz`, one node per line, in any order; `#` starts a comment.

    Args:
        path: The file.
        length: Unit of x, y, z: a key of `LENGTH_UNITS`; None takes it from a first line such as
            `# x y z Bx By Bz [mm, T]`.
        field: Unit of Bx, By, Bz: a key of `FIELD_UNITS`, or None as above.
        report: Called with the bytes read and the bytes in all.

    Raises:
        UserError: An unknown unit or none at all, no such file, a line that is not six finite numbers, or
            nodes that do not form one complete grid; the message names the line or the node.
    """
    path = Path(path)
    if length is None or field is None:
        length, field = _units_in_header(path, length, field)
    check_units(length, field)
    return grid_from_table(path, _read_table(path, report), length, field)


def _units_in_header(path: Path, length: str | None, field: str | None) -> tuple[str, str]:
    try:
        with path.open(errors="replace") as lines:
            first = lines.readline(1000)
    except OSError as error:
        raise UserError(f"cannot read field file {path}: {error.strerror}") from None
    found = re.match(r"#.*\[\s*(\w+)\s*,\s*(\w+)\s*\]", first)
    if not found:
        raise UserError(
            f"field file {path}: name the units with length=mm and field=T; "
            "the first line does not say them as in '# x y z Bx By Bz [mm, T]'"
        )
    return length or found[1], field or found[2]


def _read_table(path: Path, report: Report | None) -> NDArray[np.float64]:
    parts: list[NDArray[np.float64]] = []
    try:
        with path.open() as lines, warnings.catch_warnings():
            # Comments, empty lines and the end of the file are no surprise.
            warnings.filterwarnings("ignore", "(loadtxt: input|Input line .*) contained no data")
            size = path.stat().st_size
            while not parts or len(parts[-1]) == CHUNK_LINES:
                part = np.loadtxt(lines, dtype=np.float64, ndmin=2, max_rows=CHUNK_LINES)
                if part.size and (part.shape[1] != len(COLUMNS) or not np.isfinite(part).all()):
                    _raise_bad_line(path)
                parts.append(part.reshape(-1, len(COLUMNS)))
                if report:
                    report(min(lines.buffer.raw.tell(), size), size)  # type: ignore[attr-defined]
    except OSError as error:
        raise UserError(f"cannot read field file {path}: {error.strerror}") from None
    except ValueError:
        _raise_bad_line(path)
        raise
    table = np.concatenate(parts)
    if not len(table):
        raise UserError(f"field file {path} holds no nodes")
    return table


def _raise_bad_line(path: Path) -> None:
    """Name the first line that is not six finite numbers, which the fast reader does not tell."""
    with path.open(errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            if len(words) != len(COLUMNS):
                raise UserError(
                    f"{path}, line {number}: needs {len(COLUMNS)} columns ({' '.join(COLUMNS)}), "
                    f"received {len(words)}"
                )
            for column, word in zip(COLUMNS, words, strict=True):
                try:
                    finite = np.isfinite(float(word))
                except ValueError:
                    finite = False
                if not finite:
                    raise UserError(
                        f"{path}, line {number}: {column} must be a finite number, received {word[:40]!r}"
                    )


def write_grid(
    field: FieldProtocol,
    path: Path,
    nodes: Sequence[Sequence[float]] = NODES,
    *,
    overwrite: bool = False,
    report: Report | None = None,
) -> int:
    """Write a field as text in mm and tesla, readable by `read_grid`; the file appears when it is complete.

    Nodes where the field is not to be used, such as those beside a dipole, hold what its formula gives.

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
    x, y, z = node_axes(nodes)
    check_fits(field, (x, y, z))
    total = len(x) * len(y) * len(z)
    line = "%.10g %.10g %.10g %.9e %.9e %.9e\n" * (len(y) * len(z))
    plane_y, plane_z = (axis.ravel() for axis in np.meshgrid(y, z, indexing="ij"))
    with new_file(path) as out:
        out.write(f"# {' '.join(COLUMNS)} [mm, T] {field.name}\n".encode())
        for number, position in enumerate(x, start=1):
            b = at_nodes(field, (np.array([position]), y, z)).reshape(-1, 3)
            table = np.column_stack([np.full_like(plane_y, position), plane_y, plane_z, b])
            out.write((line % tuple(table.ravel().tolist())).encode())
            if report:
                report(total * number // len(x), total)
    return total


def check_new(path: Path, overwrite: bool) -> None:
    """Refuse to write over a file or into a folder that is not there.

    Raises:
        UserError: The file exists and may not be replaced, or its folder does not exist.
    """
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists; choose another name or ask for it to be overwritten")
    if not path.parent.is_dir():
        raise UserError(f"no such folder: {path.parent}")
