"""The spectrum of masses with its fit, and how masses of mixed pairs follow the true ones."""

from __future__ import annotations

import hist
import mplhep
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trackkeras import plots
from trackkeras.domains.dimuon.mass import MassResponse, mixed_mass
from trackkeras.domains.dimuon.mass_fit import Peak
from trackkeras.domains.dimuon.pairs import SHIFTS, Pairs
from trackkeras.units import GEV, JPSI_MASS

_FINE = 10
"""Steps of the drawn curve per bin."""

_PROFILE = 12
"""Bins of true mass in the second panel."""

_FEWEST = 10


def draw(pairs: Pairs, peak: Peak, response: MassResponse | None) -> Figure:
    """Draw the spectrum, and the response of mixed pairs where their truth is known.

    Args:
        pairs: The pairs.
        peak: Fit to their masses.
        response: What mixed pairs say, or None.

    Returns:
        A figure of one or two panels.
    """
    columns = 1 if response is None else 2
    with plots.style():
        figure = Figure(figsize=(0.4 + 5.6 * columns, 4.6), layout="constrained")
        panels = figure.subplots(1, columns, squeeze=False)[0]
        _spectrum(panels[0], pairs, peak)
        if response is not None:
            _response(panels[1], pairs, response, (float(peak.edges[0]), float(peak.edges[-1])))
    return figure


def _spectrum(axes: Axes, pairs: Pairs, peak: Peak) -> None:
    low, high, bins = float(peak.edges[0]), float(peak.edges[-1]), len(peak.counts)
    others = (
        ("mu+ and mu- of different events", pairs.mixed_mass(), plots.BASELINE_COLOURS[1], "-"),
        ("like sign, different events", pairs.like_sign_mass(), plots.BASELINE_COLOURS[0], "--"),
    )
    for label, mass, colour, dash in others:
        shape = hist.Hist.new.Reg(bins, low, high).Double().fill(mass, weight=len(pairs) / len(mass))
        mplhep.histplot(
            shape, ax=axes, histtype="step", yerr=False, flow="none", color=colour, linestyle=dash,
            linewidth=1.2, label=label,
        )  # fmt: skip
    fine = np.linspace(low, high, _FINE * bins + 1)
    middle = 0.5 * (fine[1:] + fine[:-1])
    axes.plot(
        middle, _FINE * peak.expected(fine), color=plots.BASELINE_COLOURS[2], linewidth=1.8, zorder=4,
        label=f"mass {peak.mass} GeV\nwidth {peak.width} GeV",
    )  # fmt: skip
    axes.plot(
        middle, _FINE * peak.expected(fine, signal=False), color=plots.BASELINE_COLOURS[2], linewidth=1.2,
        linestyle=":", label="its background",
    )  # fmt: skip
    mplhep.histplot(
        peak.counts, peak.edges, ax=axes, histtype="errorbar", yerr=True, color=plots.INK, markersize=4,
        label="mu+ and mu- of one event", zorder=5,
    )  # fmt: skip
    axes.axvline(JPSI_MASS / GEV, color=plots.INK, linewidth=0.8, linestyle=(0, (5, 3)), zorder=1)
    axes.set_xlim(low, high)
    axes.set_ylim(0, 1.15 * float(peak.counts.max() + np.sqrt(peak.counts.max())))
    axes.set_xlabel("mass of the pair [GeV]", loc="center")
    axes.set_ylabel(f"pairs per {1e3 * (high - low) / bins:.3g} MeV")
    axes.legend(loc="upper right", frameon=True, facecolor=plots.PAPER, edgecolor="none", framealpha=0.85)
    axes.set_title(f"{len(pairs):,} pairs of {pairs.events:,} events", loc="right", fontsize=9.5, pad=6)


def _response(axes: Axes, pairs: Pairs, response: MassResponse, window: tuple[float, float]) -> None:
    known = pairs.known
    true, found = (
        mixed_mass(momentum[known, 0], momentum[known, 1], SHIFTS)
        for momentum in (pairs.truth, pairs.momentum)
    )
    edges = np.linspace(*window, _PROFILE + 1)
    place = np.searchsorted(edges, true, side="right") - 1
    filled = [index for index in range(_PROFILE) if np.count_nonzero(place == index) >= _FEWEST]
    middle = 0.5 * (edges[1:] + edges[:-1])[filled]
    low, centre, high = (
        np.array(
            [np.percentile(found[place == index], [plots.CORE[0], 50, plots.CORE[1]]) for index in filled]
        )
        .reshape(-1, 3)
        .T
    )
    axes.plot(window, window, color=plots.INK, linewidth=0.8, linestyle=(0, (5, 3)), label="as they are")
    axes.errorbar(
        middle, centre, xerr=0.5 * (edges[1] - edges[0]), yerr=[centre - low, high - centre],
        linestyle="none", marker="o", markersize=5, capsize=2.5, color=plots.NETWORK_COLOURS[0],
        label=f"median and 68 %\nslope {response.slope:.3f}, half width {1e3 * response.width:.0f} MeV",
    )  # fmt: skip
    axes.set_xlim(*window)
    axes.set_ylim(*window)
    axes.set_xlabel("true mass of mixed pairs [GeV]", loc="center")
    axes.set_ylabel("found [GeV]")
    axes.legend(loc="upper left")
    axes.set_title(f"{response.pairs:,} pairs of different events", loc="right", fontsize=9.5, pad=6)
