"""Whether a reconstructed track is right, and how wrong its momentum is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from trackkeras.config import ModelOptions, Run
from trackkeras.domain import Axis, Baseline, Curve, Line, Metric, Parity, Rows, Signature, Task, Tensor
from trackkeras.domains.dimuon import quality_rows, spoiling
from trackkeras.domains.dimuon.detectors import PLANES
from trackkeras.domains.dimuon.quality_options import QualityOptions, Target
from trackkeras.domains.dimuon.quality_rows import SMALLEST_ERROR, track_batch, track_columns

if TYPE_CHECKING:
    import keras

PZ_EDGES = (0.0, 20.0, 25.0, 30.0, 35.0, 40.0, 50.0, 80.0, 160.0)
TRACK_EDGES = (0.0, 1.0, 10.0, 20.0, 30.0, 40.0, 51.0)


class QualityTask(Task):
    """A track of reconstructed records to the probability that it is right, and its momentum error.

    A track is right if at least 2/3 of its hits are those of the true muon of its charge, and it has at least
    2/3 of that muon's hits. The rows are tracks, of which an event has up to two; both are in one split, as
    the records are split by `group`.

    Args:
        target: The error, see `QualityOptions`.
    """

    options = QualityOptions
    columns: ClassVar[tuple[str, ...]] = quality_rows.COLUMNS
    keras_modules: ClassVar[tuple[str, ...]] = ("trackkeras.domains.dimuon.quality_models",)
    parity_rows: ClassVar[int] = 20_000

    def __init__(self, target: Target = "relative") -> None:
        self.target: Target = target

    def for_model(self, model: ModelOptions) -> Task:
        """Return the task for the tracks and the error that the options name."""
        assert isinstance(model, QualityOptions)
        kind = SpoiledQualityTask if model.hits == "spoiled" else QualityTask
        return kind(model.target)

    def signature(self) -> Signature:
        """Return inputs and outputs of the network, with one example: a track without hits."""
        # without bars, which would end a cell of a card's table
        how = "length" if self.target == "relative" else "squared length"
        return Signature(
            inputs=(
                Tensor("elements", (PLANES,), "1", "element of detector d at d - 1, 0: no hit", "int32"),
                Tensor("drift", (PLANES,), "cm", "absolute drift distance of these hits"),
                Tensor("charge", (1,), "1", "+1 or -1"),
                Tensor("momentum", (3,), "GeV", "px, py, pz at the vertex, as reconstructed"),
            ),
            outputs=(
                Tensor(
                    "p_right", (1,), "1", "probability that 2/3 of the hits, and of the muon's, are right"
                ),
                Tensor(
                    "error",
                    (1,),
                    "1" if self.target == "relative" else "GeV",
                    f"typical {how} of p - p_true over the length of p_true",
                ),
            ),
            examples={
                "elements": np.zeros((1, PLANES), "int32"),
                "drift": np.zeros((1, PLANES), "float32"),
                "charge": np.ones((1, 1), "float32"),
                "momentum": np.array([[0.0, 0.0, 30.0]], "float32"),
            },
        )

    def own_rows(self, rows: Rows) -> Rows:
        """Return the tracks of some events."""
        return track_columns(rows, self.target)

    def split_batch(self, run: Run, batch: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return inputs, truth and weights of the tracks of a batch of events."""
        return track_batch(batch, self.target)

    def build(self, run: Run, statistics: Mapping[str, Any]) -> keras.Model:
        """Return the network with its loss."""
        from trackkeras.domains.dimuon.quality_models import build_quality

        assert isinstance(run.model, QualityOptions)
        return build_quality(run.model, training=True)

    def build_deployed(self, run: Run, statistics: Mapping[str, Any]) -> keras.Model:
        """Return the network alone."""
        from trackkeras.domains.dimuon.quality_models import build_quality

        assert isinstance(run.model, QualityOptions)
        return build_quality(run.model, training=False)

    def compile_arguments(self, run: Run, statistics: Mapping[str, Any]) -> dict[str, Any]:
        """Return nothing: the network has its loss."""
        return {}

    def shrink(self, model: ModelOptions) -> ModelOptions:
        """Return the same network with one layer of eight units."""
        assert isinstance(model, QualityOptions)
        return model.model_copy(update={"size": "small", "hidden": (8,)})

    def metrics(self) -> tuple[Metric, ...]:
        """Return scores of the probability, then of the error."""
        return (
            Metric("log_loss", "log_loss", "mean", "1"),
            Metric("brier", "brier", "mean", "1"),
            Metric("calibration_error", "calibration", "mean", "1"),
            Metric("one_minus_auc", "misordered", "mean", "1"),
            Metric("error_log", "error_log", "mean", "1"),
            Metric("error_log_median", "error_log", "median", "1"),
            Metric("error_one_minus_spearman", "error_order", "mean", "1"),
        )

    def axes(self) -> tuple[Axis, ...]:
        """Return the bands: reconstructed pz, charge, and tracks of the background."""
        return (
            Axis("pz", "reconstructed pz [GeV]", lambda rows: rows["momentum"][:, 2].astype(float), PZ_EDGES),
            Axis("charge", "charge", lambda rows: rows["charge"][:, 0].astype(float), (-1.5, 0.0, 1.5)),
            Axis(
                "background",
                "background tracks",
                lambda rows: rows["background_tracks"][:, 0].astype(float),
                TRACK_EDGES,
            ),
        )

    def residuals(self, rows: Rows, pred: Rows) -> Rows:
        """Return probability less truth, and the logarithm of the error over the true one."""
        chance, error = pred["p_right"][:, 0].astype(float), pred["error"][:, 0].astype(float)
        truth = np.maximum(rows["error"][:, 0].astype(float), SMALLEST_ERROR)
        return {
            "p_right": chance - rows["p_right"][:, 0],
            "error": np.log(np.maximum(error, SMALLEST_ERROR) / truth),
        }

    def residual_labels(self) -> dict[str, str]:
        """Return axis labels of the residuals."""
        return {"p_right": "probability less truth", "error": "logarithm of predicted over true error"}

    def errors(self, rows: Rows, pred: Rows) -> Rows:
        """Return the scores of every track.

        `log_loss` is minus the logarithm of what was given to what is true, `brier` the squared difference of
        probability and truth; the means of `calibration`, `misordered` and `error_order` are the expected
        calibration error, 1 less the area under the ROC curve, and 1 less Spearman's rank correlation of
        predicted and true error; `error_log` is |log(predicted / true error)|.
        """
        from trackkeras.domains.dimuon.ordering import miscalibration, misordered, rank_distance

        right, chance = rows["p_right"][:, 0] > 0.5, pred["p_right"][:, 0].astype(float)
        given = np.where(right, chance, 1.0 - chance)
        signed = self.residuals(rows, pred)
        true, found = rows["error"][:, 0].astype(float), pred["error"][:, 0].astype(float)
        return {
            "log_loss": -np.log(np.maximum(given, np.finfo(np.float32).tiny)),
            "brier": signed["p_right"] ** 2,
            "calibration": miscalibration(chance, right),
            "misordered": misordered(chance, right),
            "error_log": np.abs(signed["error"]),
            "error_order": rank_distance(found, true),
        }

    def curves(self, path: Path, rows: Rows, dataset_config: Mapping[str, Any]) -> tuple[Curve, ...]:
        """Return the reliability of the probability, and the ROC curve."""
        from trackkeras.checkpoints import load_model
        from trackkeras.domains.dimuon.ordering import misordered, reliability, roc
        from trackkeras.evaluation import predict
        from trackkeras.runs import RunFolder

        chance = predict(load_model(RunFolder(path).best, self), rows, self)["p_right"][:, 0].astype(float)
        right = rows["p_right"][:, 0] > 0.5
        said, share, _ = reliability(chance, right)
        ends = np.array([0.0, 1.0])
        curves = [
            Curve(
                "reliability",
                "share of right tracks against predicted probability",
                "predicted probability that a track is right",
                "share of right tracks",
                (Line("network", "network", said, share), Line("ideal", "reference", ends, ends)),
            )
        ]
        if right.any() and not right.all():
            area = 1.0 - misordered(chance, right).mean()
            curves.append(
                Curve(
                    "roc",
                    "right tracks kept against wrong tracks kept",
                    "share of wrong tracks kept",
                    "share of right tracks kept",
                    (
                        Line(f"network, area {area:.4f}", "network", *roc(chance, right)),
                        Line("chance", "reference", ends, ends),
                    ),
                )
            )
        return tuple(curves)

    def cost(self, run: Run) -> float:
        """Return the counted operations of the network per track."""
        from trackkeras.domains.dimuon.quality_models import network_operations

        assert isinstance(run.model, QualityOptions)
        return network_operations(run.model)

    def baselines(self, dataset_config: Mapping[str, Any], run: Run) -> tuple[Baseline, ...]:
        """Return none: what stands beside the network is fitted."""
        return ()

    def fitted_baselines(self, training_rows: Callable[[], Rows]) -> tuple[Baseline, ...]:
        """Return one answer for all tracks, and logistic and ridge regression."""
        from trackkeras.domains.dimuon.quality_baselines import fitted

        return fitted(training_rows())

    def parity(self) -> Parity:
        """Return the rule for exported models."""
        return Parity("|difference| of the probability <= 2e-3; of the error, 1e-2 of it", _excess)


class SpoiledQualityTask(QualityTask):
    """The same for true tracks with hits exchanged for others, whose momentum is that of KMAG's bend.

    It needs no reconstruction: for tests, and to learn on before there is one.
    """

    columns: ClassVar[tuple[str, ...]] = (
        *dict.fromkeys((*spoiling.COLUMNS, "momentum", "background_tracks")),
    )

    def own_rows(self, rows: Rows) -> Rows:
        """Return the tracks of some events, spoiled."""
        return track_columns(rows | spoiling.spoiled_columns(rows), self.target)

    def split_batch(self, run: Run, batch: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return inputs, truth and weights of the tracks of a batch of events, spoiled."""
        return track_batch({**batch, **spoiling.spoiled_tensors(batch)}, self.target)


def _excess(rows: Rows, reference: Rows, other: Rows) -> Any:
    chance, error = (reference[name][:, 0].astype(float) for name in ("p_right", "error"))
    off_chance, off_error = (
        np.abs(other[name][:, 0] - expected) for name, expected in (("p_right", chance), ("error", error))
    )
    return np.maximum(off_chance / 2e-3, off_error / (1e-2 * error + 1e-9))
