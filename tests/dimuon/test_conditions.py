"""Conditions of studies: the same dimuons, with what each condition says changed and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from trackkeras.domains.dimuon.conditions import Condition, conditions, dead_detectors, messy_events
from trackkeras.domains.dimuon.detectors import numbers
from trackkeras.domains.dimuon.events import Events
from trackkeras.domains.dimuon.noise import Noise
from trackkeras.domains.dimuon.occupancy import Occupancy


@pytest.fixture(scope="module")
def signal(muons: Any) -> Events:
    events = muons(300, seed=3)
    return Events(events.hits, events.tracks, events.hit_offsets, events.track_offsets)


@pytest.fixture(scope="module")
def single(muons: Any) -> Events:
    events = muons(40, (1,), seed=4)
    return Events(events.hits, events.tracks, events.hit_offsets, events.track_offsets)


def messy(signal: Events, single: Events, **changes: Any) -> Events:
    condition = Condition("", **{"occupancy": Occupancy(lower=3, upper=3), **changes})
    return Events.concatenate(list(messy_events(signal, single, condition, 1)))


def test_the_signal_stays_and_a_seed_decides(signal: Events, single: Events, same: Any) -> None:
    events = messy(signal, single)
    same(events.with_hits(events.hits.track < 3).with_tracks(events.tracks.number < 3), signal)
    assert (events.hits.track > 2).any()
    same(events, messy(signal, single))


def test_detectors_lose_their_share(signal: Events, single: Events) -> None:
    kept = messy(signal, single, lost=0.5, lost_in=(1, 31))
    own = kept.hits.track < 3
    for number in (1, 2, 31):
        left = (kept.hits.detector[own] == number).sum() / (signal.hits.detector == number).sum()
        assert left == pytest.approx(1.0 if number == 2 else 0.5, abs=0.1 if number != 2 else 0)
    assert (kept.hits.detector[~own] == 1).any()


def test_noise_is_added(signal: Events, single: Events) -> None:
    assert (messy(signal, single, noise=Noise()).hits.track == 0).any()


def test_every_detector_dies_once() -> None:
    dead = dead_detectors()
    assert [each.lost_in for each in dead] == [(int(number),) for number in numbers()]
    names = [each.name for each in (*conditions(), *dead)]
    assert len(set(names)) == len(names)
    assert {each.occupancy.model for each in conditions()} == {"gaussian", "linear", "exponential", "flat"}
