"""The planes of a SpinQuest-like spectrometer: where they stand, how their elements lie, how far they reach.

Pitches, overlaps and outer sizes follow the public geometry table of `utsav-sth/e1039-GPU`
(`OnlineReconstruction/basic_geometry_MC2022.txt`); the spectrometer is described in C. A. Aidala et al.,
Nucl. Instrum. Meth. A 930 (2019) 49, arXiv:1706.09990. Elements, z, angle, origin, the inner edge of half
planes and the shifts of tube modules were fitted to simulated single muons of the experiment by
`scripts/fit_spinquest_geometry.py`, which prints `PLANES`. Lengths are in cm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trackkeras.domains.dimuon.detectors import DETECTORS, Detector

Floats = NDArray[np.float64]

OVERLAP = 0.3175
"""Width [cm] that neighbouring bars of a hodoscope share; a muon there fires both."""

MODULE_TUBES = 8
"""Tubes per module; the modules of a plane are shifted against each other."""


def _pitches() -> dict[int, float]:
    found: dict[int, float] = {}
    for numbers, pitch in (
        (range(1, 7), 0.635),
        ((13, 14, 17, 18), 2.021),
        ((15, 16), 2.083),
        (range(19, 31), 2.0),
        (range(31, 35), 7.0025),
        (range(35, 39), 12.6825),
        (range(39, 41), 14.27),
        (range(41, 45), 23.16),
        (range(45, 47), 19.33),
        (range(47, 55), 5.08),
        (range(59, 63), 1.905),
    ):
        found |= dict.fromkeys(numbers, pitch)
    return found


PITCH = _pitches()
"""Distance [cm] of neighbouring elements, by number of the detector."""


@dataclass(frozen=True)
class Plane:
    """One plane of parallel elements.

    An element measures `w = x cos(angle) + y sin(angle)`; the centre of element e is at `origin + e pitch`.

    Attributes:
        number: Of the detector, 1 to 62.
        z: Position [cm].
        angle: Direction in which elements count up, from x towards y [degree].
        pitch: Distance of neighbouring elements [cm].
        origin: w of a would-be element 0 [cm].
        x_min: Sensitive area [cm], like the next three.
        x_max: See `x_min`.
        y_min: See `x_min`.
        y_max: See `x_min`.
        shifts: Added to the drift distance, by module of `MODULE_TUBES` tubes [cm]: the simulated events
            have tubes whose modules are not where the elements say.
    """

    number: int
    z: float
    angle: float
    pitch: float
    origin: float
    x_min: float
    x_max: float
    y_min: float
    y_max: float
    shifts: tuple[float, ...] = ()

    @property
    def detector(self) -> Detector:
        """Name, kind and number of elements."""
        return DETECTORS[self.number - 1]

    def place(self, x: ArrayLike, y: ArrayLike) -> Floats:
        """Return where a track crosses, in elements: 7.2 is 0.2 pitches behind the centre of 7."""
        angle = np.radians(self.angle)
        across = np.cos(angle) * np.asarray(x) + np.sin(angle) * np.asarray(y)
        return np.asarray((across - self.origin) / self.pitch)

    def shift(self, place: Floats) -> Floats:
        """Return what the module at a place adds to the drift distance [cm]."""
        if not self.shifts:
            return np.zeros_like(place)
        return np.take(self.shifts, (place // MODULE_TUBES).astype(int), mode="clip")


def nominal_extent(detector: Detector) -> tuple[float, float, float, float]:
    """Return the sensitive area of a detector by its drawing: x_min, x_max, y_min, y_max [cm]."""
    name, half = detector.name, detector.half
    across, up = {
        "D0": (51.0, 61.0),
        "D2": (117.0, 132.1),
        "D3": (160.0, 162.0),
        "H1": (81.0, 70.0),
        "H2": (132.0, 152.0) if detector.view == "X" else (132.0, 121.0),
        "H3": (117.0, 167.6),
        "H4": (155.0, 186.0),
        "P1": (184.2, 184.2),
        "P2": (184.2, 184.2),
        "DP": (100.0, 110.0),
    }[name[:2]]
    centre = 0.85 if name.startswith("DP") else 0.0
    return (
        centre if half == "L" else -across,
        centre if half == "R" else across,
        0.0 if half == "T" else -up,
        0.0 if half == "B" else up,
    )


PLANES: tuple[Plane, ...] = (
    Plane(1, 646.86, 13.726, 0.635, -62.393, -51.0, 51.0, -61.0, 61.0),
    Plane(2, 647.5, 13.726, 0.635, -62.667, -51.0, 51.0, -61.0, 61.0),
    Plane(3, 625.94, -0.033, 0.635, -50.273, -51.0, 51.0, -61.0, 61.0),
    Plane(4, 625.3, -0.033, 0.635, -50.669, -51.0, 51.0, -61.0, 61.0),
    Plane(5, 602.14, -13.626, 0.635, -64.443, -51.0, 51.0, -61.0, 61.0),
    Plane(6, 602.77, -13.626, 0.635, -64.786, -51.0, 51.0, -61.0, 61.0),
    Plane(13, 1316.18, -14.066, 2.021, -133.135, -117.0, 117.0, -132.1, 132.1),
    Plane(14, 1323.14, -14.066, 2.021, -132.14, -117.0, 117.0, -132.1, 132.1),
    Plane(15, 1341.32, 0.206, 2.083, -118.883, -117.0, 117.0, -132.1, 132.1),
    Plane(16, 1348.28, 0.206, 2.083, -117.819, -117.0, 117.0, -132.1, 132.1),
    Plane(17, 1366.16, 14.324, 2.021, -131.614, -117.0, 117.0, -132.1, 132.1),
    Plane(18, 1373.13, 14.324, 2.021, -130.601, -117.0, 117.0, -132.1, 132.1),
    Plane(19, 1925.25, 14.033, 2.0, -116.634, -160.0, 160.0, -4.16, 162.0),
    Plane(20, 1927.25, 14.033, 2.0, -117.637, -160.0, 160.0, -4.16, 162.0),
    Plane(21, 1929.13, -0.003, 2.0, -117.467, -160.0, 160.0, -4.16, 162.0),
    Plane(22, 1931.13, -0.003, 2.0, -118.465, -160.0, 160.0, -4.16, 162.0),
    Plane(23, 1933.38, -14.028, 2.0, -154.224, -160.0, 160.0, -4.17, 162.0),
    Plane(24, 1935.38, -14.028, 2.0, -155.221, -160.0, 160.0, -4.17, 162.0),
    Plane(25, 1888.36, 13.969, 2.0, -157.327, -160.0, 160.0, -162.0, 3.59),
    Plane(26, 1890.36, 13.969, 2.0, -156.325, -160.0, 160.0, -162.0, 3.59),
    Plane(27, 1892.07, -0.063, 2.0, -119.927, -160.0, 160.0, -162.0, 3.64),
    Plane(28, 1894.07, -0.063, 2.0, -118.926, -160.0, 160.0, -162.0, 3.64),
    Plane(29, 1896.27, -14.084, 2.0, -118.406, -160.0, 160.0, -162.0, 3.55),
    Plane(30, 1898.27, -14.084, 2.0, -117.404, -160.0, 160.0, -162.0, 3.55),
    Plane(31, 675.56, 0.0, 7.0025, -83.46, -81.0, 81.0, -70.0, -2.1),
    Plane(32, 676.49, 0.0, 7.0025, -83.404, -81.0, 81.0, 2.09, 70.0),
    Plane(33, 663.17, 90.0, 7.0025, -72.745, 1.39, 81.0, -70.0, 70.0),
    Plane(34, 663.63, 90.0, 7.0025, -72.992, -81.0, 1.4, -70.0, 70.0),
    Plane(35, 1406.51, 90.0, 12.6825, -126.561, -1.54, 132.0, -121.0, 121.0),
    Plane(36, 1405.88, 90.0, 12.6825, -126.601, -132.0, -1.55, -121.0, 121.0),
    Plane(37, 1422.39, 0.0, 12.6825, -109.041, -132.0, 132.0, -152.0, 0.01),
    Plane(38, 1422.81, 0.0, 12.6825, -108.97, -132.0, 132.0, 0.01, 152.0),
    Plane(39, 1957.71, 0.0, 14.27, -122.633, -117.0, 117.0, -167.6, 0.21),
    Plane(40, 1957.48, 0.0, 14.27, -122.728, -117.0, 117.0, 0.21, 167.6),
    Plane(41, 2144.88, 90.0, 23.16, -198.476, -9.97, 155.0, -186.0, 186.0),
    Plane(42, 2133.71, 90.0, 23.16, -197.019, -155.0, 10.16, -186.0, 186.0),
    Plane(43, 2216.01, 90.0, 23.16, -198.299, -10.08, 155.0, -186.0, 186.0),
    Plane(44, 2201.21, 90.0, 23.16, -198.461, -155.0, 10.18, -186.0, 186.0),
    Plane(45, 2241.85, 0.0, 19.33, -165.418, -155.0, 155.0, -186.0, -0.14),
    Plane(46, 2245.28, 0.0, 19.33, -166.015, -155.0, 155.0, -0.14, 186.0),
    Plane(
        47,
        2090.5,
        90.0,
        5.08,
        -185.197,
        -184.2,
        184.2,
        -184.2,
        184.2,
        (-1.7, -1.84, -1.52, -1.32, -1.22, -1.12, -1.01, -0.78, -0.56),
    ),
    Plane(
        48,
        2094.92,
        90.0,
        5.08,
        -187.727,
        -184.2,
        184.2,
        -184.2,
        184.2,
        (-1.69, -1.84, -1.52, -1.32, -1.22, -1.12, -1.01, -0.79, -0.56),
    ),
    Plane(
        49,
        2166.98,
        0.0,
        5.08,
        -185.571,
        -184.2,
        184.2,
        -184.2,
        184.2,
        (0.21, 0.21, 0.41, 0.61, 0.71, 0.76, 1.12, 1.21, 1.21),
    ),
    Plane(
        50,
        2171.4,
        0.0,
        5.08,
        -188.105,
        -184.2,
        184.2,
        -184.2,
        184.2,
        (0.2, 0.2, 0.41, 0.61, 0.71, 0.76, 1.12, 1.21, 1.21),
    ),
    Plane(
        51,
        2361.06,
        0.0,
        5.08,
        -185.973,
        -184.2,
        184.2,
        -184.2,
        184.2,
        (0.81, 0.81, 1.02, 1.25, 0.65, 1.07, 1.42, 1.82, 1.82),
    ),
    Plane(
        52,
        2365.18,
        0.0,
        5.08,
        -188.505,
        -184.2,
        184.2,
        -184.2,
        184.2,
        (0.81, 0.81, 1.01, 1.25, 0.66, 1.07, 1.42, 1.83, 1.83),
    ),
    Plane(
        53,
        2387.44,
        90.0,
        5.08,
        -185.862,
        -184.2,
        184.2,
        -184.2,
        184.2,
        (-1.66, -2.31, -2.23, -1.73, -1.62, -1.62, -1.62, -1.88, -2.81),
    ),
    Plane(
        54,
        2392.04,
        90.0,
        5.08,
        -188.402,
        -184.2,
        184.2,
        -184.2,
        184.2,
        (-1.66, -2.3, -2.23, -1.73, -1.63, -1.62, -1.62, -1.89, -2.8),
    ),
    Plane(59, 1482.72, 90.0, 1.905, 7.909, 0.85, 100.0, -110.0, 110.0),
    Plane(60, 1483.34, 90.0, 1.905, 7.9, -100.0, 0.85, -110.0, 110.0),
    Plane(61, 1482.16, -90.0, 1.905, 5.471, 0.85, 100.0, -110.0, 110.0),
    Plane(62, 1482.31, -90.0, 1.905, 5.501, -100.0, 0.85, -110.0, 110.0),
)
"""Planes that fire, by number."""
