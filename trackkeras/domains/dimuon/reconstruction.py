"""From the hits of an event to the hits, momentum and quality of its mu+ and mu-, by three networks.

The finder says for each detector which element each muon fired; `refine` moves the answer to an element that
did fire, whose drift distance follows. The momentum network and the quality network see only these hits.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trackkeras.domains.dimuon.detectors import PLANES
from trackkeras.domains.dimuon.events import CHARGES, Events, Floats, Ints
from trackkeras.domains.dimuon.hit_matrix import hit_matrices
from trackkeras.domains.dimuon.muons import hit_arrays, muon_rows
from trackkeras.domains.dimuon.networks import OUTPUTS, Network
from trackkeras.domains.dimuon.refinement import decluster, drift_of, refine
from trackkeras.errors import UserError

MIN_HITS = 18
"""Half of the hits that a muon leaves: with fewer it does not count as found."""

NO_ESTIMATE = -1.0
"""In place of the error that a quality network estimates, where there is none or no such muon."""

BATCH = 128
"""Events that the finder sees at a time: their matrices and its answer take 20 MB."""

Matrices = NDArray[np.float32]


@dataclass(frozen=True)
class Settings:
    """What is done between the networks.

    Attributes:
        window: Farthest distance from the finder's answer to a hit, in elements; None for any.
        min_hits: A muon with fewer hits does not count as found.
        signed: Give the networks drift distances with their sign, which only a simulation knows.
        decluster: Take crosstalk out of the hits first.
        threads: Batches that the finder works on at the same time.
    """

    window: int | None = None
    min_hits: int = MIN_HITS
    signed: bool = False
    decluster: bool = False
    threads: int = 1

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 0:
            raise UserError(f"the limit of the refinement must not be negative, received {self.window}")
        if not 1 <= self.min_hits <= PLANES:
            raise UserError(f"a found muon has 1 to {PLANES} hits at least, received {self.min_hits}")


@dataclass(frozen=True)
class Muons:
    """The two muons of n events as they were found; a muon that was not found has zeros.

    Attributes:
        elements: int32 `(n, 2, 62)`, as `hit_arrays`.
        drift: `(n, 2, 62)` [cm], as in the hits of the file.
        momentum: `(n, 2, 3)` [GeV].
        error: Error of the momentum that the quality network estimates, in the unit of its target, `(n, 2)`;
            `NO_ESTIMATE` where there is no quality network or no muon.
        p_right: Chance that it gives that the hits are the muon's, `(n, 2)`; None without a quality network.
    """

    elements: Ints
    drift: Floats
    momentum: Floats
    error: Floats
    p_right: Floats | None = None

    @property
    def hits(self) -> NDArray[np.int64]:
        """Number of hits of each muon, `(n, 2)`."""
        return np.count_nonzero(self.elements, axis=2)

    @property
    def found(self) -> NDArray[np.bool_]:
        """Which muons were found, `(n, 2)`."""
        return np.asarray(self.elements.any(axis=2))


@dataclass(frozen=True)
class Reconstruction:
    """The chain of networks.

    Attributes:
        momentum: Momentum network.
        finder: Track finder; None to take the true hits of both muons instead.
        quality: Quality network, or None.
        settings: What is done between them.
    """

    momentum: Network
    finder: Network | None = None
    quality: Network | None = None
    settings: Settings = Settings()

    def __call__(self, events: Events, softmax: Matrices | None = None) -> Muons:
        """Return the muons of some events.

        Args:
            events: The events; their truth is read only if there is no finder.
            softmax: Filled with what the finder says, `(n, 2, 62, 201)`, if given.

        Raises:
            UserError: A network gives something other than finite numbers of the right shape.
        """
        if self.settings.decluster:
            events = decluster(events)
        if self.finder is None:
            elements, drift = hit_arrays(events, muon_rows(events))
        else:
            wanted = find_elements(self.finder, events, self.settings.threads, softmax)
            elements = refine(events, wanted, self.settings.window)
            drift = drift_of(events, elements)
        found = np.count_nonzero(elements, axis=2) >= self.settings.min_hits
        elements[~found], drift[~found] = 0, 0.0
        return self._estimated(elements, drift, found)

    def _estimated(self, elements: Ints, drift: Floats, found: NDArray[np.bool_]) -> Muons:
        momentum = np.zeros((*found.shape, 3))
        error = np.full(found.shape, NO_ESTIMATE)
        p_right = np.zeros(found.shape) if self.quality is not None else None
        if found.any():
            distance = drift[found] if self.settings.signed else np.abs(drift[found])
            charge = np.broadcast_to(np.array(CHARGES, dtype=np.float32), found.shape)[found]
            inputs = {
                "elements": elements[found],
                "drift": distance.astype(np.float32),
                "charge": charge[:, None],
            }
            momentum[found] = _finite(self.momentum(inputs)["momentum"], "momentum", 3)
            if self.quality is not None and p_right is not None:
                answer = self.quality({**inputs, "momentum": momentum[found].astype(np.float32)})
                p_right[found] = _finite(answer["p_right"], "p_right", 1)[:, 0]
                error[found] = _finite(answer["error"], "error", 1)[:, 0]
        return Muons(elements, drift, momentum, error, p_right)


def find_elements(
    finder: Network, events: Events, threads: int = 1, softmax: Matrices | None = None
) -> NDArray[np.int64]:
    """Return the most likely element of each muon in each detector, `(n, 2, 62)`; 0 for none.

    Args:
        finder: Track finder.
        events: The events.
        threads: Batches at the same time.
        softmax: Filled with all that the finder says, `(n, 2, 62, 201)`, if given.

    Raises:
        UserError: The finder gives something other than such numbers.
    """
    elements = np.zeros((len(events), 2, PLANES), dtype=np.int64)

    def work(first: int) -> None:
        batch = events[first : first + BATCH]
        answer = finder({"hits": hit_matrices(batch).astype(np.float32)})
        for muon, name in enumerate(OUTPUTS["finder"]):
            likely = answer[name]
            # argmax takes a NaN for the largest of its row: where the best is a number, all are
            best = likely.argmax(axis=-1)
            if not np.isfinite(np.take_along_axis(likely, best[..., None], axis=-1)).all():
                raise UserError(f"the finder gives {name} that is not finite")
            elements[first : first + len(batch), muon] = best
            if softmax is not None:
                softmax[first : first + len(batch), muon] = likely

    starts = range(0, len(events), BATCH)
    if threads == 1:
        for first in starts:
            work(first)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, starts))
    return elements


def _finite(values: NDArray[np.floating], name: str, columns: int) -> Floats:
    if values.shape[1:] != (columns,) or not np.isfinite(values).all():
        raise UserError(f"a network gives {name} that is not finite numbers of shape (n, {columns})")
    return values.astype(float)
