"""The Runge-Kutta methods of `serving/cpp` on a trilinear map of the field `lhcb`, 81 x 81 x 146 nodes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving import native
from trackkeras.domain import Rows
from trackkeras.domains.extrapolation.fields import make_field
from trackkeras.domains.extrapolation.grid import NODES


@dataclass(frozen=True)
class Method:
    """A method of the C++ program: its name there, its step or tolerance [mm], and a label."""

    name: str
    value: float
    label: str


METHODS = (
    Method("rk4", 100.0, "C++ RK4, steps of 100 mm"),
    Method("rk4", 25.0, "C++ RK4, steps of 25 mm"),
    Method("adaptive", 1e-3, "C++ Cash-Karp, tolerance 1e-3 mm"),
)


class CppBaseline:
    """The built program with its map.

    Args:
        folder: Where both are put.

    Raises:
        ServingError: There is no compiler.
    """

    def __init__(self, folder: Path) -> None:
        axes = [np.arange(first, last + step / 2, step) for first, last, step in NODES]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        self._map = folder / "map.f64"
        np.concatenate([points, make_field("lhcb").field(*points.T)], axis=1).tofile(self._map)
        self._program = native.Program(native.build("propagate", folder))

    def run(self, method: Method, folder: Path, repeats: int = 1) -> dict[str, Any]:
        """Propagate the tracks in a folder, on one thread.

        Args:
            method: Which method.
            folder: Holds `state.f32`, `z0.f32` and `dz.f32`.
            repeats: How often; every time counts.

        Returns:
            `tracks`, `lost` (those that leave the map), `us_per_track`, `p50_us` and `p95_us` (median and
            95th percentile over groups of 64 tracks), and `memory_mb` of the map.
        """
        (said,) = self._program.run(self._map, method.name, str(method.value), folder, str(repeats))
        return dict(said)

    def propagate(self, method: Method, folder: Path) -> tuple[Rows, dict[str, Any]]:
        """Return also the final states, `final_state` `(n, 5)` float64; NaN for a track that left the map."""
        said = self.run(method, folder)
        return {"final_state": np.fromfile(folder / "final_state.f64").reshape(-1, 5)}, said
