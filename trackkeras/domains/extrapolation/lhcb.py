"""The default field: a closed form of the LHCb dipole, its parameters and what they were fitted to.

Source of the profile: |B| on the axis of the LHCb field map v8r1 at 65 points. The map's integral over the
whole axis is -4.238 T m with the polarity in which By < 0. `TERMS` are what `scripts/fit_lhcb_field.py` finds
from the profile, the integral and 1,200 tracks through the same map between z = 2665 and 7826 mm.

What to expect of it: between the ends of the profile it follows the map near the axis and bends tracks as
the map does; the script prints how well. Upstream and downstream of the profile it is an **extrapolation**
that decays smoothly and carries the rest of the map's integral. It has two planes of symmetry and none of the
local structure of yoke and coils.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Region:
    """Points with |x| <= slope_x z + x and |y| <= slope_y z + y.

    Attributes:
        slope_x: Growth of the half-width with z.
        slope_y: Growth of the half-height with z.
        x: Half-width at z = 0 [mm].
        y: Half-height at z = 0 [mm].
        limit: Largest |B| that the fit allows [T].
        z_min: First plane [mm].
        z_max: Last plane [mm].
    """

    slope_x: float
    slope_y: float
    x: float
    y: float
    limit: float
    z_min: float = 0.0
    z_max: float = 13000.0

    @property
    def text(self) -> str:
        """The region in words."""
        return (
            f"|x| <= {self.slope_x:g} z + {self.x:g} mm, |y| <= {self.slope_y:g} z + {self.y:g} mm, "
            f"{self.z_min:g} <= z <= {self.z_max:g} mm"
        )

    def surface(self, planes: int = 53, points: int = 17) -> tuple[Array, Array, Array]:
        """Return x, y, z [mm] on one quadrant of the surface, `(planes * points,)` each.

        |B|² of a field without divergence and curl has no maximum inside a region, so its limit need only be
        checked here; for a field with two planes of symmetry one quadrant is enough.

        Args:
            planes: Number of planes in z.
            points: Number of points per plane, along both edges.
        """
        grid = np.meshgrid(np.linspace(self.z_min, self.z_max, planes), np.linspace(0.0, 2.0, points))
        z, along = (axis.ravel() for axis in grid)
        x = (self.slope_x * z + self.x) * np.minimum(along, 1.0)
        y = (self.slope_y * z + self.y) * np.minimum(2.0 - along, 1.0)
        return x, y, z


ACCEPTANCE = Region(0.3, 0.25, 300.0, 300.0, limit=2.0)
"""Where tracks from the collision point go."""

START_REGION = Region(0.0, 0.0, 3000.0, 2500.0, limit=7.0)
"""Where simulated tracks may start. The map itself reaches 5 to 6 T close to the coils."""

PROFILE_Z = np.linspace(2648.2, 7826.0, 65)
"""Positions of `PROFILE_ABS_B` [mm]."""

# fmt: off
PROFILE_ABS_B = np.array([
    0.207093, 0.237115, 0.269939, 0.305838, 0.344676, 0.385855, 0.429165, 0.474355, 0.521199, 0.569249,
    0.617655, 0.665907, 0.713478, 0.759827, 0.803584, 0.844663, 0.882669, 0.917261, 0.948157, 0.974193,
    0.995932, 1.013729, 1.027702, 1.038017, 1.044387, 1.047304, 1.047533, 1.045338, 1.040973, 1.034532,
    1.026125, 1.016317, 1.005240, 0.993005, 0.979689, 0.965129, 0.949669, 0.933337, 0.916146, 0.898099,
    0.878924, 0.858651, 0.836565, 0.813610, 0.791150, 0.767777, 0.743907, 0.719283, 0.694103, 0.668555,
    0.642304, 0.615976, 0.589359, 0.562859, 0.536719, 0.510762, 0.484908, 0.459584, 0.434702, 0.410554,
    0.387685, 0.363094, 0.341538, 0.322360, 0.303570,
])
# fmt: on
"""|B| on the axis [T], LHCb field map v8r1."""

PROFILE_INTEGRAL = -4.238
"""Integral of By over the axis of the whole map [T m]."""

TERMS = (
    (1.086842, 2702.99, 1261.95, -0.229909),
    (-0.647158, 2792.79, 1389.33, -0.595485),
    (-1.057577, 4316.43, 1722.44, -0.032868),
    (0.776923, 6714.71, 1764.77, 0.799999),
    (-0.907791, 6737.66, 1661.41, 0.56218),
    (-0.087934, 7173.64, 2393.44, -0.997244),
)
"""Peak [T], centre [mm], width [mm], sin2 of each term of `maxwell`."""

DESCRIPTION = (
    "closed form fitted to the LHCb map v8r1: profile on the axis, integral, and 1,200 tracks; an "
    f"extrapolation outside z = {PROFILE_Z[0]:g} to {PROFILE_Z[-1]:g} mm"
)
