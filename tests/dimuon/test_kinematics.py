"""Pairs and single muons where they are made."""

import numpy as np
import pytest

from trackkeras.domains.dimuon.iron import MUON
from trackkeras.domains.dimuon.kinematics import (
    BEAM_MOMENTUM,
    CHARGES,
    HALO_RADIUS,
    SQRT_S,
    draw_feynman,
    draw_masses,
    draw_muons,
    draw_vertices,
)
from trackkeras.domains.dimuon.simulation_options import PROCESSES, GenerateOptions
from trackkeras.domains.dimuon.spectrometer import (
    HOLE_DEPTH,
    HOLE_RADIUS,
    IRON_INTERACTION_LENGTH,
    TARGET_CENTRE,
    TARGET_LENGTH,
    TARGET_RADIUS,
)
from trackkeras.units import GEV, JPSI_MASS, PROTON_MASS, PSI_PRIME_MASS

EVERY = GenerateOptions(acceptance="any", xf_min=-0.5, xf_max=0.9)
N = 20_000


def pairs(process, options=EVERY, n=N):
    """Return the momenta of mu+ and mu-, `(n, 2, 3)`, and both as four-vectors `(n, 2, 4)` with E last."""
    _, momentum, drawn = draw_muons(process, options, np.random.default_rng(2), n)
    assert len(drawn) == n
    energy = np.sqrt((momentum**2).sum(axis=-1) + MUON**2)
    return momentum, np.concatenate([momentum, energy[..., None]], axis=-1)


def mass(vectors):
    total = vectors.sum(axis=1)
    return np.sqrt(total[:, 3] ** 2 - (total[:, :3] ** 2).sum(axis=1))


def collision(vectors):
    """Return pz and E of the pair in the rest frame of beam and nucleon."""
    proton = PROTON_MASS / GEV
    energy = np.hypot(BEAM_MOMENTUM, proton) + proton
    gamma, boost = energy / SQRT_S, BEAM_MOMENTUM / SQRT_S
    total = vectors.sum(axis=1)
    return gamma * total[:, 2] - boost * total[:, 3], gamma * total[:, 3] - boost * total[:, 2]


@pytest.mark.parametrize(("process", "wanted"), [("jpsi", JPSI_MASS), ("psi_prime", PSI_PRIME_MASS)])
def test_resonances_have_their_mass_exactly(process, wanted):
    np.testing.assert_allclose(mass(pairs(process)[1]), wanted / GEV, rtol=1e-9)


def test_feynman_x_is_what_was_asked_for():
    options = GenerateOptions(acceptance="any", xf_min=0.2, xf_max=0.4)
    along, _ = collision(pairs("jpsi", options)[1])
    m = JPSI_MASS / GEV
    feynman = 2 * along / (SQRT_S - m**2 / SQRT_S)
    assert feynman.min() == pytest.approx(0.2, abs=1e-3)
    assert feynman.max() == pytest.approx(0.4, abs=1e-3)
    assert feynman.mean() == pytest.approx(0.3, abs=2e-3)


def test_no_pair_takes_more_energy_than_there_is():
    for process in ("jpsi", "drell_yan"):
        _, vectors = pairs(process)
        _, energy = collision(vectors)
        # The rest recoils against the pair; without mass it has the pair's momentum.
        assert (energy < 0.5 * (SQRT_S + mass(vectors) ** 2 / SQRT_S) + 1e-9).all()


def test_transverse_momentum_follows_its_law():
    options = GenerateOptions(acceptance="any", xf_min=0.0, xf_max=0.1, pt_scale=1.0)
    momentum, _ = pairs("jpsi", options)
    squared = (momentum.sum(axis=1)[:, :2] ** 2).sum(axis=1)
    for share in (0.25, 0.5, 0.75):
        assert np.quantile(squared, share) == pytest.approx((1 - share) ** -0.2 - 1, rel=0.05)


@pytest.mark.parametrize(("process", "square"), [("jpsi", 1 / 3), ("drell_yan", 2 / 5)])
def test_decay_angle_about_the_collins_soper_axis(process, square):
    _, vectors = pairs(process)
    plus, minus = vectors[:, 0], vectors[:, 1]
    total = vectors.sum(axis=1)
    m, across2 = mass(vectors), (total[:, :2] ** 2).sum(axis=1)
    cosine = 2 * (plus[:, 2] * minus[:, 3] - plus[:, 3] * minus[:, 2]) / (m * np.sqrt(m**2 + across2))
    # The muons have mass: their momentum is a little less than half the energy.
    cosine /= np.sqrt(1 - 4 * MUON**2 / m**2)
    assert np.abs(cosine).max() <= 1 + 1e-9
    assert cosine.mean() == pytest.approx(0, abs=5 * 0.6 / np.sqrt(N))
    assert (cosine**2).mean() == pytest.approx(square, abs=5 * 0.32 / np.sqrt(N))


def test_pairs_have_no_preferred_direction_or_charge():
    momentum, _ = pairs("jpsi")
    error = 5 * momentum.std(axis=0) / np.sqrt(N)
    assert (np.abs(momentum[:, :, :2].mean(axis=0)) < error[:, :2]).all()
    assert abs(momentum[:, 0, 2].mean() - momentum[:, 1, 2].mean()) < 2 * error[0, 2]


def test_continuum_falls():
    options = GenerateOptions(mass_min=3.0, mass_max=8.0)
    found = draw_masses(options, np.random.default_rng(0), N)
    assert found.min() >= 3.0
    assert found.max() <= 8.0
    counts, _ = np.histogram(found, np.arange(3.0, 8.1, 1.0))
    assert (np.diff(counts) < 0).all()
    ratio = (3.5 / 4.5) ** -3 * ((1 - 3.5 / SQRT_S) / (1 - 4.5 / SQRT_S)) ** 10
    assert counts[0] / counts[1] == pytest.approx(ratio, rel=0.1)


def test_gaussian_feynman_x_is_cut_at_the_limits():
    options = GenerateOptions(xf_min=-0.1, xf_max=0.5, xf_width=0.24)
    found = draw_feynman(options, np.random.default_rng(0), N)
    assert -0.1 <= found.min() < found.max() <= 0.5
    counts, _ = np.histogram(found, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert (np.diff(counts) < 0).all()


def test_protons_stop_in_the_dump():
    found = draw_vertices(GenerateOptions(), np.random.default_rng(0), N)
    radius = np.hypot(found[:, 0], found[:, 1])
    inside = radius < HOLE_RADIUS
    assert radius.max() <= HALO_RADIUS
    assert found[inside, 2].min() >= HOLE_DEPTH
    assert 0 <= found[~inside, 2].min() < 1
    for depth in (found[inside, 2] - HOLE_DEPTH, found[~inside, 2]):
        assert depth.mean() == pytest.approx(IRON_INTERACTION_LENGTH, rel=5 / np.sqrt(len(depth)))


def test_target_is_where_it_is():
    found = draw_vertices(GenerateOptions(target_fraction=1.0), np.random.default_rng(0), N)
    assert np.hypot(found[:, 0], found[:, 1]).max() <= TARGET_RADIUS
    assert np.abs(found[:, 2] - TARGET_CENTRE).max() <= TARGET_LENGTH / 2
    pencil = draw_vertices(GenerateOptions(target_fraction=1.0, beam_width=0.0), np.random.default_rng(0), 10)
    assert not pencil[:, :2].any()


def test_uncorrelated_muons_have_vertices_of_their_own():
    vertex, momentum, _ = draw_muons("combinatorial", EVERY, np.random.default_rng(0), 100)
    assert (vertex[:, 0, 2] != vertex[:, 1, 2]).all()
    assert (np.abs(momentum[..., 0]) <= EVERY.single_px).all()
    paired, _, _ = draw_muons("jpsi", EVERY, np.random.default_rng(0), 100)
    np.testing.assert_array_equal(paired[:, 0], paired[:, 1])


@pytest.mark.parametrize("process", PROCESSES)
def test_every_process_has_its_charges(process):
    vertex, momentum, drawn = draw_muons(process, GenerateOptions(), np.random.default_rng(0), 4000)
    assert vertex.shape == momentum.shape == (len(drawn), len(CHARGES[process]), 3)
    assert (np.diff(drawn) > 0).all()
    assert 0 < len(drawn) < 4000


def test_nothing_is_left_out_where_the_rough_acceptance_does_not_hold():
    for options in (EVERY, GenerateOptions(energy_loss=False)):
        for process in ("jpsi", "mu_minus"):
            assert len(draw_muons(process, options, np.random.default_rng(0), 500)[2]) == 500
