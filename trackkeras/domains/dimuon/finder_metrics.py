"""What is wrong in the hit arrays that a finder gives for an event, as shares from 0 to 1.

All are errors, so that less is better: accuracy in the usual sense is 1 less the share. With t the true and p
the predicted element of a muon in a detector, 0 for none:

- `slots_wrong`: p != t, of all 62 detectors. Most are empty: who finds nothing has 0.565 wrong.
- `hits_wrong`: p != t, of the detectors that the muon fired; `hits_far`: |p - t| > 2, or p = 0.
- `tracks_wrong`: muons with p != t in any detector that they fired.
- `inefficiency`: muons that are not found, which takes p = t in two thirds of the detectors that they fired.
- `fake_rate`: found tracks, those with at least 12 predicted hits, that are no muon: it has the other charge,
  or is not found in the sense above.

An event without a muon, or without a found track, has none wrong. Names that begin with `refined_` judge the
hits next to the predicted elements, see `refinement`; those that end in `_mup` or `_mum` one muon alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trackkeras.domain import Metric, Rows

FOUND_SHARE = 2 / 3
"""A muon is found if so many of its hits are right."""

FEWEST_HITS = 12
"""A track has at least so many hits; a muon that reaches the last station has some 30."""

NEAR = 2
"""Elements that are still near."""

CHARGES = ("mup", "mum")
STAGES = {"": "elements", "refined_": "refined"}
"""Columns of a prediction, by the beginning of a metric's name."""

SHARES = ("slots_wrong", "hits_wrong", "hits_far", "tracks_wrong", "inefficiency", "fake_rate")
BY_CHARGE = ("slots_wrong", "hits_wrong", "inefficiency")

_NAMES = tuple(
    f"{prefix}{name}"
    for prefix in STAGES
    for name in (*SHARES, *(f"{share}_{charge}" for share in BY_CHARGE for charge in CHARGES))
)

TARGETS = {"slots_wrong": 0.07, "refined_slots_wrong": 0.07}
"""An accuracy of 0.93 is what QTracker's own best network is reported to have, on events of its own."""

METRICS: tuple[Metric, ...] = tuple(Metric(name, name, "mean", "1", TARGETS.get(name)) for name in _NAMES)
"""The mean of each share over events."""

RESIDUAL_LABELS = {
    f"{quantity}_{charge}": f"{text}, {muon}"
    for charge, muon in zip(CHARGES, ("mu+", "mu-"), strict=True)
    for quantity, text in (
        ("elements", "mean predicted less true element of fired detectors"),
        ("hits", "predicted less true number of hits"),
    )
}


def event_errors(truth: NDArray[np.integer], pred: Rows) -> Rows:
    """Return the shares of each event, `(n,)`.

    Args:
        truth: True elements `(n, 2, 62)`.
        pred: `elements` and `refined`, alike.
    """
    found: Rows = {}
    for prefix, column in STAGES.items():
        found |= {f"{prefix}{name}": share for name, share in _shares(truth, pred[column]).items()}
    return found


def _shares(truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> Rows:
    fired = truth > 0
    wrong = predicted != truth
    far = fired & ((np.abs(predicted.astype(int) - truth) > NEAR) | (predicted == 0))
    wrong_hits, hits = (fired & wrong).sum(axis=2), fired.sum(axis=2)
    there = hits > 0
    lost = there & (hits - wrong_hits < FOUND_SHARE * hits)
    track = (predicted > 0).sum(axis=2) >= FEWEST_HITS
    fake = track & (lost | ~there)
    whole = {
        "slots_wrong": wrong.mean(axis=(1, 2)),
        "hits_wrong": _ratio(wrong_hits.sum(axis=1), hits.sum(axis=1)),
        "hits_far": _ratio(far.sum(axis=(1, 2)), hits.sum(axis=1)),
        "tracks_wrong": _ratio((there & (wrong_hits > 0)).sum(axis=1), there.sum(axis=1)),
        "inefficiency": _ratio(lost.sum(axis=1), there.sum(axis=1)),
        "fake_rate": _ratio(fake.sum(axis=1), track.sum(axis=1)),
    }
    single = {
        "slots_wrong": wrong.mean(axis=2),
        "hits_wrong": _ratio(wrong_hits, hits),
        "inefficiency": lost.astype(float),
    }
    return whole | {
        f"{name}_{charge}": single[name][:, muon] for name in BY_CHARGE for muon, charge in enumerate(CHARGES)
    }


def _ratio(some: NDArray[np.integer], every: NDArray[np.integer]) -> NDArray[np.float64]:
    return some / np.maximum(every, 1)


def event_residuals(truth: NDArray[np.integer], pred: Rows) -> Rows:
    """Return how far elements and numbers of hits are off in each event, before refinement, `(n,)`."""
    fired, predicted = truth > 0, pred["elements"]
    hits = fired.sum(axis=2)
    difference = np.where(fired, predicted.astype(int) - truth, 0).sum(axis=2) / np.maximum(hits, 1)
    surplus = (predicted > 0).sum(axis=2) - hits
    return {
        f"{quantity}_{charge}": values[:, muon].astype(float)
        for muon, charge in enumerate(CHARGES)
        for quantity, values in (("elements", difference), ("hits", surplus))
    }
