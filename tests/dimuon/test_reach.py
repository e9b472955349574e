"""The rough test that saves the transport of muons: it may keep some in vain, but must lose none."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackkeras.domains.dimuon.kinematics import CHARGES, draw_muons
from trackkeras.domains.dimuon.planes import PLANES
from trackkeras.domains.dimuon.reach import aim_of, all_may_reach, bent, may_reach
from trackkeras.domains.dimuon.simulation_options import GenerateOptions
from trackkeras.domains.dimuon.spectrometer import (
    FMAG,
    FMAG_END,
    HALVES,
    KEPT,
    SCATTERING,
    SLABS,
    STATION_1,
    STATION_3,
    STATIONS,
    Response,
    Slab,
    layout,
)
from trackkeras.domains.dimuon.transport import transport


def reconstructible(element):
    """Return which muons fired what `STATIONS` and `HALVES` ask for, from all that they fired."""
    groups = [(element[:, np.array(numbers) - 1] > 0).sum(axis=1) >= least for numbers, least in STATIONS]
    lower, upper = ((element[:, np.array(half) - 1] > 0).any(axis=1) for half in HALVES)
    return np.all(groups, axis=0) & (lower != upper)


def drawn(process, n, fraction=0.0, seed=4):
    """Return charge, vertex and momentum of the first muon of n events, with nothing left out."""
    options = GenerateOptions(acceptance="any", target_fraction=fraction)
    vertex, momentum, _ = draw_muons(process, options, np.random.default_rng(seed), n)
    return np.full(n, CHARGES[process][0], np.int32), vertex[:, 0], momentum[:, 0]


def rough(response, charge, vertex, momentum):
    return all_may_reach(aim_of(response), charge[:1].astype(float), vertex[:, None], momentum[:, None])


@pytest.mark.parametrize(
    ("process", "fraction", "scatter"),
    [
        ("mu_plus", 0.0, SCATTERING),
        ("mu_minus", 0.0, 2.0),
        ("mu_plus", 0.0, 0.0),
        ("jpsi", 0.0, SCATTERING),
        ("jpsi", 1.0, SCATTERING),
    ],
)
def test_no_muon_that_gets_through_is_lost_where_it_is_made(process, fraction, scatter):
    response = Response(scatter, all_stations=False)
    charge, vertex, momentum = drawn(process, 60_000, fraction)
    found = transport(np.random.default_rng(5), charge, vertex, momentum, response)
    through = reconstructible(found.element)
    kept = rough(response, charge, vertex, momentum)
    assert through.sum() > 3000
    assert (through & ~kept).sum() <= 3e-4 * through.sum()
    assert kept.mean() < 0.85


@pytest.mark.parametrize(("depth", "most"), [(150.0, 0.45), (350.0, 0.3)])
def test_no_muon_that_gets_through_is_lost_in_the_dump(depth, most):
    # The first plane is moved into a narrow slit, where it shows the state of the muon.
    slit = 0.02
    before, behind = replace(FMAG, end=depth), replace(FMAG, start=depth + slit)
    slabs = (SLABS[0], before, Slab(depth, depth + slit), behind, *SLABS[2:])
    planes = tuple(replace(p, z=depth + slit / 2) if p.number == STATION_1 else p for p in PLANES)
    response = Response(SCATTERING, all_stations=False)
    charge, vertex, momentum = drawn("jpsi", 60_000, seed=6)
    found = transport(np.random.default_rng(7), charge, vertex, momentum, response, layout(planes, slabs))
    there = vertex[:, 2] < depth
    state = found.states[there, KEPT.index(STATION_1)]
    through = reconstructible(found.element[there])
    kept = rough(response, charge, state[:, :3], state[:, 3:])
    assert through.sum() > 3000
    assert (through & ~kept).sum() <= 3e-4 * through.sum()
    assert kept.mean() < most


def test_muons_are_watched_without_a_change_of_what_is_accepted():
    charge, vertex, momentum = drawn("mu_plus", 40_000)
    lenient = transport(
        np.random.default_rng(1), charge, vertex, momentum, Response(all_stations=False)
    ).element
    strict = transport(np.random.default_rng(2), charge, vertex, momentum, Response())
    share = reconstructible(lenient).mean()
    assert strict.kept.mean() == pytest.approx(share, abs=4 * np.sqrt(2 * share * (1 - share) / 40_000))


@settings(deadline=None)
@given(st.floats(-40, 40), st.floats(-40, 40), st.floats(0, FMAG_END), st.floats(-5, 5), st.floats(5, 80))
def test_mirrored_muons_of_the_other_charge_are_judged_alike(x, y, z, px, pz):
    aim = aim_of(Response())
    one = may_reach(aim, 1.0, x, y, z, px, 0.5, pz)
    assert one == may_reach(aim, -1.0, -x, y, z, -px, 0.5, pz)
    assert one == may_reach(aim, 1.0, x, -y, z, px, -0.5, pz)


@pytest.mark.parametrize("pz", [40.0, 80.0])
def test_bend_is_that_of_the_transport(pz):
    response = Response(scatter=0.0, lose=False, all_stations=False)
    sent = np.ones(1, np.int32), np.zeros((1, 3)), np.array([[0.0, 0.5, pz]])
    (state,) = transport(np.random.default_rng(0), *sent, response).states[:, KEPT.index(21)]
    away = state[0] + state[3] / state[5] * (STATION_3[0] - state[2])
    assert bent(aim_of(response), 0.0, FMAG_END, pz) == pytest.approx(away, rel=0.02)


def test_more_loss_bends_more_and_none_is_bent_without_iron_and_magnet():
    aim = aim_of(Response())
    bends = [bent(aim, loss, FMAG_END, 20.0) for loss in (0.0, 0.01, 0.02, 0.03)]
    assert (np.diff(bends) > 0).all()
    assert bent((*aim[:2], 0.0, *aim[3:]), 0.0, 0.0, 20.0) == 0.0
