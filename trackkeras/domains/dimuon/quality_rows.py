"""Reconstructed events as tracks: each of the two tracks of an event is a row of the quality network.

One set of formulas serves both: the batches of a training, as tensors, and the rows of an evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from trackkeras.domain import Rows
from trackkeras.domains.dimuon.detectors import PLANES
from trackkeras.domains.dimuon.events import CHARGES
from trackkeras.domains.dimuon.quality_options import Target

RIGHT = 2.0 / 3.0
"""Least share of a right track's hits that are the muon's, and of the muon's hits that it has."""

SMALLEST_ERROR = 1e-4
"""Errors below count as this one: their logarithms say nothing more."""

COLUMNS = (
    *("elements", "momentum", "background_tracks"),
    *("found_elements", "found_drift", "found_momentum"),
)
"""What `track_tensors` reads."""

_ROUNDING = 1e-4


def track_tensors(events: Mapping[str, Any], target: Target) -> dict[str, Any]:
    """Return all tracks of some events, those without a hit as well; mu+ before mu- in each event.

    A track is right if at least 2/3 of its hits are those of the true muon of its charge, and it has at least
    2/3 of that muon's hits. Its error is |p - p_true| / |p_true|, or for `chi2` |p - p_true|² / |p_true|
    [GeV]. Where there is no such muon the track is wrong, and |p| stands for |p_true| and for the difference.

    Args:
        events: Columns `COLUMNS` of n events, as arrays or tensors.
        target: Which error.

    Returns:
        Tensors of 2n rows: `elements` `(2n, 62)` int32, `drift` `(2n, 62)` [cm], not negative, `charge`
        `(2n, 1)`, `momentum` `(2n, 3)` [GeV], as reconstructed; `p_right` `(2n, 1)`, 1 or 0; `error`
        `(2n, 1)`; `background_tracks` `(2n, 1)`; and `there` `(2n,)`, 1 for tracks with a hit, else 0.
    """
    from keras import ops

    def real(values: Any) -> Any:
        return ops.cast(values, "float32")

    def per_track(name: str, *shape: int) -> Any:
        return ops.reshape(events[name], (-1, *shape))

    found, true = per_track("found_elements", PLANES), per_track("elements", PLANES)
    hits, muon_hits = (ops.sum(real(values > 0), axis=-1, keepdims=True) for values in (found, true))
    shared = ops.sum(real(ops.logical_and(found > 0, found == true)), axis=-1, keepdims=True)
    # shares of whole numbers of at most 62 are never within rounding of another fraction
    enough = ops.logical_and(shared >= RIGHT * hits - _ROUNDING, shared >= RIGHT * muon_hits - _ROUNDING)
    momentum, truth = real(per_track("found_momentum", 3)), real(per_track("momentum", 3))

    def length(vectors: Any) -> Any:
        return ops.sqrt(ops.sum(ops.square(vectors), axis=-1, keepdims=True))

    size, difference = length(truth), length(momentum - truth)
    size = ops.where(size > 0, size, length(momentum))
    size = ops.where(size > 0, size, ops.ones_like(size))
    error = difference / size if target == "relative" else ops.square(difference) / size
    charges = ops.convert_to_tensor(np.array(CHARGES, "float32")[:, None])
    pairs = ops.shape(events["found_elements"])[0]
    return {
        "elements": ops.cast(found, "int32"),
        "drift": ops.abs(real(per_track("found_drift", PLANES))),
        "charge": ops.tile(charges, (pairs, 1)),
        "momentum": momentum,
        "p_right": real(ops.logical_and(enough, shared > 0)),
        "error": error,
        "background_tracks": ops.repeat(real(events["background_tracks"]), 2, axis=0),
        "there": real(hits[:, 0] > 0),
    }


def track_columns(events: Rows, target: Target) -> Rows:
    """Return the tracks of some events that have a hit, and `event` `(m,)`, the row of the event of each.

    Args:
        events: As for `track_tensors`.
        target: Alike.
    """
    from keras import ops

    columns = {name: ops.convert_to_numpy(value) for name, value in track_tensors(events, target).items()}
    there = columns.pop("there") > 0
    columns["event"] = np.repeat(np.arange(len(events["found_elements"])), 2)
    return {name: column[there] for name, column in columns.items()}


def track_batch(events: Mapping[str, Any], target: Target) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Return inputs, truth and weights of all tracks of a batch of events; those without a hit have 0."""
    tracks = track_tensors(events, target)
    inputs = {name: tracks[name] for name in ("elements", "drift", "charge", "momentum")}
    return inputs, {name: tracks[name] for name in ("p_right", "error")}, tracks["there"]
