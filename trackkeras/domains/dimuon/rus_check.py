"""Whether a file is valid RUS, what it lacks, and what a user of it should know."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from trackkeras.domains.dimuon.detectors import DETECTORS, plane_elements
from trackkeras.domains.dimuon.events import Events
from trackkeras.domains.dimuon.muons import NO_TRACK, muon_rows
from trackkeras.domains.dimuon.records import event_groups
from trackkeras.domains.dimuon.rus_layout import CHARGE, HIT_BRANCHES, TRUTH, VECTORS
from trackkeras.domains.dimuon.rus_reading import CHUNK_EVENTS, RusFile, open_rus, read_rus
from trackkeras.errors import UserError
from trackkeras.progress import Progress

SENTINEL = 2**31 - 1


@dataclass
class Report:
    """What was found in a file.

    Attributes:
        file: Its path.
        naming: Which names its branches follow.
        events: Number of events.
        hits: Number of hits.
        tracks: Number of truth tracks.
        problems: What makes it unusable as it is.
        notes: What is worth knowing.
    """

    file: str
    naming: str
    events: int
    hits: int = 0
    tracks: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def valid(self) -> bool:
        """Whether there are no problems."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Return this as a JSON object."""
        return {"valid": self.valid, **asdict(self)}


def check_rus(path: Path) -> Report:
    """Look through a whole file.

    Raises:
        UserError: It is no ROOT file, damaged, or has no TTree named `tree`.
    """
    with open_rus(path) as file:
        report = Report(str(path), file.naming.name, file.entries)
        missing = file.missing()
        report.problems += [f"branch {name} is missing" for name in missing]
        if not file.entries:
            report.problems.append("there are no events")
        flat = [name for name in HIT_BRANCHES.values() if name not in missing and not file.jagged(name)]
        report.problems += [f"branch {name} must have a list of values per event" for name in flat]
        if not missing and not flat:
            report.hits, unequal = _lengths(file)
            per_hit = set(file.naming.hits.values())
            for name, count in unequal.items():
                text = f"{name} has another length than detectorID in {count:,} of {file.entries:,} events"
                (report.problems if name in per_hit else report.notes).append(text)
        report.notes += _absent(file)
    if report.valid:
        try:
            _content(path, report)
        except UserError as error:
            report.problems.append(str(error).removeprefix(f"{path}, "))
    return report


def _lengths(file: RusFile) -> tuple[int, Counter[str]]:
    """Return the number of hits, and in how many events each per-hit branch has another than `detectorID`."""
    names = [name for name in (*file.naming.hits.values(), "hitID", "sourceFlag") if name in file.branches]
    names = [name for name in names if file.jagged(name)]
    unequal: Counter[str] = Counter()
    total = 0
    progress = Progress(f"check {file.path.name}", file.entries, "events")
    for start in range(0, file.entries, CHUNK_EVENTS):
        arrays = file.read(names, start, start + CHUNK_EVENTS)
        counts = ak.num(arrays["detectorID"])
        total += int(ak.sum(counts))
        for name in names:
            lengths = ak.num(arrays[name])
            once = name == file.naming.hit_process and bool(ak.all(lengths == 1))
            wrong = 0 if once else int(ak.sum(lengths != counts))
            if wrong:
                unequal[name] += wrong
        progress.update(start)
    return total, unequal


def _absent(file: RusFile) -> list[str]:
    naming, branches = file.naming, file.branches
    notes = []
    if not any(name in branches for name in TRUTH):
        notes.append("no truth: not for training")
    else:
        if CHARGE not in branches:
            notes.append(f"no {CHARGE}: track 1 is taken for the mu+, track 2 for the mu-")
        for station in ("st1", "st3"):
            if not all(name in branches for name in VECTORS[f"momentum_{station}"]):
                notes.append(f"no momentum at {station.replace('st', 'station ')}")
    if naming.hit_track not in branches:
        notes.append("hits do not say which track made them")
    return notes


def _content(path: Path, report: Report) -> None:
    """Go through all events and add what they show."""
    counts: Counter[str] = Counter()
    signs: set[float] = set()
    times: set[float] = set()
    numbers, groups = [], []
    valid = 0
    for events in read_rus(path, drop_invalid=True):
        valid += len(events.hits)
        report.tracks += len(events.tracks)
        counts.update(_count(events))
        signs |= {float(sign) for sign in np.unique(np.sign(events.hits.drift))}
        if len(times) < 2:
            times |= set(np.unique(events.hits.tdc)[:2].tolist())
        numbers.append(np.unique(events.columns["eventID"]))
        groups.append(np.unique(event_groups(events, muon_rows(events))))
    if valid < report.hits:
        report.problems.append(
            f"{report.hits - valid:,} hits are outside of the detectors: `skim --drop-invalid` drops them"
        )
    report.notes += [text.format(counts[name]) for name, text in _NOTES.items() if counts[name]]
    unique = len(np.unique(np.concatenate(numbers)))
    if unique < report.events:
        report.notes.append(f"eventID is not unique: {unique:,} values in {report.events:,} events")
    generated = len(np.unique(np.concatenate(groups)))
    if report.tracks and generated < report.events:
        report.notes.append(
            f"{generated:,} different generated muons in {report.events:,} events: split them by `group`"
        )
    if len(times) == 1:
        report.notes.append("tdcTime is the same for all hits")
    if -1.0 in signs:
        report.notes.append("driftDistance is signed, which is truth that no measurement has")


_NOTES = {
    "sentinel": "rfID or turnID is not set in {:,} events",
    "empty": "{:,} events have no hits",
    "doubles": "{:,} times a track has more than one hit in a detector",
    "absent": "{:,} hits are in detectors that are known as absent",
    "beyond": "{:,} hits are beyond the largest element known of their detector",
    "no_muon": "{:,} events have no signal muon",
}


def _count(events: Events) -> dict[str, int]:
    hits, event = events.hits, events.hit_event
    sizes = plane_elements()
    absent = np.array([False, *(not plane.present for plane in DETECTORS)])[hits.detector]
    own = hits.track > 0
    key = ((event[own] << 40) | (hits.track[own].astype(np.int64) << 8)) | hits.detector[own]
    once = (events.columns[name] for name in ("rfID", "turnID") if name in events.columns)
    unset = np.zeros(len(events), dtype=bool)
    for column in once:
        unset |= column == SENTINEL
    return {
        "sentinel": int(unset.sum()),
        "empty": int((events.hit_counts == 0).sum()),
        "doubles": int((np.unique(key, return_counts=True)[1] > 1).sum()),
        "absent": int(absent.sum()),
        "beyond": int(((hits.element > sizes[hits.detector]) & ~absent).sum()),
        "no_muon": int((muon_rows(events) == NO_TRACK).all(axis=1).sum()),
    }
