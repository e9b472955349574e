"""Nodes of a map that are not to be trusted: too far out, or too strong to be true.

A map may hold values that no magnet has, at its edges or next to a singular point of the formula that filled
it. `Mask` says which nodes are suspicious; points whose field would be read from one are then outside the
field: `Field.inside` is False there, and a track that enters has left the known field.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from trackkeras.domains.extrapolation.grid_nodes import Grid
from trackkeras.errors import UserError


@dataclass(frozen=True)
class Mask:
    """Limits of trust.

    Attributes:
        edge: Largest |x| and |y| [mm].
        strength: Largest |B| of a node [T].
    """

    edge: float = 3500.0
    strength: float = 2.0

    @property
    def text(self) -> str:
        """The limits in words."""
        return f"|x|, |y| <= {self.edge:g} mm and nodes with |B| <= {self.strength:g} T"


DEFAULT_MASK = Mask()


def suspicious(grid: Grid, mask: Mask) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the nodes beyond the edge and the nodes that are too strong, `(nx, ny, nz)` each."""
    far_x, far_y = (np.abs(axis) > mask.edge for axis in grid.axes[:2])
    beyond = np.broadcast_to((far_x[:, None] | far_y)[..., None], grid.nodes.shape[:3])
    return beyond, np.linalg.norm(grid.nodes, axis=-1) > mask.strength


def flags(grid: Grid, mask: Mask, interpolation: str) -> NDArray[np.bool_]:
    """Return which cells (`linear`, `cubic`) or nodes (`nearest`) read a node that is too strong.

    Args:
        grid: The grid.
        mask: The limits.
        interpolation: `linear`, `cubic` or `nearest`.

    Returns:
        `(nx, ny, nz)`; a cell is counted by its first node.
    """
    _, strong = suspicious(grid, mask)
    if interpolation == "nearest":
        return strong
    # The cell from node i to i + 1 reads 2 nodes, or for the cubic the 4 nodes from i - 1 to i + 2.
    size = {"linear": 2, "cubic": 4}[interpolation]
    return np.asarray(maximum_filter(strong, size=size, origin=-1, mode="constant", cval=0))


def trusted_volume(grid: Grid, mask: Mask) -> NDArray[np.float64]:
    """Return the hull of the nodes within the edge [mm], `(6,)`.

    Raises:
        UserError: The limits leave nothing of the grid.
    """
    volume = grid.volume
    volume[[0, 2]] = np.maximum(volume[[0, 2]], -mask.edge)
    volume[[1, 3]] = np.minimum(volume[[1, 3]], mask.edge)
    if not (volume[0] < volume[1] and volume[2] < volume[3]) or suspicious(grid, mask)[1].all():
        raise UserError(f"a mask that asks for {mask.text} leaves nothing of the grid")
    return volume


def mask_report(grid: Grid, mask: Mask) -> dict[str, Any]:
    """Return how many nodes the limits reject and where.

    Returns:
        JSON-like: `limits` in words, `nodes`, `By_too_strong_fraction` for |By| alone, and for `beyond_edge`,
        `too_strong` and `either` the `nodes`, their `fraction`, their `extent_mm` (xmin, xmax, ymin, ymax,
        zmin, zmax; None if there are none) and the `largest_T` |B| among them.
    """
    beyond, strong = suspicious(grid, mask)
    strength = np.linalg.norm(grid.nodes, axis=-1)
    report: dict[str, Any] = {
        "limits": mask.text,
        "nodes": int(beyond.size),
        "By_too_strong_fraction": float(np.mean(np.abs(grid.nodes[..., 1]) > mask.strength)),
    }
    for name, found in (("beyond_edge", beyond), ("too_strong", strong), ("either", beyond | strong)):
        where = np.nonzero(found)
        extent = [
            float(axis[pick(index)])
            for axis, index in zip(grid.axes, where, strict=True)
            for pick in (np.min, np.max)
            if index.size
        ]
        report[name] = {
            "nodes": int(found.sum()),
            "fraction": float(found.mean()),
            "extent_mm": extent or None,
            "largest_T": float(strength[found].max()) if extent else None,
        }
    return report
