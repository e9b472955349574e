"""Reading RUS files, the experiment's ROOT files, into events: in constant memory and without ROOT."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot
from numpy.typing import NDArray

from trackkeras.domains.dimuon.detectors import ELEMENTS, PLANES
from trackkeras.domains.dimuon.events import Events, Hits, Tracks
from trackkeras.domains.dimuon.ragged import offsets
from trackkeras.domains.dimuon.rus_layout import (
    CHARGE,
    DERIVED,
    EVENT_NUMBERS,
    REQUIRED,
    TREE,
    TRUTH,
    VECTORS,
    Naming,
    find_naming,
)
from trackkeras.errors import UserError

CHUNK_EVENTS = 2048
"""Events that are read, worked on and written at a time."""

UNKNOWN = 9999.0
"""A truth coordinate as large as this stands for one that is not known."""

Array = NDArray[Any]


@dataclass
class RusFile:
    """A RUS file that is open for reading.

    Attributes:
        path: The file.
        tree: Its TTree.
        naming: The naming that it follows.
        counters: Branches that hold only the length of others.
    """

    path: Path
    tree: Any
    naming: Naming = field(init=False)
    counters: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        counted = [branch.count_branch for branch in self.tree.branches]
        self.counters = frozenset(branch.name for branch in counted if branch is not None)
        self.naming = find_naming(self.branches)

    @property
    def branches(self) -> dict[str, Any]:
        """Branches by name, without counters."""
        return {b.name: b for b in self.tree.branches if b.name not in self.counters}

    @property
    def entries(self) -> int:
        """Number of events."""
        return int(self.tree.num_entries)

    def jagged(self, name: str) -> bool:
        """Whether a branch has entries of varying length."""
        return isinstance(self.branches[name].interpretation, uproot.AsJagged)

    def missing(self) -> list[str]:
        """Return the names of branches without which the file is of no use."""
        present = self.branches
        missing = [name for name in REQUIRED if name not in present]
        if any(name in present for name in TRUTH):
            missing += [name for name in TRUTH if name not in present]
        return missing

    def columns(self) -> list[str]:
        """Return the names of what an event has once: numbers and fixed arrays."""
        tables = {*self.naming.hits.values(), *DERIVED, CHARGE, self.naming.track_number}
        tables |= {name for names in VECTORS.values() for name in names}
        return [
            name
            for name, branch in self.branches.items()
            if name in EVENT_NUMBERS
            or (name not in tables and isinstance(branch.interpretation, uproot.AsDtype))
        ]

    def read(self, names: Sequence[str], start: int, stop: int) -> dict[str, ak.Array]:
        """Return some branches of the events from `start` to `stop`.

        Raises:
            UserError: The file is damaged.
        """
        with reading(self.path):
            arrays = self.tree.arrays(names, entry_start=start, entry_stop=stop, library="ak", how=dict)
            for name in names:
                if len(arrays[name]) != min(stop, self.entries) - start:
                    raise ValueError(f"branch {name} has another number of entries than the tree")
        return {name: arrays[name] for name in names}


@contextlib.contextmanager
def open_rus(path: Path) -> Iterator[RusFile]:
    """Open a file for reading.

    Raises:
        UserError: There is no such file, it is no ROOT file, it is damaged, or it has no TTree named `tree`.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    with contextlib.ExitStack() as stack:
        with reading(path):
            # without a cache of decompressed baskets, memory does not grow with the file
            root = stack.enter_context(uproot.open(path, array_cache=None))
            names = sorted(set(root.keys(cycle=False)))
            tree = root[TREE] if TREE in names else None
        if not isinstance(tree, uproot.TTree):
            raise UserError(
                f"{path} is no RUS file: it has no TTree named {TREE!r}, but {', '.join(names) or 'nothing'}"
            )
        with reading(path):
            file = RusFile(path, tree)
        yield file


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever the bytes of a damaged file make the reader raise into one sentence."""
    try:
        yield
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), "")
        raise UserError(
            f"{path} cannot be read as a ROOT file ({type(error).__name__}: {first}): "
            "it is truncated, damaged or of another kind"
        ) from None


def read_rus(
    path: Path,
    *,
    start: int = 0,
    stop: int | None = None,
    chunk: int = CHUNK_EVENTS,
    drop_invalid: bool = False,
) -> Iterator[Events]:
    """Yield the events of a file, chunk by chunk, in constant memory.

    Where the file gives no track numbers, they are the order of the truth tracks, from 1; a lone truth track
    has the number of the event's hits, if they share one. Where it gives no charges, tracks 1 and 2 are mu+
    and mu-, as the tools that leave them out wrote them.

    Args:
        path: RUS file of any naming.
        start: First event.
        stop: Event behind the last one; all if None.
        chunk: Most events at a time.
        drop_invalid: Leave out hits outside of detectors 1 to 62 or elements 1 to 200 instead of refusing
            the file.

    Raises:
        UserError: The file is not readable as RUS, a branch is missing, per-hit branches differ in length in
            an event, or a hit is outside of the detectors.
    """
    with open_rus(path) as file:
        missing = file.missing()
        if missing:
            raise UserError(f"{path} lacks the branches {', '.join(missing)}, so it is no RUS file")
        last = file.entries if stop is None else min(stop, file.entries)
        for first in range(start, last, chunk):
            yield _chunk(file, first, min(first + chunk, last), drop_invalid)


def count_events(path: Path) -> int:
    """Return the number of events in a file.

    Raises:
        UserError: As `open_rus`.
    """
    with open_rus(path) as file:
        return file.entries


def naming_of(path: Path) -> Naming:
    """Return the naming that a file follows.

    Raises:
        UserError: As `open_rus`.
    """
    with open_rus(path) as file:
        return file.naming


def _chunk(file: RusFile, start: int, stop: int, drop_invalid: bool) -> Events:
    wanted = [name for name in file.naming.hits.values() if name in file.branches]
    vectors = {key: names for key, names in VECTORS.items() if all(name in file.branches for name in names)}
    truth = [name for name in (CHARGE, file.naming.track_number) if name in file.branches]
    truth += [name for names in vectors.values() for name in names]
    columns = file.columns()
    arrays = file.read([*wanted, *truth, *columns], start, stop)
    where = f"{file.path}, events from {start}"
    hits, hit_bounds = _hits(file, arrays, where)
    tracks, track_bounds = _tracks(file, arrays, vectors, hits, hit_bounds, where)
    once = {name: _once(arrays[name], f"{where}: {name}") for name in columns}
    events = Events(hits, tracks, hit_bounds, track_bounds, once)
    valid = valid_hits(hits)
    if valid.all():
        return events
    if drop_invalid:
        return events.with_hits(valid)
    bad = int(np.flatnonzero(~valid)[0])
    event = start + int(events.hit_event[bad])
    raise UserError(
        f"{file.path}, event {event}: a hit in detector {hits.detector[bad]}, element {hits.element[bad]}, "
        f"with drift {hits.drift[bad]:g} cm; detectors are 1 to {PLANES}, elements 1 to {ELEMENTS - 1}; "
        "`trackkeras dimuon skim --drop-invalid` writes the file without such hits"
    )


def valid_hits(hits: Hits) -> NDArray[np.bool_]:
    """Return which hits are in a detector and an element that exist, with finite times and distances."""
    inside = (hits.detector >= 1) & (hits.detector <= PLANES) & (hits.element >= 1)
    return inside & (hits.element < ELEMENTS) & np.isfinite(hits.drift) & np.isfinite(hits.tdc)


def _hits(file: RusFile, arrays: dict[str, ak.Array], where: str) -> tuple[Hits, NDArray[np.int64]]:
    counts = _counts(arrays["detectorID"], f"{where}: detectorID")
    columns = {}
    for attribute, name in file.naming.hits.items():
        if name not in arrays:
            columns[attribute] = np.zeros(counts.sum(), dtype=np.int32)
        elif attribute == "process" and _is_once(arrays[name]):
            columns[attribute] = np.repeat(_once(arrays[name], f"{where}: {name}"), counts)
        else:
            columns[attribute] = _flat(arrays[name], counts, f"{where}: {name}", "detectorID")
    track, process = columns.pop("track"), columns.pop("process")
    return Hits.of(**columns, track=track, process=process), offsets(counts)


def _tracks(
    file: RusFile,
    arrays: dict[str, ak.Array],
    vectors: Mapping[str, tuple[str, ...]],
    hits: Hits,
    hit_bounds: NDArray[np.int64],
    where: str,
) -> tuple[Tracks, NDArray[np.int64]]:
    if "momentum" not in vectors:
        nothing = np.empty((0, 3))
        return Tracks.of([], [], nothing, nothing), np.zeros(len(hit_bounds), dtype=np.int64)
    counts = _counts(arrays["gpx"], f"{where}: gpx")
    found = {}
    for attribute, names in vectors.items():
        values = np.stack([_flat(arrays[name], counts, f"{where}: {name}", "gpx") for name in names], axis=1)
        found[attribute] = np.where(np.abs(values) < UNKNOWN, values, np.nan)
    number = file.naming.track_number
    numbers = (
        _flat(arrays[number], counts, f"{where}: {number}", "gpx")
        if number in arrays
        else _implied_numbers(counts, hits.track, hit_bounds)
    )
    charges = (
        _flat(arrays[CHARGE], counts, f"{where}: {CHARGE}", "gpx")
        if CHARGE in arrays
        else np.select([numbers == 1, numbers == 2], [1, -1], 0)
    )
    return Tracks.of(numbers, charges, **found), offsets(counts)


def _implied_numbers(
    counts: NDArray[np.int64], hit_track: Array, hit_bounds: NDArray[np.int64]
) -> NDArray[np.int64]:
    bounds = offsets(counts)
    numbers = np.arange(bounds[-1]) - np.repeat(bounds[:-1], counts) + 1
    lone = np.flatnonzero((counts == 1) & (np.diff(hit_bounds) > 0))
    if lone.size:
        # events without hits take no part: reduceat would give them the hits of the next one
        filled = np.flatnonzero(np.diff(hit_bounds) > 0)
        low = np.minimum.reduceat(hit_track, hit_bounds[filled])
        high = np.maximum.reduceat(hit_track, hit_bounds[filled])
        place = np.searchsorted(filled, lone)
        shared = (low[place] == high[place]) & (low[place] > 0)
        numbers[bounds[lone[shared]]] = low[place[shared]]
    return numbers


def _is_once(array: ak.Array) -> bool:
    """Whether a branch has exactly one value per event."""
    return array.ndim == 1 or bool(ak.all(ak.num(array) == 1))


def _once(array: ak.Array, where: str) -> Array:
    """Return what each event has once, `(n, ...)`, in the types of the experiment's files."""
    if isinstance(array.type.content, ak.types.ListType):
        if not _is_once(array):
            raise UserError(f"{where} must have one value per event")
        array = ak.flatten(array)
    values = ak.to_numpy(array)
    return np.asarray(values).astype(values.dtype.newbyteorder("="), copy=False)


def _counts(array: ak.Array, where: str) -> NDArray[np.int64]:
    if array.ndim != 2:
        raise UserError(f"{where} must have a list of values per event, received {array.type.content}")
    return np.asarray(ak.to_numpy(ak.num(array)), dtype=np.int64)


def _flat(array: ak.Array, counts: NDArray[np.int64], where: str, other: str) -> Array:
    """Return the values of all events one after the other.

    Raises:
        UserError: In some event there are more or fewer than `counts` says.
    """
    own = _counts(array, where)
    wrong = np.flatnonzero(own != counts)
    if wrong.size:
        event = wrong[0]
        raise UserError(
            f"{where} has {own[event]} values where {other} has {counts[event]}, in event {event} of these; "
            "`trackkeras dimuon check` says more about the file"
        )
    return np.asarray(ak.to_numpy(ak.flatten(array)))
