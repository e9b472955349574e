"""`trackkeras dimuon`: the chain of files from dimuons to noisy training events, and what goes wrong."""

from __future__ import annotations

import json
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trackkeras.domains.dimuon.events import Events, Hits, Tracks
from trackkeras.domains.dimuon.rus_layout import OLD
from trackkeras.domains.dimuon.rus_reading import open_rus, read_rus
from trackkeras.domains.dimuon.rus_writing import write_rus
from trackkeras.domains.dimuon.tools_bench import sample_events


@pytest.fixture
def run(run: Any) -> Any:
    """Run a command of `trackkeras dimuon`."""
    return partial(run, "dimuon")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with 30 dimuons in old naming and 20 single muons of each charge in the new one."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    write_rus(tmp_path / "pairs.root", [sample_events(30, 70, 2, rng)], OLD)
    for name, charge in (("mup", 1), ("mum", -1)):
        events = sample_events(20, 35, 1, rng)
        events.tracks.charge[:] = charge
        write_rus(tmp_path / f"{name}.root", [events])
    return tmp_path


def read(path: str) -> Events:
    return Events.concatenate(list(read_rus(Path(path))))


def test_the_chain_from_dimuons_to_noisy_training_events(folder: Path, run: Any) -> None:
    def ok(line: str) -> dict[str, Any]:
        code, out, err = run(*shlex.split(line), "--json")
        assert code == 0, err
        assert "(100 %)" in err
        found: dict[str, Any] = json.loads(out)
        assert all(Path(name).is_file() for name in found.get("files", ()))
        return found

    assert ok("separate pairs.root")["events"] == 30
    made = ok("gen-training pairs_track1.root pairs_track2.root --out training")
    assert [Path(name).name for name in made["files"]] == [
        "finder_training.root",
        "momentum_training-1.root",
        "momentum_training-2.root",
    ]
    assert ok("combine mup.root mum.root")["events"] == 40
    assert read("single_muons.root").tracks.charge.tolist() == [1, -1] * 20
    messy = ok("messy training/finder_training.root single_muons.root --num-tracks 6 --clean --seed 4")
    mixed = read("mc_events.root")
    assert messy["hits"] == len(mixed.hits)
    assert messy["background_tracks"] == (mixed.tracks.number > 2).sum() > 0
    assert messy["background_passes"] > 1
    noisy = ok("noise mc_events.root")
    assert noisy["noise_hits"] == (read("noisy_output.root").hits.track == 0).sum() > 0
    assert ok("skim noisy_output.root --start 5 --max-events 10 --out part.root")["events"] == 10
    assert ok("merge part.root noisy_output.root")["events"] == 40
    assert ok("background single_muons.root --events 50")["events"] == 50

    final = read("merged_RUS.root")
    np.testing.assert_array_equal(final.columns["HitArray_mup"][10:], mixed.columns["HitArray_mup"])
    np.testing.assert_array_equal(final.columns["eventID"][:10], np.arange(5, 15))
    with open_rus(Path("merged_RUS.root")) as file:
        assert file.naming is OLD, "names stay those of the input"
    with open_rus(Path("mc_events.root")) as file:
        clean = file.read(["detectorIDClean"], 0, 30)["detectorIDClean"]
    np.testing.assert_array_equal([len(event) for event in clean], 70)
    assert not list(folder.rglob("*.partial"))


def test_a_seed_decides_all(folder: Path, run: Any) -> None:
    def elements(seed: int) -> list[int]:
        few = ("--num-tracks", 3, "--overwrite", "--seed", seed)
        assert run("messy", "pairs.root", "mup.root", *few)[0] == 0
        found: list[int] = read("mc_events.root").hits.element.tolist()
        return found

    assert elements(1) == elements(1) != elements(2)


def test_check_says_what_a_file_is(folder: Path, run: Any) -> None:
    code, out, _ = run("check", "pairs.root")
    assert code == 0
    assert "valid RUS, old naming, 30 events, 2,100 hits, 60 truth tracks" in out
    assert "note: no momentum at station 1" in out
    bad = sample_events(3, 5, 2, np.random.default_rng(1))
    bad.hits.element[2] = 0
    write_rus(Path("bad.root"), [bad])
    code, out, _ = run("check", "bad.root", "--json")
    assert code == 1
    report = json.loads(out)
    assert not report["valid"]
    assert report["problems"] == ["1 hits are outside of the detectors: `skim --drop-invalid` drops them"]
    assert run("skim", "bad.root", "--drop-invalid", "--out", "good.root")[0] == 0
    assert run("check", "good.root")[0] == 0


def test_incomplete_events_are_counted(folder: Path, run: Any) -> None:
    events = read("pairs.root")
    kept = np.ones(60, dtype=bool)
    kept[0] = False
    write_rus(Path("one_short.root"), [events.with_tracks(kept)])
    code, out, _ = run("separate", "one_short.root", "--json")
    assert code == 0
    assert json.loads(out)["incomplete_events"] == 1
    assert json.loads(out)["events"] == 29


def test_files_are_replaced_only_when_told(folder: Path, run: Any) -> None:
    code, _, err = run("skim", "pairs.root", "--out", "mup.root")
    assert code == 2
    assert "mup.root exists already: choose another name, or replace it with --overwrite" in err
    assert len(read("mup.root")) == 20
    assert run("skim", "pairs.root", "--out", "mup.root", "--overwrite")[0] == 0
    assert len(read("mup.root")) == 30
    # onto itself, which is read until the end
    assert run("noise", "pairs.root", "--out", "pairs.root", "--overwrite")[0] == 0
    assert len(read("pairs.root")) == 30


BAD_INPUT = {
    "check none.root": "no such file: none.root",
    "check text.root": "text.root cannot be read as a ROOT file",
    "separate none.root": "no such file: none.root",
    "separate text.root": "cannot be read as a ROOT file",
    "separate lone.root": "there are no events to write",
    "gen-training mup.root none.root": "no such file: none.root",
    "gen-training mup.root mup.root": "must have one truth track of charge -1",
    "gen-training pairs.root pairs.root": "must have one truth track of charge +1",
    "combine mup.root numbered.root": "cannot be joined",
    "messy pairs.root pairs.root": "must have one muon in each event to be background",
    "messy pairs.root mup.root --num-tracks -1": "0 <= lower <= upper",
    "messy pairs.root mup.root --sigma 0": "sigma must be positive",
    "messy pairs.root mup.root --seed -1": "seed must not be negative",
    "messy pairs.root mup.root --once": "mup.root has only 20 muons, too few for 30 events",
    "messy pairs.root none.root": "no such file: none.root",
    "noise pairs.root --electronic 2": "electronic must be a chance from 0 to 1",
    "noise pairs.root --longest 300": "clusters must have 1 <= shortest <= longest <= 15",
    "noise outside.root": "outside.root, event 3: a hit in detector 1, element 201",
    "skim pairs.root --out s.root --start 30": "pairs.root has 30 events, so that none is at --start 30",
    "merge pairs.root outside.root": "outside.root, event 3",
    "merge mup.root numbered.root": "cannot follow others",
    "merge pairs.root mup.root --out mup.root": "mup.root is one of the files to merge",
    "merge 'none*.root'": "nothing matches none*.root",
    "background pairs.root": "must have one muon in each event",
}


@pytest.mark.parametrize("command", BAD_INPUT)
def test_bad_input_is_one_line_and_leaves_nothing(command: str, folder: Path, run: Any) -> None:
    (folder / "text.root").write_text("no ROOT file")
    lone = sample_events(4, 5, 1, np.random.default_rng(2))
    write_rus(folder / "lone.root", [lone])
    outside = sample_events(4, 5, 2, np.random.default_rng(2))
    outside.hits.detector[15], outside.hits.element[15] = 1, 201
    write_rus(folder / "outside.root", [outside])
    numbered = lone.with_columns(spillID=np.zeros(4, dtype=np.int32))
    write_rus(folder / "numbered.root", [numbered])
    before = sorted(folder.rglob("*"))
    code, out, err = run(*shlex.split(command))
    assert code == 2
    assert not out
    lines = [line for line in err.splitlines() if not line.startswith("dimuon ")]  # progress
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert BAD_INPUT[command] in lines[0]
    assert sorted(folder.rglob("*")) == before


def test_empty_files_are_told_apart(folder: Path, run: Any) -> None:
    """Events without hits are events."""
    nothing = np.zeros((0, 3))
    empty = Events.of(
        np.zeros(5), Hits.of([], []), np.zeros(5), Tracks.of([], [], nothing, nothing),
        {"eventID": np.arange(5, dtype=np.int32)},
    )  # fmt: skip
    write_rus(Path("empty.root"), [empty])
    assert run("noise", "empty.root", "--out", "noise.root")[0] == 0
    noisy = read("noise.root")
    assert len(noisy) == 5
    assert (noisy.hits.track == 0).all()
