"""True tracks with hits exchanged for other hits of the event: wrong tracks without a track finder.

A finder goes wrong where tracks lie close: it takes a hit of a neighbour, or follows the neighbour through a
whole station. So does this: some tracks stay as they are, the others lose each station, and each hit, with a
chance that is drawn for the track. A lost hit is replaced by the nearest other hit to where a shift of a
random number of elements, one per station, leads; where nothing else fired it is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trackkeras.domain import Rows
from trackkeras.domains.dimuon.detectors import DETECTORS, ELEMENTS, PLANES
from trackkeras.domains.dimuon.events import CHARGES
from trackkeras.domains.dimuon.random_streams import draws_of

COLUMNS = ("hit_detector", "hit_element", "hit_drift", "elements", "drift", "group")
"""What `spoiled_hits` reads."""

CHUNK = 4096
"""Events whose momenta are found at a time."""

_STATION = np.array([plane.station - 1 for plane in DETECTORS])
_STATIONS = int(_STATION.max()) + 1
_SUB = 16
_FAR = np.int64(1) << 62


@dataclass(frozen=True)
class Spoiling:
    """How often and how far hits are exchanged.

    Attributes:
        untouched: Share of tracks that keep all their hits.
        station: Chance that the worst track loses a station; half of it on average.
        hit: Chance that the worst track loses a hit beside those of lost stations.
        reach: Largest shift to where another hit is looked for, in elements.
    """

    untouched: float = 0.4
    station: float = 0.6
    hit: float = 0.3
    reach: float = 20.0


def spoiled_hits(
    rows: Rows, spoiling: Spoiling | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the hits of both muons of some events after some were exchanged.

    What happens to an event follows from its `group`, so that it is the same wherever the event is read.

    Args:
        rows: Columns `COLUMNS` of n events.
        spoiling: How often and how far.

    Returns:
        Elements `(n, 2, 62)` and drift distances `(n, 2, 62)` [cm]; both are 0 where there is no hit.
    """
    spoiling = spoiling or Spoiling()
    own, keys = rows["elements"], rows["group"][:, 0]
    severity, how_bad = np.moveaxis(draws_of(keys, (2, 2), 1), -1, 0)[..., None]
    severity = np.where(severity < spoiling.untouched, 0.0, how_bad)
    lost_station = draws_of(keys, (2, _STATIONS), 2) < spoiling.station * severity
    lost = lost_station[:, :, _STATION] | (draws_of(keys, (2, PLANES), 3) < spoiling.hit * severity)
    lost &= own > 0
    shift = spoiling.reach * (2.0 * draws_of(keys, (2, _STATIONS), 4) - 1.0)
    other = nearest_others(rows, own + shift[:, :, _STATION])
    event = np.arange(len(own))[:, None, None]
    there = other >= 0
    elements = np.where(there, rows["hit_element"][event, other], 0)
    drift = np.where(there, rows["hit_drift"][event, other], np.float32(0.0))
    return np.where(lost, elements, own), np.where(lost, drift, rows["drift"]).astype(np.float32)


def nearest_others(rows: Rows, wanted: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return which hit of its event is nearest to a place, of those that are not the muon's own.

    Args:
        rows: `hit_detector` and `hit_element` `(n, hits)`, and `elements` `(n, 2, 62)`, the muons' own.
        wanted: `(n, 2, 62)` places, in elements.

    Returns:
        `(n, 2, 62)` numbers of hits in their event; -1 where there is no other hit.
    """
    event, hit = np.nonzero(rows["hit_detector"] > 0)
    plane, element = rows["hit_detector"][event, hit] - 1, rows["hit_element"][event, hit]
    best = np.full(wanted.shape, _FAR)
    bits = int(rows["hit_detector"].shape[1]).bit_length()
    for muon in range(2):
        distance = np.abs(element - np.clip(wanted[event, muon, plane], -ELEMENTS, 2 * ELEMENTS))
        # one number that sorts by distance, then by the hit's place
        key = (np.rint(distance * _SUB).astype(np.int64) << bits) | hit
        others = element != rows["elements"][event, muon, plane]
        np.minimum.at(best[:, muon], (event[others], plane[others]), key[others])
    return np.where(best == _FAR, -1, best & ((1 << bits) - 1))


def spoiled_columns(rows: Rows, spoiling: Spoiling | None = None) -> Rows:
    """Return the columns `found.FOUND` of spoiled tracks; momenta are those of KMAG's bend.

    Args:
        rows: Columns `COLUMNS` of n events.
        spoiling: How often and how far hits are exchanged.
    """
    from keras import ops

    elements, drift = spoiled_hits(rows, spoiling)
    parts = [slice(first, first + CHUNK) for first in range(0, max(len(elements), 1), CHUNK)]
    momentum = np.concatenate([ops.convert_to_numpy(_bend(elements[part], drift[part])) for part in parts])
    return {"found_elements": elements, "found_drift": drift, "found_momentum": momentum}


def spoiled_tensors(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same for a batch of tensors, inside `tf.data`."""
    import tensorflow as tf

    def compute(*columns: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        return spoiled_hits(dict(zip(COLUMNS, columns, strict=True)))

    columns = [batch[name] for name in COLUMNS]
    elements, drift = tf.numpy_function(compute, columns, (tf.int64, tf.float32), stateful=False)
    elements, drift = (tf.ensure_shape(values, (None, 2, PLANES)) for values in (elements, drift))
    return {"found_elements": elements, "found_drift": drift, "found_momentum": _bend(elements, drift)}


def _bend(elements: Any, drift: Any) -> Any:
    """Return momenta `(n, 2, 3)` [GeV] of tracks `(n, 2, 62)`."""
    from keras import ops

    from trackkeras.domains.dimuon.bend_momentum import bend_momentum

    n = ops.shape(elements)[0]
    charges = ops.tile(ops.convert_to_tensor(np.array(CHARGES, "float32")[:, None]), (n, 1))
    flat = [ops.reshape(values, (-1, PLANES)) for values in (elements, drift)]
    return ops.reshape(bend_momentum(flat[0], ops.abs(flat[1]), charges), (-1, 2, 3))
