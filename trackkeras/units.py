"""Units, the one bending constant, and the names of the track state, each stated once.

Lengths are in mm, magnetic fields in tesla, momenta in MeV (GeV at the command line), charges in units
of the proton's. No other module may define a physics constant.
"""

from __future__ import annotations

MM = 1.0
M = 1000.0 * MM
MEV = 1.0
GEV = 1000.0 * MEV
TESLA = 1.0

SPEED_OF_LIGHT = 299_792_458.0
"""Speed of light in vacuum [m/s], exact by the definition of the metre."""

KAPPA = SPEED_OF_LIGHT * 1e-9
"""Bending constant [MeV/(T mm)], 0.299792458: `dtx/dz = KAPPA * (q/p [1/MeV]) * B [T] * ...`.

A charge e in a field B bends with radius R = p / (e B). With p [eV/c] = R [m] * B [T] * c [m/s], one tesla
over one metre changes p by 299.792458 MeV, and over one millimetre by 0.299792458 MeV. The same number with
q/p in 1/GeV would be 2.998e-4 / (T mm) * 1e3; mixing the two conventions makes a magnet 1000 times too weak.
"""

MUON_MASS = 105.6583755
"""Mass of the muon [MeV]; S. Navas et al. (Particle Data Group), Phys. Rev. D 110 (2024) 030001, as below."""

ELECTRON_MASS = 0.51099895
"""[MeV]"""

PROTON_MASS = 938.27208943
"""[MeV]"""

JPSI_MASS = 3096.900
"""Mass of the J/psi(1S) [MeV]."""

PSI_PRIME_MASS = 3686.097
"""Mass of the psi(2S) [MeV]."""

FINE_STRUCTURE = 1.0 / 137.035999178
"""Fine-structure constant."""

BETHE_K = 0.307075
"""4 pi N_A r_e² m_e c² [MeV cm²/mol], the coefficient of the Bethe equation for dE/dx."""

STATE = ("x", "y", "tx", "ty", "qop")
"""The track state at a plane z: x [mm], y [mm], tx = dx/dz, ty = dy/dz, q/p [1/MeV]."""

STATE_UNITS = ("mm", "mm", "1", "1", "1/MeV")


def qop_from_allen(qop: float) -> float:
    """Convert the Allen convention, `0.299792458 * q / p [1/GeV]`, to q/p [1/MeV]."""
    return qop / (KAPPA * GEV)


def momentum_gev(qop: float) -> float:
    """Return the momentum [GeV] of a unit charge with this q/p [1/MeV]."""
    return 1.0 / (abs(qop) * GEV)
