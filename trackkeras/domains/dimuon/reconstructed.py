"""Found muons as branches of a RUS file: written beside the branches of the hits, and read again.

Hit arrays are int32 `[62]`, the element of detector d at d - 1 and 0 without a hit; a muon that was not found
has none but zeros. Drift distances of these hits are float32 `[62]` [cm], as `driftDistance` has them.
Momenta at the vertex are float32 `[2]` [GeV], of mu+ and mu-.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trackkeras.domains.dimuon.detectors import ELEMENTS, PLANES
from trackkeras.domains.dimuon.events import Events
from trackkeras.domains.dimuon.found import (
    DRIFT_BRANCHES,
    ELEMENT_BRANCHES,
    MOMENTUM_BRANCHES,
    found_columns,
)
from trackkeras.domains.dimuon.reconstruction import NO_ESTIMATE, Muons
from trackkeras.errors import UserError

ERROR = "qchi2"
"""float32 `[2]`: the error that the quality network estimates; -1 without one, or without the muon."""

P_RIGHT = "qpright"
"""float32 `[2]`: the chance it gives that the hits are the muon's; only if there was a quality network."""

BRANCHES = (*ELEMENT_BRANCHES, *DRIFT_BRANCHES, *MOMENTUM_BRANCHES, ERROR, P_RIGHT)

HIT_TREE, HIT_MATRIX = "hitMatrixTree", "hitMatrix"
"""Tree and branch of which elements fired, uint8 `[62][201]`, an entry per event."""

SOFTMAX_TREE, SOFTMAX = "softmaxTree", ("softmax_mup", "softmax_mum")
"""Tree and branches of what the finder says, float32 `[62][201]`, an entry per event."""


def with_muons(events: Events, muons: Muons) -> Events:
    """Return the events with the branches of the found muons, in place of those that they may have."""
    found: dict[str, NDArray[Any]] = {}
    for index in range(2):
        found[ELEMENT_BRANCHES[index]] = muons.elements[:, index].astype(np.int32)
        found[DRIFT_BRANCHES[index]] = muons.drift[:, index].astype(np.float32)
    found |= {
        name: muons.momentum[:, :, axis].astype(np.float32) for axis, name in enumerate(MOMENTUM_BRANCHES)
    }
    found[ERROR] = muons.error.astype(np.float32)
    if muons.p_right is not None:
        found[P_RIGHT] = muons.p_right.astype(np.float32)
    kept = {name: column for name, column in events.columns.items() if name not in BRANCHES}
    return Events(events.hits, events.tracks, events.hit_offsets, events.track_offsets, {**kept, **found})


def muons_of(events: Events, file: object = "the file") -> Muons:
    """Return the found muons that a file holds.

    Args:
        events: Events of a reconstructed file; `qchi2` and `qpright` may be missing.
        file: What the message calls their file.

    Raises:
        UserError: Branches are missing, have another shape, or hold what no reconstruction writes.
    """
    columns = events.columns
    needed = (*ELEMENT_BRANCHES, *DRIFT_BRANCHES, *MOMENTUM_BRANCHES)
    missing = [name for name in needed if name not in columns]
    if missing:
        raise UserError(
            f"{file} lacks the branches {', '.join(missing)}, so it is not reconstructed: "
            "`trackkeras dimuon reconstruct` writes them"
        )
    try:
        found = found_columns(events, signed=True)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    pairs = (len(events), 2)
    for name in (ERROR, P_RIGHT):
        if name in columns and columns[name].shape != pairs:
            raise UserError(
                f"{file}: {name} must have 2 values per event, received {columns[name].shape[1:]}"
            )
    return Muons(
        found["found_elements"].astype(np.int32),
        found["found_drift"].astype(float),
        found["found_momentum"].astype(float),
        np.asarray(columns.get(ERROR, np.full(pairs, NO_ESTIMATE)), dtype=float),
        np.asarray(columns[P_RIGHT], dtype=float) if P_RIGHT in columns else None,
    )


def read_softmax(path: Path, event: int) -> NDArray[np.float32] | None:
    """Return what the finder said of one event, `(2, 62, 201)`; None if the file does not hold it.

    Raises:
        UserError: It holds something else under that name.
    """
    import uproot

    from trackkeras.domains.dimuon.rus_reading import reading

    with reading(path), uproot.open(path, array_cache=None) as root:
        if SOFTMAX_TREE not in root.keys(cycle=False):
            return None
        tree = root[SOFTMAX_TREE]
        found = np.stack(
            [tree[name].array(entry_start=event, entry_stop=event + 1, library="np") for name in SOFTMAX],
            axis=1,
        )
    if found.shape != (1, len(SOFTMAX), PLANES, ELEMENTS):
        raise UserError(
            f"{path}: {SOFTMAX_TREE} must have {', '.join(SOFTMAX)} of shape ({PLANES}, {ELEMENTS}) for each "
            f"event, received {found.shape} for event {event}"
        )
    return found[0].astype(np.float32)
