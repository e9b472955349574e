"""Energy loss in iron against tables, and the drawn losses against their mean."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from trackkeras.domains.dimuon.iron import (
    MUON,
    draw_loss,
    electron_bremsstrahlung,
    highland,
    ionisation,
    largest_knock_on,
    mean_loss,
)
from trackkeras.domains.dimuon.spectrometer import IRON_DENSITY

# Kinetic energy [GeV], ionisation and total mean loss [MeV cm²/g] of muons in iron: the table for iron of
# D. E. Groom, N. V. Mokhov and S. I. Striganov as PUMAS reproduces it.
TABLE = ((1.0, 1.581, 1.582), (10.0, 1.942, 1.974), (20.0, 2.032, 2.112), (50.0, 2.136, 2.387))


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


def test_highland_falls_with_momentum():
    assert highland(10.0, 1.757, 1.757) == pytest.approx(1.36e-3, rel=1e-3)
    assert highland(20.0, 100.0, 1.757) == pytest.approx(0.5 * highland(10.0, 100.0, 1.757), rel=1e-3)
