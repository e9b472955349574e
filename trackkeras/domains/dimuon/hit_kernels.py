"""Compiled loops over the hits of events; `refinement`, `mixing` and `hit_matrix` say what they do."""

from __future__ import annotations

import numpy as np
from numba import njit

from trackkeras.domains.dimuon.detectors import ELEMENTS, PLANES

NO_HIT = -1


@njit(cache=True, nogil=True)
def nearest(fired, element, excluded):
    """Return the element of a row with hits that is nearest to `element`, 0 without one.

    Args:
        fired: Hits in each element, `(201,)`.
        element: Where to look; of two equally near elements the lower counts.
        excluded: An element that does not count.
    """
    for distance in range(ELEMENTS):
        for candidate in (element - distance, element + distance):
            if 0 < candidate < ELEMENTS and candidate != excluded and fired[candidate] > 0:
                return candidate
    return 0


@njit(cache=True, nogil=True)
def refine_pair(fired, plus, minus, window):
    """Return the fired elements for both muons in one detector; see `refine`."""
    first = nearest(fired, plus, 0) if plus > 0 else 0
    second = nearest(fired, minus, 0) if minus > 0 else 0
    if first > 0 and first == second and fired[first] == 1:
        other_first, other_second = nearest(fired, plus, first), nearest(fired, minus, second)
        keep_first, keep_second = abs(plus - first), abs(minus - second)
        if other_first > 0:
            keep_first += abs(minus - other_second)
            keep_second += abs(plus - other_first)
        if keep_first <= keep_second:
            second = other_second
        else:
            first = other_first
    if first > 0 and abs(plus - first) > window:
        first = 0
    if second > 0 and abs(minus - second) > window:
        second = 0
    return first, second


@njit(cache=True, nogil=True)
def refine_events(bounds, detector, element, predicted, window, refined):
    """Fill `refined` `(n, 2, 62)`."""
    fired = np.zeros((PLANES, ELEMENTS), dtype=np.int64)
    count = np.zeros(PLANES, dtype=np.int64)
    for event in range(len(bounds) - 1):
        for hit in range(bounds[event], bounds[event + 1]):
            fired[detector[hit] - 1, element[hit]] += 1
            count[detector[hit] - 1] += 1
        for plane in range(PLANES):
            if count[plane] > 0:
                plus, minus = predicted[event, 0, plane], predicted[event, 1, plane]
                first, second = refine_pair(fired[plane], plus, minus, window)
                refined[event, 0, plane] = first
                refined[event, 1, plane] = second
        for hit in range(bounds[event], bounds[event + 1]):
            fired[detector[hit] - 1, element[hit]] = 0
            count[detector[hit] - 1] = 0


@njit(cache=True, nogil=True)
def first_hits(bounds, detector, element, wanted, found):
    """Fill `found` `(n, 2, 62)` with the first hit of each wanted element, `NO_HIT` without one."""
    hits = np.full((PLANES, ELEMENTS), NO_HIT, dtype=np.int64)
    for event in range(len(bounds) - 1):
        for hit in range(bounds[event + 1] - 1, bounds[event] - 1, -1):
            hits[detector[hit] - 1, element[hit]] = hit
        for muon in range(2):
            for plane in range(PLANES):
                found[event, muon, plane] = hits[plane, wanted[event, muon, plane]]
        for hit in range(bounds[event], bounds[event + 1]):
            hits[detector[hit] - 1, element[hit]] = NO_HIT


@njit(cache=True, nogil=True)
def decluster_events(bounds, detector, element, tdc, drift, half_cell, limits, kept):
    """Fill `kept` `(hits,)`; `limits` are the four numbers of `Declustering`, in its order."""
    far, near, pair_time, run_time = limits
    hits = np.full((PLANES + 1, ELEMENTS), NO_HIT, dtype=np.int64)
    for event in range(len(bounds) - 1):
        first, last = bounds[event], bounds[event + 1]
        for hit in range(last - 1, first - 1, -1):
            kept[hit] = True
            hits[detector[hit], element[hit]] = hit
        timed = False
        for hit in range(first, last):
            timed = timed or tdc[hit] != tdc[first]
        if timed:
            for plane in range(1, PLANES + 1):
                if half_cell[plane] <= 0.0:
                    continue
                start = 1
                while start < ELEMENTS:
                    if hits[plane, start] == NO_HIT:
                        start += 1
                        continue
                    end = start + 1
                    while end < ELEMENTS and hits[plane, end] != NO_HIT:
                        end += 1
                    run = hits[plane, start:end]
                    if len(run) == 2:
                        one, two = run[0], run[1]
                        larger, smaller = (one, two) if abs(drift[one]) >= abs(drift[two]) else (two, one)
                        if (
                            abs(drift[larger]) > far * half_cell[plane]
                            and abs(drift[smaller]) > near * half_cell[plane]
                        ):
                            kept[larger] = False
                        elif abs(tdc[one] - tdc[two]) < pair_time:
                            kept[one] = False
                            kept[two] = False
                    elif len(run) > 2:
                        total = 0.0
                        for index in range(1, len(run)):
                            total += abs(tdc[run[index]] - tdc[run[index - 1]])
                        if total / (len(run) - 1) < run_time:
                            for hit in run:
                                kept[hit] = False
                    start = end
        for hit in range(first, last):
            # further hits of an element share the fate of the first
            kept[hit] = kept[hits[detector[hit], element[hit]]]
        for hit in range(first, last):
            hits[detector[hit], element[hit]] = NO_HIT


@njit(cache=True, nogil=True)
def fill_matrices(bounds, first, last, detector, element, drift, tdc, fired, distance, time):
    """Write the hits of the events from `first` to `last` into flattened matrices."""
    for event in range(first, last):
        start = ((event - first) * PLANES - 1) * ELEMENTS
        # Of two hits in one element the first stays, as it is written last.
        for hit in range(bounds[event + 1] - 1, bounds[event] - 1, -1):
            cell = np.uint64(start + detector[hit] * ELEMENTS + element[hit])
            fired[cell] = True
            distance[cell] = drift[hit]
            time[cell] = tdc[hit]


@njit(cache=True, nogil=True)
def clear_matrices(bounds, first, last, detector, element, fired, distance, time):
    """Undo `fill_matrices`."""
    for event in range(first, last):
        start = ((event - first) * PLANES - 1) * ELEMENTS
        for hit in range(bounds[event], bounds[event + 1]):
            cell = np.uint64(start + detector[hit] * ELEMENTS + element[hit])
            fired[cell] = False
            distance[cell] = 0.0
            time[cell] = 0.0


@njit(cache=True, nogil=True)
def keep_hits(rng, bounds, detector, drawn, efficiency, weights, rows, left):
    """Fill `rows` with the hits that drawn muons keep, `left` with how many each has; return their number.

    Args:
        rng: Source of randomness; one number for each hit.
        bounds: Offsets of the muons' hits.
        detector: Detector of each hit.
        drawn: Muons, in any order and repetition.
        efficiency: Chance of each drawn muon to keep a hit.
        weights: Share that each detector keeps of them, `(63,)`.
        rows: Has room for all hits of the drawn muons.
        left: As long as `drawn`.
    """
    found = 0
    for index in range(len(drawn)):
        before = found
        for hit in range(bounds[drawn[index]], bounds[drawn[index] + 1]):
            weight = weights[np.uint64(detector[np.uint64(hit)])]
            if rng.random() < efficiency[index] * weight:
                rows[found] = hit
                found += 1
        left[index] = found - before
    return found


@njit(cache=True, nogil=True)
def merge_values(one, two, bounds, rows, other, joint):
    """Fill `joint` with each event's entries of `one`, then those of `two` that `rows` names.

    Args:
        one: `(n,)`.
        two: `(m,)`.
        bounds: Offsets of each event's entries of `one`.
        rows: Entries of `two`, event by event.
        other: Offsets of each event's entries in `rows`.
        joint: `(n + len(rows),)`.
    """
    place = np.uint64(0)  # without a sign, no index is taken to count from the end
    for event in range(len(bounds) - 1):
        for row in range(bounds[event], bounds[event + 1]):
            joint[place] = one[np.uint64(row)]
            place += np.uint64(1)
        for entry in range(other[event], other[event + 1]):
            joint[place] = two[np.uint64(rows[entry])]
            place += np.uint64(1)


@njit(cache=True, nogil=True)
def merge_vectors(one, two, bounds, rows, other, joint):
    """Do the same with vectors `(n, 3)`, `(m, 3)` and `(n + len(rows), 3)`."""
    place = 0
    for event in range(len(bounds) - 1):
        for row in range(bounds[event], bounds[event + 1]):
            for axis in range(3):
                joint[place, axis] = one[row, axis]
            place += 1
        for entry in range(other[event], other[event + 1]):
            for axis in range(3):
                joint[place, axis] = two[rows[entry], axis]
            place += 1


@njit(cache=True, nogil=True)
def count_on(counts, left, track_bounds, tracks, hit_bounds, hits, least, numbers):
    """Fill `numbers` of background tracks: they count on from the largest of their event's signal.

    Args:
        counts: Background tracks of each event.
        left: Hits that each of them has; one without any takes no number.
        track_bounds: Offsets of the signal's tracks.
        tracks: Their numbers.
        hit_bounds: Offsets of the signal's hits.
        hits: Numbers of their tracks.
        least: First number of an event without larger ones.
        numbers: As long as `left`.
    """
    index = 0
    for event in range(len(counts)):
        largest = least - 1
        for track in range(track_bounds[event], track_bounds[event + 1]):
            largest = max(largest, tracks[track])
        for hit in range(hit_bounds[event], hit_bounds[event + 1]):
            largest = max(largest, hits[hit])
        for _ in range(counts[event]):
            if left[index] > 0:
                largest += 1
            numbers[index] = largest
            index += 1
