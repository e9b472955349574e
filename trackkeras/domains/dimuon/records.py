"""One event as one row of a dataset: hits padded to a fixed number, and the truth of the two muons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfrecords_tools.schema import Feature, Schema
from trackkeras.domain import Rows
from trackkeras.domains.dimuon.detectors import ELEMENTS, PLANES
from trackkeras.domains.dimuon.events import NO_TRACK, Events
from trackkeras.domains.dimuon.found import FOUND, check_found, found_columns
from trackkeras.domains.dimuon.muons import background_tracks, hit_arrays, muon_rows, muon_vectors
from trackkeras.domains.dimuon.ragged import Offsets
from trackkeras.domains.dimuon.random_streams import mixed_bits
from trackkeras.domains.dimuon.record_options import MAX_HITS, RecordOptions
from trackkeras.domains.dimuon.rus_reading import read_rus
from trackkeras.errors import UserError

BLOCK_ROWS = 64
"""A padded event takes some 7 kB: blocks of more would make a shuffle buffer of many blocks too large."""

_GROUP_BITS = 53
"""Whole numbers of as many bits pass through float64 and JSON unchanged."""


def dimuon_schema(max_hits: int = MAX_HITS, *, reconstructed: bool = False) -> Schema:
    """Return the record schema. Of an axis of length 2 the first entry is the mu+, the second the mu-.

    Args:
        max_hits: Hits that a row has room for.
        reconstructed: With the columns `FOUND` of what was reconstructed.
    """
    return Schema(
        "dimuon",
        (
            Feature(
                "hit_detector", "int64", (max_hits,), "1", "detector of each hit, 0 in the padding", 0, PLANES
            ),
            Feature(
                "hit_element",
                "int64",
                (max_hits,),
                "1",
                "its element, from 1; 0 in the padding",
                0,
                ELEMENTS - 1,
            ),
            Feature(
                "hit_drift",
                "float32",
                (max_hits,),
                "cm",
                "its drift distance, absolute unless told otherwise",
            ),
            Feature("hit_count", "int64", (1,), "1", "number of hits", 0, max_hits),
            Feature(
                "elements",
                "int64",
                (2, PLANES),
                "1",
                "element that each muon fired in detector d at d - 1, 0: none",
                0,
                ELEMENTS - 1,
            ),
            Feature("drift", "float32", (2, PLANES), "cm", "drift distance of these hits"),
            Feature("momentum", "float32", (2, 3), "GeV", "true momentum at the vertex, 0: no such muon"),
            Feature("momentum_st1", "float32", (2, 3), "GeV", "true momentum at station 1, 0: not known"),
            Feature("vertex", "float32", (2, 3), "cm", "true vertex"),
            Feature("muon", "int64", (2,), "1", "1 if the event has this muon", 0, 1),
            Feature("background_tracks", "int64", (1,), "1", "other tracks with hits", 0),
            Feature("group", "int64", (1,), "1", "equal for events of one generated muon: never split it", 0),
            *(FOUND if reconstructed else ()),
        ),
        block_rows=BLOCK_ROWS,
    )


def event_rows(events: Events, *, max_hits: int = MAX_HITS, signed: bool = False, first: int = 0) -> Rows:
    """Return events as columns of `dimuon_schema`.

    Args:
        events: The events.
        max_hits: Hits that a row has room for.
        signed: Keep the sign of drift distances.
        first: Number of the first event in its file, for the message.

    Raises:
        UserError: An event has more hits.
    """
    counts = events.hit_counts
    most = int(counts.max(initial=0))
    if most > max_hits:
        raise UserError(
            f"event {first + int(counts.argmax())} has {most} hits, more than max_hits={max_hits}: make room "
            f"with --set max_hits={1 << (most - 1).bit_length()}"
        )
    muons = muon_rows(events)
    elements, drift = hit_arrays(events, muons)
    event = events.hit_event
    place = (event, np.arange(len(events.hits)) - events.hit_offsets[event])
    distance = events.hits.drift
    if not signed:
        distance, drift = np.abs(distance), np.abs(drift)

    def padded(values: NDArray[Any], dtype: type) -> NDArray[Any]:
        column: NDArray[Any] = np.zeros((len(events), max_hits), dtype=dtype)
        column[place] = values
        return column

    return {
        "hit_detector": padded(events.hits.detector, np.int64),
        "hit_element": padded(events.hits.element, np.int64),
        "hit_drift": padded(distance, np.float32),
        "hit_count": counts[:, None],
        "elements": elements.astype(np.int64),
        "drift": drift.astype(np.float32),
        "momentum": muon_vectors(events, muons, "momentum").astype(np.float32),
        "momentum_st1": muon_vectors(events, muons, "momentum_st1").astype(np.float32),
        "vertex": muon_vectors(events, muons, "vertex").astype(np.float32),
        "muon": (muons != NO_TRACK).astype(np.int64),
        "background_tracks": background_tracks(events).astype(np.int64)[:, None],
        "group": event_groups(events, muons)[:, None],
    }


def event_groups(events: Events, muons: Offsets) -> NDArray[np.int64]:
    """Return a number for each event that events of the same generated muons share, `(n,)`.

    A generated muon that was simulated several times has one gpx and gpz; two muons together are as good as
    unique, so that dimuons are grouped by event. Events without a muon are grouped by their run, spill and
    number.
    """
    momentum = muon_vectors(events, muons, "momentum").astype(np.float32)[:, :, ::2]
    key = np.ascontiguousarray(momentum).view(np.uint32).reshape(len(events), -1).astype(np.uint64)
    empty = (muons == NO_TRACK).all(axis=1)
    for index, name in enumerate(("runID", "spillID", "eventID")):
        if name in events.columns:
            key[empty, index] = events.columns[name][empty].astype(np.int64).view(np.uint64)
    mixed = np.zeros(len(events), dtype=np.uint64)
    for column in key.T:
        mixed = mixed_bits(mixed ^ column)
    return (mixed >> np.uint64(64 - _GROUP_BITS)).astype(np.int64)


def read_rows(files: Iterable[Path], options: RecordOptions) -> Iterator[Rows]:
    """Yield the events of RUS files as rows.

    Raises:
        UserError: As `read_rus`, `event_rows` and `found_columns`.
    """
    for path in files:
        first = 0
        for events in read_rus(path, drop_invalid=options.drop_invalid):
            try:
                rows = event_rows(events, max_hits=options.max_hits, signed=options.signed, first=first)
                found = found_columns(events, signed=options.signed) if options.reconstructed else {}
                yield rows | found
            except UserError as error:
                raise UserError(f"{path}: {error}") from None
            first += len(events)


def check_rows(rows: Rows) -> list[str]:
    """Return what contradicts itself in rows of a dataset."""
    width = rows["hit_detector"].shape[1]
    filled = np.arange(width) < rows["hit_count"]
    muon = rows["muon"][:, :, None] > 0
    rules = {
        "hits in the padding, or padding among the hits": (rows["hit_detector"] > 0) != filled,
        "hits without an element, or elements without a hit": (rows["hit_element"] > 0) != filled,
        "drift distances in the padding": (rows["hit_drift"] != 0) & ~filled,
        "hits of a muon that is not there": (rows["elements"] > 0) & ~muon,
        "drift distances of a muon without a hit": (rows["drift"] != 0) & (rows["elements"] == 0),
        "momentum of a muon that is not there": (rows["momentum"] != 0) & ~muon,
        "muons at rest": muon[:, :, 0] & (rows["momentum"] == 0).all(axis=2),
    }
    if "found_elements" in rows:
        rules |= check_found(rows)
    return [
        f"{bad.reshape(len(bad), -1).any(axis=1).sum()} of {len(bad)} rows have {rule}"
        for rule, bad in rules.items()
        if bad.any()
    ]
