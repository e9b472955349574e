"""From fired elements and absolute drift distances to where a muon goes, as tensors inside a network.

A chamber says which wire a muon passed and how far from it, not on which side. Each of the stations 1, 2, 3
(upper and lower half) has six planes in three views; a `StationFit` goes through all 64 sets of sides, fits x
and y to each, and returns the mean of the 64 fits, weighted by their likelihoods. Between the stations a muon
flies straight, except for KMAG's bend, so that the slopes that the fits need come from the other stations.

Everything is sums, products and one softmax: no choice between sides is ever made, so that engines that round
differently agree. Lengths are in cm, momenta in GeV.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from trackkeras.domains.dimuon.planes import PLANES
from trackkeras.domains.dimuon.spectrometer import KMAG

STATIONS: Mapping[str, tuple[int, ...]] = {
    "1": tuple(range(1, 7)),
    "2": tuple(range(13, 19)),
    "3p": tuple(range(19, 25)),
    "3m": tuple(range(25, 31)),
}
"""Chambers of each station, by number."""

SIDES: NDArray[np.float32] = np.array(list(product((-1.0, 1.0), repeat=6)), dtype=np.float32)
"""All sets of sides, `(64, 6)`."""

KMAG_CENTRE = 0.5 * (KMAG.start + KMAG.end)
"""z at which KMAG's bend may be thought of as one kick [cm]."""

PRIOR = 100.0
"""Width of a weak prior about the beam [cm]; a station with hits in one view only gets a finite position."""

ROUNDS = 3
"""Times that slopes are found from positions and positions with the slopes, with wires alone."""


class StationFit:
    """x and y of a muon at the middle of a station of six chambers.

    Args:
        numbers: Of the detectors.
        resolution: Error of a drift distance [cm].
    """

    def __init__(self, numbers: tuple[int, ...], resolution: float) -> None:
        planes = [next(plane for plane in PLANES if plane.number == number) for number in numbers]
        angle = np.radians([plane.angle for plane in planes])
        self.slots = np.array(numbers) - 1
        self.z = float(np.mean([plane.z for plane in planes]))
        self.cos, self.sin, self.pitch, self.origin, self.offset = (
            np.asarray(values, dtype=np.float32)
            for values in (
                np.cos(angle),
                np.sin(angle),
                [plane.pitch for plane in planes],
                [plane.origin for plane in planes],
                [plane.z - self.z for plane in planes],
            )
        )
        self.resolution = resolution
        self.cell = float(np.mean(self.pitch)) / 12**0.5

    def hits(self, elements: Any, drift: Any) -> tuple[Any, Any, Any]:
        """Return wires [cm], distances [cm] and presence of the six planes, each `(n, 6)`."""
        first, last = int(self.slots[0]), int(self.slots[-1]) + 1
        fired = elements[:, first:last]
        present = ops.minimum(fired, 1.0)
        return present * (self.origin + self.pitch * fired), present * drift[:, first:last], present

    def _solve(self, present: Any, measured: Any, error: float) -> tuple[Any, Any]:
        """Return x and y that fit `measured` best; both have the shape of `measured` but its last axis."""
        weight = error**2 / PRIOR**2
        xx = ops.sum(present * self.cos * self.cos, axis=-1) + weight
        xy = ops.sum(present * self.cos * self.sin, axis=-1)
        yy = ops.sum(present * self.sin * self.sin, axis=-1) + weight
        determinant = xx * yy - xy * xy
        x = ops.sum(present * self.cos * measured, axis=-1)
        y = ops.sum(present * self.sin * measured, axis=-1)
        return (yy * x - xy * y) / determinant, (xx * y - xy * x) / determinant

    def _straightened(self, wires: Any, present: Any, slope_x: Any, slope_y: Any) -> Any:
        """Return the wires as they would be seen if all planes were at the middle of the station."""
        return wires - present * self.offset * (slope_x * self.cos + slope_y * self.sin)

    def rough(self, wires: Any, present: Any, slope_x: Any, slope_y: Any) -> tuple[Any, Any]:
        """Return x and y from wires alone, each `(n, 1)`, for slopes `(n, 1)`."""
        measured = self._straightened(wires, present, slope_x, slope_y)
        x, y = self._solve(present, measured, self.cell)
        return x[:, None], y[:, None]

    def fine(
        self, wires: Any, distances: Any, present: Any, slope_x: Any, slope_y: Any
    ) -> tuple[Any, Any, Any]:
        """Return x, y and the spread of x over the sides, from wires and distances, each `(n, 1)`."""
        measured = self._straightened(wires, present, slope_x, slope_y)[:, None]
        measured = measured + SIDES * distances[:, None]
        present = present[:, None]
        x, y = self._solve(present, measured, self.resolution)
        residual = present * (measured - x[..., None] * self.cos - y[..., None] * self.sin)
        chi2 = ops.sum(ops.square(residual / self.resolution), axis=-1)
        likely = ops.softmax(-0.5 * chi2, axis=-1)
        mean_x, mean_y = (ops.sum(likely * value, axis=-1, keepdims=True) for value in (x, y))
        spread = ops.sum(likely * ops.square(x - mean_x), axis=-1, keepdims=True)
        return mean_x, mean_y, spread


def _share(one: Any, other: Any) -> Any:
    """Return the weight of a half of station 3: next to 1 where the other one has fewer hits."""
    one, other = ops.power(one, 8) + 1e-6, ops.power(other, 8) + 1e-6
    return one / (one + other)


@keras.saving.register_keras_serializable(package="trackkeras")
class Tracklets(keras.layers.Layer):
    """What the chambers say of one muon, seen as that of a positive one.

    x and its slopes are multiplied by the charge: the spectrometer bends to the side only, so that a negative
    muon is the mirror image of a positive one, and one network serves both.

    Args:
        resolution: Error of a drift distance that the choice of sides reckons with [cm].
    """

    def __init__(self, resolution: float = 0.03, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.resolution = float(resolution)
        self.stations = {name: StationFit(numbers, self.resolution) for name, numbers in STATIONS.items()}

    def call(self, elements: Any, drift: Any, charge: Any) -> Any:
        """Return the tracklets.

        Args:
            elements: `(n, 62)` fired element of each detector, 0 for none.
            drift: `(n, 62)` absolute drift distance [cm].
            charge: `(n, 1)`, +1 or -1.

        Returns:
            `(n, 14)`: x, y [cm] and their slopes at station 1; the same at station 2; the angle of KMAG's
            bend; y at station 1 as seen from stations 2 and 3 less the measured one [cm]; the spread of x
            over the sides at stations 1, 2, 3 [cm²]; and the number of planes of these stations that have a
            hit, over 18.
        """
        elements = ops.cast(elements, "float32")
        drift = ops.abs(drift)
        hits = {name: fit.hits(elements, drift) for name, fit in self.stations.items()}
        upper = ops.sum(hits["3p"][2], axis=-1, keepdims=True)
        lower = ops.sum(hits["3m"][2], axis=-1, keepdims=True)
        upper_share = _share(upper, lower)
        z1, z2 = self.stations["1"].z, self.stations["2"].z
        z3 = upper_share * self.stations["3p"].z + (1.0 - upper_share) * self.stations["3m"].z

        def third(found: Mapping[str, tuple[Any, ...]]) -> list[Any]:
            """Join the halves, of which most muons hit one."""
            pairs = zip(found["3p"], found["3m"], strict=True)
            return [upper_share * one + (1.0 - upper_share) * other for one, other in pairs]

        zero = ops.zeros_like(charge)
        slopes: tuple[Any, ...] = (zero, zero, zero, zero)
        found: dict[str, tuple[Any, ...]] = {}
        for fine in [False] * ROUNDS + [True] * 2:
            tx1, ty1, tx2, ty2 = slopes
            found = {}
            for name, fit in self.stations.items():
                wires, distances, present = hits[name]
                tx, ty = (tx1, ty1) if name == "1" else (tx2, ty2)
                found[name] = (
                    fit.fine(wires, distances, present, tx, ty) if fine else fit.rough(wires, present, tx, ty)
                )
            first, second, last = found["1"], found["2"], third(found)
            (x1, y1), (x2, y2), (x3, y3) = first[:2], second[:2], last[:2]
            tx2, ty2 = (x3 - x2) / (z3 - z2), (y3 - y2) / (z3 - z2)
            at_kmag = x2 + tx2 * (KMAG_CENTRE - z2)
            slopes = ((at_kmag - x1) / (KMAG_CENTRE - z1), (y2 - y1) / (z2 - z1), tx2, ty2)
        tx1, ty1, tx2, ty2 = slopes
        seen = [ops.sum(hits[name][2], axis=-1, keepdims=True) for name in ("1", "2")]
        return ops.concatenate(
            [
                charge * x1,
                y1,
                charge * tx1,
                ty1,
                charge * x2,
                y2,
                charge * tx2,
                ty2,
                charge * (tx2 - tx1),
                y2 + ty2 * (z1 - z2) - y1,
                first[2],
                second[2],
                last[2],
                (seen[0] + seen[1] + upper + lower) / 18.0,
            ],
            axis=-1,
        )

    def get_config(self) -> Mapping[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "resolution": self.resolution}
