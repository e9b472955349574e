"""The two muons of an event: which truth tracks they are, their vectors, and their hit in each detector."""

from __future__ import annotations

import numpy as np

from trackkeras.domains.dimuon.detectors import PLANES
from trackkeras.domains.dimuon.events import CHARGES, FIRST_BACKGROUND, NO_TRACK, Events, Floats, Ints
from trackkeras.domains.dimuon.ragged import Offsets


def muon_rows(events: Events) -> Offsets:
    """Return the row in `tracks` of the signal's mu+ and mu- of each event, `(n, 2)`, -1 where there is none.

    Of two signal tracks with one charge the first counts.
    """
    rows = np.full((len(events), 2), NO_TRACK, dtype=np.int64)
    signal = (events.tracks.number >= 1) & (events.tracks.number < FIRST_BACKGROUND)
    for index, charge in enumerate(CHARGES):
        found = np.flatnonzero(signal & (events.tracks.charge == charge))[::-1]  # the first is written last
        rows[events.track_event[found], index] = found
    return rows


def muon_vectors(events: Events, rows: Offsets, name: str) -> Floats:
    """Return a vector of the two muons, `(n, 2, 3)`, zero where there is none or it is not known.

    Args:
        events: The events.
        rows: Result of `muon_rows`.
        name: Attribute of `Tracks`, such as `momentum`.
    """
    found = np.zeros((len(events), 2, 3))
    known = rows != NO_TRACK
    found[known] = np.nan_to_num(getattr(events.tracks, name)[rows[known]], nan=0.0)
    return found


def hit_arrays(events: Events, rows: Offsets) -> tuple[Ints, Floats]:
    """Return the hit of each detector for both muons.

    Where a muon has two hits in one detector, as in overlapping hodoscope bars, the last one counts.

    Args:
        events: The events.
        rows: Result of `muon_rows`.

    Returns:
        elements: int32 `(n, 2, 62)`; slot d - 1 has the element of detector d, 0 without a hit.
        drift: float64 `(n, 2, 62)` [cm], as in the hits; 0 without a hit.
    """
    numbers = np.where(rows == NO_TRACK, NO_TRACK, np.append(events.tracks.number, 0)[rows])
    elements = np.zeros((len(events), 2, PLANES), dtype=np.int32)
    drift = np.zeros((len(events), 2, PLANES))
    hits, event = events.hits, events.hit_event
    for index in range(2):
        own = np.flatnonzero(hits.track == numbers[event, index])
        # NumPy assigns in order: of repeated places the last value stays
        place = (event[own], index, hits.detector[own] - 1)
        elements[place] = hits.element[own]
        drift[place] = hits.drift[own]
    return elements, drift


def background_tracks(events: Events) -> Ints:
    """Return how many background tracks have hits in each event, `(n,)`."""
    hits, event = events.hits, events.hit_event
    injected = hits.track >= FIRST_BACKGROUND
    pairs = np.unique(event[injected] << 32 | hits.track[injected])
    return np.bincount(pairs >> 32, minlength=len(events)).astype(np.int32)
