"""The track finder: all hits of an event to the hit arrays of its mu+ and mu-."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from trackkeras.config import ModelOptions, Run
from trackkeras.domain import Axis, Baseline, Metric, Parity, Rows, Signature, Task, Tensor
from trackkeras.domains.dimuon import finder_rows
from trackkeras.domains.dimuon.detectors import ELEMENTS, PLANES
from trackkeras.domains.dimuon.finder_metrics import METRICS, RESIDUAL_LABELS, event_errors, event_residuals
from trackkeras.domains.dimuon.finder_options import FinderOptions, Network
from trackkeras.errors import UserError

if TYPE_CHECKING:
    import keras

    from tfrecords_tools.reader import Dataset

MUONS = ("track_mup", "track_mum")

BACKGROUND_EDGES = (-0.5, 0.5, 5.5, 10.5, 15.5, 20.5, 25.5, 30.5, 35.5, 40.5, 45.5, 50.5)
"""Bands of background tracks: 0, 1 to 5, 6 to 10 and so on to 50."""

READ_ROWS = 2048
"""Records are read so many at a time, as their padded hits are 8 times as large as the rows made of them."""


class FinderTask(Task):
    """Fired elements of an event to a probability of every element, in every detector, for both muons.

    Predictions are kept as the most probable elements `(n, 2, 62)`, their probabilities, and the hits next to
    them; the maps of a thousand events would take 100 MB.
    """

    options = FinderOptions
    columns: ClassVar[tuple[str, ...]] = finder_rows.COLUMNS
    keras_modules: ClassVar[tuple[str, ...]] = ("trackkeras.domains.dimuon.finder_models",)
    parity_rows: ClassVar[int] = 20
    parity_band_rows: ClassVar[int | None] = 20
    validation_rows: ClassVar[int] = 2000
    metric_rows: ClassVar[int] = 1000
    chunk_rows: ClassVar[int | None] = 64

    def signature(self) -> Signature:
        """Return inputs and outputs of the network, with one example: an event without hits."""
        text = "probability that the {} fired an element, per detector; of 0: that it fired none"
        return Signature(
            inputs=(
                Tensor("hits", (PLANES, ELEMENTS), "1", "1 where an element fired; row d - 1 is detector d"),
            ),
            outputs=tuple(
                Tensor(name, (PLANES, ELEMENTS), "1", text.format(muon))
                for name, muon in zip(MUONS, ("mu+", "mu-"), strict=True)
            ),
            examples={"hits": np.zeros((1, PLANES, ELEMENTS), "float32")},
        )

    def own_rows(self, rows: Rows) -> Rows:
        """Return the padded hits and the truth of some events, in few bytes."""
        return finder_rows.compact(rows)

    def read_rows(self, source: Dataset, split: str, limit: int | None = None) -> Rows:
        """Return the task's rows of a split, read in parts."""
        wanted = source.rows(split) if limit is None else min(limit, source.rows(split))
        parts = [
            self.own_rows(source.read(split, self.columns, start, min(READ_ROWS, wanted - start)))
            for start in range(0, wanted, READ_ROWS)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def inputs(self, rows: Rows) -> Rows:
        """Return the matrices of some events."""
        return {"hits": finder_rows.row_matrices(rows)}

    def truth(self, rows: Rows) -> Rows:
        """Return certainty of the true elements."""
        certain = np.eye(ELEMENTS, dtype=np.float32)[rows["elements"]]
        return {name: certain[:, muon] for muon, name in enumerate(MUONS)}

    def summarise(self, rows: Rows, outputs: Rows) -> Rows:
        """Return `elements`, their `probability`, and the hits next to them as `refined`, `(n, 2, 62)`."""
        elements = np.stack([outputs[name].argmax(axis=-1) for name in MUONS], axis=1)
        probability = np.stack([outputs[name].max(axis=-1) for name in MUONS], axis=1)
        refined = finder_rows.refine_rows(rows, elements)
        return {"elements": elements.astype(np.int32), "probability": probability, "refined": refined}

    def build(self, run: Run, statistics: Mapping[str, Any]) -> keras.Model:
        """Return the network with its loss."""
        return self._build(run, training=True)

    def build_deployed(self, run: Run, statistics: Mapping[str, Any]) -> keras.Model:
        """Return the network alone."""
        return self._build(run, training=False)

    @staticmethod
    def _build(run: Run, *, training: bool) -> keras.Model:
        from trackkeras.domains.dimuon.finder_models import build_finder

        assert isinstance(run.model, FinderOptions)
        return build_finder(run.model, training=training)

    def compile_arguments(self, run: Run, statistics: Mapping[str, Any]) -> dict[str, Any]:
        """Return the weights of the loss's parts."""
        assert isinstance(run.model, FinderOptions)
        return {"weights": {"overlap": run.model.overlap, "denoising": run.model.denoise}}

    def check_data(self, run: Run, dataset_config: Mapping[str, Any]) -> None:
        """Refuse a moving average of weights beside batch normalisation, and XLA for sets of hits.

        Means and variances are collected with the weights as they are trained; for an average they are
        wrong. XLA needs to know how many hits there are.

        Raises:
            UserError: Both are asked for.
        """
        assert isinstance(run.model, FinderOptions)
        if run.model.network == "hitset" and run.training.jit_compile:
            raise UserError(
                "training.jit_compile does not go with hitset, as the number of hits differs from batch to "
                "batch: set it to false"
            )
        if run.model.normalised and run.training.ema is not None:
            raise UserError(
                f"training.ema does not go with the batch normalisation of {run.model.network}: set it "
                f"to null, received {run.training.ema:g}"
            )

    def split_batch(self, run: Run, batch: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the matrices of a batch of events, and their true elements."""
        return {"hits": finder_rows.batch_matrices(batch)}, {"elements": batch["elements"]}

    def shrink(self, model: ModelOptions) -> ModelOptions:
        """Return a small `attention`, which has the layers of others, or the same network with few units."""
        assert isinstance(model, FinderOptions)
        network: Network = model.network if model.network in ("flagship", "roads", "hitset") else "attention"
        return FinderOptions(network=network, size="tiny")

    # -- evaluation --------------------------------------------------------------------------------------
    def metrics(self) -> tuple[Metric, ...]:
        """Return shares of what is wrong, before and after refinement."""
        return METRICS

    def axes(self) -> tuple[Axis, ...]:
        """Return the number of background tracks."""
        return (
            Axis(
                "background_tracks",
                "background tracks",
                lambda rows: rows["background_tracks"][:, 0].astype(float),
                BACKGROUND_EDGES,
            ),
        )

    def errors(self, rows: Rows, pred: Rows) -> Rows:
        """Return what is wrong in each event, see `finder_metrics`."""
        return event_errors(rows["elements"], pred)

    def residuals(self, rows: Rows, pred: Rows) -> Rows:
        """Return by how much elements and numbers of hits are off."""
        return event_residuals(rows["elements"], pred)

    def residual_labels(self) -> dict[str, str]:
        """Return axis labels of the residuals."""
        return RESIDUAL_LABELS

    def cost(self, run: Run) -> float:
        """Return the counted operations of the network per event, of typically many hits if they count."""
        from trackkeras.domains.dimuon.hitset_tokens import TYPICAL_HITS
        from trackkeras.layers.operations import counted_operations

        return counted_operations(self._build(run, training=False), TYPICAL_HITS)

    def baselines(self, dataset_config: Mapping[str, Any], run: Run) -> tuple[Baseline, ...]:
        """Return the predictor that never finds a hit: right in all detectors that a muon did not fire."""
        from trackkeras.domains.dimuon.finder_baselines import all_empty

        return (all_empty(),)

    def fitted_baselines(self, training_rows: Callable[[], Rows]) -> tuple[Baseline, ...]:
        """Return the predictor of the most frequent element of each detector."""
        from trackkeras.domains.dimuon.finder_baselines import most_frequent

        return (most_frequent(training_rows()),)

    def parity(self) -> Parity:
        """Return the rule for exported models."""
        return Parity(
            f"|difference| of probabilities <= {TOLERANCE:g}; the same most probable elements, unless their "
            f"probabilities differ by less than {2 * TOLERANCE:g}",
            _excess,
        )


TOLERANCE = 1e-4
"""Allowed difference of a probability."""


def _excess(rows: Rows, reference: Rows, other: Rows) -> Any:
    worst = np.zeros(len(rows["elements"]))
    for name in MUONS:
        expected, got = reference[name], other[name]
        difference = np.abs(got.astype(float) - expected).max(axis=(1, 2)) / TOLERANCE
        # Where elements differ, so must their probabilities have done before
        chosen = [which.argmax(axis=-1)[..., None] for which in (expected, got)]
        first, second = (np.take_along_axis(expected, which, axis=-1)[..., 0] for which in chosen)
        gap = (first - second).max(axis=1).astype(float) / (2 * TOLERANCE)
        worst = np.maximum(worst, np.maximum(difference, gap))
    return worst
