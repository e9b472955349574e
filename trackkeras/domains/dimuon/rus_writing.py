"""Writing RUS files: counted arrays instead of `std::vector`, which readers of the layout see alike."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import awkward as ak
import numpy as np
import uproot
from numpy.typing import NDArray

from tfrecords_tools.files import new_file
from trackkeras.domains.dimuon.events import FIRST_BACKGROUND, Events
from trackkeras.domains.dimuon.rus_layout import CHARGE, NEW, TREE, VECTORS, Naming
from trackkeras.errors import UserError

Array = NDArray[Any]

_GROUPS = ("hit", "trk", "clean")
"""Branches of one length: each group shares a counter, `nhit`, `ntrk`, `nclean`."""

SIMULATED = 2
"""The `sourceFlag` that every hit of the known files has."""


class Write(Protocol):
    """What `rus_writer` gives."""

    def __call__(self, events: Events, beside: Mapping[str, Mapping[str, Array]] | None = None) -> None:
        """Append events, and as many rows to further trees.

        Args:
            events: The events.
            beside: Columns `(n, ...)` by branch, by tree; always the same trees and branches.
        """


@contextlib.contextmanager
def rus_writer(path: Path, naming: Naming = NEW, *, clean: bool = False) -> Iterator[Write]:
    """Give a function that appends events to a new file, which appears when the block ends without an error.

    Vectors of stations of which the first events know nothing are left out, and later ones are refused.

    Args:
        path: The file; what stands there is replaced when the new one is complete.
        naming: Branch names.
        clean: Also write `detectorIDClean` and `elementIDClean`, the signal's hits alone.

    Raises:
        UserError: No events were written, or some with other columns or vectors than the first.
        RecordError: The disk refuses.
    """
    with new_file(path) as stream:
        # uproot closes what it is given; the lock and the renaming belong to `stream`
        own = os.fdopen(os.dup(stream.fileno()), "r+b")
        writer = _Writer(path, uproot.recreate(own), naming, clean)
        try:
            yield writer.write
            writer.finish()
        finally:
            with contextlib.suppress(ValueError):  # closed already
                own.close()


class _Writer:
    """The tree of one new file, whose branches the first events decide."""

    def __init__(self, path: Path, root: Any, naming: Naming, clean: bool) -> None:
        self.path, self.root, self.naming, self.clean = path, root, naming, clean
        self.tree: Any = None
        self.columns: dict[str, tuple[Any, tuple[int, ...]]] = {}
        self.vectors: list[str] = []
        self.beside: dict[str, Any] = {}

    def write(self, events: Events, beside: Mapping[str, Mapping[str, Array]] | None = None) -> None:
        if not len(events):
            return
        kinds = {name: (column.dtype, column.shape[1:]) for name, column in events.columns.items()}
        known = [
            name
            for name in VECTORS
            if name in ("vertex", "momentum") or np.isfinite(getattr(events.tracks, name)).any()
        ]
        if self.tree is None:
            self.columns, self.vectors = kinds, known
        elif not set(known) <= set(self.vectors):
            raise UserError(
                f"{self.path}: events with {', '.join(known)} cannot follow others with only "
                f"{', '.join(self.vectors)}: put them first"
            )
        elif kinds != self.columns:
            raise UserError(
                f"{self.path}: events with the columns {sorted(kinds)} cannot follow others with "
                f"{sorted(self.columns)} of other names, types or shapes"
            )
        content = self._content(events)
        if self.tree is None:
            self.tree = self.root.mktree(
                TREE,
                {name: _branch_type(value) for name, value in content.items()},
                counter_name=lambda group: f"n{group}",
                field_name=lambda group, name: name if group in _GROUPS else f"{group}_{name}",
            )
        self.tree.extend(content)
        for name, columns in (beside or {}).items():
            if name not in self.beside:
                types = {branch: _branch_type(column) for branch, column in columns.items()}
                self.beside[name] = self.root.mktree(name, types)
            self.beside[name].extend(dict(columns))

    def finish(self) -> None:
        if self.tree is None:
            raise UserError(f"{self.path}: there are no events to write")
        self.root.close()

    def _content(self, events: Events) -> dict[str, Any]:
        hits = {name: getattr(events.hits, attribute) for attribute, name in self.naming.hits.items()}
        place = np.arange(len(events.hits)) - np.repeat(events.hit_offsets[:-1], events.hit_counts)
        hits["hitID"] = place.astype(np.int32)
        if self.naming.source_flag:
            hits["sourceFlag"] = np.full(len(events.hits), SIMULATED, dtype=np.int32)
        tracks = {CHARGE: events.tracks.charge, self.naming.track_number: events.tracks.number}
        for attribute in self.vectors:
            values = getattr(events.tracks, attribute)
            tracks |= {name: values[:, index] for index, name in enumerate(VECTORS[attribute])}
        content: dict[str, Any] = {
            **events.columns,
            "hit": _lists(hits, events.hit_counts),
            "trk": _lists(tracks, events.track_counts),
        }
        if self.clean:
            own = events.with_hits((events.hits.track > 0) & (events.hits.track < FIRST_BACKGROUND))
            signal = {"detectorIDClean": own.hits.detector, "elementIDClean": own.hits.element}
            content["clean"] = _lists(signal, own.hit_counts)
        return content


def _lists(columns: dict[str, Array], counts: Array) -> ak.Array:
    return ak.unflatten(ak.zip(columns), counts)


def _branch_type(value: Any) -> Any:
    if isinstance(value, ak.Array):
        return value.type.content
    return np.dtype((value.dtype, value.shape[1:]))


def write_rus(path: Path, chunks: Iterable[Events], naming: Naming = NEW, *, clean: bool = False) -> int:
    """Write events to a new file; return how many.

    Args:
        path: The file.
        chunks: Events, any number at a time.
        naming: Branch names.
        clean: As `rus_writer`.

    Raises:
        UserError: As `rus_writer`.
    """
    total = 0
    with rus_writer(path, naming, clean=clean) as write:
        for events in chunks:
            write(events)
            total += len(events)
    return total
