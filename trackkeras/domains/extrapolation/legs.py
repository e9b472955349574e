"""The legs along which LHCb extrapolates tracks: pairs of measuring planes, as data.

A leg runs from smaller to larger z; the option `direction` of a generated sample turns it round, as a Kalman
filter's backward pass does. Planes are those of the upgraded detector: UT at 2317.5 to 2652.5 mm, the SciFi
tracker T at 7826 to 9403 mm; the vertex locator ends near 770 mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product

VELO_END = 770.0
"""Last plane of the vertex locator [mm]."""

UT = (2317.5, 2372.5, 2597.5, 2652.5)
"""Planes of the upstream tracker [mm]."""

T = (7826.0, 7896.0, 7966.0, 8036.0, 8508.0, 8578.0, 8648.0, 8718.0, 9193.0, 9263.0, 9333.0, 9403.0)
"""Planes of the SciFi tracker behind the magnet [mm]."""


@dataclass(frozen=True)
class Leg:
    """Pairs of planes between which tracks are extrapolated; each pair is equally likely.

    Attributes:
        doc: What it is used for.
        pairs: First and last plane [mm], ascending.
        reach: How far before the first plane the leg may begin [mm]; the place is drawn uniformly.
    """

    doc: str
    pairs: tuple[tuple[float, float], ...]
    reach: float = 0.0

    @property
    def z_min(self) -> float:
        """Smallest z that the leg touches [mm]."""
        return min(first for first, _ in self.pairs) - self.reach

    @property
    def z_max(self) -> float:
        """Largest z that the leg touches [mm]."""
        return max(last for _, last in self.pairs)


LEGS = {
    "velo_ut": Leg("vertex locator to UT", tuple((VELO_END, plane) for plane in UT), reach=VELO_END),
    "ut_t": Leg("last station of UT to the first of T", tuple(product(UT[2:], T[:4]))),
    "ut_steps": Leg("between neighbouring planes of UT", tuple(pairwise(UT))),
    "t_steps": Leg("between neighbouring planes of T", tuple(pairwise(T))),
    "velo_t": Leg("vertex locator through the magnet to the end of T", ((VELO_END, T[-1]),)),
}
