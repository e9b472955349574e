"""Two samples of the same events put together: hits to hits, tracks to tracks."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trackkeras.domains.dimuon.events import Events, Table
from trackkeras.domains.dimuon.ragged import Offsets


def merge_hits(first: Events, second: Events) -> Events:
    """Return the events of `first` with the hits of `second`'s event of the same place behind their own."""
    hits, bounds = merge_tables(first.hits, first.hit_offsets, second.hits, second.hit_offsets)
    return Events(hits, first.tracks, bounds, first.track_offsets, first.columns)


def merge_tracks(first: Events, second: Events) -> Events:
    """Return the events of `first` with the truth tracks of `second`'s behind their own."""
    tracks, bounds = merge_tables(first.tracks, first.track_offsets, second.tracks, second.track_offsets)
    return Events(first.hits, tracks, first.hit_offsets, bounds, first.columns)


def merge_tables(
    one: Table, bounds: Offsets, two: Table, other: Offsets, rows: Offsets | None = None
) -> tuple[Table, Offsets]:
    """Return the rows of both tables, group by group, and the offsets of the joint groups.

    Args:
        one: Its rows come first in each group.
        bounds: Offsets of its groups.
        two: The other table.
        other: Offsets of the groups of its rows, or of `rows`.
        rows: Rows of `two`, group by group; all in their order if None.
    """
    theirs = two.columns()
    columns = {
        name: merge_columns(column, bounds, theirs[name], other, rows)
        for name, column in one.columns().items()
    }
    return type(one)(**columns), bounds + other


def merge_columns(
    one: NDArray[Any], bounds: Offsets, two: NDArray[Any], other: Offsets, rows: Offsets | None = None
) -> NDArray[Any]:
    """Return the entries of two columns, group by group; see `merge_tables`."""
    from trackkeras.domains.dimuon.hit_kernels import merge_rows

    taken = np.arange(len(two)) if rows is None else rows
    joint = np.empty((len(one) + len(taken), *one.shape[1:]), dtype=one.dtype)
    flat = (
        np.ascontiguousarray(column).reshape(len(column), prod(column.shape[1:])) for column in (one, two)
    )
    merge_rows(*flat, bounds, taken, other, joint.reshape(len(joint), prod(joint.shape[1:])))
    return joint
