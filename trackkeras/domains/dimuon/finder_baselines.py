"""What a finder has to beat: predictors that look at no hit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trackkeras.domain import Baseline, Rows
from trackkeras.domains.dimuon.detectors import ELEMENTS, PLANES
from trackkeras.domains.dimuon.finder_rows import refine_rows


def all_empty() -> Baseline:
    """Return the predictor that finds nothing: right wherever a muon fired no element."""
    return _constant("all_empty", "nothing found", np.zeros((2, PLANES), dtype=np.int32))


def most_frequent(rows: Rows) -> Baseline:
    """Return the predictor of the most frequent element, or of none, of each muon in each detector."""
    slots = rows["elements"].reshape(-1, 2 * PLANES).T
    frequent = [np.bincount(slot, minlength=ELEMENTS).argmax() for slot in slots]
    elements = np.array(frequent, dtype=np.int32).reshape(2, PLANES)
    return _constant("most_frequent", "most frequent elements", elements)


def _constant(name: str, label: str, elements: NDArray[np.int32]) -> Baseline:
    def predict(rows: Rows) -> Rows:
        predicted = np.broadcast_to(elements, (len(rows["hit_detector"]), 2, PLANES))
        return {"elements": predicted, "refined": refine_rows(rows, predicted)}

    return Baseline(name, label, predict, 0.0)
