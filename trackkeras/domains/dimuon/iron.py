"""What iron does to a muon: mean energy loss, its fluctuations as single collisions, multiple scattering.

Ionisation is the Bethe equation with the density effect and a spin-1/2 projectile (S. Navas et al., Particle
Data Group, Phys. Rev. D 110 (2024) 030001, section 34.2; parameters of iron from R. M. Sternheimer, M. J.
Berger and S. M. Seltzer, At. Data Nucl. Data Tables 30 (1984) 261). Radiation is b(E) E with b from tables
that follow D. E. Groom, N. V. Mokhov and S. I. Striganov, At. Data Nucl. Data Tables 78 (2001) 183.

Losses above a cut are drawn one by one, the rest is a Gaussian around its mean, so that the mean over many
muons is the table's and the tail is that of the processes:

- knock-on electrons, kinetic energy T: `(1 - beta² T / T_max + T² / 2 E²) / T²`;
- bremsstrahlung on nuclei and electrons, and photonuclear interactions with the same spectrum of the share
  `v = loss / E`: `(4/3 - 4/3 v + v²) / v` times the logarithm of `screening`;
- electron pairs: `1 / (v (1 + v / v0)²)`, which follows the cross section of R. P. Kokoulin and
  A. A. Petrukhin (Proc. 12th Int. Conf. on Cosmic Rays 6 (1971) 2436) from 10 to 80 GeV.

Energies are in GeV, lengths in cm.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from trackkeras.domains.dimuon.spectrometer import IRON_DENSITY
from trackkeras.units import BETHE_K, ELECTRON_MASS, FINE_STRUCTURE, GEV, MUON_MASS

MUON = MUON_MASS / GEV
_ELECTRON = ELECTRON_MASS / GEV
_Z_OVER_A = 0.46557
_EXCITATION = 286.0e-9
_STERNHEIMER = (0.1468, 2.9632, -0.0012, 3.1531, 4.2911, 0.12)  # a, k, x0, x1, C, delta0

_ATOM = 189.0 * 26.0 ** (-1.0 / 3.0) / _ELECTRON  # radius of the atom [1/GeV]
_NUCLEUS = 1.54 * 55.845**0.27  # radius of the nucleus in units of the muon's Compton wavelength
_ROOT_E = math.sqrt(math.e)

XI = 0.5 * BETHE_K / GEV * _Z_OVER_A * IRON_DENSITY
"""Landau's xi per path length for beta = 1 [GeV/cm]."""

KNOCK_ON_CUT = 0.03
"""Knock-on electrons of more kinetic energy [GeV] are drawn one by one."""

BREMS_CUT = 1e-3
"""Photons of a larger share of the energy are drawn one by one; softer ones are left out of the spectrum."""

PAIR_CUT = 2e-3
"""Pairs that take a larger share of the energy are drawn one by one."""

PAIR_SCALE = 7e-3
"""v0, near the ratio of the masses of electron and muon: there the spectrum begins to fall steeply."""

TYPICAL_LOSS = 0.0165
"""Mean energy loss of a muon of 20 GeV [GeV/cm]."""

B_ENERGY = np.array([2.0, 5.0, 10.0, 20.0, 50.0, 100.0])
B_BREMS = np.array([0.85, 1.142, 1.387, 1.640, 1.973, 2.216]) * 1e-6
B_PAIR = np.array([0.47, 0.987, 1.475, 1.997, 2.682, 3.155]) * 1e-6
B_NUCLEAR = np.array([0.10, 0.245, 0.308, 0.336, 0.341, 0.338]) * 1e-6
"""b(E) of bremsstrahlung, pair production and photonuclear interactions in iron [cm²/g] at `B_ENERGY` [GeV].

Radiative losses over energy in the tables of iron of `niess/pumas-materials`, made with the cross sections
and parameters of Groom et al.; interpolated in ln E.
"""

SOFT, SPREAD, KNOCK_ON, BREMS, PAIR = range(5)
"""Columns of the table: mean of the soft losses [GeV/cm], their variance [GeV²/cm], collisions per cm."""

TABLE_STEP = 0.05
TABLE_START = math.log(0.5)
TABLE_ROWS = 121
"""The table has equal steps in ln E from 0.5 GeV to 200 GeV."""


@njit(cache=True, nogil=True)
def largest_knock_on(energy):
    """Return T_max, the largest kinetic energy of a knock-on electron [GeV]."""
    gamma = energy / MUON
    beta_gamma2 = gamma * gamma - 1.0
    ratio = _ELECTRON / MUON
    return 2.0 * _ELECTRON * beta_gamma2 / (1.0 + 2.0 * gamma * ratio + ratio * ratio)


@njit(cache=True, nogil=True)
def density_effect(beta_gamma):
    """Return Sternheimer's delta of iron."""
    a, k, x0, x1, c, delta0 = _STERNHEIMER
    x = math.log10(beta_gamma)
    if x < x0:
        return delta0 * 10.0 ** (2.0 * (x - x0))
    delta = 2.0 * math.log(10.0) * x - c
    return delta + a * (x1 - x) ** k if x < x1 else delta


@njit(cache=True, nogil=True)
def ionisation(energy, cut=math.inf):
    """Return the mean energy loss by collisions below a cut [GeV/cm]; by all of them without one."""
    gamma = energy / MUON
    beta_gamma2 = gamma * gamma - 1.0
    beta2 = beta_gamma2 / (gamma * gamma)
    most = largest_knock_on(energy)
    upper = min(cut, most)
    logarithm = math.log(2.0 * _ELECTRON * beta_gamma2 * upper / (_EXCITATION * _EXCITATION))
    bracket = logarithm - beta2 * (1.0 + upper / most) - density_effect(math.sqrt(beta_gamma2))
    return XI / beta2 * (bracket + 0.25 * (upper / energy) ** 2)


def electron_bremsstrahlung(energy: float) -> float:
    """Return the mean loss by photons from the struck electrons [GeV/cm], which tables count as ionisation.

    Groom et al., section 3.5.
    """
    most = math.log(2.0 * float(largest_knock_on(energy)) / _ELECTRON)
    bracket = math.log(2.0 * energy / MUON) - most / 3.0
    return XI * FINE_STRUCTURE / (2.0 * math.pi) * bracket * most**2


def radiation(energy: float) -> tuple[float, float, float]:
    """Return the mean losses by bremsstrahlung, pairs and photonuclear interactions [GeV/cm]."""
    scale = energy * IRON_DENSITY
    brems, pair, nuclear = (
        scale * float(np.interp(math.log(energy), np.log(B_ENERGY), b)) for b in (B_BREMS, B_PAIR, B_NUCLEAR)
    )
    return brems, pair, nuclear


def mean_loss(energy: float) -> float:
    """Return the mean energy loss of a muon of this total energy in iron [GeV/cm]."""
    return float(ionisation(energy)) + electron_bremsstrahlung(energy) + sum(radiation(energy))


@njit(cache=True, nogil=True, error_model="numpy")
def screening(energy, v):
    """Return the logarithm in the cross section of bremsstrahlung on iron, over its value at v = 0.

    Groom et al., section 2.2: the more momentum a photon takes, the nearer must the muon pass the nucleus.
    """
    least = MUON * MUON * v / (2.0 * energy * (1.0 - v))  # momentum transfer [GeV]
    atom = math.log1p(_ATOM * _ROOT_E * least)
    nucleus = math.log1p(least * (_NUCLEUS * _ROOT_E - 2.0) / MUON)
    return max(1.0 - (atom - nucleus) / math.log(_ATOM * MUON / _NUCLEUS), 0.0)


def _photons(energy: float, low: float) -> tuple[float, float]:
    """Return number and summed v of the photon spectrum above `low`."""
    v = np.geomspace(low, 1.0 - 1e-9, 1000)
    spectrum = (4.0 / 3.0 * (1.0 - v) + v * v) * np.array([screening(energy, share) for share in v])
    return float(np.trapezoid(spectrum, np.log(v))), float(np.trapezoid(spectrum, v))


def _pairs(low: float) -> tuple[float, float]:
    """Return number and summed v of the spectrum of pairs above `low`; the number is infinite at 0."""
    below, above = low / PAIR_SCALE, 1.0 / PAIR_SCALE
    total = PAIR_SCALE * (1.0 / (1.0 + below) - 1.0 / (1.0 + above))
    number = math.inf
    if low:
        number = math.log1p(1.0 / below) - 1.0 / (1.0 + below) - math.log1p(1.0 / above) + 1.0 / (1.0 + above)
    return number, total


def loss_table() -> np.ndarray:
    """Return the columns `SOFT` to `PAIR` at the energies of the table, `(TABLE_ROWS, 5)`."""
    table = np.zeros((TABLE_ROWS, 5))
    pairs, pair_loss = _pairs(PAIR_CUT)
    _, all_pair_loss = _pairs(0.0)
    soft = PAIR_CUT / PAIR_SCALE
    pair_square = PAIR_SCALE**2 * (math.log1p(soft) - soft / (1.0 + soft))
    for row in range(TABLE_ROWS):
        energy = math.exp(TABLE_START + row * TABLE_STEP)
        beta2 = 1.0 - (MUON / energy) ** 2
        most = float(largest_knock_on(energy))
        cut = min(KNOCK_ON_CUT, most)
        brems, pair, nuclear = radiation(energy)
        table[row, SOFT] = ionisation(energy, cut) + pair * (1.0 - pair_loss / all_pair_loss)
        table[row, SPREAD] = XI / beta2 * cut * (1.0 - 0.5 * beta2 * cut / most)
        table[row, SPREAD] += pair * energy * pair_square / all_pair_loss
        if most > cut:
            table[row, KNOCK_ON] = (
                XI
                / beta2
                * (
                    1.0 / cut
                    - 1.0 / most
                    - beta2 / most * math.log(most / cut)
                    + 0.5 * (most - cut) / energy**2
                )
            )
        number, total = _photons(energy, BREMS_CUT)
        photons = brems + nuclear + electron_bremsstrahlung(energy)
        table[row, BREMS] = photons / energy * number / total
        table[row, PAIR] = pair / energy * pairs / all_pair_loss
    return table


LOSSES = loss_table()


@njit(cache=True, nogil=True, error_model="numpy")
def draw_knock_on(rng, most, energy):
    """Draw the energy of a knock-on electron between the cut and the largest one [GeV]."""
    low, span = 1.0 / KNOCK_ON_CUT, 1.0 / KNOCK_ON_CUT - 1.0 / most
    slope, curve = (1.0 - (MUON / energy) ** 2) / most, 0.5 / (energy * energy)
    while True:
        transfer = 1.0 / (low - span * rng.random())
        if rng.random() < 1.0 - transfer * (slope - curve * transfer):
            return transfer


@njit(cache=True, nogil=True)
def draw_brems(rng, energy):
    """Draw the share of the energy that a photon above the cut takes."""
    while True:
        v = BREMS_CUT ** rng.random()
        if rng.random() < (1.0 - v + 0.75 * v * v) * screening(energy, v):
            return v


@njit(cache=True, nogil=True)
def draw_pair(rng):
    """Draw the share of the energy that a pair above the cut takes."""
    least = PAIR_CUT / (PAIR_CUT + PAIR_SCALE)
    ratio = 1.0 / (1.0 + PAIR_SCALE) / least
    while True:
        # In w = v / (v + v0) the spectrum is (1 - w) / w.
        w = least * ratio ** rng.random()
        if rng.random() * (1.0 - least) < 1.0 - w:
            return PAIR_SCALE * w / (1.0 - w)


@njit(cache=True, nogil=True, error_model="numpy")
def draw_loss(rng, energy, length):
    """Draw the energy that a muon loses in `length` cm of iron, no more than it has.

    Args:
        rng: Source of randomness.
        energy: Total energy at the start [GeV]; the rates are those at this energy.
        length: Path length [cm]; the loss in it must be small against the energy.
    """
    place = (math.log(energy) - TABLE_START) * (1.0 / TABLE_STEP)
    row = min(max(int(place), 0), TABLE_ROWS - 2)
    part = min(max(place - row, 0.0), 1.0)
    soft = LOSSES[row, SOFT] + part * (LOSSES[row + 1, SOFT] - LOSSES[row, SOFT])
    spread = LOSSES[row, SPREAD] + part * (LOSSES[row + 1, SPREAD] - LOSSES[row, SPREAD])
    knock_on = LOSSES[row, KNOCK_ON] + part * (LOSSES[row + 1, KNOCK_ON] - LOSSES[row, KNOCK_ON])
    brems = LOSSES[row, BREMS] + part * (LOSSES[row + 1, BREMS] - LOSSES[row, BREMS])
    pair = LOSSES[row, PAIR] + part * (LOSSES[row + 1, PAIR] - LOSSES[row, PAIR])
    loss = soft * length + math.sqrt(spread * length) * rng.standard_normal()
    rate = knock_on + brems + pair
    left = rate * length - rng.standard_exponential()
    most = largest_knock_on(energy) if left > 0.0 else 0.0
    while left > 0.0:
        which = rng.random() * rate
        if which < knock_on:
            loss += draw_knock_on(rng, most, energy)
        elif which < knock_on + brems:
            loss += energy * draw_brems(rng, energy)
        else:
            loss += energy * draw_pair(rng)
        left -= rng.standard_exponential()
    return min(max(loss, 0.0), energy - MUON)
