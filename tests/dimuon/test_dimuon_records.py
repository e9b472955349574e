"""Events as rows: padding, absolute drift distances, and splits that no generated muon crosses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfrecords_tools.card import card
from tfrecords_tools.convert import write_dataset
from tfrecords_tools.reader import Dataset
from tfrecords_tools.verify import verify
from trackkeras.cli import app
from trackkeras.domain import find_domain
from trackkeras.domains.dimuon.events import Events, Hits
from trackkeras.domains.dimuon.muons import hit_arrays, muon_rows
from trackkeras.domains.dimuon.noise import Noise, add_noise
from trackkeras.domains.dimuon.random_streams import chunk_rng
from trackkeras.domains.dimuon.records import check_rows, event_groups, event_rows
from trackkeras.domains.dimuon.rus_writing import write_rus
from trackkeras.errors import UserError


def test_rows_hold_the_hits_in_order_and_zeros_behind(sample: Events) -> None:
    rows = event_rows(sample, max_hits=100)
    assert check_rows(rows) == []
    for index in range(len(sample)):
        count = rows["hit_count"][index, 0]
        hits = sample[index : index + 1].hits
        assert count == len(hits)
        np.testing.assert_array_equal(rows["hit_detector"][index, :count], hits.detector)
        np.testing.assert_array_equal(rows["hit_element"][index, :count], hits.element)
        np.testing.assert_array_equal(rows["hit_drift"][index, :count], np.abs(hits.drift).astype("float32"))
        assert not rows["hit_detector"][index, count:].any()
    assert (rows["muon"] == 1).all()
    np.testing.assert_allclose(rows["momentum"].reshape(-1, 3), sample.tracks.momentum, rtol=1e-6)
    np.testing.assert_array_equal(rows["elements"], hit_arrays(sample, muon_rows(sample))[0])


def test_the_sign_of_drift_distances_is_kept_only_when_asked_for(sample: Events) -> None:
    rows, signed = event_rows(sample), event_rows(sample, signed=True)
    for name in ("hit_drift", "drift"):
        assert (rows[name] >= 0).all()
        assert (signed[name] < 0).any()
        np.testing.assert_array_equal(np.abs(signed[name]), rows[name])


def test_too_many_hits_say_what_to_do(sample: Events) -> None:
    most = int(sample.hit_counts.max())
    event = int(sample.hit_counts.argmax())
    with pytest.raises(UserError, match=rf"event {50 + event} has {most} hits.*--set max_hits=128"):
        event_rows(sample, max_hits=most - 1, first=50)
    assert event_rows(sample, max_hits=most)["hit_drift"].shape == (12, most)


def test_groups_follow_generated_muons(muons: Any, sample: Events) -> None:
    single = muons(40, (-1,), copies=4)
    groups = event_groups(single, muon_rows(single))
    assert len(set(groups.tolist())) == 10
    assert (groups.reshape(10, 4) == groups.reshape(10, 4)[:, :1]).all()
    # detectors, background and noise do not matter
    noisy = add_noise(single, Noise(), chunk_rng(1, "noise"))
    np.testing.assert_array_equal(event_groups(noisy, muon_rows(noisy)), groups)
    # dimuons are grouped by event, also where eventID is not unique
    assert len(set(event_groups(sample, muon_rows(sample)).tolist())) == 12
    # without a muon by run, spill and event number
    empty = sample.with_tracks(np.zeros(24, dtype=bool))
    assert len(set(event_groups(empty, muon_rows(empty)).tolist())) == 7
    assert groups.min() >= 0
    assert groups.max() < 2**53


def test_ingested_files_never_split_a_generated_muon(
    muons: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The group decides, not the row; another order of the files gives the same split of the groups."""
    for name, charge in (("plus", 1), ("minus", -1)):
        write_rus(tmp_path / f"{name}.root", [muons(600, (charge,), copies=10, seed=charge + 1)])
    members = []
    for order in (("plus", "minus"), ("minus", "plus")):
        folder = tmp_path / order[0]
        files = [str(tmp_path / f"{name}.root") for name in order]
        arguments = [
            "ingest",
            "dimuon",
            *files,
            "--out",
            str(folder),
            "--shards",
            "4",
            "--set",
            "max_hits=64",
        ]
        app(arguments, standalone_mode=False)
        assert "1,200 rows in 4 shards" in capsys.readouterr().out
        assert verify(folder, [find_domain("dimuon").check_rows]).ok
        data = Dataset(folder)
        assert data.manifest.config["max_hits"] == 64
        assert data.schema.feature("hit_drift").shape == (64,)
        groups = {split: set(data.read(split)["group"][:, 0].tolist()) for split in data.splits}
        assert sum(map(len, groups.values())) == len(set().union(*groups.values())) == 120
        charges = np.concatenate([data.read(split)["muon"] for split in data.splits])
        assert charges.sum(axis=0).tolist() == [600, 600]
        members.append(groups)
    assert members[0] == members[1]


def test_the_data_card_puts_padded_columns_in_one_line(sample: Events, tmp_path: Path) -> None:
    """Mean and spread of 1,024 places are those of all their numbers together."""
    rows = event_rows(sample)
    schema = find_domain("dimuon").schema()
    write_dataset(
        tmp_path / "d", schema, [rows], source={}, name="t", shards=1, splits={"train": 1.0}, group="group"
    )
    text = card(Dataset(tmp_path / "d").manifest)
    (line,) = [line for line in text.splitlines() if "hit_drift" in line]
    cells = [cell.strip() for cell in line.split("|")]
    assert cells[1:3] == ["hit_drift[0..1023]", "cm"]
    drift = rows["hit_drift"].astype(float)
    expected = (drift.mean(), drift.std(), drift.min(), drift.max())
    np.testing.assert_allclose([float(cell) for cell in cells[3:7]], expected, rtol=1e-4)
    assert "momentum[2]" in text


def test_failed_ingests_leave_nothing(sample: Events, tmp_path: Path) -> None:
    write_rus(tmp_path / "a.root", [sample])
    for options, words in (
        (["--set", "max_hits=5"], "more than max_hits=5"),
        (["--set", "max_hit=5"], "did you mean 'max_hits'"),
    ):
        with pytest.raises(UserError, match=words):
            app(
                ["ingest", "dimuon", str(tmp_path / "a.root"), "--out", str(tmp_path / "d"), *options],
                standalone_mode=False,
            )
        assert [path.name for path in tmp_path.iterdir()] == ["a.root"]


def test_sanity_rules_can_fail(sample: Events) -> None:
    def broken(name: str, index: Any, value: float) -> list[str]:
        rows = {key: column.copy() for key, column in event_rows(sample, max_hits=100).items()}
        rows[name][index] = value
        return check_rows(rows)

    assert "padding" in broken("hit_detector", (0, 99), 3)[0]
    assert (
        "padding" in broken("hit_element", (0, 0), 0)[0] or "element" in broken("hit_element", (0, 0), 0)[0]
    )
    assert "drift distances in the padding" in broken("hit_drift", (4, 0), 0.1)[0]
    assert any("not there" in message for message in broken("muon", (0, 1), 0))
    assert "muons at rest" in broken("momentum", (0, 0), 0.0)[0]


def test_background_is_counted(sample: Events) -> None:
    track = np.where(sample.hits.detector < 5, sample.hits.track + 2, sample.hits.track)
    hits = Hits(**{**sample.hits.columns(), "track": track})
    moved = Events(hits, sample.tracks, sample.hit_offsets, sample.track_offsets, sample.columns)
    expected = np.where(sample.hit_counts > 0, 2, 0)
    np.testing.assert_array_equal(event_rows(moved)["background_tracks"][:, 0], expected)
