"""The momentum of a muon, at its vertex or at station 1, from its hits, with an uncertainty."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from trackkeras.config import ModelOptions, Run
from trackkeras.domain import Axis, Baseline, Metric, Parity, Rows, Signature, Task, Tensor, task_of
from trackkeras.domains.dimuon.detectors import PLANES
from trackkeras.domains.dimuon.momentum_options import MomentumOptions
from trackkeras.domains.dimuon.momentum_rows import found_hits, muon_batch, muon_columns
from trackkeras.errors import UserError
from trackkeras.runs import RunFolder, open_run

if TYPE_CHECKING:
    import keras

    from tfrecords_tools.reader import Dataset

COMPONENTS = ("px", "py", "pz")

PZ_EDGES = (10.0, 20.0, 25.0, 30.0, 35.0, 40.0, 50.0, 80.0)


class MomentumTask(Task):
    """Hits of one muon to its momentum; the rows are muons, of which an event has up to two."""

    options = MomentumOptions
    columns: ClassVar[tuple[str, ...]] = ("elements", "drift", "momentum", "muon")
    keras_modules: ClassVar[tuple[str, ...]] = ("trackkeras.domains.dimuon.momentum_models",)
    truth_column: ClassVar[str] = "momentum"
    """Column of the momentum that is asked for."""
    place: ClassVar[str] = "at the vertex"
    """Where that is."""

    def for_model(self, model: ModelOptions) -> Task:
        """Return the task of the target and of the hits that the options name."""
        assert isinstance(model, MomentumOptions)
        return TASKS[model.target, model.hits]

    def signature(self) -> Signature:
        """Return inputs and outputs of the network, with one example: a muon without hits."""
        return Signature(
            inputs=(
                Tensor("elements", (PLANES,), "1", "element of detector d at d - 1, 0: no hit", "int32"),
                Tensor("drift", (PLANES,), "cm", "absolute drift distance of these hits"),
                Tensor("charge", (1,), "1", "+1 or -1"),
            ),
            outputs=(
                Tensor("momentum", (3,), "GeV", f"px, py, pz {self.place}"),
                Tensor("sigma", (3,), "GeV", "uncertainty of px, py, pz, one standard deviation"),
            ),
            examples={
                "elements": np.zeros((1, PLANES), "int32"),
                "drift": np.zeros((1, PLANES), "float32"),
                "charge": np.ones((1, 1), "float32"),
            },
        )

    def own_rows(self, rows: Rows) -> Rows:
        """Return the muons of some events."""
        return muon_columns(rows, self.truth_column)

    def read_rows(self, source: Dataset, split: str, limit: int | None = None) -> Rows:
        """Return the muons of a split.

        Raises:
            UserError: No muon has the momentum that is asked for.
        """
        rows = super().read_rows(source, split, limit)
        if not len(rows["momentum"]):
            raise UserError(
                f"{source.directory}, {split}: no muon has a momentum {self.place}, in {self.truth_column}; "
                "RUS files of the older naming have none at station 1"
            )
        return rows

    def build(self, run: Run, statistics: Mapping[str, Any]) -> keras.Model:
        """Return the network with its loss."""
        from trackkeras.domains.dimuon.momentum_models import build_momentum

        assert isinstance(run.model, MomentumOptions)
        return build_momentum(run.model)

    def build_deployed(self, run: Run, statistics: Mapping[str, Any]) -> keras.Model:
        """Return the network alone, in the precision that the preset saves it in."""
        from trackkeras.domains.dimuon.momentum_models import build_momentum

        assert isinstance(run.model, MomentumOptions)
        return build_momentum(run.model, run.model.precision)

    def compile_arguments(self, run: Run, statistics: Mapping[str, Any]) -> dict[str, Any]:
        """Return nothing: the network has its loss."""
        return {}

    def split_batch(self, run: Run, batch: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return inputs, truth and weights of the muons of a batch of events."""
        return muon_batch(batch, self.truth_column)

    def shrink(self, model: ModelOptions) -> ModelOptions:
        """Return the same network with one layer of eight units."""
        assert isinstance(model, MomentumOptions)
        return model.model_copy(update={"size": "small", "hidden": (8,)})

    def metrics(self) -> tuple[Metric, ...]:
        """Return squared error, and bias, spread and half width of each component and of the momentum."""
        spread = [
            metric
            for name in COMPONENTS
            for metric in (
                Metric(f"{name}_bias_gev", name, "mean", "GeV"),
                Metric(f"{name}_sd_gev", name, "std", "GeV"),
                Metric(f"{name}_68_gev", name, "w68", "GeV"),
            )
        ]
        return (
            Metric("mse_gev2", "squared", "mean", "GeV^2"),
            *spread,
            Metric("p_bias", "p", "mean", "1"),
            Metric("p_68", "p", "w68", "1"),
            *(Metric(f"{name}_pull_sd", f"{name}_pull", "std", "1") for name in COMPONENTS),
        )

    def axes(self) -> tuple[Axis, ...]:
        """Return the bands: pz and charge."""
        return (
            Axis("pz", "pz [GeV]", lambda rows: rows["momentum"][:, 2].astype(float), PZ_EDGES),
            Axis("charge", "charge", lambda rows: rows["charge"][:, 0].astype(float), (-1.5, 0.0, 1.5)),
        )

    def residuals(self, rows: Rows, pred: Rows) -> Rows:
        """Return reconstructed minus true px, py, pz [GeV], and the relative difference of the momentum."""
        truth, found = rows["momentum"].astype(float), pred["momentum"].astype(float)
        momentum = np.linalg.norm(truth, axis=1)
        relative = np.linalg.norm(found, axis=1) / momentum - 1.0
        return {name: (found - truth)[:, index] for index, name in enumerate(COMPONENTS)} | {"p": relative}

    def residual_labels(self) -> dict[str, str]:
        """Return axis labels of the residuals."""
        return {name: f"{name} residual [GeV]" for name in COMPONENTS} | {"p": "relative residual of |p|"}

    def errors(self, rows: Rows, pred: Rows) -> Rows:
        """Return the signed residuals, their mean square over px, py, pz, and pulls.

        A pull is a residual over its uncertainty; a network that gives the truth without one has pulls of 0.
        """
        signed = self.residuals(rows, pred)
        sigma = np.maximum(pred["sigma"].astype(float), np.finfo(np.float32).tiny)
        pulls = {f"{name}_pull": signed[name] / sigma[:, index] for index, name in enumerate(COMPONENTS)}
        squared = np.mean([signed[name] ** 2 for name in COMPONENTS], axis=0)
        return {"squared": squared, **signed, **pulls}

    def cost(self, run: Run) -> float:
        """Return the counted operations of the network per muon."""
        from trackkeras.domains.dimuon.momentum_models import network_operations

        assert isinstance(run.model, MomentumOptions)
        return network_operations(run.model)

    def baselines(self, dataset_config: Mapping[str, Any], run: Run) -> tuple[Baseline, ...]:
        """Return none: what stands beside the network is fitted."""
        return ()

    def fitted_baselines(self, training_rows: Callable[[], Rows]) -> tuple[Baseline, ...]:
        """Return the mean, and ridge regression on the hits."""
        from trackkeras.domains.dimuon.momentum_baselines import fitted

        return fitted(training_rows())

    def parity(self) -> Parity:
        """Return the rule for exported models."""
        return Parity(
            "|difference| of px, py, pz <= 1e-5 of |p|, of sigma <= 1e-5 of it; 10 eV more for both", _excess
        )


class Station1Task(MomentumTask):
    """The same at station 1, behind the iron, where nothing but the chambers limits the estimate."""

    columns: ClassVar[tuple[str, ...]] = ("elements", "drift", "momentum_st1", "muon")
    truth_column: ClassVar[str] = "momentum_st1"
    place: ClassVar[str] = "at station 1"


class FoundMomentumTask(MomentumTask):
    """The same from the hits that a finder found, some of which are not the muon's; the truth is its own."""

    columns: ClassVar[tuple[str, ...]] = ("found_elements", "found_drift", "momentum", "muon")

    def own_rows(self, rows: Rows) -> Rows:
        """Return the muons of some events of which something was found."""
        found = (rows["found_elements"] > 0).any(axis=-1)
        return super().own_rows(found_hits(rows, found.astype(np.int64)))

    def split_batch(self, run: Run, batch: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return inputs, truth and weights of the muons of a batch of events, 0 for those not found."""
        import tensorflow as tf

        found = tf.reduce_any(batch["found_elements"] > 0, axis=-1)
        return super().split_batch(run, found_hits(batch, tf.cast(found, tf.int64)))


class FoundStation1Task(FoundMomentumTask, Station1Task):
    """The momentum at station 1 from the hits that a finder found."""

    columns: ClassVar[tuple[str, ...]] = ("found_elements", "found_drift", "momentum_st1", "muon")


TASKS: dict[tuple[str, str], MomentumTask] = {
    ("vertex", "truth"): MomentumTask(),
    ("vertex", "finder"): FoundMomentumTask(),
    ("station_1", "truth"): Station1Task(),
    ("station_1", "finder"): FoundStation1Task(),
}
"""By `model.target` and `model.hits`."""


def open_momentum_run(path: Path) -> tuple[RunFolder, Run, MomentumTask]:
    """Return the run folder of a momentum network, its configuration and its task.

    Raises:
        UserError: It is no run folder, or one of another kind of network.
    """
    folder, run = open_run(path)
    task = task_of(run)
    if not isinstance(task, MomentumTask):
        raise UserError(f"{path} is a run of {run.preset!r}; this needs one of a preset momentum_*")
    return folder, run, task


RELATIVE, FLOOR = 1e-5, 1e-8
"""Allowed difference of exported models: of the momentum's size, as a small component has no precision of its
own; and in GeV, far below every uncertainty, so that nothing is divided by 0."""


def _excess(rows: Rows, reference: Rows, other: Rows) -> Any:
    expected, sigma = reference["momentum"].astype(float), reference["sigma"].astype(float)
    size = np.linalg.norm(expected, axis=1, keepdims=True)
    momentum = np.abs(other["momentum"] - expected) / (FLOOR + RELATIVE * size)
    spread = np.abs(other["sigma"] - sigma) / (FLOOR + RELATIVE * sigma)
    return np.maximum(momentum, spread).max(axis=1)
