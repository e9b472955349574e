"""The experiment's own files, and what the original tools made of them; skipped where they are absent."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from trackkeras.domains.dimuon.events import Events
from trackkeras.domains.dimuon.mixing import combine
from trackkeras.domains.dimuon.muons import muon_rows
from trackkeras.domains.dimuon.reconstruction import Reconstruction
from trackkeras.domains.dimuon.records import event_groups
from trackkeras.domains.dimuon.rus_check import check_rus
from trackkeras.domains.dimuon.rus_reading import read_rus
from trackkeras.domains.dimuon.training_files import finder_events, momentum_events, separate

pytestmark = pytest.mark.data

MUON_MASS = 0.1056583755
"""[GeV]; only to see that the truth of a file is that of a J/psi."""


def folder() -> Path:
    named = os.environ.get("TRACKKERAS_DATA")
    base = Path(named) if named else Path(__file__).resolve().parents[2].parent / "shared" / "data"
    if not (base / "spinquest").is_dir():
        pytest.skip("no experiment data: TRACKKERAS_DATA names its folder")
    return base / "spinquest"


def read(name: str) -> Events:
    return Events.concatenate(list(read_rus(folder() / name)))


def same_hits(one: Events, other: Events) -> None:
    np.testing.assert_array_equal(one.hit_offsets, other.hit_offsets)
    for name in ("detector", "element", "track", "tdc"):
        np.testing.assert_array_equal(getattr(one.hits, name), getattr(other.hits, name), err_msg=name)
    # the original wrote drift distances in single precision
    np.testing.assert_array_equal(one.hits.drift.astype("float32"), other.hits.drift.astype("float32"))


def test_sums_of_the_dimuon_file() -> None:
    events = read("JPsi_Dump.root")
    assert (len(events), len(events.hits), len(events.tracks)) == (1000, 70_399, 2000)
    report = check_rus(folder() / "JPsi_Dump.root")
    assert report.valid
    assert report.naming == "old"
    assert "396 times a track has more than one hit in a detector" in report.notes
    assert "eventID is not unique: 997 values in 1,000 events" in report.notes
    p = events.tracks.momentum.reshape(-1, 2, 3)
    energy = np.sqrt((p**2).sum(axis=2) + MUON_MASS**2).sum(axis=1)
    mass = np.sqrt(energy**2 - (p.sum(axis=1) ** 2).sum(axis=1))
    np.testing.assert_allclose(mass, 3.0970, atol=2e-4)


@pytest.mark.parametrize(("name", "generated"), [("MUM", 1223), ("MUP", 1228)])
def test_generated_muons_of_the_single_muon_files(name: str, generated: int) -> None:
    events = read(f"{name}_Dump_10K.root")
    assert len(np.unique(event_groups(events, muon_rows(events)))) == generated
    assert np.isfinite(events.tracks.momentum_st3).all()
    assert events.columns["rfIntensity"].shape == (10_000, 33)
    assert (events.columns["rfID"] == 2**31 - 1).all()


def test_separated_files_are_those_of_the_original() -> None:
    for number, part in enumerate(separate(read("JPsi_Dump.root"))[:2], start=1):
        golden = read(f"golden_JPsi_Dump_track{number}.root")
        same_hits(part, golden)
        np.testing.assert_array_equal(part.columns["eventID"], golden.columns["eventID"])
        for name in ("momentum", "vertex", "number", "charge"):
            np.testing.assert_array_equal(getattr(part.tracks, name), getattr(golden.tracks, name))
        # the original wrote the mu+'s process for both
        assert set(part.hits.process.tolist()) == {11 if number == 1 else 21}
        assert set(golden.hits.process.tolist()) == {11}


def test_training_files_are_those_of_the_original() -> None:
    plus, minus, lost = separate(read("JPsi_Dump.root"))
    assert not lost
    finder, golden = finder_events(plus, minus), read("golden_finder_training.root")
    same_hits(finder, golden)
    np.testing.assert_array_equal(finder.tracks.momentum, golden.tracks.momentum)
    for name in ("HitArray_mup", "HitArray_mum"):
        np.testing.assert_array_equal(finder.columns[name], golden.columns[name])
    for number, part in enumerate((plus, minus), start=1):
        arrays = [
            events.columns["HitArray"].astype("float32")
            for events in (momentum_events(part), read(f"golden_momentum_training-{number}.root"))
        ]
        np.testing.assert_array_equal(*arrays)


def test_bend_of_absolute_distances_gives_the_momentum() -> None:
    """Sides are found in the experiment's own simulation too; what is left is mostly loss in the dump."""
    from trackkeras.domains.dimuon.momentum_models import FirstEstimate
    from trackkeras.domains.dimuon.momentum_rows import muon_columns
    from trackkeras.domains.dimuon.records import event_rows
    from trackkeras.domains.dimuon.tracklets import Tracklets

    rows = muon_columns(event_rows(read("JPsi_Dump.root")))
    station, _ = FirstEstimate()(Tracklets()(rows["elements"], rows["drift"], rows["charge"]))
    loss = rows["momentum"][:, 2] - np.asarray(station)[:, 2]
    assert np.median(loss) == pytest.approx(7.0, abs=0.3)
    assert np.diff(np.quantile(loss, [0.159, 0.841]))[0] / 2 < 1.1


def test_combined_muons_are_those_of_the_original_and_the_first_pair() -> None:
    """The original skipped the first event of both files."""
    files = [folder() / f"{name}_Dump_10K.root" for name in ("MUM", "MUP")]
    ours = Events.concatenate(list(combine(*files, 10_002)))[2:]
    golden = read("golden_single_muons.root")
    same_hits(ours, golden)
    for name in ("momentum", "vertex", "momentum_st1", "position_st3", "charge", "number"):
        np.testing.assert_array_equal(getattr(ours.tracks, name), getattr(golden.tracks, name))
    assert ours.columns["eventID"].tolist() == list(range(2, 10_002))
    assert len(np.unique(golden.columns["eventID"])) < 10_000, "the original's are garbage"


def test_true_hits_as_found_ones_are_the_hit_arrays_of_the_original() -> None:
    chain = Reconstruction(lambda given: {"momentum": np.zeros((len(given["charge"]), 3))})
    muons = chain(read("JPsi_Dump.root"))
    assert muons.found.all()
    golden = read("golden_finder_training.root").columns
    for index, name in enumerate(("HitArray_mup", "HitArray_mum")):
        np.testing.assert_array_equal(muons.elements[:, index], golden[name])
