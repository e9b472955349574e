"""RUS files: every naming and layout reads back identical; what is corrupt is named in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot
from hypothesis import given, settings
from hypothesis import strategies as st

from trackkeras.domains.dimuon.events import Events
from trackkeras.domains.dimuon.rus_check import check_rus
from trackkeras.domains.dimuon.rus_layout import NAMINGS, NEW, OLD
from trackkeras.domains.dimuon.rus_reading import open_rus, read_rus
from trackkeras.domains.dimuon.rus_writing import rus_writer, write_rus
from trackkeras.errors import UserError


def read(path: Path, **options: Any) -> Events:
    return Events.concatenate(list(read_rus(path, **options)))


def raw(path: Path, **changes: Any) -> None:
    """Write three events branch by branch, each with its own counter; `None` leaves a branch out."""
    branches: dict[str, Any] = {
        "eventID": np.array([5, 5, 0], dtype=np.int32),
        "trackID": [[1, 1, 2], [], [1]],
        "processID": [[11, 11, 21], [], [11]],
        "detectorID": [[1, 31, 2], [], [3]],
        "elementID": [[10, 5, 20], [], [30]],
        "tdcTime": [[0.0, 0.0, 0.0], [], [0.0]],
        "driftDistance": [[0.1, 0.0, -0.2], [], [0.3]],
        "gCharge": [[1, -1]] * 3,
        **{name: [[1.0, 2.0]] * 3 for name in ("gvx", "gvy", "gvz", "gpx", "gpy", "gpz")},
        **changes,
    }
    content = {}
    for name, values in branches.items():
        if isinstance(values, list):
            array = ak.Array(values)
            float_like = name in ("tdcTime", "driftDistance") or name.startswith(("gv", "gp"))
            content[name] = ak.values_astype(array, np.float64 if float_like else np.int32)
        elif values is not None:
            content[name] = values
    with uproot.recreate(path) as root:
        types = {
            name: np.dtype((v.dtype, v.shape[1:])) if isinstance(v, np.ndarray) else v.type.content
            for name, v in content.items()
        }
        root.mktree("tree", types).extend(content)


@pytest.mark.parametrize("naming", NAMINGS)
def test_files_read_back_identical(sample: Events, same: Any, tmp_path: Path, naming: str) -> None:
    path = tmp_path / "a.root"
    assert write_rus(path, [sample[:5], sample[5:5], sample[5:]], NAMINGS[naming], clean=True) == 12
    same(read(path), sample)
    with open_rus(path) as file:
        assert file.naming.name == naming
        assert file.counters == {"nhit", "ntrk", "nclean"}
        assert ("sourceFlag" in file.branches) == (naming == "old")
        found = file.read(["hitID", "detectorID", "detectorIDClean"], 0, 12)
    assert found["hitID"].tolist() == [list(range(n)) for n in sample.hit_counts]
    assert ak.all(found["detectorIDClean"] == found["detectorID"]), "all hits are the signal's here"


@pytest.mark.parametrize("naming", NAMINGS)
def test_background_stays_background(sample: Events, same: Any, tmp_path: Path, naming: str) -> None:
    """Without the numbers of its tracks it would count as signal when the file is read again."""
    background = replace(
        sample,
        hits=replace(sample.hits, track=sample.hits.track + 2),
        tracks=replace(sample.tracks, number=sample.tracks.number + 2),
    )
    write_rus(tmp_path / "a.root", [background], NAMINGS[naming])
    same(read(tmp_path / "a.root"), background)


@settings(max_examples=20, deadline=None)
@given(chunk=st.integers(1, 13), start=st.integers(0, 12), stop=st.integers(0, 14))
def test_chunks_join_to_the_asked_events(
    sample: Events, same: Any, tmp_path_factory: pytest.TempPathFactory, chunk: int, start: int, stop: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "chunks.root"
    if not path.exists():
        write_rus(path, [sample])
    parts = list(read_rus(path, start=start, stop=stop, chunk=chunk))
    assert all(len(part) <= chunk for part in parts)
    if start < min(stop, 12):
        same(Events.concatenate(parts), sample[start:stop])
    else:
        assert not parts


def test_matrices_and_unknown_columns_travel_along(sample: Events, same: Any, tmp_path: Path) -> None:
    more = sample.with_columns(
        HitArray=np.ones((12, 62, 2)), hitMatrix=np.arange(12 * 62 * 201).reshape(12, 62, 201) * 1.0
    )
    write_rus(tmp_path / "a.root", [more])
    same(read(tmp_path / "a.root"), more)


def test_branches_with_a_counter_each_and_empty_events(tmp_path: Path) -> None:
    raw(tmp_path / "a.root")
    events = read(tmp_path / "a.root")
    assert events.hit_counts.tolist() == [3, 0, 1]
    assert events.hits.track.tolist() == [1, 1, 2, 1]
    assert events.tracks.number.tolist() == [1, 2, 1, 2, 1, 2]
    assert events.columns["eventID"].tolist() == [5, 5, 0]
    assert np.isnan(events.tracks.momentum_st1).all()


def test_a_corrupt_hit_number_is_never_read(tmp_path: Path) -> None:
    """Known files do not clear `hitID` between events."""
    raw(tmp_path / "a.root", hitID=[[0, 1, 2], [0, 1, 2], [0, 1, 2, 3]])
    assert read(tmp_path / "a.root").hit_counts.tolist() == [3, 0, 1]
    report = check_rus(tmp_path / "a.root")
    assert report.valid
    assert "hitID has another length than detectorID in 2 of 3 events" in report.notes


def test_track_numbers_have_two_meanings(tmp_path: Path) -> None:
    """In the transitional naming `trackID` belongs to truth tracks, in the old one to hits."""
    raw(tmp_path / "a.root", hit_trackID=[[7, 7, 9], [], [7]], trackID=[[7, 9]] * 3)
    events = read(tmp_path / "a.root")
    assert events.hits.track.tolist() == [7, 7, 9, 7]
    assert events.tracks.number.tolist() == [7, 9] * 3


def test_numbers_stored_as_vectors_of_one(tmp_path: Path) -> None:
    """Files of separated tracks have `eventID` and `processID` once per event, as vectors, and no charge."""
    truth = dict.fromkeys(("gvx", "gvy", "gvz", "gpx", "gpy", "gpz"), [[3.0]] * 3)
    raw(
        tmp_path / "a.root",
        eventID=[[5], [6], [7]],
        processID=[[21]] * 3,
        trackID=[[2, 2, 2], [], [2]],
        gCharge=None,
        **truth,
    )
    events = read(tmp_path / "a.root")
    assert events.columns["eventID"].tolist() == [5, 6, 7]
    assert events.hits.process.tolist() == [21] * 4
    # the lone track has the number of the hits, and 1 where no hit tells
    assert events.tracks.number.tolist() == [2, 1, 2]
    assert events.tracks.charge.tolist() == [-1, 1, -1]


def test_sentinels_of_truth_become_unknown(tmp_path: Path) -> None:
    raw(
        tmp_path / "a.root",
        **{name: [[9999.0, 4.0], [-9999.0, 4.0], [3.0, 4.0]] for name in ("gpx_st3", "gpy_st3", "gpz_st3")},
    )
    known = np.isfinite(read(tmp_path / "a.root").tracks.momentum_st3).all(axis=1)
    assert known.tolist() == [False, True, False, True, True, True]


def test_measured_events_have_no_truth(tmp_path: Path) -> None:
    truth = dict.fromkeys(("gvx", "gvy", "gvz", "gpx", "gpy", "gpz", "gCharge", "trackID", "processID"))
    raw(tmp_path / "a.root", **truth)
    events = read(tmp_path / "a.root")
    assert not len(events.tracks)
    assert not events.hits.track.any()
    notes = check_rus(tmp_path / "a.root").notes
    assert "no truth: not for training" in notes
    assert "hits do not say which track made them" in notes


BAD = {
    "elementID": ({"elementID": None}, "lacks the branches elementID"),
    "truth in part": ({"gpz": None}, "lacks the branches gpz"),
    "ragged": ({"elementID": [[10, 5], [], [30]]}, "elementID has 2 values where detectorID has 3"),
    "ragged truth": ({"gpz": [[1.0]] * 3}, "gpz has 1 values where gpx has 2"),
    "element 201": ({"elementID": [[10, 5, 201], [], [30]]}, "event 0: a hit in detector 2, element 201"),
    "element 0": ({"elementID": [[10, 5, 20], [], [0]]}, "event 2: a hit in detector 3, element 0"),
    "detector 63": ({"detectorID": [[1, 31, 2], [], [63]]}, "event 2: a hit in detector 63"),
    "detector 0": ({"detectorID": [[0, 31, 2], [], [3]]}, "event 0: a hit in detector 0"),
    "not a number": ({"driftDistance": [[0.1, 0.0, np.nan], [], [0.3]]}, "drift nan cm"),
    "two numbers": ({"eventID": [[1, 2], [1], [1]]}, "eventID must have one value per event"),
    "flat": ({"detectorID": np.arange(1, 4, dtype=np.int32)}, "must have a list of values per event"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_with_a_file_is_said_in_one_line(tmp_path: Path, case: str) -> None:
    changes, words = BAD[case]
    path = tmp_path / "a.root"
    raw(path, **changes)
    with pytest.raises(UserError) as error:
        read(path)
    assert words in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert not check_rus(path).valid


def test_hits_outside_of_the_detectors_can_be_dropped(tmp_path: Path) -> None:
    raw(tmp_path / "a.root", detectorID=[[0, 31, 2], [], [63]])
    events = read(tmp_path / "a.root", drop_invalid=True)
    assert events.hits.detector.tolist() == [31, 2]
    assert events.hit_counts.tolist() == [2, 0, 0]
    assert "2 hits are outside of the detectors" in check_rus(tmp_path / "a.root").problems[0]


def test_files_of_another_kind(tmp_path: Path, sample: Events) -> None:
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "none.root")
    (tmp_path / "text.root").write_text("not a ROOT file, whatever its name says\n" * 20)
    with pytest.raises(UserError, match="cannot be read as a ROOT file"):
        read(tmp_path / "text.root")
    with uproot.recreate(tmp_path / "other.root") as root:
        root["events"] = {"x": np.arange(3)}
    with pytest.raises(UserError, match="has no TTree named 'tree', but events"):
        read(tmp_path / "other.root")
    with uproot.recreate(tmp_path / "text_tree.root") as root:
        root["tree"] = "a string of that name"
    with pytest.raises(UserError, match="has no TTree named 'tree'"):
        read(tmp_path / "text_tree.root")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.95, 0.999])
def test_truncated_files_are_refused(tmp_path: Path, muons: Any, share: float) -> None:
    path = tmp_path / "a.root"
    write_rus(path, [muons(60)])
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=r"a\.root") as error:
        read(path)
    assert "\n" not in str(error.value)


@settings(max_examples=40, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_damaged_bytes_are_refused_or_harmless(
    sample: Events, tmp_path_factory: pytest.TempPathFactory, place: float, bit: int
) -> None:
    """Whatever single byte is wrong: a UserError or events, never another exception."""
    folder = tmp_path_factory.getbasetemp()
    whole = folder / "whole.root"
    if not whole.exists():
        write_rus(whole, [sample])
    data = bytearray(whole.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    damaged = folder / "damaged.root"
    damaged.write_bytes(data)
    with contextlib.suppress(UserError):
        list(read_rus(damaged))


def test_nothing_is_left_of_a_file_that_fails(sample: Events, same: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.root"
    write_rus(path, [sample])

    def failing() -> Iterator[Events]:
        yield sample[:3]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_rus(path, failing())
    same(read(path), sample)
    with pytest.raises(UserError, match="there are no events to write"), rus_writer(tmp_path / "b.root"):
        pass
    with pytest.raises(UserError, match="cannot follow others"):
        write_rus(tmp_path / "b.root", [sample, sample.with_columns(more=np.zeros(12))])
    unknown = replace(sample.tracks, momentum_st3=np.full((24, 3), np.nan))
    with pytest.raises(
        UserError, match=r"with vertex, .*momentum_st3 cannot follow others .* put them first"
    ):
        write_rus(tmp_path / "b.root", [replace(sample, tracks=unknown), sample])
    assert [path.name for path in tmp_path.iterdir()] == ["a.root"]


def test_the_report_names_every_trap(muons: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.root"
    sample = muons(40, (1,), copies=4)
    sample.hits.detector[:3] = 8
    sample.hits.element[3:5] = 199
    write_rus(path, [sample], NEW)
    report = check_rus(path)
    assert report.valid
    assert (report.events, report.hits, report.tracks) == (40, len(sample.hits), 40)
    assert set(report.notes) == {
        "rfID or turnID is not set in 40 events",
        "1 events have no hits",
        "2 times a track has more than one hit in a detector",
        "3 hits are in detectors that are known as absent",
        "2 hits are beyond the largest element known of their detector",
        "eventID is not unique: 7 values in 40 events",
        "10 different generated muons in 40 events: split them by `group`",
        "tdcTime is the same for all hits",
        "driftDistance is signed, which is truth that no measurement has",
    }
    write_rus(path, [sample], OLD)
    assert check_rus(path).naming == "old"
