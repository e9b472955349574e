"""Where muons of a SpinQuest-like experiment start, and with what momentum.

A pair has a mass, a Feynman x and a transverse momentum, and decays in its rest frame:

- `pz* = xF (sqrt(s) - M²/sqrt(s)) / 2` in the rest frame of beam proton and target nucleon;
- `dN/dpT² ~ (1 + pT² / p0²)^-6` with p0 = 3.0 GeV for resonances and 2.8 GeV for the continuum, the form that
  G. Moreno et al., Phys. Rev. D 43 (1991) 2815, fit to dimuons;
- resonances decay isotropically; the continuum as `1 + cos²(theta)` about the Collins-Soper axis, for which it
  is generated in the frame that a boost along pT and one along the beam reach from the rest frame;
- the mass of the continuum falls as `M^-3 (1 - M / sqrt(s))^10`: its shape, not a cross section.

Muons that are no pair's have px, py and pz uniform in their ranges, as the simulated single muons of the
experiment have. Lengths are in cm, momenta in GeV.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from trackkeras.domains.dimuon.iron import MUON
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

_PROTON = PROTON_MASS / GEV
_BEAM_ENERGY = math.hypot(BEAM_MOMENTUM, _PROTON)
SQRT_S = math.sqrt(2.0 * _PROTON * (_PROTON + _BEAM_ENERGY))
"""Energy of a beam proton and a nucleon at rest in their rest frame [GeV], 15.06."""


def draw_muons(
    process: Process, options: GenerateOptions, rng: np.random.Generator, n: int
) -> tuple[Floats, Floats]:
    """Draw the muons of n events.

    Returns:
        vertex: `(n, k, 3)` [cm] for the k muons in the order of `CHARGES`.
        momentum: `(n, k, 3)` [GeV].
    """
    k = len(CHARGES[process])
    if process in RESONANCES or process == "drell_yan":
        vertex = np.repeat(draw_vertices(options, rng, n)[:, None], k, axis=1)
        return vertex, draw_pairs(process, options, rng, n)
    vertex = draw_vertices(options, rng, n * k).reshape(n, k, 3)
    momentum = np.stack(
        [
            rng.uniform(-options.single_px, options.single_px, (n, k)),
            rng.uniform(-options.single_py, options.single_py, (n, k)),
            rng.uniform(options.single_pz_min, options.single_pz_max, (n, k)),
        ],
        axis=-1,
    )
    return vertex, momentum


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


def draw_pairs(process: Process, options: GenerateOptions, rng: np.random.Generator, n: int) -> Floats:
    """Draw the momenta of mu+ and mu- of pairs, `(n, 2, 3)` [GeV]."""
    continuum = process == "drell_yan"
    mass = draw_masses(options, rng, n) if continuum else np.full(n, RESONANCES[process])
    feynman = draw_feynman(options, rng, n)
    along = 0.5 * feynman * (SQRT_S - mass**2 / SQRT_S)
    # The energy left for pT in the rest frame of the collision; beyond it a pair cannot be made.
    most = 0.25 * (SQRT_S - mass**2 / SQRT_S) ** 2 - along**2
    scale = 2.8 if continuum else 3.0
    share = (1.0 + np.maximum(most, 0.0) / scale**2) ** -5
    across2 = scale**2 * ((share + (1.0 - share) * (1.0 - rng.random(n))) ** -0.2 - 1.0)

    cosine = rng.uniform(-1.0, 1.0, n)
    if continuum:
        cosine = _one_plus_cosine_squared(rng.random(n))
    sine, azimuth = np.sqrt(1.0 - cosine**2), rng.uniform(0.0, 2.0 * np.pi, n)
    momentum = np.sqrt(0.25 * mass**2 - MUON**2)
    rest = np.stack([sine * np.cos(azimuth), sine * np.sin(azimuth), cosine], axis=1) * momentum[:, None]
    pair = rng.uniform(0.0, 2.0 * np.pi, n)
    return np.stack([_to_laboratory(sign * rest, mass, across2, along, pair) for sign in (1, -1)], axis=1)


def _to_laboratory(rest: Floats, mass: Floats, across2: Floats, along: Floats, azimuth: Floats) -> Floats:
    """Boost one muon from the rest frame of its pair along pT, then along the beam, and turn it."""
    transverse = np.sqrt(mass**2 + across2)
    energy = 0.5 * mass
    px = (transverse * rest[:, 0] + np.sqrt(across2) * energy) / mass
    energy = (transverse * energy + np.sqrt(across2) * rest[:, 0]) / mass
    # From the rest frame of the collision to the laboratory, in one step with the pair's own motion.
    pair_energy = np.sqrt(transverse**2 + along**2)
    gamma, boost = (_BEAM_ENERGY + _PROTON) / SQRT_S, BEAM_MOMENTUM / SQRT_S
    lab_energy, lab_along = gamma * pair_energy + boost * along, gamma * along + boost * pair_energy
    pz = (lab_energy * rest[:, 2] + lab_along * energy) / transverse
    py = rest[:, 1]
    cosine, sine = np.cos(azimuth), np.sin(azimuth)
    return np.stack([cosine * px - sine * py, sine * px + cosine * py, pz], axis=1)


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


def _one_plus_cosine_squared(u: Floats) -> Floats:
    """Return cosines of density 1 + cos², from uniform numbers: the root of c³ + 3 c = 8 u - 4."""
    half = 4.0 * u - 2.0
    root = np.sqrt(half**2 + 1.0)
    return np.cbrt(half + root) + np.cbrt(half - root)
