"""What a reconstruction wrote into its file beside the truth: hits and momentum that it found for both muons.

`trackkeras dimuon reconstruct` keeps the events and adds the hits of the mu+ and the mu-, `qHitArray_mup` and
`qHitArray_mum`, their drift distances, and the momenta of both, `qpx`, `qpy`, `qpz`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tfrecords_tools.schema import Feature
from trackkeras.domain import Rows
from trackkeras.domains.dimuon.detectors import ELEMENTS, PLANES
from trackkeras.domains.dimuon.events import Events
from trackkeras.errors import UserError

ELEMENT_BRANCHES = ("qHitArray_mup", "qHitArray_mum")
DRIFT_BRANCHES = ("driftDistance_mup", "driftDistance_mum")
MOMENTUM_BRANCHES = ("qpx", "qpy", "qpz")

FOUND = (
    Feature(
        "found_elements",
        "int64",
        (2, PLANES),
        "1",
        "element found for each muon in detector d at d - 1, 0: none",
        0,
        ELEMENTS - 1,
    ),
    Feature("found_drift", "float32", (2, PLANES), "cm", "drift distance of these hits"),
    Feature("found_momentum", "float32", (2, 3), "GeV", "momentum that was reconstructed from them"),
)
"""Columns that records of a reconstructed file have beside those of the truth; mu+ first, as there."""


def found_columns(events: Events, *, signed: bool = False) -> Rows:
    """Return what was found in some events, as the columns `FOUND`.

    Args:
        events: Events of a reconstructed file.
        signed: Keep the sign of drift distances.

    Raises:
        UserError: The file lacks a branch, a branch has another shape, or an element or a number is none.
    """
    shapes = dict.fromkeys((*ELEMENT_BRANCHES, *DRIFT_BRANCHES), (PLANES,))
    shapes |= dict.fromkeys(MOMENTUM_BRANCHES, (2,))
    missing = [name for name in shapes if name not in events.columns]
    if missing:
        raise UserError(
            f"the file lacks the branches {', '.join(missing)}, so it is not reconstructed: "
            "`trackkeras dimuon reconstruct` writes them, or leave out reconstructed=true"
        )
    for name, shape in shapes.items():
        if events.columns[name].shape[1:] != shape:
            raise UserError(
                f"branch {name} must have shape {shape} per event, received {events.columns[name].shape[1:]}"
            )

    def together(names: tuple[str, ...], axis: int) -> NDArray[np.generic]:
        return np.stack([events.columns[name] for name in names], axis=axis)

    elements = together(ELEMENT_BRANCHES, 1).astype(np.int64)
    drift = together(DRIFT_BRANCHES, 1).astype(np.float32)
    momentum = together(MOMENTUM_BRANCHES, 2).astype(np.float32)
    if elements.size and (elements.min() < 0 or elements.max() >= ELEMENTS):
        raise UserError(
            f"elements in {' and '.join(ELEMENT_BRANCHES)} must be from 0 to {ELEMENTS - 1}, received "
            f"{elements.min()} to {elements.max()}"
        )
    # what belongs to no hit says nothing
    drift = np.where(elements > 0, drift if signed else np.abs(drift), np.float32(0.0))
    momentum = np.where((elements > 0).any(axis=2, keepdims=True), momentum, np.float32(0.0))
    if not (np.isfinite(drift).all() and np.isfinite(momentum).all()):
        raise UserError("a reconstructed momentum or drift distance is not a finite number")
    return {"found_elements": elements, "found_drift": drift, "found_momentum": momentum}


def check_found(rows: Rows) -> dict[str, NDArray[np.bool_]]:
    """Return rules that rows with the columns `FOUND` may break, and where they do."""
    lost = (rows["found_drift"] != 0) & (rows["found_elements"] == 0)
    return {"drift distances of a found muon without a hit": lost}
