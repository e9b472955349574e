#!/usr/bin/env python
"""Fit the planes and magnets of the SpinQuest-like spectrometer to simulated single muons of the experiment.

Reads MUP_Dump_10K.root and MUM_Dump_10K.root, whose tracks are known at stations 1 and 3. Wire position plus
drift distance is a straight line in the position of the track, so each plane has an angle, a z and an origin.
Nothing is written: the printed table is what `trackkeras/domains/dimuon/planes.py` holds.

Example:
    scripts/fit_spinquest_geometry.py --data ../shared/data
    scripts/fit_spinquest_geometry.py --data ../shared/data --check     # judge the shipped planes, no fit
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uproot
from numpy.typing import NDArray
from scipy.optimize import least_squares

from trackkeras.domains.dimuon.detectors import DETECTORS, Detector
from trackkeras.domains.dimuon.planes import MODULE_TUBES, PITCH, PLANES, Plane, nominal_extent
from trackkeras.domains.dimuon.spectrometer import KMAG, SCATTERING, Response
from trackkeras.domains.dimuon.transport import transport
from trackkeras.domains.extrapolation.real_data import data_folder
from trackkeras.errors import UserError

Floats = NDArray[np.float64]
FILES = ("MUP_Dump_10K.root", "MUM_Dump_10K.root")
STATION_2 = 1000.0
"""Planes before this z [cm] are reached from station 1 on a straight line, those behind it from station 3."""


@dataclass(frozen=True)
class Sample:
    """Tracks with their hits: positions [cm] and momenta [GeV] `(n, 3)`, hits `(hits,)`."""

    charge: NDArray[np.int32]
    at: dict[str, tuple[Floats, Floats]]
    track: NDArray[np.int64]
    detector: NDArray[np.int32]
    element: NDArray[np.int32]
    drift: Floats

    def positions(self, z: float, station: str) -> tuple[Floats, Floats]:
        """Return x and y [cm] of all tracks at z, on the straight line through a station."""
        position, momentum = self.at[station]
        slope = momentum[:, :2] / momentum[:, 2:]
        found = position[:, :2] + slope * (z - position[:, 2:])
        return found[:, 0], found[:, 1]


def main() -> None:
    """Parse the arguments, fit, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--data", type=Path, default=data_folder(), help="folder that holds spinquest/")
    parser.add_argument("--check", action="store_true", help="judge the shipped planes instead of fitting")
    arguments = parser.parse_args()
    try:
        if arguments.data is None:
            raise UserError("no data folder; name it with --data")
        sample = read(arguments.data / "spinquest")
    except UserError as error:
        sys.exit(f"error: {error}")
    if arguments.check:
        for plane in PLANES:
            check(sample, plane)
        magnets(sample)
    else:
        for detector in DETECTORS:
            if detector.present:
                print(f"    {row(fit(sample, detector))},")


def read(folder: Path) -> Sample:
    """Return the tracks of both files.

    Raises:
        UserError: A file is missing.
    """
    parts: dict[str, list[NDArray]] = {}
    tracks = 0
    for name in FILES:
        path = folder / name
        if not path.is_file():
            raise UserError(f"no such file: {path}; --data names the folder that holds spinquest/")
        tree = uproot.open(path)["tree"]
        vectors = [f"g{kind}{axis}{at}" for kind, at in _VECTORS for axis in "xyz"]
        arrays = tree.arrays([*vectors, "gCharge", "detectorID", "elementID", "driftDistance"], library="np")
        counts = [len(hits) for hits in arrays["detectorID"]]
        parts.setdefault("track", []).append(tracks + np.repeat(np.arange(len(counts)), counts))
        for branch, values in arrays.items():
            parts.setdefault(branch, []).append(np.concatenate(values))
        tracks += len(counts)
    columns = {branch: np.concatenate(values) for branch, values in parts.items()}

    def vector(kind: str, at: str) -> Floats:
        return np.stack([columns[f"g{kind}{axis}{at}"] for axis in "xyz"], axis=1)

    at = {
        "vertex": (vector("v", ""), vector("p", "")),
        "st1": (vector("", "_st1"), vector("p", "_st1")),
        "st3": (vector("", "_st3"), vector("p", "_st3")),
    }
    return Sample(
        columns["gCharge"],
        at,
        columns["track"],
        columns["detectorID"],
        columns["elementID"],
        columns["driftDistance"],
    )


_VECTORS = (("v", ""), ("p", ""), ("", "_st1"), ("p", "_st1"), ("", "_st3"), ("p", "_st3"))


def station(detector: Detector) -> str:
    """Return the station whose track reaches a detector on a straight line."""
    return "st1" if detector.station == 1 else "st3"


def fit(sample: Sample, detector: Detector) -> Plane:
    """Return a plane with the angle, z, origin, inner edges and module shifts that the hits want."""
    chosen = sample.detector == detector.number
    track, element = sample.track[chosen], sample.element[chosen].astype(float)
    pitch = PITCH[detector.number]
    shifts: tuple[float, ...] = ()
    measured = element * pitch + sample.drift[chosen]
    if detector.kind == "tube":
        shifts = module_shifts(element, sample.drift[chosen])
        inner = element % MODULE_TUBES != 0  # a tube at the edge of a module drifts with either shift
        module = (element // MODULE_TUBES).astype(int)
        measured, track, element = (
            (measured - np.take(shifts, module, mode="clip"))[inner],
            track[inner],
            element[inner],
        )

    start = sample.at[station(detector)]
    position, slope = start[0][track], start[1][track, :2] / start[1][track, 2:]
    free = detector.kind == "chamber"
    nominal = nominal_angle(detector)

    def along(angle: float, z: float) -> Floats:
        across = position[:, :2] + slope * (z - position[:, 2:])
        return np.cos(angle) * across[:, 0] + np.sin(angle) * across[:, 1]

    def residual(values: Floats) -> Floats:
        angle = nominal + values[2] if free else nominal
        return measured - along(angle, 100.0 * values[0]) + values[1]

    guess = {1: 6.3, 2: 13.8, 3: 19.1, 4: 22.0}[detector.station]
    first = [guess, -np.median(measured - along(nominal, 100.0 * guess)), 0.0]
    scale = 0.02 if free else 1.0
    result = least_squares(
        residual, first[: 2 + free], loss="soft_l1" if detector.drift else "linear", f_scale=scale
    )
    z, origin = 100.0 * float(result.x[0]), float(result.x[1])
    angle = nominal + result.x[2] if free else nominal
    return Plane(
        detector.number,
        round(z, 2),
        round(float(np.degrees(angle)), 3),
        pitch,
        round(origin, 3),
        *edges(sample, detector, z),
        tuple(round(float(shift), 2) for shift in shifts),
    )


def row(plane: Plane) -> str:
    """Return a plane as it stands in the module."""
    values = [repr(value) for value in vars(plane).values()]
    return f"Plane({', '.join(values if plane.shifts else values[:-1])})"


def nominal_angle(detector: Detector) -> float:
    """Return the direction in which elements count up [radian]: 14 degrees of stereo, or along an axis."""
    if detector.name.startswith("DP2B"):
        return -np.pi / 2
    stereo = np.radians(-14.0 if detector.station == 3 else 14.0)
    return {"X": 0.0, "Y": np.pi / 2, "U": stereo, "V": -stereo}[detector.view]


def module_shifts(element: Floats, drift: Floats) -> tuple[float, ...]:
    """Return the centre of the drift distances of each module of tubes [cm]; of the nearest one if empty."""
    found = []
    for module in range(9):
        inside = (element > module * MODULE_TUBES) & (element < (module + 1) * MODULE_TUBES)
        values = drift[inside]
        found.append((values.min() + values.max()) / 2 if len(values) > 100 else np.nan)
    known = np.flatnonzero(np.isfinite(found))
    return tuple(np.interp(range(9), known, np.array(found)[known]))


def edges(sample: Sample, detector: Detector, z: float) -> tuple[float, float, float, float]:
    """Return x and y limits [cm]: the outer ones nominal, the inner edge of a half plane from its hits."""
    limits = list(nominal_extent(detector))
    if not detector.half or detector.name.startswith("DP"):
        return tuple(limits)  # type: ignore[return-value]
    x, y = sample.positions(z, station(detector))
    fired = np.zeros(len(x), bool)
    fired[sample.track[sample.detector == detector.number]] = True
    first, axis = (0, x) if detector.half in "LR" else (2, y)
    below = detector.half in "RB"
    inside, outside = split(axis, fired, below)
    # No muon of the sample passes between the upper and the lower bars of station 1: they have a gap there.
    edge = inside if detector.station == 1 else 0.5 * (inside + outside)
    limits[first + below] = round(edge, 2)
    return tuple(limits)  # type: ignore[return-value]


def split(value: Floats, fired: NDArray[np.bool_], below: bool) -> tuple[float, float]:
    """Return the last value that fires and the first that does not, where both are parted best."""
    near = np.abs(value) < 30.0
    ordered = np.sort(value[near])
    step = np.where(fired[near][np.argsort(value[near])], 1, -1) * (1 if below else -1)
    last = int(np.argmax(np.cumsum(step)))
    low, high = float(ordered[last]), float(ordered[last + 1])
    return (low, high) if below else (high, low)


def check(sample: Sample, plane: Plane) -> None:
    """Print how well a shipped plane predicts the elements and drift distances of the sample."""
    detector = DETECTORS[plane.number - 1]
    chosen = sample.detector == plane.number
    track, element, drift = sample.track[chosen], sample.element[chosen], sample.drift[chosen]
    x, y = sample.positions(plane.z, station(detector))
    place = plane.place(x[track], y[track])
    predicted = np.rint(place)
    off = predicted - element
    line = f"{detector.name:6s} {len(element):6d} hits: element off by mean {off.mean():+.3f}, "
    line += f"sd {off.std():.3f}, equal {np.mean(off == 0):.3f}, within 1 {np.mean(np.abs(off) <= 1):.4f}"
    if detector.drift:
        error = (place - element) * plane.pitch + plane.shift(place) - drift
        low, middle, high = np.percentile(error, [15.87, 50, 84.13])
        line += f"; drift off by median {middle:+.4f}, w68 {(high - low) / 2:.4f} cm"
    print(line)


def magnets(sample: Sample) -> None:
    """Print what the sample says about the magnets and the dump, and what the shipped spectrometer does."""
    (vertex, start), (first, before), (third, after) = (sample.at[name] for name in ("vertex", "st1", "st3"))
    response = Response(scatter=SCATTERING)
    sent = transport(np.random.default_rng(1), sample.charge, vertex, start, response)
    kept = sent.kept
    ours = sent.states[:, 0][kept]
    print(f"{kept.mean():.3f} of the muons reach all stations when they are sent again from their vertices")
    kick = sample.charge * (after[:, 0] - before[:, 0])
    t1, t3 = before[:, 0] / before[:, 2], after[:, 0] / after[:, 2]
    bend = (third[:, 0] - first[:, 0] + t1 * first[:, 2] - t3 * third[:, 2]) / (t1 - t3)
    middle = 0.5 * (KMAG.start + KMAG.end)
    print(
        f"KMAG: px kick {np.median(kick):.4f} GeV at z {np.median(bend):.1f} cm; "
        f"here {KMAG.kick:.4f} GeV, {middle:.1f} cm"
    )

    charge, start, vertex = sample.charge[kept], start[kept], vertex[kept]
    for name, position, momentum in (
        ("sample", first[kept], before[kept]),
        ("here", ours[:, :3], ours[:, 3:]),
    ):
        slope = start[:, :2] / start[:, 2:]
        angle = (momentum[:, :2] / momentum[:, 2:] - slope) * start[:, 2:]
        moved = position[:, :2] - vertex[:, :2] - slope * (position[:, 2:] - vertex[:, 2:])
        lever = moved[:, 0] * start[:, 2] / angle[:, 0]
        loss = np.linalg.norm(start, axis=1) - np.linalg.norm(momentum, axis=1)
        low, high = np.percentile(angle[:, 1], [15.87, 84.13])
        print(
            f"FMAG, {name:6s}: px kick {np.median(charge * (momentum[:, 0] - start[:, 0])):.4f} GeV, "
            f"lever arm {np.median(lever):.1f} cm, scattering times pz {(high - low) / 2:.4f} GeV, "
            f"loss {loss.mean():.3f} +- {loss.std():.3f} GeV, median {np.median(loss):.3f}"
        )


if __name__ == "__main__":
    main()
