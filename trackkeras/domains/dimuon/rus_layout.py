"""The RUS layout: which branch of the experiment's ROOT files holds what, in each of its three namings.

RUS files have one TTree named `tree` with an entry per event: per-hit and per-track branches of varying
length (`std::vector`, or arrays with a counter branch), and numbers and arrays that an event has once.

`trackID` has two meanings: per hit in the old naming, per track in the transitional one.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

TREE = "tree"

REQUIRED = ("eventID", "detectorID", "elementID", "driftDistance", "tdcTime")
"""Without these there is nothing to reconstruct."""

HIT_BRANCHES = {
    "detector": "detectorID",
    "element": "elementID",
    "tdc": "tdcTime",
    "drift": "driftDistance",
}
"""Branches of a hit that have one name in all namings, by attribute of `Hits`."""

VECTORS = {
    "vertex": ("gvx", "gvy", "gvz"),
    "momentum": ("gpx", "gpy", "gpz"),
    "position_st1": ("gx_st1", "gy_st1", "gz_st1"),
    "momentum_st1": ("gpx_st1", "gpy_st1", "gpz_st1"),
    "position_st3": ("gx_st3", "gy_st3", "gz_st3"),
    "momentum_st3": ("gpx_st3", "gpy_st3", "gpz_st3"),
}
"""Branches of a truth track's vectors, by attribute of `Tracks`."""

TRUTH = (*VECTORS["vertex"], *VECTORS["momentum"])
"""All or none of these must be there."""

CHARGE = "gCharge"

EVENT_NUMBERS = ("runID", "eventID", "spillID", "rfID", "turnID")
"""Numbers that an event has once; some files store them as vectors with one entry."""

DERIVED = ("hitID", "sourceFlag", "muID", "elementIDClean", "detectorIDClean")
"""Branches that are never read: they follow from others, or are wrong in known files.

`hitID` is not cleared between events in some files, so that it grows to thousands of entries.
"""


@dataclass(frozen=True)
class Naming:
    """One generation of branch names.

    Attributes:
        name: How it is called here.
        hit_track: Branch with the number of the track that made a hit.
        hit_process: Branch with the process of that track.
        track_number: Branch with the number of a truth track; known files of the old naming have none.
        source_flag: Whether hits have a `sourceFlag`.
    """

    name: str
    hit_track: str
    hit_process: str
    track_number: str
    source_flag: bool = False

    @property
    def hits(self) -> dict[str, str]:
        """Per-hit branches by attribute of `Hits`."""
        return {"track": self.hit_track, "process": self.hit_process, **HIT_BRANCHES}


OLD = Naming("old", "trackID", "processID", "gTrackID", source_flag=True)
TRANSITIONAL = Naming("transitional", "hit_trackID", "processID", "trackID")
NEW = Naming("new", "hitTrackID", "gProcessID", "gTrackID")

NAMINGS = {naming.name: naming for naming in (OLD, TRANSITIONAL, NEW)}


def find_naming(branches: Collection[str]) -> Naming:
    """Return the naming that a file follows; the new one if it has no truth at all."""
    for naming in (NEW, TRANSITIONAL, OLD):
        if naming.hit_track in branches:
            return naming
    return NEW
