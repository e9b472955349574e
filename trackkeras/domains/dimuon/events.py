"""Many events as flat arrays: hits and truth tracks of all events one after the other, with offsets.

`hits.detector[events.hit_offsets[i] : events.hit_offsets[i + 1]]` are the detectors of event i. Everything
that works on events works on whole arrays; nothing loops over events or hits in Python.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trackkeras.domains.dimuon.ragged import Offsets, count_per_event, gather, offsets
from trackkeras.errors import UserError

Ints = NDArray[np.int32]
Floats = NDArray[np.float64]

CHARGES = (1, -1)
"""Order of the two muons wherever an axis of length 2 holds both: mu+, mu-."""

NOISE = 0
"""Track number of a hit that no track made."""

FIRST_BACKGROUND = 3
"""Tracks 1 and 2 are the signal's; those of injected background count from here."""

NO_TRACK = -1
"""In place of a track's number or row where there is none."""


@dataclass(frozen=True)
class _Table:
    """Columns of equal length; subclasses name them."""

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in self.columns().items()}
        if len(set(lengths.values())) > 1:
            raise UserError(f"{type(self).__name__.lower()} need columns of one length, received {lengths}")

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the columns by name."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    def take(self, rows: slice | NDArray[Any]) -> Self:
        """Return some rows; a slice copies nothing."""
        return type(self)(**{name: column[rows] for name, column in self.columns().items()})

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Return the rows of all parts, one after the other."""
        return cls(
            **{
                entry.name: np.concatenate([getattr(part, entry.name) for part in parts])
                for entry in fields(cls)
            }
        )


Table = TypeVar("Table", bound=_Table)


@dataclass(frozen=True)
class Hits(_Table):
    """Hits of all events, each column `(hits,)`.

    Attributes:
        track: int32 number of the track that made the hit: 1 and 2 are the signal, background counts from 3,
            0 is noise; 0 throughout where nobody knows.
        process: int32 code of the process that made the track, 0 where unknown.
        detector: int32, 1 to 62.
        element: int32, counted from 1.
        tdc: float64 time [ns].
        drift: float64 drift distance [cm]. Its sign is simulation truth: wire position + drift = position.
    """

    track: Ints
    process: Ints
    detector: Ints
    element: Ints
    tdc: Floats
    drift: Floats

    @classmethod
    def of(
        cls,
        detector: ArrayLike,
        element: ArrayLike,
        drift: ArrayLike | float = 0.0,
        *,
        tdc: ArrayLike | float = 0.0,
        track: ArrayLike | int = NOISE,
        process: ArrayLike | int = 0,
    ) -> Hits:
        """Make hits, with each column converted, and numbers repeated for all hits."""
        planes = np.asarray(detector, dtype=np.int32)
        return cls(
            track=_column(track, np.int32, planes.shape),
            process=_column(process, np.int32, planes.shape),
            detector=planes,
            element=_column(element, np.int32, planes.shape),
            tdc=_column(tdc, np.float64, planes.shape),
            drift=_column(drift, np.float64, planes.shape),
        )


@dataclass(frozen=True)
class Tracks(_Table):
    """Truth tracks of all events; vectors are `(tracks, 3)` float64 and NaN where they are not known.

    Attributes:
        number: int32 `(tracks,)`, as in `Hits.track`.
        charge: int32 `(tracks,)`, +1 or -1.
        vertex: Where the particle was made [cm].
        momentum: There [GeV].
        position_st1: At station 1 [cm].
        momentum_st1: At station 1 [GeV].
        position_st3: At station 3 [cm].
        momentum_st3: At station 3 [GeV].
    """

    number: Ints
    charge: Ints
    vertex: Floats
    momentum: Floats
    position_st1: Floats
    momentum_st1: Floats
    position_st3: Floats
    momentum_st3: Floats

    @classmethod
    def of(
        cls,
        number: ArrayLike,
        charge: ArrayLike | int,
        vertex: ArrayLike,
        momentum: ArrayLike,
        *,
        position_st1: ArrayLike | float = np.nan,
        momentum_st1: ArrayLike | float = np.nan,
        position_st3: ArrayLike | float = np.nan,
        momentum_st3: ArrayLike | float = np.nan,
    ) -> Tracks:
        """Make tracks, with each column converted; what is not given is NaN."""
        numbers = np.asarray(number, dtype=np.int32)
        vectors = (len(numbers), 3)
        return cls(
            number=numbers,
            charge=_column(charge, np.int32, numbers.shape),
            vertex=_column(vertex, np.float64, vectors),
            momentum=_column(momentum, np.float64, vectors),
            position_st1=_column(position_st1, np.float64, vectors),
            momentum_st1=_column(momentum_st1, np.float64, vectors),
            position_st3=_column(position_st3, np.float64, vectors),
            momentum_st3=_column(momentum_st3, np.float64, vectors),
        )


@dataclass(frozen=True, repr=False)
class Events:
    """Events of one detector.

    Attributes:
        hits: Hits of all events.
        tracks: Truth tracks of all events.
        hit_offsets: int64 `(n + 1,)`: event i has the hits from entry i to entry i + 1.
        track_offsets: int64 `(n + 1,)`, alike.
        columns: What an event has once, each `(n, ...)`, under its name in the experiment's files: `runID`,
            `eventID`, `spillID`, `fpgaTrigger` and so on. `eventID` need not be unique.

    Raises:
        UserError: Offsets and columns do not fit together.
    """

    hits: Hits
    tracks: Tracks
    hit_offsets: Offsets
    track_offsets: Offsets
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, bounds, rows in (
            ("hit", self.hit_offsets, len(self.hits)),
            ("track", self.track_offsets, len(self.tracks)),
        ):
            if not len(bounds) or bounds[0] != 0 or bounds[-1] != rows or (np.diff(bounds) < 0).any():
                raise UserError(f"{what} offsets must rise from 0 to {rows}, received {bounds}")
        lengths = {name: len(column) for name, column in self.columns.items()}
        lengths["tracks"] = len(self.track_offsets) - 1
        if set(lengths.values()) - {len(self)}:
            raise UserError(f"{len(self)} events need columns of that length, received {lengths}")

    @classmethod
    def of(
        cls,
        hit_counts: ArrayLike,
        hits: Hits,
        track_counts: ArrayLike,
        tracks: Tracks,
        columns: Mapping[str, NDArray[Any]] | None = None,
    ) -> Events:
        """Make events from the numbers of hits and tracks in each, `(n,)`."""
        return cls(hits, tracks, offsets(hit_counts), offsets(track_counts), columns or {})

    def __repr__(self) -> str:
        names = ", ".join(self.columns) or "no columns"
        return f"Events({len(self)} with {len(self.hits)} hits, {len(self.tracks)} tracks and {names})"

    def __len__(self) -> int:
        return len(self.hit_offsets) - 1

    def __getitem__(self, chosen: slice | ArrayLike) -> Events:
        """Return some events: a slice, indices in any order and repetition, or a mask `(n,)`.

        A slice of step 1 copies nothing.
        """
        if isinstance(chosen, slice):
            first, last, step = chosen.indices(len(self))
            if step == 1:
                return self._slice(first, max(first, last))
            chosen = np.arange(first, last, step)
        rows = np.asarray(chosen)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        hits, hit_counts = gather(self.hit_offsets, rows)
        tracks, track_counts = gather(self.track_offsets, rows)
        columns = {name: column[rows] for name, column in self.columns.items()}
        return Events.of(hit_counts, self.hits.take(hits), track_counts, self.tracks.take(tracks), columns)

    def _slice(self, first: int, last: int) -> Events:
        hits, tracks = self.hit_offsets[first : last + 1], self.track_offsets[first : last + 1]
        return Events(
            self.hits.take(slice(hits[0], hits[-1])),
            self.tracks.take(slice(tracks[0], tracks[-1])),
            hits - hits[0],
            tracks - tracks[0],
            {name: column[first:last] for name, column in self.columns.items()},
        )

    @property
    def hit_counts(self) -> Offsets:
        """Number of hits of each event, `(n,)`."""
        return np.diff(self.hit_offsets)

    @property
    def track_counts(self) -> Offsets:
        """Number of truth tracks of each event, `(n,)`."""
        return np.diff(self.track_offsets)

    @property
    def hit_event(self) -> Offsets:
        """Event of each hit, `(hits,)`."""
        return np.repeat(np.arange(len(self)), self.hit_counts)

    @property
    def track_event(self) -> Offsets:
        """Event of each truth track, `(tracks,)`."""
        return np.repeat(np.arange(len(self)), self.track_counts)

    def with_hits(self, kept: NDArray[np.bool_]) -> Events:
        """Return the same events with only the hits of a mask `(hits,)`."""
        return Events(
            self.hits.take(kept),
            self.tracks,
            offsets(count_per_event(self.hit_offsets, kept)),
            self.track_offsets,
            self.columns,
        )

    def with_tracks(self, kept: NDArray[np.bool_]) -> Events:
        """Return the same events with only the truth tracks of a mask `(tracks,)`."""
        return Events(
            self.hits,
            self.tracks.take(kept),
            self.hit_offsets,
            offsets(count_per_event(self.track_offsets, kept)),
            self.columns,
        )

    def with_columns(self, **columns: NDArray[Any]) -> Events:
        """Return the same events with columns added or replaced."""
        return Events(
            self.hits, self.tracks, self.hit_offsets, self.track_offsets, {**self.columns, **columns}
        )

    @staticmethod
    def concatenate(parts: Sequence[Events]) -> Events:
        """Return the events of all parts, one after the other.

        Raises:
            UserError: There is no part, or the parts have different columns.
        """
        if not parts:
            raise UserError("there are no events to join")
        names = [sorted(part.columns) for part in parts]
        for other in names[1:]:
            if other != names[0]:
                raise UserError(f"events with the columns {names[0]} and with {other} cannot be joined")
        return Events.of(
            np.concatenate([part.hit_counts for part in parts]),
            Hits.concatenate([part.hits for part in parts]),
            np.concatenate([part.track_counts for part in parts]),
            Tracks.concatenate([part.tracks for part in parts]),
            {name: np.concatenate([part.columns[name] for part in parts]) for name in names[0]},
        )


def _column(values: ArrayLike, dtype: type, shape: tuple[int, ...]) -> NDArray[Any]:
    column: NDArray[Any] = np.asarray(values, dtype=dtype)
    return np.full(shape, column) if column.ndim < len(shape) else column
