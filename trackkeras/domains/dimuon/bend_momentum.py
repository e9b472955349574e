"""The momentum of a muon from KMAG's bend alone, without a network."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from keras import ops

from trackkeras.domains.dimuon.momentum_models import AtVertex, FirstEstimate
from trackkeras.domains.dimuon.tracklets import Tracklets


def bend_momentum(elements: Any, drift: Any, charge: Any) -> Any:
    """Return the momentum at the vertex, `(n, 3)` [GeV], as a momentum network begins its training.

    Args:
        elements: `(n, 62)` fired element of each detector, 0 for none.
        drift: `(n, 62)` absolute drift distance [cm].
        charge: `(n, 1)`, +1 or -1.
    """
    tracklets, first_estimate, at_vertex = _layers()
    station, _ = first_estimate(tracklets(elements, drift, charge))
    return at_vertex(station, ops.zeros_like(station), charge)


@lru_cache
def _layers() -> tuple[Tracklets, FirstEstimate, AtVertex]:
    return Tracklets(), FirstEstimate(), AtVertex()
