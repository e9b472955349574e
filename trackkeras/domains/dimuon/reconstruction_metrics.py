"""What a reconstruction found beside the truth: which muons, which of their hits, how far the rest is off.

A true muon counts if it has at least `MIN_HITS` hits. A found one is right under the rule of the quality
network: `RIGHT` of its hits are the muon's of its charge, and it has `RIGHT` of that muon's hits. Of two
hits of a muon in one detector only the last is the muon's, as in hit arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from trackkeras.domains.dimuon.completeness import STATIONS, by_detector, by_station, hit_sums
from trackkeras.domains.dimuon.detectors import DETECTORS
from trackkeras.domains.dimuon.events import NO_TRACK, Events
from trackkeras.domains.dimuon.finder import BACKGROUND_EDGES
from trackkeras.domains.dimuon.momentum import COMPONENTS
from trackkeras.domains.dimuon.muons import background_tracks, hit_arrays, muon_rows, muon_vectors
from trackkeras.domains.dimuon.quality_rows import RIGHT
from trackkeras.domains.dimuon.reconstructed import muons_of
from trackkeras.domains.dimuon.reconstruction import MIN_HITS
from trackkeras.errors import UserError
from trackkeras.evaluation import FEWEST_ROWS_IN_BAND, intervals

Cell = Mapping[str, float]

NEAR = 2
"""Elements within which a found hit is said to be near the true one."""

STATISTICS = ("mean", "std", "w68")

_SUMS = ("hits", "detectors")


@dataclass(frozen=True)
class Comparison:
    """Sums over detectors, and a row for each of the two muons of every event.

    Attributes:
        background: Background tracks of the event, `(m,)`.
        counts: Whether the truth has a muon of enough hits, `(m,)`.
        found: Whether one was found, `(m,)`.
        right: Whether it is right, `(m,)`.
        true_hits: Hits of the true muon, `(m,)`.
        own_hits: Hits of the found one that are the true one's, `(m,)`.
        residual: Found less true momentum, `(m, 3)` [GeV]; NaN without both.
        hits: Sums `completeness.hit_sums` over the muons that count.
        detectors: Sums `(5, 62)` over the same: slots where both have a hit, and over these the difference
            of the elements, its square, whether it is 0, and at most 2.
    """

    background: NDArray[np.int64]
    counts: NDArray[np.bool_]
    found: NDArray[np.bool_]
    right: NDArray[np.bool_]
    true_hits: NDArray[np.int64]
    own_hits: NDArray[np.int64]
    residual: NDArray[np.float64]
    hits: NDArray[np.float64]
    detectors: NDArray[np.float64]

    @classmethod
    def joined(cls, parts: Iterable[Self]) -> Self:
        """Return the rows of all parts, and the sums of their sums.

        Raises:
            UserError: There is no part.
        """
        parts = list(parts)
        if not parts:
            raise UserError("there are no events to evaluate")
        rows = {
            entry.name: np.concatenate([getattr(part, entry.name) for part in parts])
            for entry in fields(cls)
            if entry.name not in _SUMS
        }
        return cls(
            **rows, **{name: np.sum([getattr(part, name) for part in parts], axis=0) for name in _SUMS}
        )


def compare(events: Events, file: object = "the file") -> Comparison:
    """Compare the found muons of some events with the true ones.

    Raises:
        UserError: The file is not reconstructed.
    """
    muons = muons_of(events, file)
    rows = muon_rows(events)
    true, _ = hit_arrays(events, rows)
    truth = muon_vectors(events, rows, "momentum")
    truth[(rows == NO_TRACK) | ~truth.any(axis=2)] = np.nan
    own = (muons.elements > 0) & (muons.elements == true)
    true_hits, own_hits = np.count_nonzero(true, axis=2), np.count_nonzero(own, axis=2)
    # shares of whole numbers of at most 62 are never within rounding of another fraction
    enough = own_hits >= RIGHT * np.maximum(muons.hits, true_hits) - 1e-4
    counts, found = true_hits >= MIN_HITS, muons.found
    residual = np.where(found[..., None], muons.momentum - truth, np.nan)
    there = true[counts]
    both = (there > 0) & (muons.elements[counts] > 0)
    difference = np.where(both, muons.elements[counts] - there, 0).astype(float)
    sums = [
        both,
        difference,
        difference**2,
        both & (difference == 0),
        both & (np.abs(difference) <= NEAR),
    ]
    return Comparison(
        np.repeat(background_tracks(events).astype(np.int64), 2),
        counts.reshape(-1),
        found.reshape(-1),
        (found & enough).reshape(-1),
        true_hits.reshape(-1),
        own_hits.reshape(-1),
        residual.reshape(-1, len(COMPONENTS)),
        hit_sums(own & counts[..., None], (true > 0) & counts[..., None]),
        np.stack([np.sum(each, axis=0, dtype=float) for each in sums]),
    )


def summarise(comparison: Comparison) -> dict[str, Any]:
    """Return all numbers as plain data; those with an interval are `value`, `low`, `high` (95 %, bootstrap).

    Raises:
        UserError: No true muon has enough hits.
    """
    if not comparison.counts.any():
        raise UserError(
            f"no event has a true muon of {MIN_HITS} hits: an evaluation needs simulated events with truth"
        )
    return {
        "events": len(comparison.counts) // 2,
        "muons": {
            "true": int(comparison.counts.sum()),
            "found": int(comparison.found.sum()),
            "right": int(comparison.right.sum()),
        },
        "rules": {"least_hits": MIN_HITS, "least_share": RIGHT, "near_elements": NEAR},
        **_of_muons(comparison, np.ones(len(comparison.counts), dtype=bool)),
        "bands": _bands(comparison),
        "detectors": _by_detector(comparison),
        "stations": _by_station(comparison),
    }


def _bands(comparison: Comparison) -> list[dict[str, Any]]:
    edges = [*BACKGROUND_EDGES, np.inf]
    bands = []
    for low, high in pairwise(edges):
        inside = (comparison.background > low) & (comparison.background < high)
        if not inside.any():
            continue
        first, last = int(low + 0.5), int(min(high - 0.5, comparison.background.max()))
        label = f"{first}" if first == last else f"{first} to {last}"
        bands.append({"background_tracks": [first, last], "label": label, **_of_muons(comparison, inside)})
    return bands


def _of_muons(comparison: Comparison, inside: NDArray[np.bool_]) -> dict[str, Any]:
    """Return shares and momentum errors of some of the muons."""
    true, found = comparison.counts & inside, comparison.found & inside
    right = comparison.right & inside
    share = comparison.own_hits[true] / comparison.true_hits[true]
    return {
        "true_muons": int(true.sum()),
        "found_muons": int(found.sum()),
        "efficiency": _mean(comparison.right[true]),
        "fake_rate": _mean(~comparison.right[found]),
        "completeness": _mean(share),
        "momentum": {
            "right": _momentum(comparison.residual[right]),
            "found": _momentum(comparison.residual[found]),
        },
    }


def _mean(values: NDArray[Any]) -> Cell | None:
    if len(values) < FEWEST_ROWS_IN_BAND:
        return None
    return intervals(values.astype(float), ["mean"])["mean"]


def _momentum(residual: NDArray[np.float64]) -> dict[str, Any] | None:
    residual = residual[np.isfinite(residual).all(axis=1)]
    if len(residual) < FEWEST_ROWS_IN_BAND:
        return None
    return {
        "muons": len(residual),
        **{name: intervals(residual[:, axis], STATISTICS) for axis, name in enumerate(COMPONENTS)},
    }


def _by_detector(comparison: Comparison) -> list[dict[str, Any]]:
    shares = by_detector(comparison.hits)
    return [
        {
            "number": plane.number,
            "name": plane.name,
            **share,
            **_residuals(comparison.detectors[:, plane.number - 1]),
        }
        for plane, share in zip(DETECTORS, shares, strict=True)
        if plane.present
    ]


def _by_station(comparison: Comparison) -> list[dict[str, Any]]:
    shares = by_station(comparison.hits)
    return [
        {
            "station": station,
            "kind": kind,
            **share,
            **_residuals(comparison.detectors[:, slots].sum(axis=1)),
        }
        for ((station, kind), slots), share in zip(STATIONS.items(), shares, strict=True)
    ]


def _residuals(sums: NDArray[np.float64]) -> dict[str, Any]:
    both, first, second, exact, near = sums.tolist()
    return {
        "residual_mean": first / both if both else None,
        "residual_rms": (second / both) ** 0.5 if both else None,
        "exact": exact / both if both else None,
        "near": near / both if both else None,
    }
