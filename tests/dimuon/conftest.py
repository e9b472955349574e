"""Small invented events in the layout of the experiment, with every trap that its files have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trackkeras.domains.dimuon.detectors import DETECTORS
from trackkeras.domains.dimuon.events import Events, Hits, Tracks
from trackkeras.domains.dimuon.ragged import offsets

SENTINEL = 2**31 - 1

CHAMBERS = [plane.number for plane in DETECTORS if plane.present and plane.kind == "chamber"]
OTHERS = [plane.number for plane in DETECTORS if plane.present and plane.kind != "chamber"]


def make_muons(n: int, charges: tuple[int, ...] = (1, -1), *, seed: int = 0, copies: int = 1) -> Events:
    """Events with one signal track per charge, about 30 hits each.

    Event 3 has a hit too many in hodoscope 31 for each track, event 4 no hits at all, event 5 a track without
    station 3; each generated muon is simulated `copies` times; `eventID` starts again every 7
    events.
    """
    rng = np.random.default_rng(seed)
    count = len(charges)
    generated = rng.normal([0.0, 0.0, 30.0], [1.0, 1.0, 5.0], (-(-n // copies), count, 3))
    momentum = np.repeat(generated, copies, axis=0)[:n].reshape(-1, 3)
    numbers = np.tile(np.arange(1, count + 1), n)
    parts, counts = [], []
    for event in range(n):
        total = 0
        for track in range(1, count + 1):
            half = rng.integers(2)
            planes = [
                plane
                for plane in (*CHAMBERS, *OTHERS)
                if not (19 <= plane <= 24 and half) and not (25 <= plane <= 30 and not half)
            ]
            planes = [plane for plane in planes if plane < 31 or rng.random() < 0.7 or plane == 31]
            if event == 3:
                planes.insert(planes.index(31) + 1, 31)
            if event == 4:
                planes = []
            size = np.array([DETECTORS[plane - 1].elements for plane in planes])
            width = np.array([DETECTORS[plane - 1].drift for plane in planes])
            element = 1 + (rng.random(len(planes)) * size).astype(int)
            drift = rng.uniform(-1, 1, len(planes)) * width
            parts.append(Hits.of(planes, element, drift, track=track, process=10 + track))
            total += len(planes)
        counts.append(total)
    st3 = momentum - [0.0, 0.0, 8.0]
    st3[count * 5 : count * 5 + 1] = np.nan
    return Events(
        Hits.concatenate(parts),
        Tracks.of(
            numbers,
            np.tile(charges, n),
            rng.normal(0.0, 2.0, (n * count, 3)),
            momentum,
            position_st1=rng.normal(0.0, 20.0, (n * count, 3)),
            momentum_st1=momentum - [0.0, 0.0, 7.0],
            position_st3=st3,
            momentum_st3=st3,
        ),
        offsets(counts),
        offsets(np.full(n, count)),
        {
            "runID": np.zeros(n, np.int32),
            "eventID": (np.arange(n) % 7).astype(np.int32),
            "spillID": np.zeros(n, np.int32),
            "rfID": np.full(n, SENTINEL, np.int32),
            "turnID": np.full(n, SENTINEL, np.int32),
            "rfIntensity": np.zeros((n, 33), np.int32),
            "fpgaTrigger": rng.integers(0, 2, (n, 5)).astype(np.int32),
            "nimTrigger": np.zeros((n, 5), np.int32),
        },
    )


def assert_same(one: Events, other: Events, *, columns: bool = True) -> None:
    """Assert that two samples are equal to the last bit, NaN included."""
    np.testing.assert_array_equal(one.hit_offsets, other.hit_offsets)
    np.testing.assert_array_equal(one.track_offsets, other.track_offsets)
    for table, expected in ((one.hits, other.hits), (one.tracks, other.tracks)):
        for name, column in table.columns().items():
            np.testing.assert_array_equal(column, getattr(expected, name), err_msg=name)
            assert column.dtype == getattr(expected, name).dtype, name
    if columns:
        assert set(one.columns) == set(other.columns)
        for name, column in one.columns.items():
            np.testing.assert_array_equal(column, other.columns[name], err_msg=name)


@pytest.fixture(scope="session")
def muons() -> Any:
    """`make_muons`, as test modules cannot import each other."""
    return make_muons


@pytest.fixture(scope="session")
def same() -> Any:
    """`assert_same`."""
    return assert_same


@pytest.fixture(scope="session")
def sample() -> Events:
    """Twelve dimuon events."""
    return make_muons(12)
