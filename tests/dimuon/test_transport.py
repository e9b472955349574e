"""Muons through magnets and material, and what the planes answer."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackkeras.domains.dimuon.detectors import DETECTORS, plane_elements
from trackkeras.domains.dimuon.iron import MUON
from trackkeras.domains.dimuon.motion import advance
from trackkeras.domains.dimuon.planes import OVERLAP, PLANES
from trackkeras.domains.dimuon.spectrometer import (
    FMAG,
    FMAG_END,
    HALVES,
    IRON_RADIATION_LENGTH,
    KEPT,
    KMAG,
    SLABS,
    STATION_1,
    STATIONS,
    Response,
    layout,
)
from trackkeras.domains.dimuon.transport import Transported, transport
from trackkeras.errors import UserError
from trackkeras.units import KAPPA

EMPTY = Response(scatter=0.0, lose=False, resolution=0.0, all_stations=False)
DOWNSTREAM = [KEPT.index(21), KEPT.index(27)]


def muons(n, seed=0, charge=None):
    """Muons that mostly reach the last station: charge, vertex, momentum."""
    rng = np.random.default_rng(seed)
    sign = rng.choice([-1, 1], n) if charge is None else np.full(n, charge)
    vertex = np.stack([rng.normal(0, 0.3, n), rng.normal(0, 0.3, n), rng.uniform(0, 60, n)], axis=1)
    px, py = -sign * rng.uniform(0.5, 3.0, n), rng.choice([-1, 1], n) * rng.uniform(0.4, 2.0, n)
    return sign.astype(np.int32), vertex, np.stack([px, py, rng.uniform(30, 70, n)], axis=1)


@pytest.fixture(scope="module")
def sent():
    sample = muons(4000)
    return sample, transport(np.random.default_rng(1), *sample, Response(resolution=0.0))


# -- magnets -----------------------------------------------------------------------------------------------
def test_slabs_leave_no_gap_and_fields_are_in_tesla():
    assert all(first.end == second.start for first, second in itertools.pairwise(SLABS))
    for magnet in (FMAG, KMAG):
        metres = 0.01 * (magnet.end - magnet.start)
        assert magnet.kick == pytest.approx(KAPPA * magnet.field * metres)  # GeV for KAPPA in GeV / (T m)


def test_kicks_are_near_those_that_the_experiment_states():
    # pT kicks and field scales of E906 in `utsav-sth/e1039-GPU`, `reconstruction_constants.h`. The files
    # have KMAG at this scale; that of E1039, 0.4016 GeV times 0.951, would be 8 % weaker.
    assert FMAG.kick == pytest.approx(2.909 * 1.044, rel=0.03)
    assert KMAG.kick == pytest.approx(0.404 * 1.025, rel=0.01)


def test_each_magnet_kicks_by_its_integral_and_nothing_else_changes():
    charge, vertex, momentum = muons(500)
    found = transport(np.random.default_rng(0), charge, vertex, momentum, EMPTY).states
    before = found[:, 0, 3:]
    np.testing.assert_allclose(
        before[:, 0] - momentum[:, 0], charge * FMAG.bend * (FMAG_END - vertex[:, 2]), rtol=1e-9
    )
    for place in DOWNSTREAM:
        np.testing.assert_allclose(found[:, place, 3] - before[:, 0], charge * KMAG.kick, rtol=1e-9)
    for after in found[:, :, 3:].transpose(1, 0, 2):
        np.testing.assert_allclose(after[:, 1], momentum[:, 1], rtol=1e-12)
        np.testing.assert_allclose(
            np.linalg.norm(after, axis=1), np.linalg.norm(momentum, axis=1), rtol=1e-12
        )


@given(
    px=st.floats(-3, 3),
    py=st.floats(-2, 2),
    pz=st.floats(5, 80),
    kick=st.floats(-0.6, 0.6).filter(lambda kick: abs(kick) > 0.01),
    dz=st.floats(1.0, 300.0),
)
@settings(deadline=None)
def test_a_step_follows_the_circle(px, py, pz, kick, dz):
    """A step in the dump or through KMAG changes px by 0.5 GeV at most."""
    bend = kick / dz
    x, y, after, forward, alive = advance(0.0, 0.0, px, py, pz, bend, dz)
    assert alive
    flat = math.hypot(px, pz)
    turn = math.asin(after / flat) - math.asin(px / flat)
    assert x == pytest.approx((pz - forward) / bend, rel=1e-6, abs=1e-6)
    # the circle's path over its momentum, and what the chord in place of the arc adds
    assert y == pytest.approx(py * turn / bend * math.tan(turn / 2) / (turn / 2), rel=1e-6, abs=1e-6)
    assert y == pytest.approx(py * turn / bend, rel=5e-3, abs=1e-6)
    assert math.hypot(after, forward) == pytest.approx(flat, rel=1e-12)


def test_mirrored_muons_of_the_other_charge_take_the_mirrored_path():
    charge, vertex, momentum = muons(300)
    lose = Response(scatter=0.0, lose=False, all_stations=False)
    mirror = np.array([-1.0, 1.0, 1.0])
    one = transport(np.random.default_rng(0), charge, vertex, momentum, lose).states
    two = transport(np.random.default_rng(0), -charge, vertex * mirror, momentum * mirror, lose).states
    np.testing.assert_allclose(one, two * np.tile(mirror, 2), rtol=1e-12)


def test_both_charges_lose_and_reach_alike():
    momentum = np.tile([0.0, 1.0, 40.0], (3000, 1))
    vertex = np.tile([0.0, 0.0, 30.0], (3000, 1))
    rng = np.random.default_rng(3)
    plus, minus = (
        transport(rng, np.full(3000, q, np.int32), vertex, momentum, Response(all_stations=False)).states[
            :, 0
        ]
        for q in (1, -1)
    )
    plus, minus = (found[np.isfinite(found[:, 0])] for found in (plus, minus))
    for column, sign in ((0, -1.0), (3, -1.0), (4, 1.0), (5, 1.0)):
        error = np.hypot(plus[:, column].std(), minus[:, column].std()) / np.sqrt(3000)
        assert plus[:, column].mean() == pytest.approx(sign * minus[:, column].mean(), abs=4 * error)


# -- material ----------------------------------------------------------------------------------------------
def highland(momentum: float, length: float, radiation_length: float) -> float:
    """Width of the scattering angle in one plane [rad]."""
    beta = momentum / math.hypot(momentum, MUON)
    share = length / radiation_length
    return 0.0136 / (beta * momentum) * math.sqrt(share) * (1.0 + 0.038 * math.log(share / beta**2))


def test_angles_and_displacements_behind_the_dump_are_highlands():
    n, p = 20_000, 50.0
    momentum, vertex = np.tile([0.0, 0.0, p], (n, 1)), np.zeros((n, 3))
    state = transport(
        np.random.default_rng(5),
        np.ones(n, np.int32),
        vertex,
        momentum,
        Response(1.0, False, all_stations=False),
    ).states[:, 0]
    width = highland(p, FMAG_END, IRON_RADIATION_LENGTH)
    rest = state[0, 2] - FMAG_END
    # Turns spread evenly over the dump: the displacement behind a straight line of length `rest`.
    moved = width * math.sqrt(FMAG_END**2 / 3 + FMAG_END * rest + rest**2)
    assert np.std(state[:, 4] / state[:, 5]) == pytest.approx(width, rel=0.02)
    assert np.std(state[:, 1]) == pytest.approx(moved, rel=0.02)
    np.testing.assert_allclose(np.linalg.norm(state[:, 3:], axis=1), p, rtol=1e-12)


def test_half_the_scattering_is_half_as_wide():
    charge, vertex, momentum = muons(4000, charge=1)
    momentum[:] = [0.0, 0.0, 40.0]
    spread = [
        np.std(
            transport(
                np.random.default_rng(6),
                charge,
                vertex,
                momentum,
                Response(scatter, False, all_stations=False),
            ).states[:, 0, 4]
        )
        for scatter in (1.0, 0.5)
    ]
    assert spread[1] == pytest.approx(0.5 * spread[0], rel=0.02)


def test_the_dump_takes_what_the_mean_loss_says():
    from trackkeras.domains.dimuon.iron import mean_loss

    n, energy = 20_000, 60.0
    vertex = np.zeros((n, 3))
    momentum = np.tile([0.0, 0.0, math.sqrt(energy**2 - MUON**2)], (n, 1))
    response = Response(scatter=0.0, all_stations=False)
    state = transport(np.random.default_rng(7), np.ones(n, np.int32), vertex, momentum, response).states[:, 0]
    left = energy
    for _ in range(500):  # the continuous slowing down of the mean
        left -= mean_loss(left) * FMAG_END / 500
    lost = energy - np.sqrt((state[:, 3:] ** 2).sum(axis=1) + MUON**2)
    # The path is a little longer than the dump; a muon with much less energy loses less of it.
    assert np.nanmean(lost) == pytest.approx(energy - left, rel=0.02)


def test_slow_muons_stay_in_the_dump():
    sample = np.ones(50, np.int32), np.zeros((50, 3)), np.tile([0.0, 0.5, 5.0], (50, 1))
    kept = transport(np.random.default_rng(0), *sample, Response())
    assert not kept.kept.any()
    lenient = transport(np.random.default_rng(0), *sample, Response(all_stations=False))
    assert lenient.kept.all()
    assert not lenient.element.any()
    assert np.isnan(lenient.states).all()


# -- planes ------------------------------------------------------------------------------------------------
def test_hits_lie_within_their_planes(sent):
    _, found = sent
    most = plane_elements()[1:]
    for elements in (found.element, found.neighbour):
        assert (elements >= 0).all()
        assert (elements <= most).all()
    absent = np.array([not plane.present for plane in DETECTORS])
    assert not found.element[:, absent].any()
    assert (found.drift[found.element == 0] == 0).all()


def test_wire_and_drift_give_the_position(sent):
    _, found = sent
    plane = next(plane for plane in PLANES if plane.number == STATION_1)
    hit = found.kept & (found.element[:, STATION_1 - 1] > 0)
    x, y = found.states[hit, 0, :2].T
    place = plane.place(x, y)
    measured = found.element[hit, STATION_1 - 1] + found.drift[hit, STATION_1 - 1] / plane.pitch
    np.testing.assert_allclose(measured, place, atol=1e-9)
    assert (np.abs(found.drift[hit, STATION_1 - 1]) <= plane.pitch / 2 + 1e-9).all()


def test_only_tubes_drift_further_than_half_a_pitch(sent):
    _, found = sent
    for plane in PLANES:
        drift = found.drift[found.kept, plane.number - 1]
        most = plane.pitch / 2 if plane.detector.drift else 0.0
        reach = max((abs(shift) for shift in plane.shifts), default=0.0)
        assert np.abs(drift).max() <= most + reach + 1e-9


def test_kept_muons_have_what_all_stations_ask_for(sent):
    _, found = sent
    assert found.kept.mean() > 0.3
    for numbers, least in STATIONS:
        fired = (found.element[:, np.array(numbers) - 1] > 0).sum(axis=1)
        assert (fired[found.kept] >= least).all()
    lower, upper = (found.element[found.kept][:, np.array(half) - 1] > 0 for half in HALVES)
    assert (lower.all(axis=1) ^ upper.all(axis=1)).all()
    assert not (lower.any(axis=1) & upper.any(axis=1)).any()


def test_overlapping_bars_fire_together_as_often_as_they_overlap(sent):
    _, found = sent
    for number in (31, 32, 37, 38):
        pitch = next(plane.pitch for plane in PLANES if plane.number == number)
        fired = found.element[found.kept, number - 1] > 0
        both = found.neighbour[found.kept, number - 1][fired] > 0
        share = OVERLAP / pitch
        assert both.mean() == pytest.approx(share, abs=5 * math.sqrt(share / fired.sum()))
    apart = np.abs(found.neighbour - found.element)[found.neighbour > 0]
    assert (apart == 1).all()


def test_efficiency_and_resolution():
    sample = muons(6000, charge=1)
    perfect = transport(np.random.default_rng(1), *sample, EMPTY)
    worse = Response(0.0, False, 0.05, 0.9, 0.8, 0.7, False)
    found = transport(np.random.default_rng(1), *sample, worse)
    for plane in PLANES:
        wanted = {"chamber": 0.9, "hodoscope": 0.8, "tube": 0.7}[plane.detector.kind]
        crossed = perfect.element[:, plane.number - 1] > 0
        if crossed.sum() > 500:
            seen = found.element[crossed, plane.number - 1] > 0
            assert seen.mean() == pytest.approx(wanted, abs=4.5 * math.sqrt(0.25 / crossed.sum()))
    both = (perfect.element[:, 2] > 0) & (found.element[:, 2] > 0)
    error = (found.drift - perfect.drift)[both, 2]
    assert error.std() == pytest.approx(0.05, rel=0.05)


def test_shifted_planes_are_taken_from_the_layout():
    from dataclasses import replace

    moved = tuple(replace(plane, origin=plane.origin - plane.pitch) for plane in PLANES)
    sample = muons(200)
    first = transport(np.random.default_rng(0), *sample, EMPTY).element
    second = transport(np.random.default_rng(0), *sample, EMPTY, layout(moved)).element
    inside = (first > 0) & (second > 0)
    assert inside.sum() > 1000
    assert (second[inside] == first[inside] + 1).all()


def test_material_with_an_aperture_stops_what_is_outside():
    from dataclasses import replace

    narrow = tuple(replace(slab, half_y=3.0) if slab == FMAG else slab for slab in SLABS)
    sample = muons(400)
    found = transport(np.random.default_rng(0), *sample, EMPTY, layout(slabs=narrow)).states[:, 0]
    wide = transport(np.random.default_rng(0), *sample, EMPTY).states[:, 0]
    at_end = wide[:, 1] - wide[:, 4] / wide[:, 5] * (wide[:, 2] - FMAG_END)
    np.testing.assert_array_equal(np.isfinite(found[:, 0]), np.abs(at_end) <= 3.0)


def test_planes_stand_in_empty_space():
    from dataclasses import replace

    within = replace(PLANES[0], z=FMAG_END / 2)
    with pytest.raises(UserError, match="plane 1 must stand in empty space"):
        layout((within, *PLANES[1:]))


def test_muons_of_an_event_are_put_together_again():
    sample = muons(60)
    found = transport(np.random.default_rng(2), *sample, EMPTY)
    first, second = found.take(slice(0, 30)), found.take(slice(30, 60))
    places = np.where(np.arange(30)[:, None] % 2, [1, 0], [0, 1])
    joint = Transported.stack([first, second], places)
    for event in range(30):
        for which, part in zip(places[event], (first, second), strict=True):
            np.testing.assert_array_equal(joint.element[event, which], part.element[event])
            np.testing.assert_array_equal(joint.states[event, which], part.states[event])


def test_same_stream_same_hits():
    sample = muons(300)
    one, two = (transport(np.random.default_rng(9), *sample, Response()) for _ in range(2))
    for name in ("kept", "element", "neighbour", "drift", "states"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
