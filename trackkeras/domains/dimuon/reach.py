"""Which muons may still reach all stations: a rough test that saves the transport of those that cannot.

A muon is asked where it is made, at every step in the dump, and behind it. It must fly through the third
station, within some widths of the scattering ahead, and with a bend between those that the least and the
most energy loss ahead leave it.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from trackkeras.domains.dimuon.iron import TYPICAL_LOSS
from trackkeras.domains.dimuon.spectrometer import FMAG, STATION_3, Layout, Response, layout

MARGIN = 3.0
"""Widths of the scattering ahead; of 290,000 muons that get through one was once beyond it."""

SLACK = 5.0
"""Further margin [cm]: light material behind the dump moves a muon by less."""

LEAST_LOSS, MOST_LOSS = 0.012, 0.03
"""Energy loss in the dump [GeV/cm] that next to no muon stays below, or exceeds where it matters."""

SLOWEST = 3.0
"""Smallest pz behind the dump [GeV] that the bends and the scattering are reckoned with."""

_END, _BEND, _KICK, _CENTRE, _WIDTH, _LEAST, _TYPICAL, _MOST = range(8)


def aim_of(response: Response, setup: Layout | None = None) -> tuple[float, ...]:
    """Return what `may_reach` needs to know of a spectrometer, eight numbers.

    They are the end of the dump [cm], its dpx/dz [GeV/cm], the kick [GeV] of what bends behind it, and where
    that does so [cm]; the margin for scattering, as an angle times momentum over the root of the iron's
    length [GeV/cm^½]; the least, typical and most energy loss [GeV/cm].
    """
    scattering = MARGIN * 0.0136 * response.scatter * math.sqrt(1.0 / FMAG.radiation_length)
    scattering *= 1.0 + 0.038 * math.log((FMAG.end - FMAG.start) / FMAG.radiation_length)
    losses = (LEAST_LOSS, TYPICAL_LOSS, MOST_LOSS) if response.lose else (0.0, 0.0, 0.0)
    return *(setup or layout()).dump, scattering, *losses


@njit(cache=True, nogil=True, error_model="numpy")
def may_reach(aim, charge, x, y, z, px, py, pz):
    """Return whether a muon in the dump, upstream of it or at its end may fly through station 3.

    Args:
        aim: Result of `aim_of`.
        charge: +1.0 or -1.0.
        x: Position [cm], like the next two.
        y: See `x`.
        z: See `x`.
        px: Momentum [GeV], like the next two.
        py: See `px`.
        pz: See `px`.
    """
    there, half_x, half_y = STATION_3
    far, rest = there - z, there - aim[_END]
    iron = min(aim[_END] - z, aim[_END])
    left = max(pz - aim[_TYPICAL] * iron, SLOWEST)
    lever2 = rest * rest + rest * iron + iron * iron / 3.0
    margin = SLACK + aim[_WIDTH] * math.sqrt(lever2 * iron / (pz * left))
    if abs(y + far * py / pz) > half_y + margin:
        return False
    straight = charge * (x + far * px / pz)
    if straight + bent(aim, aim[_LEAST], iron, pz) > half_x + margin:
        return False
    return straight > -half_x - margin or straight + bent(aim, aim[_MOST], iron, pz) > -half_x - margin


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def bent(aim, loss, iron, pz):
    """Return how far dump and magnet move a positive muon at station 3 [cm] if it loses `loss` per length.

    The integral of the dump's bend over momentum is taken from two points, Gauss and Legendre's.
    """
    there = STATION_3[0]
    far = there - aim[_END] + iron
    near, deep = 0.21132486540518713 * iron, 0.7886751345948129 * iron
    first = (far - near) / max(pz - loss * near, SLOWEST)
    second = (far - deep) / max(pz - loss * deep, SLOWEST)
    magnet = aim[_KICK] * (there - aim[_CENTRE]) / max(pz - loss * iron, SLOWEST)
    return 0.5 * aim[_BEND] * iron * (first + second) + magnet


@njit(cache=True, nogil=True, error_model="numpy")
def all_may_reach(aim, charges, vertex, momentum):
    """Return of which events all muons may reach station 3, `(n,)`.

    Args:
        aim: Result of `aim_of`.
        charges: `(k,)`.
        vertex: `(n, k, 3)` [cm].
        momentum: `(n, k, 3)` [GeV].
    """
    passed = np.ones(vertex.shape[0], np.bool_)
    for i in range(vertex.shape[0]):
        for k in range(vertex.shape[1]):
            x, y, z = vertex[i, k]
            px, py, pz = momentum[i, k]
            if passed[i]:
                passed[i] = may_reach(aim, charges[k], x, y, z, px, py, pz)
    return passed
