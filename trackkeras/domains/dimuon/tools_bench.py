"""Speed of the data tools, beside plain Python loops over events and hits that do the same.

Sample: invented dimuon events of 70 hits; `messy` adds 25 background muons of 35 hits to each, and the rows
with 277 hits have such events. The loops run on a few events only; their noise asks the elements that exist,
4,235, for each of which one number is drawn. Every round takes the processor time of every row once, on
one thread; the table has medians.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trackkeras.domains.dimuon import loops
from trackkeras.domains.dimuon.detectors import ELEMENTS, numbers, plane_drift, plane_elements
from trackkeras.domains.dimuon.events import Events, Hits, Tracks
from trackkeras.domains.dimuon.hit_matrix import matrix_blocks
from trackkeras.domains.dimuon.mixing import add_background
from trackkeras.domains.dimuon.muons import hit_arrays, muon_rows
from trackkeras.domains.dimuon.noise import Noise, add_noise
from trackkeras.domains.dimuon.occupancy import Occupancy
from trackkeras.domains.dimuon.reconstructed import with_muons
from trackkeras.domains.dimuon.reconstruction import BATCH, Reconstruction
from trackkeras.domains.dimuon.refinement import drift_of, refine
from trackkeras.domains.dimuon.rus_reading import CHUNK_EVENTS

LOOP_EVENTS = 50
TRACKS = 25
CROWDED = 277
"""Hits of an event with background, as a noisy file of the experiment has them."""


@dataclass(frozen=True)
class _Case:
    """One row: `run` and `loop` do the same work on what `prepare` and `prepare_loop` make of some events."""

    step: str
    sample: Events
    prepare: Callable[[Events], tuple[Any, ...]]
    run: Callable[..., Any]
    prepare_loop: Callable[[Events], tuple[Any, ...]]
    loop: Callable[..., Any]


def measure(events: int = 10_000, rounds: int = 3, block: int = CHUNK_EVENTS) -> list[dict[str, Any]]:
    """Measure every step.

    Args:
        events: Number of events.
        rounds: Number of rounds.
        block: Events at a time; as many as the commands work on, unless told otherwise. Fewer stay in the
            processor's caches, more are faster to read and write.

    Returns:
        One row per step with microseconds per event, those of the loops, and their ratio.
    """
    cases = _cases(events, block)
    for case in cases:
        case.run(*case.prepare(case.sample[:10]))  # compile
    ours = np.empty((rounds, len(cases)))
    loop = np.empty((rounds, len(cases)))
    for turn in range(rounds):
        for index, case in enumerate(cases):
            ours[turn, index] = _seconds(case.run, case.prepare, case.sample, block)
            loop[turn, index] = _seconds(case.loop, case.prepare_loop, case.sample[:LOOP_EVENTS], block)
    rows = []
    for index, case in enumerate(cases):
        fast, slow = statistics.median(ours[:, index]), statistics.median(loop[:, index])
        rows.append(
            {
                "step": case.step,
                "events": len(case.sample),
                "hits_per_event": round(len(case.sample.hits) / len(case.sample)),
                "us_per_event": 1e6 * fast,
                "loop_us_per_event": 1e6 * slow,
                "faster": slow / fast,
            }
        )
    return rows


def _seconds(
    run: Callable[..., Any], prepare: Callable[[Events], tuple[Any, ...]], sample: Events, block: int
) -> float:
    """Return the processor time per event, block by block, without the preparation."""
    total = 0.0
    for first in range(0, len(sample), block):
        prepared = prepare(sample[first : first + block])
        start = time.thread_time()
        run(*prepared)
        total += time.thread_time() - start
    return total / len(sample)


def sample_events(n: int, hits: int, tracks: int, rng: np.random.Generator) -> Events:
    """Return n events of that many hits and truth tracks, with everything drawn evenly."""
    planes = numbers()
    detector = planes[rng.integers(0, len(planes), n * hits)]
    element = 1 + (rng.random(len(detector)) * plane_elements()[detector]).astype(np.int32)
    drift = rng.uniform(-1, 1, len(detector)) * plane_drift()[detector]
    track = np.tile(np.sort(rng.integers(1, tracks + 1, hits)), n)
    number = np.tile(np.arange(1, tracks + 1), n)
    momentum = rng.normal([0.0, 0.0, 30.0], [1.0, 1.0, 5.0], (len(number), 3))
    return Events.of(
        np.full(n, hits),
        Hits.of(detector, element, drift, track=track),
        np.full(n, tracks),
        Tracks.of(number, np.where(number % 2 == 1, 1, -1), np.zeros((len(number), 3)), momentum),
        {"eventID": np.arange(n, dtype=np.int32)},
    )


class _Pool:
    """Single muons in memory, for which no file is read."""

    def __init__(self, muons: Events) -> None:
        self.muons = Events(muons.hits, muons.tracks, muons.hit_offsets, muons.track_offsets)

    def take(self, n: int) -> Events:
        return self.muons[:n]


def _cases(n: int, block: int) -> list[_Case]:
    rng = np.random.default_rng(0)
    clean = sample_events(n, 70, 2, rng)
    crowded = sample_events(n, CROWDED, 2, rng)
    pool = _Pool(sample_events(TRACKS * min(n, block), 35, 1, rng))
    occupancy, noise = Occupancy(lower=TRACKS, upper=TRACKS), Noise()

    def alone(events: Events) -> tuple[Any, ...]:
        return (events,)

    def lists(events: Events) -> tuple[Any, ...]:
        return (loops.as_lists(events),)

    def arrays(events: Events) -> tuple[Any, ...]:
        elements, _ = hit_arrays(events, muon_rows(events))
        return events, np.where(elements > 0, np.clip(elements + 3, 1, ELEMENTS - 1), 0)

    def one_by_one(events: Events) -> tuple[Any, ...]:
        return (loops.as_arrays(events),)

    def arrays_one_by_one(events: Events) -> tuple[Any, ...]:
        return loops.as_arrays(events), arrays(events)[1]

    def likely(events: Events) -> tuple[Any, ...]:
        return events, _softmax(arrays(events)[1])

    def likely_one_by_one(events: Events) -> tuple[Any, ...]:
        return loops.as_arrays(events), likely(events)[1]

    cases = []
    for sample in (clean, crowded):
        cases += [
            _Case("three matrices", sample, alone, _matrices, one_by_one, loops.matrices),
            _Case("refinement", sample, arrays, refine, arrays_one_by_one, loops.refine),
            _Case("drift distances", sample, arrays, drift_of, arrays_one_by_one, loops.drift_of),
            _Case("reconstruct", sample, likely, _reconstruct, likely_one_by_one, loops.reconstruct),
        ]
    return [
        *cases,
        _Case(
            "noise",
            clean,
            alone,
            lambda events: add_noise(events, noise, rng),
            lists,
            lambda events: loops.add_noise(events, noise, 0),
        ),
        _Case(
            f"messy, {TRACKS} tracks",
            clean,
            alone,
            lambda events: add_background(events, pool, occupancy, rng),
            lambda events: (loops.as_lists(events), loops.as_lists(pool.take(TRACKS * len(events)))),
            lambda events, muons: loops.add_background(events, muons, occupancy, 0),
        ),
    ]


def _matrices(events: Events) -> None:
    for _ in matrix_blocks(events):
        pass


def _softmax(elements: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return what a finder says that is sure of these elements, `(n, 2, 62, 201)`."""
    softmax = np.full((*elements.shape, ELEMENTS), 1e-3, dtype=np.float32)
    np.put_along_axis(softmax, elements[..., None], 0.8, axis=-1)
    return softmax


def _reconstruct(events: Events, softmax: NDArray[np.float32]) -> None:
    """Do all that `dimuon reconstruct` does with events but read them, write them and run networks."""
    batches = iter(range(0, len(events), BATCH))

    def finder(inputs: Any) -> dict[str, Any]:
        first = next(batches)
        found = softmax[first : first + len(inputs["hits"])]
        return {"track_mup": found[:, 0], "track_mum": found[:, 1]}

    def momentum(inputs: Any) -> dict[str, Any]:
        return {"momentum": np.zeros((len(inputs["charge"]), 3), dtype=np.float32)}

    with_muons(events, Reconstruction(momentum, finder)(events))
