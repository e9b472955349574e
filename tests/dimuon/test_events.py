"""Flat events behave as a list of events would."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackkeras.domains.dimuon.detectors import DETECTORS, numbers, plane_elements
from trackkeras.domains.dimuon.events import (
    Events,
    Hits,
    Tracks,
)
from trackkeras.domains.dimuon.merging import merge_hits, merge_tracks
from trackkeras.domains.dimuon.muons import background_tracks, hit_arrays, muon_rows, muon_vectors
from trackkeras.errors import UserError


def as_list(events: Events) -> list[dict[str, Any]]:
    """One dictionary per event, made by plain loops."""
    return [
        {
            **{
                name: column[events.hit_offsets[i] : events.hit_offsets[i + 1]].tolist()
                for name, column in events.hits.columns().items()
            },
            "charge": events.tracks.charge[events.track_offsets[i] : events.track_offsets[i + 1]].tolist(),
            "momentum": events.tracks.momentum[
                events.track_offsets[i] : events.track_offsets[i + 1]
            ].tolist(),
            "id": events.columns["eventID"][i],
        }
        for i in range(len(events))
    ]


@given(
    chosen=st.one_of(
        st.lists(st.integers(0, 11)),
        st.builds(
            slice,
            st.none() | st.integers(-14, 14),
            st.none() | st.integers(-14, 14),
            st.none() | st.integers(1, 3),
        ),
    )
)
def test_choosing_events_is_choosing_from_a_list(sample: Events, chosen: list[int] | slice) -> None:
    whole = as_list(sample)
    expected = whole[chosen] if isinstance(chosen, slice) else [whole[index] for index in chosen]
    assert as_list(sample[chosen]) == expected


def test_masks_choose_events_hits_and_tracks(sample: Events, same: Any) -> None:
    mask = np.arange(12) % 3 == 0
    same(sample[mask], sample[::3])
    some = sample.hits.detector < 20
    assert [[d for d in event["detector"] if d < 20] for event in as_list(sample)] == [
        event["detector"] for event in as_list(sample.with_hits(some))
    ]
    plus = sample.with_tracks(sample.tracks.charge > 0)
    assert (plus.track_counts == 1).all()
    assert (plus.tracks.charge == 1).all()


@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, 12), max_size=4))
def test_parts_join_to_the_whole(sample: Events, same: Any, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), 12]
    parts = [sample[low:high] for low, high in itertools.pairwise(edges)]
    same(Events.concatenate(parts), sample)


def test_merged_events_have_the_hits_of_both(sample: Events) -> None:
    first, second = sample, sample[::-1]
    merged = as_list(merge_tracks(merge_hits(first, second), second))
    for event, one, two in zip(merged, as_list(first), as_list(second), strict=True):
        for name in ("detector", "element", "drift", "track", "charge", "momentum"):
            assert event[name] == one[name] + two[name]
        assert event["id"] == one["id"]


def test_hit_arrays_hold_the_last_hit_of_each_detector(sample: Events) -> None:
    rows = muon_rows(sample)
    elements, drift = hit_arrays(sample, rows)
    expected = np.zeros((12, 2, 62))
    distance = np.zeros((12, 2, 62))
    doubled = 0
    for index, event in enumerate(as_list(sample)):
        for track, detector, element, value in zip(
            event["track"], event["detector"], event["element"], event["drift"], strict=True
        ):
            doubled += expected[index, track - 1, detector - 1] > 0
            expected[index, track - 1, detector - 1] = element
            distance[index, track - 1, detector - 1] = value
    assert doubled == 2
    np.testing.assert_array_equal(elements, expected)
    np.testing.assert_array_equal(drift, distance)
    assert (elements <= plane_elements()[1:]).all()


def test_muons_are_found_by_charge_among_the_signal() -> None:
    """A lone mu- is in the second place; background never stands for a missing muon; noise is nobody's."""
    hits = Hits.of([1, 1, 1, 1], [5, 6, 7, 8], track=[1, 3, 0, 4])
    zeros = np.zeros((3, 3))
    tracks = Tracks.of([1, 3, 4], [-1, 1, 1], zeros, np.tile([1.0, 2.0, 3.0], (3, 1)))
    events = Events.of([4, 0], hits, [3, 0], tracks)
    rows = muon_rows(events)
    assert rows.tolist() == [[-1, 0], [-1, -1]]
    elements, _ = hit_arrays(events, rows)
    assert elements[0, :, 0].tolist() == [0, 5]
    assert not elements[1].any()
    assert background_tracks(events).tolist() == [2, 0]
    assert muon_vectors(events, rows, "momentum")[0].tolist() == [[0, 0, 0], [1, 2, 3]]
    assert not muon_vectors(events, rows, "momentum_st1").any(), "unknown is zero"


def test_a_second_muon_of_one_charge_does_not_replace_the_first() -> None:
    zeros = np.zeros((2, 3))
    events = Events.of([0], Hits.of([], []), [2], Tracks.of([1, 2], [1, 1], zeros, zeros))
    assert muon_rows(events).tolist() == [[0, -1]]


def test_what_does_not_fit_is_refused(sample: Events) -> None:
    with pytest.raises(UserError, match="hits need columns of one length"):
        Hits(*[np.zeros(n, np.int32) for n in (1, 2, 1, 1, 1, 1)])
    with pytest.raises(UserError, match="hit offsets must rise from 0 to 1"):
        Events.of([2], Hits.of([1], [1]), [0], Tracks.of([], [], np.zeros((0, 3)), np.zeros((0, 3))))
    with pytest.raises(UserError, match="need columns of that length"):
        sample.with_columns(spillID=np.zeros(3))
    with pytest.raises(UserError, match="cannot be joined"):
        Events.concatenate([sample, sample.with_columns(more=np.zeros(12))])


def test_the_detector_table_is_complete() -> None:
    assert [plane.number for plane in DETECTORS] == list(range(1, 63))
    assert len({plane.name for plane in DETECTORS}) == 62
    absent = [plane.number for plane in DETECTORS if not plane.present]
    assert absent == [*range(7, 13), *range(55, 59)]
    assert set(numbers("hodoscope")) == {*range(31, 47), *range(59, 63)}
    assert all((plane.drift == 0) == (plane.kind == "hodoscope") for plane in DETECTORS if plane.present)
    assert plane_elements()[[0, 1, 7, 54, 62]].tolist() == [0, 193, 0, 72, 50]
