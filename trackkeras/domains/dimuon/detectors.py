"""The 62 detector planes of the SpinQuest spectrometer, as data.

Numbers and names are those of E1039's geometry service (`e1039-core`, `GeomSvc.cxx`). Presence, number of
elements and drift distances were taken from simulated events: `elements` is the largest element that a track
was seen to fire, so a real plane may have a few more at its edges. Elements count from 1; 0 means no hit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

PLANES = 62
"""Detectors are numbered 1 to 62; slot `d - 1` of a hit array belongs to detector `d`."""

ELEMENTS = 201
"""Width of a hit matrix: elements 0 to 200, of which 0 is never a hit."""

Kind = Literal["chamber", "hodoscope", "tube"]


@dataclass(frozen=True)
class Detector:
    """One plane.

    Attributes:
        number: 1 to 62.
        name: As in the experiment's geometry.
        kind: Drift chamber, hodoscope or proportional tube.
        station: 1 to 4.
        view: What the elements measure: `X` for vertical, `Y` for horizontal elements; `U`, `V` for stereo.
        half: Part of the aperture that it covers: `T`op, `B`ottom, `L`eft, `R`ight; empty for all of it.
        present: Whether it ever fires; no simulated event has a hit in one of the others.
        elements: Largest element, 0 if it is not present.
        drift: Largest distance [cm] seen between a track and the element that it fired: half a cell in the
            chambers, more in the tubes; 0 for hodoscopes, which measure none.
    """

    number: int
    name: str
    kind: Kind
    station: int
    view: str
    half: str
    present: bool
    elements: int
    drift: float


# kind, station, largest drift distance [cm]; then name:view:half:elements of each plane, in order of numbers
_TABLE: tuple[tuple[Kind, int, float, str], ...] = (
    ("chamber", 1, 0.3175, "D0U:U::193 D0Up:U::193 D0X:X::160 D0Xp:X::160 D0V:V::196 D0Vp:V::196"),
    ("chamber", 1, 0.0, "D1V:V::0 D1Vp:V::0 D1X:X::0 D1Xp:X::0 D1U:U::0 D1Up:U::0"),
    ("chamber", 2, 1.01, "D2V:V::117 D2Vp:V::117"),
    ("chamber", 2, 1.04, "D2Xp:X::97 D2X:X::96"),
    ("chamber", 2, 1.01, "D2U:U::117 D2Up:U::116"),
    ("chamber", 3, 1.0, "D3pVp:V:T:127 D3pV:V:T:128 D3pXp:X:T:111 D3pX:X:T:111 D3pUp:U:T:127 D3pU:U:T:128"),
    ("chamber", 3, 1.0, "D3mVp:V:B:127 D3mV:V:B:127 D3mXp:X:B:111 D3mX:X:B:111 D3mUp:U:B:127 D3mU:U:B:126"),
    ("hodoscope", 1, 0.0, "H1B:X:B:20 H1T:X:T:19 H1L:Y:L:18 H1R:Y:R:18"),
    ("hodoscope", 2, 0.0, "H2L:Y:L:19 H2R:Y:R:19 H2B:X:B:15 H2T:X:T:15"),
    ("hodoscope", 3, 0.0, "H3B:X:B:16 H3T:X:T:16"),
    ("hodoscope", 4, 0.0, "H4Y1L:Y:L:16 H4Y1R:Y:R:16 H4Y2L:Y:L:16 H4Y2R:Y:R:16 H4B:X:B:16 H4T:X:T:16"),
    ("tube", 4, 4.4, "P1Y1:Y::70 P1Y2:Y::71"),
    ("tube", 4, 3.8, "P1X1:X::62 P1X2:X::63"),
    ("tube", 4, 4.4, "P2X1:X::67 P2X2:X::68"),
    ("tube", 4, 5.4, "P2Y1:Y::72 P2Y2:Y::72"),
    ("hodoscope", 1, 0.0, "DP1TL:Y:L:0 DP1TR:Y:R:0 DP1BL:Y:L:0 DP1BR:Y:R:0"),
    ("hodoscope", 2, 0.0, "DP2TL:Y:L:50 DP2TR:Y:R:50 DP2BL:Y:L:50 DP2BR:Y:R:50"),
)


def _planes() -> tuple[Detector, ...]:
    found: list[Detector] = []
    for kind, station, drift, planes in _TABLE:
        for plane in planes.split():
            name, view, half, count = plane.split(":")
            found.append(
                Detector(len(found) + 1, name, kind, station, view, half, int(count) > 0, int(count), drift)
            )
    return tuple(found)


DETECTORS: tuple[Detector, ...] = _planes()
"""All planes in the order of their numbers: `DETECTORS[d - 1].number == d`."""


def numbers(*kinds: Kind) -> NDArray[np.int32]:
    """Return the numbers of the detectors that are present, of some kinds or of all."""
    return np.array(
        [plane.number for plane in DETECTORS if plane.present and (not kinds or plane.kind in kinds)],
        dtype=np.int32,
    )


def plane_elements() -> NDArray[np.int32]:
    """Return the largest element of each detector, `(63,)` by its number; entry 0 is 0."""
    return np.array([0, *(plane.elements for plane in DETECTORS)], dtype=np.int32)


def plane_drift() -> NDArray[np.float64]:
    """Return the largest drift distance [cm] of each detector, `(63,)` by its number; entry 0 is 0."""
    return np.array([0.0, *(plane.drift for plane in DETECTORS)])
