"""Shares of hits found by detector and station: intervals of as many tries as events say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trackkeras.domains.dimuon.completeness import STATIONS, by_detector, by_station, hit_sums, wilson
from trackkeras.domains.dimuon.detectors import PLANES

N = 400
TUBES = list(STATIONS).index((4, "tube"))


def hits(found: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """One muon per event with a hit in each tube plane, of which those of `found` `(n, 8)` were found."""
    own = np.zeros((len(found), 2, PLANES), dtype=bool)
    true = np.zeros_like(own)
    slots = STATIONS[4, "tube"]
    own[:, 0, slots], true[:, 0, slots] = found, True
    return own, true


def interval(cell: dict[str, Any]) -> tuple[float, float]:
    return cell["low"], cell["high"]


def test_hits_that_are_lost_together_count_once() -> None:
    found = np.random.default_rng(0).random(N) < 0.8
    share = found.mean()
    together = hit_sums(*hits(np.repeat(found[:, None], 8, axis=1)))
    station = by_station(together)[TUBES]
    assert station["true_hits"] == 8 * N
    assert station["completeness"]["value"] == pytest.approx(share)
    assert interval(station["completeness"]) == pytest.approx(wilson(share, N))
    (first, *_) = (by_detector(together)[slot] for slot in STATIONS[4, "tube"])
    assert interval(first["completeness"]) == pytest.approx(wilson(share, N))


def test_intervals_hold_the_true_share_as_often_as_they_say() -> None:
    """Hits are lost in whole stations or alone; the spread of the estimates is that of the intervals."""
    rng = np.random.default_rng(1)
    chance, inside, widths, shares = 0.9 * 0.95, [], [], []
    for _ in range(200):
        found = (rng.random((N, 1)) < 0.9) & (rng.random((N, 8)) < 0.95)
        cell = by_station(hit_sums(*hits(found)))[TUBES]["completeness"]
        inside.append(cell["low"] <= chance <= cell["high"])
        widths.append((cell["high"] - cell["low"]) / 2)
        shares.append(cell["value"])
    assert np.mean(inside) == pytest.approx(0.95, abs=0.05)
    assert np.mean(widths) == pytest.approx(1.96 * np.std(shares), rel=0.16)


def test_all_or_nothing_found_has_an_interval_and_nothing_true_has_none() -> None:
    for value in (False, True):
        sums = hit_sums(*hits(np.full((N, 8), value)))
        cell = by_station(sums)[TUBES]["completeness"]
        assert interval(cell) == pytest.approx(wilson(float(value), N))
        assert cell["high"] - cell["low"] > 0.005
        assert by_station(sums)[0] == by_detector(sums)[0] == {"true_hits": 0, "completeness": None}


def test_sums_of_parts_are_the_sum() -> None:
    own, true = hits(np.random.default_rng(2).random((N, 8)) < 0.7)
    parts = [hit_sums(own[part], true[part]) for part in (slice(0, 7), slice(7, None))]
    np.testing.assert_array_equal(sum(parts), hit_sums(own, true))


@pytest.mark.parametrize(("share", "n"), [(0.0, 1), (0.3, 20), (0.5, 7.5), (1.0, 300)])
def test_wilson_solves_its_equation(share: float, n: float) -> None:
    """At either end the observed share is 1.96 standard deviations away."""
    for end in wilson(share, n):
        assert abs(share - end) == pytest.approx(1.959964 * np.sqrt(end * (1 - end) / n), abs=1e-9)
