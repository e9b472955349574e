"""Share of true hits that were found, by detector and by station, from sums that add up over events.

Hits of one event are lost together, as when a finder follows another track through a whole station. So the
interval is Wilson's (J. Am. Stat. Assoc. 22 (1927) 209), not of as many tries as there are hits, but of as
many independent ones as the spread between events implies (Korn, Graubard, Survey Methodology 24 (1998) 193);
the spread is that of a ratio (Cochran, Sampling Techniques (1977), chapter 6).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trackkeras.domains.dimuon.detectors import DETECTORS, PLANES

Floats = NDArray[np.float64]

_Z95 = 1.959964


def _stations() -> dict[tuple[int, str], list[int]]:
    groups: dict[tuple[int, str], list[int]] = {}
    for plane in DETECTORS:
        if plane.present:
            groups.setdefault((plane.station, plane.kind), []).append(plane.number - 1)
    return dict(sorted(groups.items()))


STATIONS: Mapping[tuple[int, str], list[int]] = _stations()
"""Slots of the detectors that are present, by station and kind."""

_MEMBERS = np.concatenate(
    [np.eye(PLANES), np.stack([np.isin(np.arange(PLANES), slots) for slots in STATIONS.values()])]
)


def hit_sums(own: NDArray[np.bool_], true: NDArray[np.bool_]) -> Floats:
    """Return sums over events for `share_of`, of each detector and then each of `STATIONS`.

    Args:
        own: Which slots have a true hit that was found, `(n, 2, 62)`.
        true: Which have a true hit.

    Returns:
        `(5, 62 + 8)`: found hits, true hits, and found², found x true, true² of each event.
    """
    found, there = (np.sum(hits, axis=1) @ _MEMBERS.T for hits in (own, true))
    return np.stack([np.sum(each, axis=0) for each in (found, there, found**2, found * there, there**2)])


def by_detector(sums: Floats) -> list[dict[str, Any]]:
    """Return `true_hits` and `completeness` of each detector, in the order of their slots."""
    return [share_of(column) for column in sums[:, :PLANES].T]


def by_station(sums: Floats) -> list[dict[str, Any]]:
    """Return the same of each of `STATIONS`."""
    return [share_of(column) for column in sums[:, PLANES:].T]


def share_of(sums: Floats) -> dict[str, Any]:
    """Return the share with its 95 % interval, `value`, `low`, `high`; None without a true hit.

    Args:
        sums: One column of `hit_sums`, `(5,)`.
    """
    found, there, found2, both, there2 = map(float, sums)
    if not there:
        return {"true_hits": 0, "completeness": None}
    share = found / there
    variance = (found2 - 2 * share * both + share**2 * there2) / there**2
    # where all or no hits are found nothing spreads: then each event counts once
    independent = share * (1 - share) / variance if variance > 0 else there**2 / there2
    low, high = wilson(share, min(independent, there))
    return {"true_hits": int(there), "completeness": {"value": share, "low": low, "high": high}}


def wilson(share: float, n: float) -> tuple[float, float]:
    """Return the 95 % interval of a chance of which n tries have shown a share.

    Args:
        share: From 0 to 1.
        n: Independent tries, not necessarily a whole number.
    """
    square = _Z95**2 / n
    middle = (share + square / 2) / (1 + square)
    half = math.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)
