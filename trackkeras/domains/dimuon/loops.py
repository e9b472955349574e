"""The data tools once more, one hit at a time in plain Python: for comparison of results and of time.

They work as scripts do that read an event tree: with the hits of each event as arrays where whole events are
looked at, as lists where hits are added. Nothing else should use them.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trackkeras.domains.dimuon.detectors import ELEMENTS, PLANES, numbers, plane_drift, plane_elements
from trackkeras.domains.dimuon.events import Events
from trackkeras.domains.dimuon.noise import Noise
from trackkeras.domains.dimuon.occupancy import Occupancy

Lists = list[dict[str, list[Any]]]
"""One dictionary per event with lists of its hits' columns."""

Arrays = list[dict[str, NDArray[Any]]]
"""Alike, with arrays."""


def as_lists(events: Events) -> Lists:
    """Return the hits of each event as lists."""
    return [{name: column.tolist() for name, column in event.items()} for event in as_arrays(events)]


def as_arrays(events: Events) -> Arrays:
    """Return the hits of each event as arrays."""
    columns = events.hits.columns()
    return [
        {name: column[first:last] for name, column in columns.items()}
        for first, last in itertools.pairwise(events.hit_offsets.tolist())
    ]


def matrices(events: Arrays) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return hit, drift and time matrices, each `(n, 62, 201)`; the first hit of an element counts."""
    fired, drift, tdc = (np.zeros((len(events), PLANES, ELEMENTS), dtype=np.float32) for _ in range(3))
    for index, event in enumerate(events):
        backwards = (event[name][::-1] for name in ("detector", "element", "drift", "tdc"))
        for detector, element, distance, when in zip(*backwards, strict=True):
            if 0 < detector <= PLANES and 0 <= element < ELEMENTS:
                fired[index, detector - 1, element] = 1
                drift[index, detector - 1, element] = distance
                tdc[index, detector - 1, element] = when
    return fired, drift, tdc


def refine(events: Arrays, predicted: NDArray[np.integer]) -> NDArray[np.int32]:
    """Return the nearest fired element for each predicted one, even if both muons get the same."""
    refined = np.zeros(predicted.shape, dtype=np.int32)
    for index, event in enumerate(events):
        for plane in range(PLANES):
            for muon in range(2):
                wanted = predicted[index, muon, plane]
                if wanted:
                    fired = event["element"][event["detector"] == plane + 1]
                    if len(fired):
                        refined[index, muon, plane] = fired[np.argmin(np.abs(fired - wanted))]
    return refined


def drift_of(events: Arrays, elements: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the drift distance of the first hit in each element, 0 without one."""
    found = np.zeros(elements.shape)
    for index, event in enumerate(events):
        for plane in range(PLANES):
            for muon in range(2):
                element = elements[index, muon, plane]
                if element:
                    own = (event["detector"] == plane + 1) & (event["element"] == element)
                    (hits,) = np.nonzero(own)
                    if len(hits):
                        found[index, muon, plane] = event["drift"][hits[0]]
    return found


def reconstruct(events: Arrays, softmax: NDArray[Any]) -> NDArray[np.float64]:
    """Return the drift distances of both muons' hits, from the finder's answers `(n, 2, 62, 201)`.

    The three matrices are those that a script hands to its networks.
    """
    matrices(events)
    wanted = np.array([[np.argmax(muon, axis=1) for muon in event] for event in softmax])
    return drift_of(events, refine(events, wanted))


def add_noise(events: Lists, noise: Noise, seed: int) -> Lists:
    """Add noise hits to each event."""
    rng = random.Random(seed)
    planes = [(int(d), int(plane_elements()[d]), float(plane_drift()[d])) for d in numbers()]
    for event in events:
        used = set(zip(event["detector"], event["element"], strict=True))
        for plane, size, width in planes:
            fired = [
                element
                for element in range(1, size + 1)
                if (plane, element) not in used and rng.random() < noise.electronic
            ]
            if rng.random() < noise.cluster:
                length = rng.randint(noise.shortest, noise.longest)
                first = rng.randint(1, size - length + 1)
                fired += range(first, first + length)
            for element in fired:
                if (plane, element) not in used:
                    used.add((plane, element))
                    event["detector"].append(plane)
                    event["element"].append(element)
                    event["drift"].append(rng.uniform(-width, width))
                    event["tdc"].append(0.0)
                    event["track"].append(0)
                    event["process"].append(0)
    return events


def add_background(events: Lists, muons: Lists, occupancy: Occupancy, seed: int) -> Lists:
    """Add to each event the kept hits of as many muons as `occupancy.upper` says."""
    rng = np.random.default_rng(seed)
    used = 0
    for event in events:
        number = 3
        for muon in muons[used : used + occupancy.upper]:
            efficiency = np.clip(rng.normal(occupancy.efficiency, occupancy.spread), 0, 1)
            kept = False
            for hit in zip(*muon.values(), strict=True):
                values = dict(zip(muon, hit, strict=True))
                weight = np.exp(-0.5 * ((values["detector"] - 1) / occupancy.sigma) ** 2)
                if rng.random() < efficiency * weight:
                    for name, value in values.items():
                        event[name].append(number if name == "track" else value)
                    kept = True
            number += kept
        used += occupancy.upper
    return events
