"""The momentum of a muon from KMAG's bend alone, without a network."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from keras import ops

from trackkeras.domains.dimuon.momentum_models import FirstEstimate
from trackkeras.domains.dimuon.quality_models import TO_VERTEX
from trackkeras.domains.dimuon.tracklets import Tracklets


def bend_momentum(elements: Any, drift: Any, charge: Any) -> Any:
    """Return the momentum at the vertex, `(n, 3)` [GeV]: that of the bend, and the typical way through FMAG.

    Args:
        elements: `(n, 62)` fired element of each detector, 0 for none.
        drift: `(n, 62)` absolute drift distance [cm].
        charge: `(n, 1)`, +1 or -1.
    """
    tracklets, first_estimate = _layers()
    station, _ = first_estimate(tracklets(elements, drift, charge))
    positive = station + ops.convert_to_tensor([TO_VERTEX], dtype="float32")
    return ops.concatenate([charge * positive[:, :1], positive[:, 1:]], axis=-1)


@lru_cache
def _layers() -> tuple[Tracklets, FirstEstimate]:
    return Tracklets(), FirstEstimate()
