"""Dimuon files into files of one muon each, and these into files for training finders and momentum fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np

from trackkeras.domains.dimuon.detectors import PLANES
from trackkeras.domains.dimuon.events import Events
from trackkeras.domains.dimuon.merging import merge_hits, merge_tracks
from trackkeras.domains.dimuon.muons import NO_TRACK, hit_arrays, muon_rows
from trackkeras.domains.dimuon.rus_reading import read_rus
from trackkeras.errors import UserError


def separate(events: Events) -> tuple[Events, Events, int]:
    """Return the mu+ and the mu- of each event on their own, and how many events lack one of them.

    Events without both muons are left out of both results, so that these stay in step. Track numbers and
    columns stay as they are; hits of background and noise go.
    """
    rows = muon_rows(events)
    whole = (rows != NO_TRACK).all(axis=1)
    chosen, rows = events[whole], muon_rows(events[whole])
    plus, minus = (_one_muon(chosen, rows[:, index]) for index in range(2))
    return plus, minus, int((~whole).sum())


def _one_muon(events: Events, rows: np.ndarray) -> Events:
    kept = np.zeros(len(events.tracks), dtype=bool)
    kept[rows] = True
    number = events.tracks.number[rows]
    own = events.hits.track == number[events.hit_event]
    return events.with_tracks(kept).with_hits(own)


def finder_events(plus: Events, minus: Events) -> Events:
    """Return dimuon events from the mu+ and the mu- alone, with `HitArray_mup`, `HitArray_mum` and `muID`.

    The hits of the mu+ come first. Its track number becomes 1, that of the mu- 2.

    Args:
        plus: Events with the mu+ as only track.
        minus: The same events with the mu-.
    """
    first, second = _numbered(plus, 1, 1), _numbered(minus, 2, -1)
    events = merge_tracks(merge_hits(first, second), second)
    elements, _ = hit_arrays(events, muon_rows(events))
    return events.with_columns(
        HitArray_mup=elements[:, 0],
        HitArray_mum=elements[:, 1],
        muID=np.tile(np.array([1, 2], dtype=np.int32), (len(events), 1)),
    )


def momentum_events(muon: Events) -> Events:
    """Return events of one muon with `HitArray`, `(n, 62, 2)`: element and signed drift distance [cm]."""
    elements, drift = hit_arrays(muon, muon_rows(muon))
    present = (muon_rows(muon) != NO_TRACK).argmax(axis=1)
    events = np.arange(len(muon))
    array = np.empty((len(muon), PLANES, 2))
    array[:, :, 0] = elements[events, present]
    array[:, :, 1] = drift[events, present]
    return muon.with_columns(HitArray=array)


def paired(plus: Path, minus: Path) -> Iterator[tuple[Events, Events]]:
    """Yield the events of a mu+ and a mu- file side by side.

    Raises:
        UserError: As `read_rus`; the files are not of the same events, or an event has not one muon of the
            wanted charge.
    """
    done = 0
    for one, two in zip_longest(read_rus(plus), read_rus(minus)):
        if one is None or two is None or len(one) != len(two):
            raise UserError(
                f"{plus} and {minus} have different numbers of events, so they do not belong together"
            )
        other = np.flatnonzero(one.columns["eventID"] != two.columns["eventID"])
        if other.size:
            raise UserError(
                f"event {done + other[0]} has eventID {one.columns['eventID'][other[0]]} in {plus} and "
                f"{two.columns['eventID'][other[0]]} in {minus}, so they do not belong together"
            )
        for path, events, charge in ((plus, one, 1), (minus, two, -1)):
            alone = events.track_counts == 1
            if not alone.all() or (events.tracks.charge != charge).any():
                raise UserError(
                    f"{path} must have one truth track of charge {charge:+d} in each event; "
                    "`trackkeras dimuon separate` makes such files"
                )
        yield one, two
        done += len(one)


def _numbered(events: Events, number: int, charge: int) -> Events:
    """Give the one track of each event, and its hits, a number."""
    return Events(
        replace(events.hits, track=np.full(len(events.hits), number, dtype=np.int32)),
        replace(
            events.tracks,
            number=np.full(len(events.tracks), number, dtype=np.int32),
            charge=np.full(len(events.tracks), charge, dtype=np.int32),
        ),
        events.hit_offsets,
        events.track_offsets,
        events.columns,
    )
