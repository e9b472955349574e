"""Found muons as branches of a RUS file: written beside the branches of the hits, and read again."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trackkeras.domains.dimuon.detectors import PLANES
from trackkeras.domains.dimuon.events import Events
from trackkeras.domains.dimuon.reconstruction import NO_ESTIMATE, Muons
from trackkeras.errors import UserError

HITS = ("qHitArray_mup", "qHitArray_mum")
"""int32 `[62]`: the element of detector d at d - 1, 0 without a hit; all 0 for a muon that was not found."""

DRIFT = ("driftDistance_mup", "driftDistance_mum")
"""float32 `[62]` [cm]: of these hits, as `driftDistance` has it."""

MOMENTUM = ("qpx", "qpy", "qpz")
"""float32 `[2]` [GeV]: of mu+ and mu-, at the vertex."""

ERROR = "qchi2"
"""float32 `[2]`: the error that the quality network estimates; -1 without one, or without the muon."""

P_RIGHT = "qpright"
"""float32 `[2]`: the chance it gives that the hits are the muon's; only if there was a quality network."""

BRANCHES = (*HITS, *DRIFT, *MOMENTUM, ERROR, P_RIGHT)


def with_muons(events: Events, muons: Muons) -> Events:
    """Return the events with the branches of the found muons, in place of those that they may have."""
    found: dict[str, NDArray[Any]] = {}
    for index in range(2):
        found[HITS[index]] = muons.elements[:, index].astype(np.int32)
        found[DRIFT[index]] = muons.drift[:, index].astype(np.float32)
    found |= {name: muons.momentum[:, :, axis].astype(np.float32) for axis, name in enumerate(MOMENTUM)}
    found[ERROR] = muons.error.astype(np.float32)
    if muons.p_right is not None:
        found[P_RIGHT] = muons.p_right.astype(np.float32)
    kept = {name: column for name, column in events.columns.items() if name not in BRANCHES}
    return Events(events.hits, events.tracks, events.hit_offsets, events.track_offsets, {**kept, **found})


def muons_of(events: Events, file: object = "the file") -> Muons:
    """Return the found muons that a file holds.

    Args:
        events: Events of a reconstructed file; `qchi2`, the drift distances and `qpright` may be missing.
        file: What the message calls their file.

    Raises:
        UserError: Hit arrays or momenta are missing, or have another shape.
    """
    shapes = {**dict.fromkeys(HITS, (PLANES,)), **dict.fromkeys(MOMENTUM, (2,))}
    optional = {**dict.fromkeys(DRIFT, (PLANES,)), ERROR: (2,), P_RIGHT: (2,)}
    columns = events.columns
    missing = [name for name in shapes if name not in columns]
    if missing:
        raise UserError(
            f"{file} lacks {', '.join(missing)}: it is not reconstructed; write such a file with "
            "`trackkeras dimuon reconstruct`"
        )
    for name, shape in {**shapes, **optional}.items():
        if name in columns and columns[name].shape[1:] != shape:
            raise UserError(f"{file}: {name} must have the shape {shape}, received {columns[name].shape[1:]}")

    def pair(names: tuple[str, ...]) -> NDArray[Any]:
        zeros = np.zeros((len(events), PLANES))
        return np.stack([columns.get(name, zeros) for name in names], axis=1)

    return Muons(
        pair(HITS).astype(np.int32),
        pair(DRIFT).astype(float),
        np.stack([columns[name] for name in MOMENTUM], axis=2).astype(float),
        np.asarray(columns.get(ERROR, np.full((len(events), 2), NO_ESTIMATE)), dtype=float),
        np.asarray(columns[P_RIGHT], dtype=float) if P_RIGHT in columns else None,
    )
