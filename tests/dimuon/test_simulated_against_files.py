"""The simulation beside events that were simulated for the experiment itself.

Planes, bends, scattering, beam and pT were tuned to these files: such tests say that the tuning holds, not
that it was predicted. Hits per event and per detector, energy loss and pz of dimuons were not tuned.
"""

import numpy as np
import pytest

from trackkeras.domains.dimuon.events import Events
from trackkeras.domains.dimuon.planes import PLANES
from trackkeras.domains.dimuon.rus_reading import read_rus
from trackkeras.domains.dimuon.simulate import simulate
from trackkeras.domains.dimuon.simulation_options import PRESETS, GenerateOptions
from trackkeras.domains.dimuon.spectrometer import HALVES, SCATTERING, Response
from trackkeras.domains.dimuon.transport import transport
from trackkeras.domains.extrapolation.real_data import data_folder

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def folder():
    found = data_folder()
    if found is None or not (found / "spinquest").is_dir():
        pytest.skip("no experiment data")
    return found / "spinquest"


@pytest.fixture(scope="module")
def singles(folder):
    return Events.concatenate(
        [events for name in ("MUP", "MUM") for events in read_rus(folder / f"{name}_Dump_10K.root")]
    )


@pytest.fixture(scope="module")
def dimuons(folder):
    return Events.concatenate(list(read_rus(folder / "JPsi_Dump.root")))


@pytest.fixture(scope="module")
def ours():
    return Events.concatenate(
        [part for part, _ in simulate(GenerateOptions(), np.random.default_rng(1), 4000)]
    )


def test_planes_predict_elements_and_drift_distances(singles):
    tracks = singles.tracks
    own = singles.hit_event  # one track per event
    for plane in PLANES:
        if plane.detector.kind != "chamber":
            continue
        near = "st1" if plane.detector.station == 1 else "st3"
        position, momentum = getattr(tracks, f"position_{near}"), getattr(tracks, f"momentum_{near}")
        hit = singles.hits.detector == plane.number
        at = position[own[hit]]
        slope = momentum[own[hit], :2] / momentum[own[hit], 2:]
        across = at[:, :2] + slope * (plane.z - at[:, 2:])
        place = plane.place(across[:, 0], across[:, 1])
        assert np.mean(np.rint(place) == singles.hits.element[hit]) > 0.98
        error = (place - singles.hits.element[hit]) * plane.pitch - singles.hits.drift[hit]
        assert np.abs(np.median(error)) < 0.005
        assert np.quantile(np.abs(error), 0.68) < 0.035


def test_muons_sent_again_lose_and_bend_as_they_did(singles):
    tracks = singles.tracks
    found = transport(
        np.random.default_rng(1), tracks.charge, tracks.vertex, tracks.momentum, Response(scatter=SCATTERING)
    )
    kept = found.kept
    assert kept.mean() > 0.9
    start = tracks.momentum[kept]
    ways = []
    for momentum in (tracks.momentum_st1[kept], found.states[kept, 0, 3:]):
        loss = np.linalg.norm(start, axis=1) - np.linalg.norm(momentum, axis=1)
        kick = tracks.charge[kept] * (momentum[:, 0] - start[:, 0])
        turn = (momentum[:, 1] / momentum[:, 2] - start[:, 1] / start[:, 2]) * start[:, 2]
        ways.append((np.median(loss), loss.std(), np.median(kick), turn.std()))
    theirs, here = ways
    assert theirs[0] == pytest.approx(7.77, abs=0.02)
    np.testing.assert_allclose(here, theirs, rtol=0.05)


def test_single_muons_have_as_many_hits(singles):
    options = GenerateOptions(**PRESETS["singles"])
    found = Events.concatenate([part for part, _ in simulate(options, np.random.default_rng(1), 4000)])
    assert singles.hit_counts.mean() == pytest.approx(35.2, abs=0.05)
    assert found.hit_counts.mean() == pytest.approx(singles.hit_counts.mean(), abs=0.15)
    share = [0.16, 0.5, 0.84]
    for spread, pick in (
        (0.3, lambda tracks: tracks.charge * tracks.momentum[:, 0]),
        (0.3, lambda tracks: np.abs(tracks.momentum[:, 1])),
        (3.0, lambda tracks: tracks.momentum[:, 2]),
    ):
        theirs, mine = (np.quantile(pick(events.tracks), share) for events in (singles, found))
        assert mine == pytest.approx(theirs, abs=spread)


def test_dimuons_have_as_many_hits_in_every_detector(dimuons, ours):
    assert dimuons.hit_counts.mean() == pytest.approx(70.4, abs=0.01)
    assert ours.hit_counts.mean() == pytest.approx(dimuons.hit_counts.mean(), abs=0.3)
    theirs, mine = (
        np.bincount(events.hits.detector, minlength=63) / len(events) for events in (dimuons, ours)
    )
    np.testing.assert_allclose(mine, theirs, atol=0.08)


def test_dimuons_have_the_same_kinematics(dimuons, ours):
    share = [0.05, 0.16, 0.5, 0.84, 0.95]
    for index, spread in ((0, 0.25), (1, 0.25), (2, 1.5)):
        theirs, mine = (
            np.quantile(events.tracks.momentum[events.tracks.charge > 0, index], share)
            for events in (dimuons, ours)
        )
        assert mine == pytest.approx(theirs, abs=spread)
    theirs, mine = (np.quantile(events.tracks.vertex[:, 2], [0.16, 0.5, 0.84]) for events in (dimuons, ours))
    assert mine == pytest.approx(theirs, abs=13)


def test_muons_stay_in_one_half_and_share_of_both_halves_of_station_3(singles):
    options = GenerateOptions(**PRESETS["singles"])
    found = Events.concatenate([part for part, _ in simulate(options, np.random.default_rng(3), 20_000)])
    shares = []
    for events in (singles, found):
        fired = np.zeros((len(events), 63), dtype=bool)
        fired[events.hit_event, events.hits.detector] = True
        lower, upper = (fired[:, list(half)].any(axis=1) for half in HALVES)
        assert (lower != upper).all()
        shares.append(np.mean(fired[:, 19:25].any(axis=1) & fired[:, 25:31].any(axis=1)))
    assert shares[0] == pytest.approx(0.00365)
    assert shares[1] == pytest.approx(shares[0], abs=0.0015)
