"""Energy loss in iron against tables, and the drawn losses against their mean."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from trackkeras.domains.dimuon.iron import (
    B_BREMS,
    B_ENERGY,
    B_PAIR,
    MUON,
    PAIR_CUT,
    _pairs,
    draw_loss,
    draw_pair,
    electron_bremsstrahlung,
    ionisation,
    largest_knock_on,
    mean_loss,
    screening,
)
from trackkeras.domains.dimuon.spectrometer import IRON_DENSITY
from trackkeras.units import ELECTRON_MASS, FINE_STRUCTURE, GEV

# Kinetic energy [GeV], ionisation and total mean loss [MeV cm²/g] of muons in iron: the table for iron of
# D. E. Groom, N. V. Mokhov and S. I. Striganov as PUMAS reproduces it.
TABLE = ((1.0, 1.581, 1.582), (10.0, 1.942, 1.974), (20.0, 2.032, 2.112), (50.0, 2.136, 2.387))


ELECTRON_RADIUS, AVOGADRO = 2.8179403e-13, 6.02214e23  # [cm], [1/mol]


@njit(cache=True)
def draws(rng, energy, length, n):
    found = np.empty(n)
    for i in range(n):
        found[i] = draw_loss(rng, energy, length)
    return found


@pytest.mark.parametrize(("kinetic", "collisions", "total"), TABLE)
def test_mean_loss_is_that_of_the_table(kinetic, collisions, total):
    energy = kinetic + MUON
    scale = 1e3 / IRON_DENSITY
    assert (ionisation(energy) + electron_bremsstrahlung(energy)) * scale == pytest.approx(
        collisions, rel=1e-3
    )
    assert mean_loss(energy) * scale == pytest.approx(total, rel=1.5e-3)


@pytest.mark.parametrize("energy", [10.0, 30.0, 70.0])
def test_drawn_losses_have_the_mean_of_the_table_and_a_tail(energy):
    length = 10.0
    found = draws(np.random.default_rng(1), energy, length, 400_000)
    error = found.std() / np.sqrt(len(found))
    assert found.mean() == pytest.approx(mean_loss(energy) * length, abs=4 * error)
    assert np.median(found) < 0.95 * found.mean()
    assert found.max() > 0.3 * energy


@given(st.floats(0.6, 150.0), st.floats(0.01, 40.0), st.integers(0, 100))
def test_no_muon_loses_more_than_it_has(energy, length, seed):
    found = draws(np.random.default_rng(seed), energy, length, 20)
    assert (found >= 0).all()
    assert (found <= energy - MUON).all()


def test_restricted_loss_grows_with_the_cut_to_the_whole():
    energy = 20.0
    cuts = np.geomspace(1e-3, largest_knock_on(energy), 20)
    losses = [ionisation(energy, cut) for cut in cuts]
    assert (np.diff(losses) > 0).all()
    assert losses[-1] == pytest.approx(ionisation(energy))


def pair_production(energy, v):
    """Cross section of a muon for electron pairs in iron per g/cm² and share v of its energy, `(n,)`.

    R. P. Kokoulin and A. A. Petrukhin as Groom et al. give it in section 2.3, with one struck electron more.
    """
    charge, mass, electron, muon = 26.0, 55.845, ELECTRON_MASS / GEV, MUON
    x, weight = np.polynomial.legendre.leggauss(48)
    top = (1 - 6 * muon**2 / (energy**2 * (1 - v))) * np.sqrt(1 - 4 * electron / (energy * v))
    lowest = np.log1p(-top)
    rest = np.exp(0.5 * lowest * (1 - x[:, None]))  # 1 - rho in equal steps of its logarithm
    r2, step = (1 - rest) ** 2, -0.5 * lowest * weight[:, None] * rest
    beta, xi = v**2 / (2 * (1 - v)), (muon * v / (2 * electron)) ** 2 * (1 - r2) / (1 - v)
    screen = 183 * charge ** (-1 / 3)
    e_y = (5 - r2 + 4 * beta * (1 + r2)) / (
        2 * (1 + 3 * beta) * np.log(3 + 1 / xi) - r2 - 2 * beta * (2 - r2)
    )
    m_y = (4 + r2 + 3 * beta * (1 + r2)) / ((1 + r2) * (1.5 + 2 * beta) * np.log(3 + xi) + 1 - 1.5 * r2)
    e_b = ((2 + r2) * (1 + beta) + xi * (3 + r2)) * np.log1p(1 / xi) + (1 - r2 - beta) / (1 + xi) - (3 + r2)
    m_b = ((1 + r2) * (1 + 1.5 * beta) - (1 + 2 * beta) * (1 - r2) / xi) * np.log1p(xi)
    m_b += xi * (1 - r2 - beta) / (1 + xi) + (1 + 2 * beta) * (1 - r2)

    def logarithm(y):
        form = 2 * electron * np.sqrt(np.e) * screen * (1 + xi) * (1 + y) / (energy * v * (1 - r2))
        return np.log(screen / (1 + form))

    e_l = logarithm(e_y) + 0.5 * np.log((1 + xi) * (1 + e_y))
    e_l -= 0.5 * np.log1p((1.5 * electron / muon * charge ** (1 / 3)) ** 2 * (1 + xi) * (1 + e_y))
    m_l = logarithm(m_y) + np.log(muon / electron) - np.log(1.5 * charge ** (1 / 3))
    total = ((e_b * np.maximum(e_l, 0) + (electron / muon) ** 2 * m_b * np.maximum(m_l, 0)) * step).sum(
        axis=0
    )
    scale = 4 * charge * (charge + 1) / (3 * np.pi) * (FINE_STRUCTURE * ELECTRON_RADIUS) ** 2
    scale *= AVOGADRO / mass
    return scale * (1 - v) / v * total


@pytest.mark.parametrize("energy", [10.0, 20.0, 50.0])
def test_pairs_follow_their_cross_section(energy):
    v = np.geomspace(4 * ELECTRON_MASS / GEV / energy * 1.001, 0.9, 2000)
    lost = pair_production(energy, v) * v
    below = np.concatenate([[0.0], np.cumsum(0.5 * (lost[1:] + lost[:-1]) * np.diff(v))])
    assert below[-1] == pytest.approx(np.interp(energy, B_ENERGY, B_PAIR), rel=0.02)
    for share in (PAIR_CUT, 5e-3, 0.01, 0.03, 0.1):
        ours = 1 - _pairs(share)[1] / _pairs(0.0)[1]
        assert ours == pytest.approx(np.interp(share, v, below) / below[-1], abs=0.11)


@pytest.mark.parametrize("energy", [10.0, 20.0, 50.0])
def test_photons_have_the_loss_of_the_table(energy):
    v = np.geomspace(1e-6, 1 - 1e-9, 3000)
    charge, mass, ratio = 26.0, 55.845, ELECTRON_MASS / GEV / MUON
    largest = np.log(189 * charge ** (-1 / 3) / ratio / (1.54 * mass**0.27))
    spectrum = (4 / 3 * (1 - v) + v**2) * largest * np.array([screening(energy, share) for share in v])
    scale = FINE_STRUCTURE * (2 * charge * ELECTRON_RADIUS * ratio) ** 2 * AVOGADRO / mass
    loss = scale * np.trapezoid(spectrum, v)
    assert loss == pytest.approx(np.interp(energy, B_ENERGY, B_BREMS), rel=0.03)


def test_drawn_pairs_follow_the_spectrum():
    rng = np.random.default_rng(2)
    found = np.array([draw_pair.py_func(rng) for _ in range(20_000)])
    assert found.min() >= PAIR_CUT
    number, total = _pairs(PAIR_CUT)
    assert found.mean() == pytest.approx(total / number, abs=4 * found.std() / np.sqrt(len(found)))
    for share in (0.005, 0.02):
        wanted = _pairs(share)[0] / number
        assert (found > share).mean() == pytest.approx(wanted, abs=4 * np.sqrt(wanted / len(found)))
