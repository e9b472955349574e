"""What a quality network has to beat: one answer for all tracks, and linear models on a few plain numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from trackkeras.domain import Baseline, Rows
from trackkeras.domains.dimuon.detectors import DETECTORS, Kind
from trackkeras.domains.dimuon.planes import PLANES
from trackkeras.domains.dimuon.quality_rows import SMALLEST_ERROR

Floats = NDArray[np.float64]
Predict = Callable[[Rows], Rows]

INPUTS = ("elements", "drift", "charge", "momentum")

KINDS: tuple[Kind, ...] = ("chamber", "hodoscope", "tube")


CHUNK = 8192
"""Tracks whose tracklets are found at a time."""


def simple_features(rows: Rows) -> Floats:
    """Return some numbers of a track that a physicist would look at, `(n, 20)`.

    They are: hits in each station and of each kind; px of a positive muon, py, pz, 1 / pz; angle and kink of
    the tracklets; and the logarithms of mean square distances of hits from them, by station and by kind.

    Args:
        rows: Tracks, see `track_columns`.
    """
    parts = [slice(first, first + CHUNK) for first in range(0, len(rows["charge"]), CHUNK)]
    return np.concatenate([_features({name: rows[name][part] for name in INPUTS}) for part in parts])


def _features(rows: Rows) -> Floats:
    from keras import ops

    from trackkeras.domains.dimuon.quality_models import TrackResiduals
    from trackkeras.domains.dimuon.tracklets import Tracklets

    elements, charge = rows["elements"], rows["charge"].astype("float32")
    tracklets = Tracklets()(elements, rows["drift"], charge)
    residuals = ops.convert_to_numpy(TrackResiduals()(elements, rows["drift"], charge, tracklets))
    seen = residuals[:, : len(PLANES)].astype(float)
    squares = np.sinh(residuals[:, len(PLANES) : 2 * len(PLANES)].astype(float)) ** 2
    station = np.array([DETECTORS[plane.number - 1].station for plane in PLANES])
    kind = np.array([DETECTORS[plane.number - 1].kind for plane in PLANES])
    groups = [station == number for number in (1, 2, 3, 4)] + [kind == name for name in KINDS]
    counts = np.stack([seen[:, group].sum(axis=1) for group in groups], axis=1)
    spread = np.stack([squares[:, group].sum(axis=1) for group in groups], axis=1) / np.maximum(counts, 1)
    momentum = rows["momentum"].astype(float)
    px = charge[:, 0] * momentum[:, 0]
    inverse = 1.0 / np.maximum(np.abs(momentum[:, 2]), 1.0)
    bend = np.arcsinh(ops.convert_to_numpy(tracklets)[:, 8:10].astype(float))
    columns = [counts, px, momentum[:, 1], momentum[:, 2], inverse, bend, np.log(spread + 1e-3)]
    return np.concatenate([column.reshape(len(px), -1) for column in columns], axis=1)


def constant(rows: Rows) -> Predict:
    """Return the share of right tracks and the typical error of some rows, whatever the track."""
    right = rows["p_right"][:, 0] > 0.5
    share = DummyClassifier(strategy="prior").fit(np.zeros((len(right), 1)), right)
    chance = _chance(share, np.zeros((1, 1)))[0]
    error = float(np.exp(np.median(_log_error(rows))))

    def predict(rows: Rows) -> Rows:
        n = len(rows["charge"])
        return {"p_right": np.full((n, 1), chance), "error": np.full((n, 1), error)}

    return predict


def linear(rows: Rows) -> Predict:
    """Return logistic regression of being right and ridge regression of the logarithm of the error."""
    features, right = simple_features(rows), rows["p_right"][:, 0] > 0.5
    error = make_pipeline(StandardScaler(), Ridge(alpha=1.0)).fit(features, _log_error(rows))
    if right.all() or not right.any():
        classes = DummyClassifier(strategy="prior").fit(features, right)
    else:
        classes = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(features, right)

    def predict(rows: Rows) -> Rows:
        features = simple_features(rows)
        logarithm = np.clip(error.predict(features), np.log(SMALLEST_ERROR), np.log(1e4))
        return {"p_right": _chance(classes, features)[:, None], "error": np.exp(logarithm)[:, None]}

    return predict


def _chance(classifier: DummyClassifier | LogisticRegression, features: Floats) -> Floats:
    """Return the probability of the class True, never quite 0 or 1."""
    classes = list(classifier.classes_)
    given = classifier.predict_proba(features)
    chance = given[:, classes.index(True)] if True in classes else np.zeros(len(features))
    return np.clip(chance, 1e-6, 1 - 1e-6)


def _log_error(rows: Rows) -> Floats:
    return np.asarray(np.log(np.maximum(rows["error"][:, 0].astype(float), SMALLEST_ERROR)))


def fitted(rows: Rows) -> tuple[Baseline, ...]:
    """Return the constant and the linear model, fitted on some tracks."""
    from trackkeras.domains.dimuon.quality_models import linear_operations

    return (
        Baseline("constant", "share of right training tracks, their median error", constant(rows), 0.0),
        Baseline("linear", "logistic and ridge regression", linear(rows), linear_operations()),
    )
