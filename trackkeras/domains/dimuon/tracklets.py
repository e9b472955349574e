"""From fired elements and absolute drift distances to where a muon goes, as tensors inside a network.

A chamber says which wire a muon passed and how far from it, not on which side. Each of the stations 1, 2, 3
(upper and lower half) has six planes in three views; a `StationFit` goes through all 64 sets of sides, fits x
and y to each, and returns the mean of the 64 fits, weighted by their likelihoods. Between the stations a muon
flies straight, except for KMAG's bend, so that the slopes that the fits need come from the other stations.

Everything is sums, products and one softmax: no choice between sides is ever made, so that engines that round
differently agree. Lengths are in cm, momenta in GeV.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from trackkeras.domains.dimuon.planes import PLANES, Plane
from trackkeras.domains.dimuon.spectrometer import KMAG

STATIONS = tuple(tuple(range(first, first + 6)) for first in (1, 13, 19, 25))
"""Numbers of the chambers of stations 1, 2, and of the upper and lower half of 3."""

SIDES: NDArray[np.float64] = np.array(list(product((-1.0, 1.0), repeat=6)))
"""All sets of sides, `(64, 6)`."""

KMAG_CENTRE = 0.5 * (KMAG.start + KMAG.end)
"""z at which KMAG's bend may be thought of as one kick [cm]."""

PRIOR = 100.0
"""Width of a weak prior about the beam [cm]; a station with hits in one view only gets a finite position."""

ROUNDS, FINE_ROUNDS = 3, 2
"""Times that slopes are found from positions, and these with the slopes: with wires alone, and with all."""


class StationFit:
    """x and y of a muon at the middle of stations of six chambers, all stations at once.

    The normal equations of a station with hits in one view only are all but singular: what is left of their
    determinant is the prior's 1e-7, which a difference of two products of order one does not leave in
    float32. So all is written with sines of angles between planes, which are zero within a view: the
    determinant is a sum of positive terms (Lagrange's identity), and nothing large cancels.

    Args:
        stations: Numbers of the detectors of each of s stations, in the order of the numbers.
        resolution: Error of a drift distance [cm].
        dtype: Number format.
    """

    def __init__(
        self, stations: Sequence[tuple[int, ...]], resolution: float, dtype: str = "float32"
    ) -> None:
        by_number = {plane.number: plane for plane in PLANES}
        planes = [[by_number[number] for number in numbers] for numbers in stations]

        def table(value: Callable[[Plane], float]) -> NDArray[np.float64]:
            return np.array([[value(plane) for plane in row] for row in planes])

        z = table(lambda plane: plane.z)
        angle = np.radians(table(lambda plane: plane.angle))
        pitch = table(lambda plane: plane.pitch)
        self.first = [numbers[0] - 1 for numbers in stations]
        self.z = [float(middle) for middle in z.mean(axis=1)]
        cos, sin = np.cos(angle), np.sin(angle)
        between = np.sin(angle[:, :, None] - angle[:, None, :])
        self.cos, self.sin, self.pitch, self.origin, self.offset, self.sides = (
            values.astype(dtype)
            for values in (
                cos,
                sin,
                pitch,
                table(lambda plane: plane.origin),
                z - z.mean(axis=1, keepdims=True),
                SIDES,
            )
        )
        # Of plane i, summed over planes j: the gains of x and y, and the determinant.
        self.across_x, self.across_y, self.squared = (
            values.astype(dtype)
            for values in (-between * sin[:, None], between * cos[:, None], 0.5 * between**2)
        )
        self.resolution = resolution
        self.cell = (pitch.mean(axis=1, keepdims=True) / 12**0.5).astype(dtype)

    def hits(self, elements: Any, drift: Any) -> tuple[Any, Any, Any]:
        """Return wires [cm], distances [cm] and presence of the planes, each `(n, s, 6)`."""
        fired, distances = (
            ops.stack([column[:, first : first + 6] for first in self.first], axis=1)
            for column in (elements, drift)
        )
        present = ops.minimum(fired, 1.0)
        return present * (self.origin + self.pitch * fired), present * distances, present

    def rough(self, wires: Any, present: Any, slope_x: Any, slope_y: Any) -> tuple[Any, Any]:
        """Return x and y from wires alone, each `(n, s)`, for slopes `(n, s)`."""
        measured = self._straightened(wires, present, slope_x, slope_y)
        gains = self._gains(present, np.square(self.cell / PRIOR))
        x, y = (ops.sum(gain * measured, axis=-1) for gain in gains)
        return x, y

    def fine(
        self, wires: Any, distances: Any, present: Any, slope_x: Any, slope_y: Any
    ) -> tuple[Any, Any, Any]:
        """Return x, y and the spread of x over the sides, from wires and distances, each `(n, s)`."""
        measured = self._straightened(wires, present, slope_x, slope_y)
        gains = self._gains(present, (self.resolution / PRIOR) ** 2)
        # x and y are linear in what the planes measure: those of the wires, and what each set of sides adds.
        x, y = (
            ops.sum(gain * measured, axis=-1, keepdims=True)
            + ops.matmul(gain * distances, np.transpose(self.sides))
            for gain in gains
        )
        measured = measured[:, :, None] + self.sides * distances[:, :, None]
        along = x[..., None] * self.cos[:, None] + y[..., None] * self.sin[:, None]
        residual = present[:, :, None] * (measured - along)
        chi2 = ops.sum(ops.square(residual * (1.0 / self.resolution)), axis=-1)
        likely = ops.softmax(-0.5 * chi2, axis=-1)
        mean_x, mean_y = (ops.sum(likely * value, axis=-1) for value in (x, y))
        return mean_x, mean_y, ops.sum(likely * ops.square(x - mean_x[..., None]), axis=-1)

    def _straightened(self, wires: Any, present: Any, slope_x: Any, slope_y: Any) -> Any:
        """Return the wires as they would be seen if all planes were at the middle of their station."""
        slope = slope_x[..., None] * self.cos + slope_y[..., None] * self.sin
        return wires - present * self.offset * slope

    def _gains(self, present: Any, weak: Any) -> tuple[Any, Any]:
        """Return what x and y of a least-squares fit change per cm in each plane, each `(n, s, 6)`.

        Args:
            present: Weights of the planes, `(n, s, 6)`.
            weak: Squared error of a plane over that of the prior.
        """

        def summed(table: Any) -> Any:
            return ops.sum(present[:, :, None] * table, axis=-1)

        planes = ops.sum(present, axis=-1, keepdims=True)
        pairs = ops.sum(present * summed(self.squared), axis=-1, keepdims=True)
        weight = present / (pairs + weak * planes + weak * weak)
        return (
            weight * (summed(self.across_x) + weak * self.cos),
            weight * (summed(self.across_y) + weak * self.sin),
        )


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
        self.fit = StationFit(STATIONS, self.resolution, self.compute_dtype)

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
        wires, distances, present = self.fit.hits(ops.cast(elements, self.compute_dtype), ops.abs(drift))
        seen = ops.sum(present, axis=-1)
        share = _share(seen[:, 2:3], seen[:, 3:4])

        def split(values: Any) -> tuple[Any, Any, Any]:
            """Return the values at stations 1, 2 and 3, of whose halves most muons hit one."""
            third = share * values[:, 2:3] + (1.0 - share) * values[:, 3:4]
            return values[:, 0:1], values[:, 1:2], third

        z1, z2 = self.fit.z[:2]
        z3 = share * self.fit.z[2] + (1.0 - share) * self.fit.z[3]
        tx1 = ty1 = tx2 = ty2 = ops.zeros_like(charge)
        x, y, spread = seen, seen, seen
        for fine in [False] * ROUNDS + [True] * FINE_ROUNDS:
            slopes = [ops.concatenate(pair, axis=-1) for pair in ([tx1, tx2, tx2, tx2], [ty1, ty2, ty2, ty2])]
            if fine:
                x, y, spread = self.fit.fine(wires, distances, present, *slopes)
            else:
                x, y = self.fit.rough(wires, present, *slopes)
            (x1, x2, x3), (y1, y2, y3) = split(x), split(y)
            tx2, ty2 = (x3 - x2) / (z3 - z2), (y3 - y2) / (z3 - z2)
            at_kmag = x2 + tx2 * (KMAG_CENTRE - z2)
            tx1, ty1 = (at_kmag - x1) / (KMAG_CENTRE - z1), (y2 - y1) / (z2 - z1)
        bend, kink = charge * (tx2 - tx1), y2 + ty2 * (z1 - z2) - y1
        first = [charge * x1, y1, charge * tx1, ty1]
        second = [charge * x2, y2, charge * tx2, ty2]
        share_of_hits = ops.sum(seen, axis=-1, keepdims=True) / 18.0
        return ops.concatenate([*first, *second, bend, kink, *split(spread), share_of_hits], axis=-1)

    def get_config(self) -> Mapping[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "resolution": self.resolution}
