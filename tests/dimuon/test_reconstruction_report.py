"""`dimuon evaluate` and `dimuon display`: found muons beside true ones, and pictures of events."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trackkeras.domains.dimuon.detectors import ELEMENTS
from trackkeras.domains.dimuon.evaluate_command import _lines
from trackkeras.domains.dimuon.event_display import place, track_points
from trackkeras.domains.dimuon.events import Events
from trackkeras.domains.dimuon.muons import hit_arrays, muon_rows, muon_vectors
from trackkeras.domains.dimuon.planes import PLANES
from trackkeras.domains.dimuon.reconstructed import SOFTMAX, SOFTMAX_TREE, with_muons
from trackkeras.domains.dimuon.reconstruction import Muons
from trackkeras.domains.dimuon.reconstruction_metrics import Comparison, compare, summarise
from trackkeras.domains.dimuon.rus_writing import rus_writer, write_rus

N = 40


def reconstructed(events: Events, elements: NDArray[Any] | None = None, shift: float = 0.0) -> Events:
    """Events whose muons were found with some hits, or with their own, and with pz off by a shift."""
    rows = muon_rows(events)
    true, drift = hit_arrays(events, rows)
    found = true if elements is None else elements
    there = found.any(axis=2)
    momentum = muon_vectors(events, rows, "momentum") + np.array([0.0, 0.0, shift])
    drift = np.where(found == true, drift, 0.0)
    nothing = np.full(there.shape, -1.0)
    return with_muons(events, Muons(found, drift, np.where(there[..., None], momentum, 0.0), nothing))


@pytest.fixture(scope="module")
def events(muons: Any) -> Events:
    """Dimuons; of the last ten, every third hit counts as that of a background track of its own event."""
    whole: Events = muons(N, seed=5)
    track = whole.hits.track.copy()
    track[(whole.hit_event >= N - 10) & (np.arange(len(track)) % 3 == 0)] = 3
    return dataclasses.replace(whole, hits=dataclasses.replace(whole.hits, track=track))


@pytest.fixture
def folder(tmp_path: Path, events: Events, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reconstructed file with softmaxTree, one without truth, and one that is not reconstructed."""
    monkeypatch.chdir(tmp_path)
    found = reconstructed(events, shift=0.5)
    softmax = np.full((N, 62, ELEMENTS), 0.005, dtype=np.float32)
    with rus_writer(tmp_path / "reco.root") as write:
        write(found, {SOFTMAX_TREE: dict.fromkeys(SOFTMAX, softmax)})
    with rus_writer(tmp_path / "flat.root") as write:
        write(found, {SOFTMAX_TREE: {SOFTMAX[0]: softmax[:, 0]}})
    write_rus(tmp_path / "plain.root", [events])
    write_rus(tmp_path / "data.root", [found.with_tracks(np.zeros(len(found.tracks), dtype=bool))])
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], command: str) -> tuple[int, str, str]:
    from trackkeras.cli import main

    sys.argv = ["trackkeras", "dimuon", *shlex.split(command)]
    code = 0
    try:
        main()
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    return code, *capsys.readouterr()


def test_true_hits_are_found_rightly(events: Events) -> None:
    summary = summarise(compare(reconstructed(events, shift=0.5)))
    assert summary["efficiency"]["value"] == summary["completeness"]["value"] == 1.0
    # a track of fewer hits than count is found as well, and right
    assert summary["muons"]["right"] == summary["muons"]["found"] >= summary["muons"]["true"] > 60
    assert summary["fake_rate"]["value"] == 0.0
    assert summary["momentum"]["right"]["pz"]["mean"]["value"] == pytest.approx(0.5, abs=1e-5)
    assert summary["momentum"]["right"]["px"]["w68"]["value"] == pytest.approx(0.0, abs=1e-5)
    assert all(
        row["exact"] in (1.0, None) and row["residual_rms"] in (0.0, None) for row in summary["detectors"]
    )


def test_hits_of_the_other_muon_are_fakes(events: Events) -> None:
    true, _ = hit_arrays(events, muon_rows(events))
    summary = summarise(compare(reconstructed(events, true[:, ::-1])))
    assert summary["efficiency"]["value"] == 0.0
    assert summary["fake_rate"]["value"] == 1.0
    assert summary["momentum"]["right"] is None
    assert summary["momentum"]["found"]["muons"] == summary["muons"]["found"]


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, N))
@settings(max_examples=15, deadline=None)
def test_numbers_are_those_of_loops_and_of_any_chunks(events: Events, seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    true, _ = hit_arrays(events, muon_rows(events))
    spoiled = np.where(rng.random(true.shape) < rng.random((N, 2, 1)), true, (true + 3) % ELEMENTS)
    spoiled = np.where((true > 0) & (rng.random((N, 2, 1)) < 0.9), spoiled, 0).astype(np.int32)
    found = reconstructed(events, spoiled)
    whole = compare(found)
    parts = Comparison.joined(compare(found[first : first + size]) for first in range(0, N, size))
    for field in dataclasses.fields(Comparison):
        np.testing.assert_array_equal(getattr(whole, field.name), getattr(parts, field.name))

    right, hits, own = [], 0, 0
    for truth, got in zip(true.reshape(-1, 62).tolist(), spoiled.reshape(-1, 62).tolist(), strict=True):
        same = sum(a == b > 0 for a, b in zip(truth, got, strict=True))
        most = max(sum(map(bool, truth)), sum(map(bool, got)))
        right.append(any(got) and 3 * same >= 2 * most)
        if sum(map(bool, truth)) >= 18:
            hits, own = hits + sum(map(bool, truth)), own + same
    assert whole.right.tolist() == right
    summary = summarise(whole)
    assert sum(row["true_hits"] for row in summary["detectors"]) == hits
    shares = [
        row["completeness"]["value"] * row["true_hits"] for row in summary["stations"] if row["true_hits"]
    ]
    assert sum(shares) == pytest.approx(own)
    for key in ("true_muons", "found_muons"):
        assert sum(band[key] for band in summary["bands"]) == summary[key]
    assert [band["label"] for band in summary["bands"]] == ["0", "1"]


@given(
    x=st.floats(-20, 20), y=st.floats(-20, 20), slope_x=st.floats(-0.03, 0.03), slope_y=st.floats(-0.03, 0.03)
)
@settings(max_examples=30, deadline=None)
def test_a_straight_track_is_drawn_where_it_passes(
    x: float, y: float, slope_x: float, slope_y: float
) -> None:
    elements = np.zeros(62, dtype=np.int32)
    for plane in PLANES:
        across = plane.place(x + slope_x * plane.z, y + slope_y * plane.z)
        elements[plane.number - 1] = np.clip(np.rint(across), 0, ELEMENTS - 1)
    points = track_points(elements)
    assert len(points[0]) == len(points[1]) == 8  # four stations of chambers, four planes of tubes
    # stereo planes tell y from x worse than an element's width by the sine of their angle
    for (z, found), start, slope, least in (
        (points[0].T, x, slope_x, 3.0),
        (points[1].T, y, slope_y, 12.0),
    ):
        np.testing.assert_allclose(found, start + slope * z, atol=least)
        assert (np.diff(z) >= 0).all()
    for plane in PLANES:
        angle = np.radians(plane.angle)
        z, where, half = place(plane.number, float(plane.place(x, y)))
        across = np.cos(angle) * x + np.sin(angle) * y
        assert z == plane.z
        assert where == pytest.approx(-across if plane.angle < -45 else across, abs=1e-9)
        assert 2 * half == plane.pitch


def test_the_page_and_its_numbers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "evaluate reco.root --event 3 --out new/page.html --json")
    assert code == 0, err
    printed = json.loads(out)
    assert printed.pop("page") == "new/page.html"
    assert json.loads((folder / "new" / "page.json").read_text()) == printed
    page = (folder / "new" / "page.html").read_text()
    assert page.count("<svg") == 5
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', page)
    assert "trackkeras dimuon evaluate reco.root" in page
    lines = _lines(printed)
    assert lines[0].startswith(f"{N} events, {printed['muons']['true']} true muons: ")
    assert lines[1] == "efficiency 1.000 (1.000 ... 1.000)"


def test_events_are_displayed_with_what_is_known(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "display reco.root --event 3 --out tracks.png --json")
    assert code == 0, err
    shown = json.loads(out)
    assert shown["true_hits"] == shown["found_hits"]
    assert (folder / "tracks.png").read_bytes().startswith(b"\x89PNG")
    for command in ("display reco.root --event 2 --matrix --out one.svg", "display plain.root --out two.svg"):
        code, out, err = run(capsys, command)
        assert code == 0, err
        assert "events.root" not in out
    # an event without hits and a file without truth are drawn as well
    assert run(capsys, "display plain.root --event 4 --out three.svg")[0] == 0
    assert run(capsys, "display data.root --matrix --out four.svg")[0] == 0
    assert run(capsys, "display reco.root --event 2 --matrix --out again.svg")[0] == 0
    assert (folder / "one.svg").read_bytes() == (folder / "again.svg").read_bytes()


BAD_INPUT = {
    "evaluate none.root": "no such file or folder: none.root",
    "evaluate plain.root": "plain.root lacks the branches qHitArray_mup",
    "evaluate data.root": "no event has a true muon of 18 hits",
    "evaluate reco.root --event 40": "reco.root has 40 events, so that none is at --event 40",
    "evaluate reco.root --out page.txt": "the page's name must end in .html, received page.txt",
    "evaluate reco.root --out there.html": "there.json exists already",
    "evaluate flat.root": "flat.root cannot be read as a ROOT file (KeyInFileError: not found: 'softmax_mum'",
    "display none.root": "no such file: none.root",
    "display reco.root --event 40": "reco.root has 40 events, so that none is at --event 40",
    "display reco.root --out event.gif": "a picture's name must end in .png or .svg, received event.gif",
}


@pytest.mark.parametrize("command", BAD_INPUT)
def test_bad_input_is_one_line_and_leaves_nothing(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("there.json").touch()
    before = sorted(folder.rglob("*"))
    code, out, err = run(capsys, command)
    assert code == 2
    assert not out
    lines = [line for line in err.splitlines() if not line.startswith("dimuon ")]  # progress
    assert len(lines) == 1, err
    assert BAD_INPUT[command] in lines[0]
    assert sorted(folder.rglob("*")) == before
