"""A SpinQuest-like dimuon spectrometer as data: magnets, absorbers, planes, and where muons are made.

Lengths are in cm, momenta in GeV; z runs along the beam from the face of the dump, y points up. A solid iron
magnet (FMAG) stops the beam and bends, an open one (KMAG) measures the momentum between stations 1 and 3, an
iron wall before station 4 leaves muons only.

Sources: length of FMAG, aperture of KMAG, centre of the wall, z and radius of the target and depth of the
hole as in the public `e1039-core` (`GeomSvc.cxx`, `recoConsts.cc`, `SQPrimaryVertexGen.C`). Tuned to
simulated single muons of the experiment, and so not independent of them: the planes and KMAG's kick
(`scripts/fit_spinquest_geometry.py` fits them), FMAG's bend, the light material, `SCATTERING` and the
radius of the hole. Assumed: a wall one metre thick and the length of the target.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from trackkeras.domains.dimuon.detectors import DETECTORS
from trackkeras.domains.dimuon.planes import PLANES, Plane
from trackkeras.errors import UserError
from trackkeras.units import GEV, KAPPA

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Slab:
    """Space between two planes of constant z with one field and one material.

    Attributes:
        start: First z [cm].
        end: Last z [cm].
        bend: dpx/dz of a positive muon [GeV/cm], from a vertical field; py is not changed.
        iron: Whether it is iron, whose energy loss fluctuates.
        radiation_length: Of the material [cm]; infinite where there is none.
        loss: Mean energy loss in any material but iron [GeV/cm].
        half_x: Half width of the aperture [cm]; a muon outside is lost.
        half_y: Half height of the aperture [cm].
    """

    start: float
    end: float
    bend: float = 0.0
    iron: bool = False
    radiation_length: float = np.inf
    loss: float = 0.0
    half_x: float = np.inf
    half_y: float = np.inf

    @property
    def kick(self) -> float:
        """Change of px of a positive muon across the slab [GeV]."""
        return self.bend * (self.end - self.start)

    @property
    def field(self) -> float:
        """Vertical field [T], positive where a positive muon is bent to positive x."""
        return self.bend / (KAPPA / GEV * 10.0)  # KAPPA is in MeV / (T mm)


# -- magnets and absorbers --------------------------------------------------------------------------------
IRON_DENSITY = 7.874
"""[g/cm³]; S. Navas et al. (Particle Data Group), Phys. Rev. D 110 (2024) 030001, as the next two."""

IRON_RADIATION_LENGTH = 1.757
"""[cm]"""

IRON_INTERACTION_LENGTH = 16.77
"""Nuclear interaction length [cm]: protons make their muons within the first half metre of the dump."""

FMAG_END = 502.92
"""Length of the solid iron magnet, which begins at z = 0 [cm]."""

HOLE_DEPTH, HOLE_RADIUS = 25.4, 2.54
"""Drilled into the face of the dump along the beam, so that most protons stop deeper [cm].

The radius is where the vertices of simulated muons stop to begin at this depth; `recoConsts.cc` has 1.27 cm.
"""

TARGET_CENTRE, TARGET_LENGTH, TARGET_RADIUS = -300.0, 7.9, 1.0
"""Polarised target upstream of the dump [cm]."""

_LIGHT_X0, _LIGHT_LOSS = 32.0, 2.8e-3

SLABS = (
    Slab(-500.0, 0.0),
    Slab(0.0, FMAG_END, bend=0.0062, iron=True, radiation_length=IRON_RADIATION_LENGTH),
    Slab(FMAG_END, 655.0),
    Slab(655.0, 658.0, radiation_length=_LIGHT_X0, loss=_LIGHT_LOSS),
    Slab(658.0, 893.8),
    Slab(893.8, 1193.8, bend=0.4146 / 300.0, half_x=144.78, half_y=101.6),
    Slab(1193.8, 1402.0),
    Slab(1402.0, 1405.0, radiation_length=_LIGHT_X0, loss=_LIGHT_LOSS),
    Slab(1405.0, 1978.19),
    Slab(1978.19, 2078.19, iron=True, radiation_length=IRON_RADIATION_LENGTH),
    Slab(2078.19, 2400.0),
)
"""Everything between the target and the last plane.

The bend of FMAG is the one with which muons sent again from their vertices arrive at station 1 with the px
that simulated muons of the experiment have there. KMAG is an equivalent box, as long as its iron, around
the z at which it bends, with their kick. The wall is iron around its published centre. All light
material between stations 1 and 3, air included, is put where the bars of stations 1 and 2 are; there is as
much of it as simulated muons of the experiment see, who lose 17 MeV.
"""

SCATTERING = 0.91
"""Width of the scattering angle over Highland's formula.

The formula holds up to 100 radiation lengths. The dump has 286, and there the simulated muons of the
experiment (Geant4) scatter so much less.
"""

FMAG, KMAG, WALL = SLABS[1], SLABS[5], SLABS[9]


# -- planes -----------------------------------------------------------------------------------------------
STATION_1, STATION_3_TOP, STATION_3_BOTTOM = 3, 21, 27
"""Detectors at whose planes the state of a muon is kept: D0X, D3pXp, D3mXp."""

KEPT = (STATION_1, STATION_3_TOP, STATION_3_BOTTOM)

STATION_3 = (1910.0, 118.0, 163.0)
"""z, half width and half height of the third station [cm], a little more than its chambers have."""

STATIONS: tuple[tuple[tuple[int, ...], int], ...] = (
    (tuple(range(1, 7)), 5),  # D0
    ((31, 32), 1),  # H1, x
    ((33, 34), 1),  # H1, y
    (tuple(range(13, 19)), 5),  # D2
    ((37, 38), 1),  # H2, x
    ((35, 36), 1),  # H2, y
    (tuple(range(19, 31)), 5),  # D3, either half
    ((39, 40), 1),  # H3
    ((47, 48), 1),  # P1, y
    ((49, 50), 1),  # P1, x
    ((45, 46), 1),  # H4, x
)
"""What makes a muon reconstructible: of each group of detectors at least so many must fire, ..."""

HALVES = ((31, 37, 39, 45), (32, 38, 40, 46))
"""... and of these only the lower ones, or only the upper ones: the roads of the trigger stay in one half."""


@dataclass(frozen=True)
class Response:
    """How planes answer, and what must have answered for a muon to count.

    Attributes:
        scatter: Width of the scattering angle over Highland's; 0 for none.
        lose: Whether material takes energy.
        resolution: Width of the error of drift distances [cm].
        chamber_efficiency: Probability that a crossed cell fires.
        hodoscope_efficiency: Alike.
        tube_efficiency: Alike.
        all_stations: Whether a muon must be reconstructible (`STATIONS`, `HALVES`) to be kept; else every
            muon is, with the hits that it made before it was lost.
    """

    scatter: float = 1.0
    lose: bool = True
    resolution: float = 0.01
    chamber_efficiency: float = 1.0
    hodoscope_efficiency: float = 1.0
    tube_efficiency: float = 1.0
    all_stations: bool = True

    def efficiencies(self, numbers: NDArray[np.int64]) -> Floats:
        """Return the efficiency of each plane, `(planes,)`."""
        by_kind = {
            "chamber": self.chamber_efficiency,
            "hodoscope": self.hodoscope_efficiency,
            "tube": self.tube_efficiency,
        }
        return np.array([by_kind[DETECTORS[number - 1].kind] for number in numbers])


WIRES, BARS, STRIPS = 0.0, 1.0, 2.0
"""Kinds of elements: wires with a drift distance, overlapping bars of scintillator, DP2's adjacent strips."""


def _kind(plane: Plane) -> float:
    if plane.detector.kind != "hodoscope":
        return WIRES
    return STRIPS if plane.detector.name.startswith("DP") else BARS


# -- as arrays, for the kernels -----------------------------------------------------------------------------
(
    PLANE_Z,
    PER_X,
    PER_Y,
    OFFSET,
    PITCH,
    X_MIN,
    X_MAX,
    Y_MIN,
    Y_MAX,
    ELEMENTS,
    KIND,
) = range(11)
"""Columns of `Layout.planes`."""

SLOT, STATE, GROUP, CLOSES, HALF = range(5)
"""Columns of `Layout.places`."""

START, END, BEND, IRON, RADIATION_LENGTH, LOSS, HALF_X, HALF_Y = range(8)
"""Columns of `Layout.slabs`."""


@dataclass(frozen=True)
class Layout:
    """Slabs and planes in the order of z, as the transport kernel reads them.

    Attributes:
        slabs: `(slabs, 8)`: z of start and end, bend, iron, radiation length, loss, half width and half
            height of the aperture.
        planes: `(planes, 11)`: z; the elements crossed per cm of x and of y, and where x = y = 0 is in
            elements, all with the sign that `Plane.place` gives them; pitch, x and y limits, elements, and
            what the elements are: `WIRES`, `BARS` or `STRIPS`.
        places: int64 `(planes, 5)`: slot in hit arrays; place in `KEPT`, row of `STATIONS`, and row of
            `STATIONS` that is complete behind this plane, each -1 where there is none; -1 for the first of
            `HALVES`, 1 for the second, 0 for other planes.
        shifts: `(planes, 9)` [cm].
        bounds: int64 `(slabs + 1,)`: slab i has the planes from entry i to entry i + 1.
        least: int64 `(groups,)`: hits that a group must have.
        dump: End of the dump [cm], its dpx/dz [GeV/cm], the kick [GeV] of what bends behind it, and where
            that does so [cm].
    """

    slabs: Floats
    planes: Floats
    places: NDArray[np.int64]
    shifts: Floats
    bounds: NDArray[np.int64]
    least: NDArray[np.int64]
    dump: tuple[float, float, float, float]


@lru_cache
def layout(planes: tuple[Plane, ...] = PLANES, slabs: tuple[Slab, ...] = SLABS) -> Layout:
    """Return planes and slabs as arrays.

    Args:
        planes: Planes in any order.
        slabs: Slabs in the order of z, without gaps.

    Raises:
        UserError: A plane stands in a field or in material.
    """
    ordered = sorted(planes, key=lambda plane: plane.z)
    edges = [slab.end for slab in slabs]
    within = np.searchsorted(edges, [plane.z for plane in ordered])
    for plane, row in zip(ordered, within, strict=True):
        slab = slabs[min(row, len(slabs) - 1)]
        if slab.bend or slab.radiation_length < np.inf or not slab.start <= plane.z <= slab.end:
            raise UserError(f"plane {plane.number} must stand in empty space, received z = {plane.z:g} cm")
    group = [
        next((g for g, (numbers, _) in enumerate(STATIONS) if plane.number in numbers), -1)
        for plane in ordered
    ]
    places = [
        (
            plane.number - 1,
            KEPT.index(plane.number) if plane.number in KEPT else -1,
            g,
            g if g not in group[row + 1 :] else -1,
            (plane.number in HALVES[1]) - (plane.number in HALVES[0]),
        )
        for row, (plane, g) in enumerate(zip(ordered, group, strict=True))
    ]
    return Layout(
        slabs=np.array([_slab_row(slab) for slab in slabs]),
        planes=np.array([_plane_row(plane) for plane in ordered]),
        places=np.array(places, dtype=np.int64),
        shifts=np.array([plane.shifts or (0.0,) * 9 for plane in ordered]),
        bounds=np.searchsorted(within, np.arange(len(slabs) + 1)),
        least=np.array([least for _, least in STATIONS], dtype=np.int64),
        dump=_dump(slabs),
    )


def _slab_row(slab: Slab) -> tuple[float, ...]:
    return (
        slab.start,
        slab.end,
        slab.bend,
        float(slab.iron),
        slab.radiation_length,
        slab.loss,
        slab.half_x,
        slab.half_y,
    )


def _plane_row(plane: Plane) -> tuple[float, ...]:
    angle = np.radians(plane.angle)
    return (
        plane.z,
        np.cos(angle) / plane.pitch,
        np.sin(angle) / plane.pitch,
        -plane.origin / plane.pitch,
        plane.pitch,
        plane.x_min,
        plane.x_max,
        plane.y_min,
        plane.y_max,
        plane.detector.elements,
        _kind(plane),
    )


def _dump(slabs: tuple[Slab, ...]) -> tuple[float, float, float, float]:
    dump = next(slab for slab in slabs if slab.iron)
    behind = [slab for slab in slabs if slab.start >= dump.end]
    kick = sum(slab.kick for slab in behind)
    centre = sum(slab.kick * 0.5 * (slab.start + slab.end) for slab in behind)
    return dump.end, dump.bend, kick, centre / kick if kick else dump.end
