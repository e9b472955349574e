"""Compiled loops over the hits of events; see `trackkeras.domains.dimuon.refinement` for what they do."""

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
