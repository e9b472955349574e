"""What all extrapolation networks share: signature, truth, metrics, bands, baselines and the parity rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from trackkeras.config import Run
from trackkeras.domain import Axis, Baseline, Endpoint, Metric, Parity, Rows, Sample, Signature, Task, Tensor
from trackkeras.domains.extrapolation import jacobian
from trackkeras.domains.extrapolation.model_options import ExtrapolationOptions
from trackkeras.units import GEV

MOMENTUM_EDGES = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
PLANE_EDGES = tuple(float(edge) for edge in range(0, 13_001, 1000))
SIGNED_EDGES = tuple(float(edge) for edge in range(-10_000, 10_001, 1000))
DISTANCE_EDGES = (1000.0, 2500.0, 4000.0, 5500.0, 7000.0, 8500.0, 10000.0)


class ExtrapolationTask(Task):
    """State at z0 to state at z0 + dz."""

    keras_modules: ClassVar[tuple[str, ...]] = ("trackkeras.domains.extrapolation.losses",)
    floor = "straight_line"

    def signature(self) -> Signature:
        """Return inputs and outputs of the deployed network, with one example track."""
        state_doc = "x, y, tx, ty, q/p at z0"
        return Signature(
            inputs=(
                Tensor("state", (5,), "mm, mm, 1, 1, 1/MeV", state_doc),
                Tensor("z0", (1,), "mm", "plane of the input state"),
                Tensor("dz", (1,), "mm", "signed distance to the output plane"),
            ),
            outputs=(Tensor("final_state", (5,), "mm, mm, 1, 1, 1/MeV", "x, y, tx, ty, q/p at z0 + dz"),),
            examples={
                "state": np.array([[100.0, -50.0, 0.05, -0.02, 1e-4]], "float32"),
                "z0": np.array([[2665.0]], "float32"),
                "dz": np.array([[5161.0]], "float32"),
            },
        )

    def split_batch(self, run: Run, batch: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        """Return the three inputs, and the final state with dz appended as truth."""
        import tensorflow as tf

        inputs = {name: batch[name] for name in ("state", "z0", "dz")}
        return inputs, {"final_state": tf.concat([batch["final_state"], batch["dz"]], axis=-1)}

    def compile_arguments(self, run: Run, statistics: Mapping[str, Any]) -> dict[str, Any]:
        """Return loss and streaming metrics."""
        from trackkeras.domains.extrapolation.losses import BendLoss, MeanPositionError, StateMSE

        assert isinstance(run.model, ExtrapolationOptions)
        if run.model.loss == "bend":
            loss = BendLoss(floor_mm=run.model.loss_floor_mm)
        else:
            loss = StateMSE(scale=list(np.ravel(statistics["final_state"]["std"])[:4]))
        return {"loss": {"final_state": loss}, "metrics": {"final_state": [MeanPositionError()]}}

    def metrics(self) -> tuple[Metric, ...]:
        """Return the seed's metrics with its targets."""
        return (
            Metric("pos_mean_mm", "pos", "mean", "mm", target=0.1),
            Metric("pos_std_mm", "pos", "std", "mm"),
            Metric("pos_median_mm", "pos", "median", "mm"),
            Metric("pos_68_mm", "pos", "p68", "mm"),
            Metric("pos_95_mm", "pos", "p95", "mm", target=0.3),
            Metric("pos_99_mm", "pos", "p99", "mm"),
            Metric("slope_mean", "slope", "mean", "1", target=1e-5),
            Metric("x_mean_mm", "x", "mean", "mm"),
            Metric("y_mean_mm", "y", "mean", "mm"),
            Metric("tx_mean", "tx", "mean", "1"),
            Metric("ty_mean", "ty", "mean", "1"),
        )

    def axes(self) -> tuple[Axis, ...]:
        """Return the bands: momentum and absolute distance."""
        return (
            Axis(
                "p",
                "p [GeV]",
                lambda rows: 1.0 / (np.abs(rows["state"][:, 4].astype(float)) * GEV),
                MOMENTUM_EDGES,
                log=True,
            ),
            Axis("abs_dz", "|dz| [mm]", lambda rows: np.abs(rows["dz"][:, 0].astype(float)), DISTANCE_EDGES),
        )

    def maps(self) -> tuple[tuple[Axis, Axis], ...]:
        """Return z0 and dz, and momentum and absolute distance."""
        plane = Axis("z0", "z0 [mm]", lambda rows: rows["z0"][:, 0].astype(float), PLANE_EDGES)
        signed = Axis("dz", "dz [mm]", lambda rows: rows["dz"][:, 0].astype(float), SIGNED_EDGES)
        momentum, distance = self.axes()
        return (plane, signed), (momentum, distance)

    def residuals(self, rows: Rows, pred: Rows) -> Rows:
        """Return signed differences of x, y [mm], tx, ty, predicted minus true."""
        difference = pred["final_state"].astype(float) - rows["final_state"].astype(float)
        return {name: difference[:, index] for index, name in enumerate(("x", "y", "tx", "ty"))}

    def residual_labels(self) -> dict[str, str]:
        """Return axis labels of the residuals."""
        return {"x": "x residual [mm]", "y": "y residual [mm]", "tx": "tx residual", "ty": "ty residual"}

    def errors(self, rows: Rows, pred: Rows) -> Rows:
        """Return `pos` and `slope`, the radial errors, and the absolute error of each component."""
        signed = self.residuals(rows, pred)
        radial = {"pos": np.hypot(signed["x"], signed["y"]), "slope": np.hypot(signed["tx"], signed["ty"])}
        return radial | {name: np.abs(value) for name, value in signed.items()}

    def baselines(self, dataset_config: Mapping[str, Any], run: Run) -> tuple[Baseline, ...]:
        """Return straight line, parabola, fitted polynomial, and Runge-Kutta of the network's cost."""
        from trackkeras.domains.extrapolation.baselines import default_baselines

        return default_baselines(dataset_config, self.cost(run))

    def extra_samples(self, run: Run) -> tuple[Sample, ...]:
        """Return the real-field tracks and the C++ states, where the experiment's data is at hand."""
        from trackkeras.domains.extrapolation.real_data import samples

        return samples()

    def parity(self) -> Parity:
        """Return the rule for exported models: 1e-3 mm plus 1e-5 of the distance to the straight line."""
        return Parity(
            "|difference| <= 1e-3 mm + 1e-5 |final - straight line| (slopes: the same over 1 m)", _excess
        )

    def endpoints(self) -> Mapping[str, Endpoint]:
        """Return the one that gives the transport Jacobian with the state."""
        return {jacobian.NAME: jacobian.endpoint(self.signature(), self.parity())}


def _excess(rows: Rows, reference: Rows, other: Rows) -> Any:
    state, dz = rows["state"].astype(float), rows["dz"].astype(float)
    expected, got = reference["final_state"].astype(float), other["final_state"].astype(float)
    line = state[:, 0:2] + dz * state[:, 2:4]
    bend = np.linalg.norm(expected[:, 0:2] - line, axis=1)
    kick = np.linalg.norm(expected[:, 2:4] - state[:, 2:4], axis=1)
    position = np.linalg.norm(got[:, 0:2] - expected[:, 0:2], axis=1) / (1e-3 + 1e-5 * bend)
    slope = np.linalg.norm(got[:, 2:4] - expected[:, 2:4], axis=1) / (1e-6 + 1e-5 * kick)
    qop = np.where(got[:, 4] == expected[:, 4], 0.0, np.inf)
    return np.maximum(np.maximum(position, slope), qop)
