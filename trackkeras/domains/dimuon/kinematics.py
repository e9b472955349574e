"""Where muons of a SpinQuest-like experiment start, and with what momentum.

A pair has a mass, a Feynman x and a transverse momentum, and decays in its rest frame:

- `pz* = xF (sqrt(s) - M²/sqrt(s)) / 2` in the rest frame of beam proton and target nucleon;
- `dN/dpT² ~ (1 + pT² / p0²)^-6`, as the generator of `e1039-core` has it after G. Moreno et al., Phys. Rev. D
  43 (1991) 2815; its p0 is 3.0 GeV, the default here is tuned to J/psi simulated for the experiment;
- resonances decay isotropically; the continuum as `1 + cos²(theta)` about the Collins-Soper axis, for which
  it is generated in the frame that a boost along pT and one along the beam reach from the rest frame;
- the mass of the continuum falls as `M^-3 (1 - M / sqrt(s))^10`: its shape, not a cross section.

Muons that are no pair's have px, py and pz uniform in their ranges, as the simulated single muons of the
experiment have. Lengths are in cm, momenta in GeV.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from trackkeras.domains.dimuon.iron import MUON
from trackkeras.domains.dimuon.reach import aim_of, all_may_reach
from trackkeras.domains.dimuon.simulation_options import GenerateOptions, Process
from trackkeras.domains.dimuon.spectrometer import (
    FMAG_END,
    HOLE_DEPTH,
    HOLE_RADIUS,
    IRON_INTERACTION_LENGTH,
    TARGET_CENTRE,
    TARGET_LENGTH,
    TARGET_RADIUS,
)
from trackkeras.units import GEV, JPSI_MASS, PROTON_MASS, PSI_PRIME_MASS

Floats = NDArray[np.float64]

BEAM_MOMENTUM = 120.0
"""Momentum of the protons [GeV]."""

HALO_RADIUS = 5.0
"""Protons of the halo are spread evenly in their distance from the axis up to here [cm]."""

RESONANCES: dict[Process, float] = {"jpsi": JPSI_MASS / GEV, "psi_prime": PSI_PRIME_MASS / GEV}
"""Mass of the pair [GeV]."""

CHARGES: dict[Process, tuple[int, ...]] = {
    "jpsi": (1, -1),
    "psi_prime": (1, -1),
    "drell_yan": (1, -1),
    "combinatorial": (1, -1),
    "mu_plus": (1,),
    "mu_minus": (-1,),
}
"""Charges of the muons of an event."""

LEAST_PZ = 11.0
"""A muon of less pz [GeV] does not come through the dump with enough left for the second magnet."""

_PROTON = PROTON_MASS / GEV
_BEAM_ENERGY = math.hypot(BEAM_MOMENTUM, _PROTON)
SQRT_S = math.sqrt(2.0 * _PROTON * (_PROTON + _BEAM_ENERGY))
"""Energy of a beam proton and a nucleon at rest in their rest frame [GeV], 15.06."""


def draw_muons(
    process: Process, options: GenerateOptions, rng: np.random.Generator, n: int
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Draw the muons of n events, less those of which one cannot get through where it must.

    Returns:
        vertex: `(m, k, 3)` [cm] for the k muons in the order of `CHARGES`.
        momentum: `(m, k, 3)` [GeV].
        drawn: int64 `(m,)`: which of the n events each of them is, ascending.
    """
    charges = np.array(CHARGES[process], dtype=float)
    k = len(charges)
    if process in RESONANCES or process == "drell_yan":
        momentum, drawn = draw_pairs(process, options, rng, n)
        vertex = np.repeat(draw_vertices(options, rng, len(drawn))[:, None], k, axis=1)
    else:
        drawn = np.arange(n)
        vertex = draw_vertices(options, rng, n * k).reshape(n, k, 3)
        momentum = np.stack(
            [
                rng.uniform(-options.single_px, options.single_px, (n, k)),
                rng.uniform(-options.single_py, options.single_py, (n, k)),
                rng.uniform(options.single_pz_min, options.single_pz_max, (n, k)),
            ],
            axis=-1,
        )
    if not prunes(options):
        return vertex, momentum, drawn
    left = np.flatnonzero(all_may_reach(aim_of(options.response()), charges, vertex, momentum))
    return vertex[left], momentum[left], drawn[left]


def prunes(options: GenerateOptions) -> bool:
    """Return whether draws are left out that `LEAST_PZ` and `may_reach` know not to be accepted."""
    return options.acceptance == "all_stations" and options.energy_loss


def draw_vertices(options: GenerateOptions, rng: np.random.Generator, n: int) -> Floats:
    """Draw where protons interact, `(n, 3)` [cm]: in the iron of the dump or in the target."""
    in_target = rng.random(n) < options.target_fraction
    # Protons that miss the target fly on to the dump: those that interact in it are within its radius.
    reach = TARGET_RADIUS / options.beam_width if options.beam_width else np.inf
    inside = np.where(in_target, -np.expm1(-0.5 * reach**2), 1.0)
    core = options.beam_width * np.sqrt(-2.0 * np.log1p(-inside * rng.random(n)))
    halo = (rng.random(n) < options.halo) & ~in_target
    radius = np.where(halo, HALO_RADIUS * rng.random(n), core)
    angle = rng.uniform(0.0, 2.0 * np.pi, n)
    deep = np.where(radius < HOLE_RADIUS, HOLE_DEPTH, 0.0)
    length = IRON_INTERACTION_LENGTH
    stopped = -length * np.log1p(-rng.random(n) * -np.expm1((deep - FMAG_END) / length))
    z = np.where(in_target, TARGET_CENTRE + TARGET_LENGTH * (rng.random(n) - 0.5), deep + stopped)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=1)


def draw_pairs(
    process: Process, options: GenerateOptions, rng: np.random.Generator, n: int
) -> tuple[Floats, NDArray[np.int64]]:
    """Draw pairs, and leave out those with a muon that is too slow to get through, where it must.

    Args:
        process: A resonance, or the continuum.
        options: Ranges, acceptance.
        rng: Source of randomness.
        n: Pairs to draw.

    Returns:
        momentum: `(m, 2, 3)` of the mu+ and mu- of the m <= n pairs that are left [GeV].
        drawn: int64 `(m,)`: which of the n pairs each of them is, ascending.
    """
    continuum = process == "drell_yan"
    mass = draw_masses(options, rng, n) if continuum else np.full(n, RESONANCES[process])
    feynman = draw_feynman(options, rng, n)
    momentum, drawn = np.empty((n, 2, 3)), np.empty(n, dtype=np.int64)
    least_pz = LEAST_PZ if prunes(options) else -math.inf
    left = _fill_pairs(rng, continuum, options.pt_scale, least_pz, mass, feynman, momentum, drawn)
    return momentum[:left], drawn[:left]


def draw_feynman(options: GenerateOptions, rng: np.random.Generator, n: int) -> Floats:
    """Draw Feynman x, `(n,)`: uniform, or Gaussian about 0 and cut at the limits."""
    u = rng.random(n)
    if options.xf_width is None:
        return options.xf_min + (options.xf_max - options.xf_min) * u
    from scipy.special import ndtr, ndtri

    low, high = ndtr(options.xf_min / options.xf_width), ndtr(options.xf_max / options.xf_width)
    return np.asarray(options.xf_width * ndtri(low + (high - low) * u))


def draw_masses(options: GenerateOptions, rng: np.random.Generator, n: int) -> Floats:
    """Draw masses of the continuum, `(n,)` [GeV]."""
    mass = np.linspace(options.mass_min, options.mass_max, 2001)
    density = mass**-3 * (1.0 - mass / SQRT_S) ** 10
    below = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]))])
    return np.interp(rng.random(n) * below[-1], below, mass)


@njit(cache=True, nogil=True, error_model="numpy")
def _fill_pairs(rng, continuum, pt_scale, least_pz, mass, feynman, momentum, drawn):
    """Fill the last two arguments with the pairs of which both muons have `least_pz`; return their number."""
    gamma, boost = (_BEAM_ENERGY + _PROTON) / SQRT_S, BEAM_MOMENTUM / SQRT_S
    scale2 = pt_scale * pt_scale
    left = 0
    for i in range(mass.shape[0]):
        half = 0.5 * (SQRT_S - mass[i] * mass[i] / SQRT_S)
        along = feynman[i] * half
        # pT is cut where the pair would take more energy than there is.
        most = 1.0 + half * half * (1.0 - feynman[i] * feynman[i]) / scale2
        share = 1.0 / (most * most * most * most * most)
        across2 = scale2 * ((share + (1.0 - share) * (1.0 - rng.random())) ** -0.2 - 1.0)
        across, transverse = math.sqrt(across2), math.sqrt(mass[i] * mass[i] + across2)
        collision = math.sqrt(transverse * transverse + along * along)
        energy, pz = gamma * collision + boost * along, gamma * along + boost * collision

        cosine = 2.0 * rng.random() - 1.0
        while continuum and rng.random() * 2.0 > 1.0 + cosine * cosine:
            cosine = 2.0 * rng.random() - 1.0
        own = math.sqrt(0.25 * mass[i] * mass[i] - MUON * MUON)
        # From the rest frame of the pair along pT, then along the beam, then about it. In pz the muons
        # differ by twice what their momentum in the rest frame makes: too much for some azimuths, or for all.
        room = (0.5 * pz - least_pz) * transverse
        flat, lengthwise = own * math.sqrt(1.0 - cosine * cosine), energy * own * cosine
        sideways = pz * across * flat / mass[i]
        if abs(lengthwise) - sideways > room:
            continue
        azimuth = 2.0 * math.pi * rng.random()
        rest_x = flat * math.cos(azimuth)
        differ = lengthwise + pz * across * rest_x / mass[i]
        if abs(differ) > room:
            continue
        rest_y = flat * math.sin(azimuth)
        turn = 2.0 * math.pi * rng.random()
        cos_turn, sin_turn = math.cos(turn), math.sin(turn)
        for muon in range(2):
            sign = 1.0 - 2.0 * muon
            boosted = (sign * transverse * rest_x + across * 0.5 * mass[i]) / mass[i]
            momentum[left, muon, 0] = cos_turn * boosted - sin_turn * sign * rest_y
            momentum[left, muon, 1] = sin_turn * boosted + cos_turn * sign * rest_y
            momentum[left, muon, 2] = 0.5 * pz + sign * differ / transverse
        drawn[left] = i
        left += 1
    return left
