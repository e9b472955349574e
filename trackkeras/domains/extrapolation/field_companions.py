"""Small files beside a map, for programs that do not read the map itself: profile, Gaussian, thinned grid."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tfrecords_tools.files import new_file
from trackkeras.domains.extrapolation.field_protocol import FieldProtocol
from trackkeras.domains.extrapolation.field_report import fit_gaussian
from trackkeras.domains.extrapolation.grid import check_new
from trackkeras.domains.extrapolation.grid_nodes import NODES, at_nodes, check_fits, node_axes
from trackkeras.errors import UserError

PROFILE, GAUSSIAN, THINNED = "field_By_vs_z.npy", "gaussian_field_params.json", "field_map_downsampled.npz"


def write_companions(
    field: FieldProtocol,
    folder: Path,
    nodes: Sequence[Sequence[float]] = NODES,
    *,
    overwrite: bool = False,
) -> tuple[Path, Path, Path]:
    """Write what describes a field in brief; the folder is made if it is missing.

    - `field_By_vs_z.npy`: `(n, 2)` float64, z [mm] and By [T] on the axis at the grid's planes;
    - `gaussian_field_params.json`: `B0` [T], `z_center` and `z_width` [mm] of the Gaussian that fits this
      profile, and its `rms` [T];
    - `field_map_downsampled.npz`: every second node in x and y and every plane, 245,426 nodes of the default
      grid: axes `x`, `y`, `z` [mm] and `Bx`, `By`, `Bz` `(nx, ny, nz)` float32 [T].

    Args:
        field: Any field whose volume holds the grid.
        folder: Where to write.
        nodes: First node, last node and step of x, y and z [mm].
        overwrite: Whether to replace files of these names.

    Returns:
        The paths, in this order.

    Raises:
        UserError: A file exists, or the grid exceeds the field's volume.
    """
    x, y, z = node_axes(nodes)
    check_fits(field, (x, y, z))
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder for the companions")
    folder.mkdir(parents=True, exist_ok=True)
    profile, gaussian, thinned = (folder / name for name in (PROFILE, GAUSSIAN, THINNED))
    for path in (profile, gaussian, thinned):
        check_new(path, overwrite)
    centre = np.zeros(1)
    by = at_nodes(field, (centre, centre, z))[0, 0, :, 1]
    found = fit_gaussian(z, by)
    numbers = {
        "B0": found.peak_T,
        "z_center": found.centre_mm,
        "z_width": found.width_mm,
        "rms": found.rms_T,
    }
    axes = (x[::2], y[::2], z)
    b = at_nodes(field, axes).astype(np.float32)
    with new_file(profile) as out:
        np.save(out, np.column_stack([z, by]))
    with new_file(gaussian) as out:
        out.write((json.dumps(numbers, indent=1) + "\n").encode())
    with new_file(thinned) as out:
        np.savez_compressed(out, x=axes[0], y=axes[1], z=axes[2], Bx=b[..., 0], By=b[..., 1], Bz=b[..., 2])
    return profile, gaussian, thinned
