"""What propagation, sampling and the networks ask of a field."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray


class FieldProtocol(Protocol):
    """Data for the kernels, and where the field is known."""

    @property
    def name(self) -> str:
        """Name that `make_field` knows."""

    @property
    def kind(self) -> int:
        """One of the kinds in `kernels`."""

    @property
    def params(self) -> NDArray[np.float64]:
        """Numbers for the kernel, `(m,)`."""

    @property
    def values(self) -> NDArray[np.float32]:
        """Nodes of a grid and their flags, `(nx, ny, nz, 4)`; `(1, 1, 1, 4)` zeros for every other kind."""

    @property
    def description(self) -> str:
        """Origin and validity in words."""

    @property
    def options(self) -> dict[str, Any]:
        """JSON-like; `make_field(**options)` makes the same field again."""

    @property
    def volume(self) -> NDArray[np.float64]:
        """Where the field is valid [mm], `(6,)`: xmin, xmax, ymin, ymax, zmin, zmax."""

    @property
    def restriction(self) -> str:
        """What is left out of the volume, in words; empty if nothing is."""

    def field(self, x: ArrayLike, y: ArrayLike, z: ArrayLike) -> NDArray[np.float64]:
        """Return Bx, By, Bz [T], `(n, 3)`; refuse points outside the known region."""

    def inside(self, x: ArrayLike, y: ArrayLike, z: ArrayLike) -> NDArray[np.bool_]:
        """Return whether each point lies in the known region, `(n,)`."""
