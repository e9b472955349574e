"""Events made of others: single muons in turn, background under a signal, background alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trackkeras.domains.dimuon.detectors import PLANES
from trackkeras.domains.dimuon.events import FIRST_BACKGROUND, Events
from trackkeras.domains.dimuon.hit_kernels import count_on, keep_hits
from trackkeras.domains.dimuon.merging import merge_tables
from trackkeras.domains.dimuon.occupancy import Occupancy
from trackkeras.domains.dimuon.ragged import interleaved, offsets
from trackkeras.domains.dimuon.random_streams import chunk_rng
from trackkeras.domains.dimuon.rus_reading import CHUNK_EVENTS, count_events, read_rus
from trackkeras.errors import UserError


def combine(first: Path, second: Path, max_events: int | None = None) -> Iterator[Events]:
    """Yield events of two files in turn, one of each, until one of them ends; `eventID` counts from 0.

    Args:
        first: RUS file; its first event comes first.
        second: RUS file with the same branches.
        max_events: Most events of the result.

    Raises:
        UserError: As `read_rus`, or the files have different branches.
    """
    pairs = min(count_events(first), count_events(second))
    total = 2 * pairs if max_events is None else min(2 * pairs, max_events)
    done = 0
    half = -(-total // 2)
    for one, two in zip(read_rus(first, stop=half), read_rus(second, stop=half), strict=True):
        events = Events.concatenate([one, two])[interleaved(len(one))][: total - done]
        number = np.arange(done, done + len(events), dtype=np.int32)
        done += len(events)
        yield events.with_columns(eventID=number)


class SingleMuons:
    """The muons of a file, one after the other, and from the beginning again when they are used up.

    Attributes:
        path: RUS file with one truth track in each event.
        used: Muons taken so far.
        size: Muons in the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.used = 0
        self.size = count_events(path)
        if not self.size:
            raise UserError(f"{path} has no events to take background from")
        self._chunks = self._endless()
        self._left = next(self._chunks)

    @property
    def passes(self) -> float:
        """How often the file has been gone through."""
        return self.used / self.size

    def take(self, n: int) -> Events:
        """Return the next n muons.

        Raises:
            UserError: As `read_rus`, or an event has not exactly one truth track.
        """
        parts = [self._left]
        held = len(self._left)
        while held < n:
            parts.append(next(self._chunks))
            held += len(parts[-1])
        events = Events.concatenate(parts) if len(parts) > 1 else parts[0]
        self._left = events[n:]
        self.used += n
        return events[:n]

    def _endless(self) -> Iterator[Events]:
        while True:
            for events in read_rus(self.path):
                wrong = np.flatnonzero(events.track_counts != 1)
                if wrong.size:
                    raise UserError(
                        f"{self.path} must have one muon in each event to be background, received an event "
                        f"with {events.track_counts[wrong[0]]} truth tracks"
                    )
                yield Events(events.hits, events.tracks, events.hit_offsets, events.track_offsets)


class Source(Protocol):
    """Whatever hands out single muons."""

    def take(self, n: int) -> Events:
        """Return the next n muons."""


def add_background(signal: Events, muons: Source, occupancy: Occupancy, rng: np.random.Generator) -> Events:
    """Return events with the hits of single muons added, of each some.

    Background tracks are numbered from 3, or on from the largest number of the event. One of which no hit is
    left has no truth either.

    Args:
        signal: The events; their hits and columns stay as they are.
        muons: Where background comes from.
        occupancy: How many tracks, and how much of each is kept.
        rng: Source of randomness.
    """
    counts = occupancy.draw_counts(rng, len(signal))
    total = int(counts.sum())
    return _inject(signal, muons.take(total), np.arange(total), counts, occupancy, rng)


def background_events(
    pool: Events, n: int, occupancy: Occupancy, rng: np.random.Generator, first: int = 0
) -> Events:
    """Return n events of nothing but background, each of some muons of a pool, drawn with replacement.

    Args:
        pool: Single muons.
        n: Number of events.
        occupancy: How many tracks, and how much of each is kept.
        rng: Source of randomness.
        first: `eventID` of the first event.
    """
    counts = occupancy.draw_counts(rng, n)
    drawn = rng.integers(0, len(pool), int(counts.sum()))
    nothing = pool[:0]
    empty = Events.of(
        np.zeros(n),
        nothing.hits,
        np.zeros(n),
        nothing.tracks,
        {
            "eventID": np.arange(first, first + n, dtype=np.int32),
            "HitArray_mup": np.zeros((n, PLANES), dtype=np.int32),
            "HitArray_mum": np.zeros((n, PLANES), dtype=np.int32),
        },
    )
    return _inject(empty, pool, drawn, counts, occupancy, rng)


def background_chunks(path: Path, n: int, occupancy: Occupancy, seed: int) -> Iterator[Events]:
    """Yield n background events; each chunk of them draws from the next muons of a file."""
    muons = SingleMuons(path)
    for chunk, first in enumerate(range(0, n, CHUNK_EVENTS)):
        pool = muons.take(min(muons.size, CHUNK_EVENTS))
        yield background_events(
            pool, min(CHUNK_EVENTS, n - first), occupancy, chunk_rng(seed, "background", chunk), first
        )


def _inject(
    signal: Events,
    muons: Events,
    drawn: NDArray[np.int64],
    counts: NDArray[np.int64],
    occupancy: Occupancy,
    rng: np.random.Generator,
) -> Events:
    """Add the drawn muons to events, `counts` of them to each."""
    rows = np.empty(int(muons.hit_counts[drawn].sum()), dtype=np.int64)
    left, number = np.empty(len(drawn), dtype=np.int64), np.empty(len(drawn), dtype=np.int32)
    efficiency = occupancy.draw_efficiency(rng, len(drawn))
    found = keep_hits(
        rng,
        muons.hit_offsets,
        muons.hits.detector,
        drawn,
        efficiency,
        occupancy.weights(),
        rows,
        left,
    )
    count_on(
        counts,
        left,
        signal.track_offsets,
        signal.tracks.number,
        signal.hit_offsets,
        signal.hits.track,
        FIRST_BACKGROUND,
        number,
    )
    seen = left > 0
    per_event = offsets(counts)
    hit_bounds, track_bounds = offsets(left)[per_event], offsets(seen)[per_event]
    own = (signal.hit_offsets, hit_bounds, rows[:found])
    # The muons keep everything but their numbers.
    hits = merge_tables(signal.hits, muons.hits, *own, track=np.repeat(number, left))
    tracks = merge_tables(
        signal.tracks, muons.tracks, signal.track_offsets, track_bounds, drawn[seen], number=number[seen]
    )
    return Events(
        hits,
        tracks,
        signal.hit_offsets + hit_bounds,
        signal.track_offsets + track_bounds,
        signal.columns,
    )
