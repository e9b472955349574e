"""Two samples of the same events put together: hits to hits, tracks to tracks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trackkeras.domains.dimuon.events import Events, Table
from trackkeras.domains.dimuon.ragged import Offsets


def merge_hits(first: Events, second: Events) -> Events:
    """Return the events of `first` with the hits of `second`'s event of the same place behind their own."""
    hits = merge_tables(first.hits, second.hits, first.hit_offsets, second.hit_offsets)
    bounds = first.hit_offsets + second.hit_offsets
    return Events(hits, first.tracks, bounds, first.track_offsets, first.columns)


def merge_tracks(first: Events, second: Events) -> Events:
    """Return the events of `first` with the truth tracks of `second`'s behind their own."""
    tracks = merge_tables(first.tracks, second.tracks, first.track_offsets, second.track_offsets)
    bounds = first.track_offsets + second.track_offsets
    return Events(first.hits, tracks, first.hit_offsets, bounds, first.columns)


def merge_tables(
    one: Table,
    two: Table,
    bounds: Offsets,
    other: Offsets,
    rows: Offsets | None = None,
    **instead: NDArray[Any],
) -> Table:
    """Return the rows of both tables, group by group; the offsets of the joint groups are the sums of theirs.

    Args:
        one: Its rows come first in each group.
        two: The other table.
        bounds: Offsets of the groups of `one`.
        other: Offsets of the groups of `two`, or of `rows`.
        rows: Rows of `two`, group by group; all in their order if None.
        **instead: Columns that take the place of those that `rows` names, by name.
    """
    from trackkeras.domains.dimuon.hit_kernels import merge_values, merge_vectors

    taken = np.arange(len(two)) if rows is None else rows
    theirs = two.columns()
    columns = {}
    for name, mine in one.columns().items():
        added = instead.get(name, theirs[name])
        places = np.arange(len(added)) if name in instead else taken
        joint = np.empty((len(mine) + len(places), *mine.shape[1:]), dtype=mine.dtype)
        merge = merge_values if mine.ndim == 1 else merge_vectors
        merge(np.ascontiguousarray(mine), np.ascontiguousarray(added), bounds, places, other, joint)
        columns[name] = joint
    return type(one)(**columns)
