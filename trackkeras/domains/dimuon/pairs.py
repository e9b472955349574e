"""Pairs of found muons from reconstructed files: those of one event, and those of different events."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trackkeras.domains.dimuon.detectors import PLANES
from trackkeras.domains.dimuon.events import NO_TRACK, Events
from trackkeras.domains.dimuon.mass import mixed_mass, pair_mass
from trackkeras.domains.dimuon.muons import muon_rows, muon_vectors
from trackkeras.domains.dimuon.reconstructed import P_RIGHT, muons_of
from trackkeras.errors import UserError

Floats = NDArray[np.float64]

SHIFTS = 10
"""Other events that each muon is paired with."""


@dataclass(frozen=True)
class Cuts:
    """What both muons of a pair must have.

    Attributes:
        min_p_right: Least chance that the hits are the muon's; 0 asks for no quality network.
        min_hits: Fewest hits.
    """

    min_p_right: float = 0.0
    min_hits: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.min_p_right <= 1:
            raise UserError(f"--min-p-right must be a chance from 0 to 1, received {self.min_p_right:g}")
        if not 1 <= self.min_hits <= PLANES:
            raise UserError(f"--min-hits must be from 1 to {PLANES}, received {self.min_hits}")


@dataclass(frozen=True)
class Pairs:
    """Pairs of a mu+ and a mu-, one per row.

    Attributes:
        momentum: As found, `(n, 2, 3)` [GeV].
        truth: True momenta, `(n, 2, 3)` [GeV], NaN where they are not known.
        events: Number of events that they were chosen from.
    """

    momentum: Floats
    truth: Floats
    events: int

    def __len__(self) -> int:
        return len(self.momentum)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which pairs have a truth, `(n,)`."""
        return np.asarray(np.isfinite(self.truth).all(axis=(1, 2)))

    def mass(self) -> Floats:
        """Return the mass of each pair [GeV], `(n,)`."""
        return pair_mass(self.momentum[:, 0], self.momentum[:, 1])

    def true_mass(self) -> Floats:
        """Return the true mass of each pair whose truth is known [GeV]."""
        known = self.truth[self.known]
        return pair_mass(known[:, 0], known[:, 1])

    def mixed_mass(self, shifts: int = SHIFTS) -> Floats:
        """Return masses [GeV] of the mu+ of each pair with the mu- of the next ones."""
        return mixed_mass(self.momentum[:, 0], self.momentum[:, 1], shifts)

    def like_sign_mass(self, shifts: int = SHIFTS) -> Floats:
        """Return masses [GeV] of each muon with those of its own charge in the next pairs."""
        return np.concatenate(
            [mixed_mass(self.momentum[:, muon], self.momentum[:, muon], shifts) for muon in range(2)]
        )


def read_pairs(chunks: Iterable[tuple[Events, Path]], cuts: Cuts) -> Pairs:
    """Return the pairs of some events that pass the cuts.

    Args:
        chunks: Events of reconstructed files, each time with their file.
        cuts: What both muons must have.

    Raises:
        UserError: A file is not reconstructed, or lacks what a cut needs.
    """
    momenta, truths, total = [np.empty((0, 2, 3))], [np.empty((0, 2, 3))], 0
    for events, file in chunks:
        muons = muons_of(events, file)
        kept = muons.found & (muons.hits >= cuts.min_hits)
        if cuts.min_p_right > 0:
            if muons.p_right is None:
                raise UserError(
                    f"{file} has no {P_RIGHT}, which --min-p-right needs: reconstruct it with --quality"
                )
            kept &= muons.p_right >= cuts.min_p_right
        both = kept.all(axis=1)
        rows = muon_rows(events)
        truth = muon_vectors(events, rows, "momentum")
        truth[(rows == NO_TRACK) | ~truth.any(axis=2)] = np.nan
        momenta.append(muons.momentum[both])
        truths.append(truth[both])
        total += len(events)
    return Pairs(np.concatenate(momenta), np.concatenate(truths), total)
