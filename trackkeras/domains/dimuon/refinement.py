"""From predicted elements to real hits, from hits to drift distances, and hits without crosstalk."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from trackkeras.domains.dimuon.detectors import DETECTORS, ELEMENTS
from trackkeras.domains.dimuon.events import Events, Floats, Ints
from trackkeras.errors import UserError


def refine(events: Events, elements: NDArray[np.integer], window: int | None = None) -> Ints:
    """Replace each predicted element by the nearest that fired in its detector.

    One hit never goes to both muons: an element that is the nearest for both, and has one hit, goes where the
    sum of both distances is smaller (to the mu+ if they are equal); the other muon gets its next nearest, or
    none if there is no other. Of two equally near elements the lower counts.

    Args:
        events: Events with all their hits.
        elements: Predicted elements `(n, 2, 62)`, mu+ and mu-; 0 for none stays 0.
        window: Farthest distance from prediction to hit, in elements; None for any.

    Returns:
        int32 `(n, 2, 62)`; 0 where none is predicted, or none fired near enough.

    Raises:
        UserError: Shape or range of `elements` is another.
    """
    from trackkeras.domains.dimuon.hit_kernels import refine_events

    predicted = _checked(events, elements)
    refined = np.zeros_like(predicted)
    reach = ELEMENTS if window is None else window
    refine_events(events.hit_offsets, events.hits.detector, events.hits.element, predicted, reach, refined)
    return refined


def drift_of(events: Events, elements: NDArray[np.integer]) -> Floats:
    """Return the drift distance [cm] of the hit in each given element, `(n, 2, 62)`; 0 where there is none.

    Of two hits in one element the first counts.

    Args:
        events: Events with all their hits.
        elements: Elements `(n, 2, 62)`, as from `refine`.

    Raises:
        UserError: Shape or range of `elements` is another.
    """
    from trackkeras.domains.dimuon.hit_kernels import first_hits

    wanted = _checked(events, elements)
    found = np.empty(wanted.shape, dtype=np.int64)
    first_hits(events.hit_offsets, events.hits.detector, events.hits.element, wanted, found)
    return np.append(events.hits.drift, 0.0)[found]


@dataclass(frozen=True)
class Declustering:
    """When neighbouring hits of a drift chamber count as one, or as noise.

    A track fires one wire of a plane, or two if it passes between them. Of two neighbours the one with the
    larger |drift| goes, if it is beyond `far` and the other beyond `near`, both as shares of half a cell. Two
    whose times differ by less than `pair_time` are electronic noise, as are three and more whose times differ
    by less than `run_time` from wire to wire on average.

    Attributes:
        far: Share of half a cell.
        near: Share of half a cell.
        pair_time: Time [ns].
        run_time: Time [ns].
    """

    far: float = 0.9
    near: float = 0.4
    pair_time: float = 8.0
    run_time: float = 10.0


def decluster(events: Events, rules: Declustering | None = None) -> Events:
    """Return the events without hits that come from crosstalk.

    Events whose hits all have one time, such as simulated ones without times, stay as they are: the rules
    would remove every pair of neighbours.

    Args:
        events: The events.
        rules: What counts as crosstalk.
    """
    from trackkeras.domains.dimuon.hit_kernels import decluster_events

    hits = events.hits
    half_cell = np.array([0.0, *(plane.drift if plane.kind == "chamber" else 0.0 for plane in DETECTORS)])
    kept = np.ones(len(hits), dtype=np.bool_)
    decluster_events(
        events.hit_offsets,
        hits.detector,
        hits.element,
        hits.tdc,
        hits.drift,
        half_cell,
        astuple(rules or Declustering()),
        kept,
    )
    return events.with_hits(kept)


def _checked(events: Events, elements: NDArray[np.integer]) -> Ints:
    wanted = (len(events), 2, len(DETECTORS))
    if elements.shape != wanted:
        raise UserError(f"elements must have shape {wanted}, received {elements.shape}")
    if elements.size and (elements.min() < 0 or elements.max() >= ELEMENTS):
        raise UserError(
            f"elements must be from 0 to {ELEMENTS - 1}, received {elements.min()} to {elements.max()}"
        )
    return np.ascontiguousarray(elements, dtype=np.int32)
