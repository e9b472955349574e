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
from trackkeras.domains.dimuon.simulation_options import GenerateOptions, Process
from trackkeras.domains.dimuon.spectrometer import (
    FMAG,
    FMAG_END,
    HOLE_DEPTH,
    HOLE_RADIUS,
    IRON_INTERACTION_LENGTH,
    KMAG,
    SCATTERING,
    STATION_3,
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

LEAST_LOSS = 0.012
"""Smallest energy loss in the dump [GeV/cm]: below all 20,000 simulated muons of the experiment."""

STRONGEST = 1.7
MARGIN = 4.0
NEAR, FAR = (626.0, 52.0, 62.0, 100.0), (*STATION_3, 450.0)
"""For `may_pass`: z, half width and height of stations 1 and 3 [cm], and the width of the displacement there
by scattering in the dump times momentum [cm GeV], as those muons have it at station 1."""

FMAG_BEND, KMAG_KICK, KMAG_CENTRE = FMAG.bend, KMAG.kick, 0.5 * (KMAG.start + KMAG.end)

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
    k = len(CHARGES[process])
    if process in RESONANCES or process == "drell_yan":
        vertex, momentum, drawn = draw_pairs(process, options, rng, n)
        return np.repeat(vertex[:, None], k, axis=1), momentum, drawn
    vertex = draw_vertices(options, rng, n * k).reshape(n, k, 3)
    momentum = np.stack(
        [
            rng.uniform(-options.single_px, options.single_px, (n, k)),
            rng.uniform(-options.single_py, options.single_py, (n, k)),
            rng.uniform(options.single_pz_min, options.single_pz_max, (n, k)),
        ],
        axis=-1,
    )
    drawn = np.arange(n)
    if prunes(options):
        drawn = np.flatnonzero(_all_may_pass(process, options, vertex, momentum))
    return vertex[drawn], momentum[drawn], drawn


def prunes(options: GenerateOptions) -> bool:
    """Return whether draws are left out that cannot be accepted, as far as `may_pass` can tell."""
    return options.acceptance == "all_stations" and options.energy_loss


def _all_may_pass(
    process: Process, options: GenerateOptions, vertex: Floats, momentum: Floats
) -> NDArray[np.bool_]:
    """Return of which events all muons may pass, `(n,)`."""
    margin = MARGIN * max(options.scattering / SCATTERING, 1.0)
    passing = [
        may_pass(vertex[:, index], momentum[:, index], float(charge), margin)
        for index, charge in enumerate(CHARGES[process])
    ]
    return np.all(passing, axis=0)


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
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Draw pairs, and leave out those of which a muon cannot get through, where it must.

    Args:
        process: A resonance, or the continuum.
        options: Ranges, beam, acceptance.
        rng: Source of randomness.
        n: Pairs to draw.

    Returns:
        vertex: `(m, 3)` [cm] of the m <= n pairs that are left.
        momentum: `(m, 2, 3)` of their mu+ and mu- [GeV].
        drawn: int64 `(m,)`: which of the n pairs each of them is, ascending.
    """
    continuum = process == "drell_yan"
    mass = draw_masses(options, rng, n) if continuum else np.full(n, RESONANCES[process])
    feynman = draw_feynman(options, rng, n)
    momentum = np.empty((n, 2, 3))
    least_pz = LEAST_PZ if prunes(options) else -math.inf
    _fill_pairs(rng, continuum, options.pt_scale, least_pz, mass, feynman, momentum)
    if not prunes(options):
        return draw_vertices(options, rng, n), momentum, np.arange(n)
    fast = np.flatnonzero(momentum[:, :, 2].min(axis=1) > LEAST_PZ)
    vertex = draw_vertices(options, rng, len(fast))
    both = np.repeat(vertex[:, None], 2, axis=1)
    left = _all_may_pass(process, options, both, momentum[fast])
    return vertex[left], momentum[fast[left]], fast[left]


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


@njit(cache=True, nogil=True)
def _fill_pairs(rng, continuum, pt_scale, least_pz, mass, feynman, momentum):
    """Fill `momentum` `(n, 2, 3)` of pairs of some mass and Feynman x; see the module.

    px and py are left out where a muon has less than `least_pz`.
    """
    gamma, boost = (_BEAM_ENERGY + _PROTON) / SQRT_S, BEAM_MOMENTUM / SQRT_S
    scale2 = pt_scale * pt_scale
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
        azimuth = 2.0 * math.pi * rng.random()
        flat = own * math.sqrt(1.0 - cosine * cosine)
        rest_x, rest_y, rest_z = flat * math.cos(azimuth), flat * math.sin(azimuth), own * cosine
        # From the rest frame of the pair along pT, then along the beam, then about it.
        for muon in range(2):
            sign = 1.0 - 2.0 * muon
            boosted = (transverse * 0.5 * mass[i] + sign * across * rest_x) / mass[i]
            momentum[i, muon, 2] = (sign * energy * rest_z + pz * boosted) / transverse
        if min(momentum[i, 0, 2], momentum[i, 1, 2]) < least_pz:
            continue
        turn = 2.0 * math.pi * rng.random()
        cos_turn, sin_turn = math.cos(turn), math.sin(turn)
        for muon in range(2):
            sign = 1.0 - 2.0 * muon
            boosted = (sign * transverse * rest_x + across * 0.5 * mass[i]) / mass[i]
            momentum[i, muon, 0] = cos_turn * boosted - sin_turn * sign * rest_y
            momentum[i, muon, 1] = sin_turn * boosted + cos_turn * sign * rest_y


@njit(cache=True, nogil=True)
def may_pass(vertex, momentum, charge, margin):
    """Return which muons `(n,)` might reach all stations: a rough test that saves their transport.

    It asks for momentum enough to leave the dump, and for paths within reach of stations 1 and 3. That is
    widened by some widths of the scattering in the dump, and energy loss may strengthen the bending
    by anything from what the least loss does up to `STRONGEST`.

    Args:
        vertex: `(n, 3)` [cm].
        momentum: `(n, 3)` [GeV].
        charge: +1.0 or -1.0, of all.
        margin: Widths of the scattering.
    """
    passed = np.zeros(vertex.shape[0], np.bool_)
    for i in range(vertex.shape[0]):
        x, y, z = vertex[i]
        px, py, pz = momentum[i]
        if pz < LEAST_PZ:
            continue
        inside = FMAG_END - max(z, 0.0)
        weakest = 1.0 + LEAST_LOSS * inside / (2.0 * pz)
        passed[i] = True
        for station in range(2):
            at, half_x, half_y, spread = (FAR, NEAR)[station]
            # Displacements times pz: that of the first direction, and that of the magnets.
            straight = x * pz + px * (at - z)
            bent = FMAG_BEND * inside * (at - FMAG_END + 0.5 * inside)
            bent += KMAG_KICK * max(at - KMAG_CENTRE, 0.0)
            reach = half_x * pz + margin * spread
            ends = charge * straight + weakest * bent, charge * straight + STRONGEST * bent
            rise = abs(y * pz + py * (at - z))
            if ends[0] > reach or ends[1] < -reach or rise > half_y * pz + margin * spread:
                passed[i] = False
    return passed
