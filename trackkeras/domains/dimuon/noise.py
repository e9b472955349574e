"""Hits that no particle made: electronic noise all over, and clusters of neighbouring elements.

Noise fires where a detector exists, within its elements, at most once per element and never where a track has
fired. Its drift distances are spread evenly over the cell, as a network would otherwise know it by them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trackkeras.domains.dimuon.detectors import ELEMENTS, numbers, plane_drift, plane_elements
from trackkeras.domains.dimuon.events import NOISE, Events, Hits
from trackkeras.domains.dimuon.merging import merge_hits
from trackkeras.errors import UserError


@dataclass(frozen=True)
class Noise:
    """How much noise.

    Attributes:
        electronic: Chance that an element without a hit fires.
        cluster: Chance that a detector has a cluster.
        shortest: Fewest elements of a cluster.
        longest: Most elements of a cluster.

    Raises:
        UserError: A value is outside of its range.
    """

    electronic: float = 0.002
    cluster: float = 0.01
    shortest: int = 2
    longest: int = 4

    def __post_init__(self) -> None:
        for name in ("electronic", "cluster"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must be a chance from 0 to 1, received {getattr(self, name):g}")
        fewest = int(plane_elements()[numbers()].min())
        if not 1 <= self.shortest <= self.longest <= fewest:
            raise UserError(
                f"clusters must have 1 <= shortest <= longest <= {fewest} elements, as many as the smallest "
                f"detector, received {self.shortest} and {self.longest}"
            )


def add_noise(events: Events, noise: Noise, rng: np.random.Generator) -> Events:
    """Return events with noise behind their own hits; its track number is 0 and its time 0 ns."""
    planes = numbers().astype(np.int64)
    sizes = plane_elements()[planes]
    electronic = _electronic(len(events), planes, sizes, noise.electronic, rng)
    cluster = _clusters(len(events), planes, sizes, noise, rng)
    cells = np.unique(np.concatenate([electronic, cluster]))
    hits, event = events.hits, events.hit_event
    fired = np.zeros(len(events) * _PLANES * ELEMENTS, dtype=bool)
    fired[_cell(event, hits.detector, hits.element)] = True
    cells = cells[~fired[cells]]
    own, plane = np.divmod(cells // ELEMENTS, _PLANES)
    added = Events.of(
        np.bincount(own, minlength=len(events)),
        Hits.of(
            plane, cells % ELEMENTS, rng.uniform(-1.0, 1.0, len(cells)) * plane_drift()[plane], track=NOISE
        ),
        np.zeros(len(events)),
        events.tracks.take(slice(0, 0)),
    )
    return merge_hits(events, added)


_PLANES = 64


def _cell(event: NDArray, plane: NDArray, element: NDArray) -> NDArray[np.int64]:
    """Return one number for each element of each event, in their order."""
    return (event.astype(np.int64) * _PLANES + plane) * ELEMENTS + element


def _electronic(
    n: int, planes: NDArray, sizes: NDArray, chance: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return the cells that fire of n events.

    Instead of a draw for each element, the gaps between those that fire are drawn: they follow the geometric
    distribution.
    """
    elements = int(sizes.sum())
    total = n * elements
    if not chance or not total:
        return np.empty(0, dtype=np.int64)
    found, last = [], -1
    while last < total:
        gaps = rng.geometric(chance, int((total - last) * chance * 1.05) + 16)
        # a gap may be as long as the largest integer where the chance is tiny
        found.append(last + np.cumsum(np.minimum(gaps, total + 1)))
        last = int(found[-1][-1])
    fired = np.concatenate(found)
    event, place = np.divmod(fired[fired < total], elements)
    plane_of = np.repeat(planes, sizes)
    element_of = np.concatenate([np.arange(1, size + 1) for size in sizes])
    return _cell(event, plane_of[place], element_of[place])


def _clusters(
    n: int, planes: NDArray, sizes: NDArray, noise: Noise, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return the cells of all clusters of n events, at most one in a detector, wholly inside of it."""
    event, index = np.nonzero(rng.random((n, len(planes))) < noise.cluster)
    length = rng.integers(noise.shortest, noise.longest + 1, len(event))
    start = 1 + (rng.random(len(event)) * (sizes[index] - length + 1)).astype(np.int64)
    offset = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    return _cell(
        np.repeat(event, length), np.repeat(planes[index], length), np.repeat(start, length) + offset
    )
