"""Records of reconstructed files: what was found beside the truth, and networks that read it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfrecords_tools.reader import Dataset
from tfrecords_tools.verify import verify
from trackkeras.cli import app
from trackkeras.domain import Rows, find_domain, open_dataset, task_of
from trackkeras.domains.dimuon.events import Events
from trackkeras.domains.dimuon.found import FOUND, found_columns
from trackkeras.domains.dimuon.record_options import RecordOptions
from trackkeras.domains.dimuon.records import check_rows, event_rows
from trackkeras.domains.dimuon.rus_writing import write_rus
from trackkeras.errors import UserError
from trackkeras.presets import load_run


def reconstructed(events: Events) -> Events:
    """The events with invented findings: nothing was found of the mu- of every fourth event."""
    rng = np.random.default_rng(5)
    n = len(events)
    elements = rng.integers(0, 90, (n, 2, 62)).astype(np.int32)
    elements[::4, 1] = 0
    drift = rng.uniform(-1, 1, (n, 2, 62)).astype(np.float32)
    momentum = rng.normal([0, 0, 30], [1, 1, 5], (n, 2, 3)).astype(np.float32)
    momentum[::4, 1] = np.nan
    found = {f"q{name}": momentum[:, :, axis] for axis, name in enumerate(("px", "py", "pz"))}
    for index, muon in enumerate(("mup", "mum")):
        found |= {f"qHitArray_{muon}": elements[:, index], f"driftDistance_{muon}": drift[:, index]}
    return events.with_columns(**found, qchi2=np.ones((n, 2), np.float32))


@pytest.fixture(scope="module")
def file(muons: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Events]:
    events = reconstructed(muons(60))
    path = tmp_path_factory.mktemp("found") / "qtracker_reco.root"
    write_rus(path, [events])
    return path, events


def ingest(path: Path, out: Path, *options: str) -> Dataset:
    words = [word for option in options for word in ("--set", option)]
    app(["ingest", "dimuon", str(path), "--out", str(out), "--shards", "3", *words], standalone_mode=False)
    return Dataset(out)


def in_order(rows: Rows) -> Rows:
    order = np.argsort(rows["group"][:, 0])
    return {name: column[order] for name, column in rows.items()}


def whole(data: Dataset) -> Rows:
    parts = [data.read(split) for split in data.splits]
    return in_order({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def test_findings_stand_beside_the_truth(file: tuple[Path, Events], tmp_path: Path) -> None:
    path, events = file
    data = ingest(path, tmp_path / "d", "reconstructed=true", "max_hits=96")
    assert verify(data.directory, [find_domain("dimuon").check_rows]).ok
    assert data.schema.features[-3:] == FOUND
    found = whole(data)
    truth = event_rows(events, max_hits=96)
    expected = in_order({**truth, **found_columns(events)})
    assert set(found) == set(expected)
    # events 4, 11, 18 ... have one eventID, but no two have the same momenta
    for name, column in expected.items():
        np.testing.assert_array_equal(found[name], column, err_msg=name)
    elements = np.stack([events.columns[f"qHitArray_{muon}"] for muon in ("mup", "mum")], axis=1)
    direct = found_columns(events)
    np.testing.assert_array_equal(direct["found_elements"], elements)
    assert (direct["found_drift"] >= 0).all()
    assert not direct["found_drift"][elements == 0].any()
    assert not direct["found_momentum"][::4, 1].any(), "the momentum of nothing"
    assert (found_columns(events, signed=True)["found_drift"] < 0).any()


def test_without_the_option_nothing_changes(file: tuple[Path, Events], tmp_path: Path) -> None:
    path, events = file
    data = ingest(path, tmp_path / "d", "max_hits=96")
    assert set(data.schema.names) == set(event_rows(events))
    domain = find_domain("dimuon")
    assert domain.ingest_schema(RecordOptions()) == domain.schema()


def test_files_that_are_not_reconstructed_are_refused(
    muons: Any, file: tuple[Path, Events], tmp_path: Path
) -> None:
    events = file[1]

    def changed(**columns: Any) -> Events:
        kept = {name: column for name, column in events.columns.items() if name not in columns}
        new = {name: column for name, column in columns.items() if column is not None}
        return Events(events.hits, events.tracks, events.hit_offsets, events.track_offsets, {**kept, **new})

    strange = events.columns["qHitArray_mup"].copy()
    strange[7, 3] = 201
    for broken, words in (
        (muons(8), "lacks the branches qHitArray_mup.*qpz.*dimuon reconstruct"),
        (changed(qpy=None), "lacks the branches qpy, so"),
        (changed(qpx=events.columns["qpx"][:, :1]), r"qpx must have shape \(2,\).*received \(1,\)"),
        (changed(qHitArray_mup=strange), "must be from 0 to 200, received 0 to 201"),
        (changed(qpz=np.full((60, 2), np.inf, np.float32)), "not a finite number"),
    ):
        write_rus(tmp_path / "a.root", [broken])
        with pytest.raises(UserError, match=f"a.root: .*{words}") as error:
            ingest(tmp_path / "a.root", tmp_path / "d", "reconstructed=true", "max_hits=96")
        assert "\n" not in str(error.value)
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.root"]


def test_a_rule_for_findings_can_fail(file: tuple[Path, Events]) -> None:
    rows = event_rows(file[1]) | found_columns(file[1])
    assert check_rows(rows) == []
    rows["found_elements"][:2] = 0
    assert check_rows(rows) == ["2 of 60 rows have drift distances of a found muon without a hit"]


def test_momentum_networks_read_the_hits_that_they_are_told_to(
    file: tuple[Path, Events], tmp_path: Path
) -> None:
    import tensorflow as tf

    path = file[0]
    found, plain = (
        ingest(path, tmp_path / name, f"reconstructed={name}", "max_hits=96") for name in ("true", "false")
    )
    run = load_run("momentum_small", ["model.hits=finder"])
    task = task_of(run)
    assert open_dataset(found.directory, run).schema.name == "dimuon"
    assert open_dataset(found.directory, load_run("momentum_small")).schema.name == "dimuon"
    with pytest.raises(UserError, match="the preset wants 'dimuon' with found_elements, found_drift"):
        open_dataset(plain.directory, run)
    events = found.read("train", task.columns)
    rows = task.own_rows(events)
    there = events["found_elements"].any(axis=-1)
    assert 0 < (~there).sum() < there.sum()
    np.testing.assert_array_equal(rows["elements"], events["found_elements"][there])
    np.testing.assert_array_equal(rows["drift"], events["found_drift"][there])
    np.testing.assert_array_equal(rows["momentum"], events["momentum"][there])
    batches = tf.data.Dataset.from_tensors(events).map(partial(task.split_batch, run))
    inputs, truth, weight = next(iter(batches))
    kept = np.asarray(weight) > 0
    for name, column in {**inputs, **truth}.items():
        np.testing.assert_array_equal(np.asarray(column)[kept], rows[name], err_msg=name)
