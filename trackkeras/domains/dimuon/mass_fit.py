"""Position and width of a peak in a spectrum of masses: a Gaussian on a falling background.

The histogram is fitted with Poisson's likelihood, as least squares of deviances: their squares add up to the
chi2 of S. Baker, R. D. Cousins, Nucl. Instrum. Meth. 221 (1984) 437. Errors are those of its curvature,
Fisher's information.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.special import ndtr

from trackkeras.errors import UserError

Floats = NDArray[np.float64]

WINDOW = (2.0, 5.0)
"""Range of masses in the fit [GeV]: the J/psi and enough beside it."""

BINS = 60
FEWEST_PAIRS = 30
"""With fewer pairs a width has an error of more than 13 % and the background none that means anything."""

_LEAST = 1e-9
"""Expected pairs in a bin, if there are fewer."""

_LEAST_KNOWN = 0.01
"""The same for errors: a background of none is known to about one pair, not exactly."""


@dataclass(frozen=True)
class Value:
    """A number and its standard error."""

    value: float
    error: float

    def __str__(self) -> str:
        """Return both with two digits of the error, such as `3.104 +- 0.012`."""
        if not 0 < self.error < math.inf:
            return f"{self.value:.4g} +- {self.error:.2g}"
        digits = max(0, 1 - math.floor(math.log10(self.error)))
        return f"{self.value:.{digits}f} +- {self.error:.{digits}f}"


@dataclass(frozen=True)
class Peak:
    """A fitted peak.

    Attributes:
        mass: Its position [GeV].
        width: Standard deviation of its Gaussian [GeV].
        signal: Pairs in it.
        background: Pairs beside it in the window.
        slope: Of the logarithm of the background over half of the window.
        edges: Edges of the bins of the fit [GeV].
        counts: Pairs in them.
        chi2: Twice the logarithm of the likelihood ratio to the counts themselves; see the module.
        ndf: Bins less parameters.
    """

    mass: Value
    width: Value
    signal: Value
    background: Value
    slope: Value
    edges: Floats
    counts: Floats
    chi2: float
    ndf: int

    def expected(self, edges: Floats, *, signal: bool = True) -> Floats:
        """Return the expected numbers of pairs between some edges in the window.

        Args:
            edges: `(n + 1,)` [GeV].
            signal: Whether the peak counts; otherwise the background alone.
        """
        size = self.signal.value if signal else 0.0
        low, high = float(self.edges[0]), float(self.edges[-1])
        return _model(
            edges, low, high, self.mass.value, self.width.value, size, self.background.value, self.slope.value
        )

    def __str__(self) -> str:
        """Return position and width as one line."""
        return f"mass {self.mass} GeV, width {self.width} GeV"


def fit_peak(mass: Floats, window: tuple[float, float] = WINDOW, bins: int = BINS) -> Peak:
    """Fit the highest peak in a window.

    Args:
        mass: Masses of pairs [GeV], `(n,)`.
        window: Lowest and highest mass that counts [GeV].
        bins: Bins in the window.

    Raises:
        UserError: The window is empty or has too few pairs or bins, or the fit does not converge.
    """
    low, high = window
    if not 0 <= low < high < math.inf:
        raise UserError(f"a window goes from a lower to a higher mass in GeV, received {low:g} to {high:g}")
    if bins < 10:
        raise UserError(f"a fit of five parameters needs 10 bins at least, received {bins}")
    inside = mass[(mass >= low) & (mass <= high)]
    if len(inside) < FEWEST_PAIRS:
        raise UserError(
            f"{len(inside)} pairs have a mass from {low:g} to {high:g} GeV, a fit needs {FEWEST_PAIRS} at "
            "least: bring more events, or loosen the cuts"
        )
    counts, edges = np.histogram(inside, bins, window)
    values, chi2 = _fitted(counts.astype(float), edges, inside)
    errors = _errors(edges, values)
    if not np.isfinite(errors[:2]).all():
        raise UserError(
            f"there is no peak in the masses from {low:g} to {high:g} GeV: look at the spectrum, and choose "
            "--window"
        )
    place, width, signal, background, slope = map(Value, values.tolist(), errors.tolist())
    return Peak(
        place,
        width,
        signal,
        background,
        slope,
        edges,
        counts.astype(float),
        chi2,
        bins - len(values),
    )


def _fitted(counts: Floats, edges: Floats, inside: Floats) -> tuple[Floats, float]:
    """Return mass, width, signal, background and slope, and the chi2."""
    low, high, size = float(edges[0]), float(edges[-1]), len(inside)
    step = float(edges[1] - edges[0])
    # the core about the fullest three bins, so that a broad background does not decide where to begin
    top = float(edges[np.convolve(counts, np.ones(3), "same").argmax()]) + 0.5 * step
    core = inside[np.abs(inside - top) < 0.15 * (high - low)]
    start = [top, max(float(np.std(core)), 0.5 * step), 0.7 * size, 0.3 * size, 0.1]
    lower = [low, 0.2 * step, 0.0, 0.0, -10.0]
    upper = [high, 0.5 * (high - low), 2.0 * size, 2.0 * size, 10.0]
    result = least_squares(
        lambda values: _deviances(counts, _model(edges, low, high, *values)),
        np.clip(start, np.add(lower, 1e-6), np.subtract(upper, 1e-6)),
        bounds=(lower, upper),
        x_scale=[step, step, size, size, 1.0],
    )
    if not result.success:
        raise UserError(
            "the fit of a peak on a background does not converge: look at the spectrum, and choose --window"
        )
    return result.x, 2.0 * float(result.cost)


def _deviances(counts: Floats, expected: Floats) -> Floats:
    """Return signed roots of 2 (expected - counts + counts log(counts / expected)), `(bins,)`."""
    expected = np.maximum(expected, _LEAST)
    excess = counts / expected - 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        exact = np.where(counts > 0, (1.0 + excess) * np.log1p(excess), 0.0) - excess
    # near 0 the difference of two almost equal numbers is no derivative
    series = excess**2 * (0.5 - excess / 6.0 + excess**2 / 12.0)
    half = np.where(np.abs(excess) < 1e-3, series, exact)
    return np.asarray(np.sign(excess) * np.sqrt(2.0 * expected * np.maximum(half, 0.0)))


def _errors(edges: Floats, values: Floats) -> Floats:
    """Return standard errors; those of what has no influence, as the slope of no background, are infinite."""
    low, high = float(edges[0]), float(edges[-1])
    expected = np.maximum(_model(edges, low, high, *values), _LEAST_KNOWN)
    size = max(values[2] + values[3], 1.0)
    steps = 1e-4 * np.array([values[1], values[1], size, size, 1.0])
    slopes = np.stack(
        [
            (_model(edges, low, high, *(values + move)) - _model(edges, low, high, *(values - move)))
            / (2 * move.sum())
            for move in np.diag(steps)
        ]
    )
    information = (slopes / expected) @ slopes.T
    errors = np.full(len(values), np.inf)
    told = np.diag(information) * steps**2 > 1e-12 * size
    errors[told] = np.sqrt(np.diag(np.linalg.inv(information[np.ix_(told, told)])))
    return errors


def _model(
    edges: Floats,
    low: float,
    high: float,
    mass: float,
    width: float,
    signal: float,
    background: float,
    slope: float,
) -> Floats:
    """Return expected pairs between edges: a Gaussian, and an exponential that fills the window."""
    peak = np.diff(ndtr((edges - mass) / width))
    place = (edges - low) / (high - low)
    steep = slope if abs(slope) > 1e-6 else 1e-6
    below = np.expm1(-2.0 * steep * place) / np.expm1(-2.0 * steep)
    return signal * peak + background * np.diff(below)
