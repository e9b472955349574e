"""PINN and RK_PINN: networks that know the equation of motion."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trackkeras.config import ModelOptions, Run
from trackkeras.domain import Curve, Rows, task_of
from trackkeras.domains.extrapolation.equation import EquationTask
from trackkeras.domains.extrapolation.model_options import PhysicsOptions, PinnOptions, RkPinnOptions
from trackkeras.errors import UserError

if TYPE_CHECKING:
    import keras

    from trackkeras.cpp_export import Network

_MODULES = ("models", "physics_loss", "pinn_models", "rkpinn_models")


STAGE_SUM = 4 * 7
"""Operations of a weighted sum of four heads with four numbers each."""

STAGE_SLOPES = 4 * 9 + 8 + 8 + 7 * 9
"""Operations of a Runge-Kutta step with given slopes, besides the exponentials: four field nodes, the slope
per mm, the heads' units, and seven terms of two positions and two slopes."""


class PhysicsTask(EquationTask):
    """A network whose path follows the Lorentz equation as far as its loss makes it."""

    keras_modules = (
        *EquationTask.keras_modules,
        *(f"trackkeras.domains.extrapolation.{name}" for name in _MODULES),
    )

    def curves(self, path: Path, rows: Rows, dataset_config: Mapping[str, Any]) -> tuple[Curve, ...]:
        """Return the network's trajectory beside that of Runge-Kutta."""
        from trackkeras.domains.extrapolation.path_curves import path_curves
        from trackkeras.runs import open_run

        options = open_run(path)[1].model
        assert isinstance(options, PhysicsOptions)
        field = dataset_config.get("field") or options.field
        return path_curves(load_trajectory(path), rows, field)


class PinnTask(PhysicsTask):
    """A trajectory as a function of the fraction of the path."""

    options = PinnOptions

    def build(self, run: Run, statistics: Mapping[str, Any]) -> keras.Model:
        """Return the network with its physics loss."""
        from trackkeras.domains.extrapolation.pinn_models import build_pinn

        assert isinstance(run.model, PinnOptions)
        return build_pinn(run.model, statistics)

    def build_deployed(self, run: Run, statistics: Mapping[str, Any]) -> keras.Model:
        """Return the network at the end of the path, in the precision that the preset saves it in."""
        from trackkeras.domains.extrapolation.pinn_models import build_pinn_end

        assert isinstance(run.model, PinnOptions)
        return build_pinn_end(run.model, statistics)

    def shrink(self, model: ModelOptions) -> ModelOptions:
        """Return the same network with two layers of eight units and two collocation points."""
        assert isinstance(model, PinnOptions)
        return _shrunk(model, 2)

    def cost(self, run: Run) -> float:
        """Return the counted operations of the network at the end of the path, per track."""
        from trackkeras.domains.extrapolation.baselines import BEND_RESIDUAL, mlp_operations

        assert isinstance(run.model, PinnOptions)
        inputs = {"exact": 7, "learned": 8}[run.model.initial]
        return mlp_operations((inputs, *run.model.widths, 4)) + BEND_RESIDUAL

    def cpp_network(self, model: keras.Model) -> Network:
        """Return a network that starts exactly as weights and C++ text: at its end it is a residual MLP."""
        from trackkeras.domains.extrapolation.cpp import mlp_network

        return mlp_network(model, self.signature())


class RkPinnTask(PhysicsTask):
    """A shared backbone with a head for each of four stages."""

    options = RkPinnOptions

    def build(self, run: Run, statistics: Mapping[str, Any]) -> keras.Model:
        """Return the network with its physics loss."""
        from trackkeras.domains.extrapolation.rkpinn_models import build_rkpinn

        assert isinstance(run.model, RkPinnOptions)
        return build_rkpinn(run.model, statistics)

    def build_deployed(self, run: Run, statistics: Mapping[str, Any]) -> keras.Model:
        """Return the network with the final state alone, in the precision that the preset saves it in."""
        from trackkeras.domains.extrapolation.rkpinn_models import build_rkpinn_end

        assert isinstance(run.model, RkPinnOptions)
        return build_rkpinn_end(run.model, statistics)

    def shrink(self, model: ModelOptions) -> ModelOptions:
        """Return the same network with two layers of eight units and one collocation point."""
        assert isinstance(model, RkPinnOptions)
        return _shrunk(model, 1)

    def cost(self, run: Run) -> float:
        """Return the counted operations of the network per track."""
        from trackkeras.domains.extrapolation.baselines import BEND_RESIDUAL, EXPONENTIAL, mlp_operations

        assert isinstance(run.model, RkPinnOptions)
        if run.model.combine == "slopes":
            return mlp_operations((7, *run.model.widths, 8)) + 4 * EXPONENTIAL + STAGE_SLOPES
        return mlp_operations((7, *run.model.widths, 16)) + STAGE_SUM + BEND_RESIDUAL

    def history(self, logs: Mapping[str, float]) -> dict[str, Any]:
        """Return the losses with those of the four stages in one list."""
        names = [f"stage_{index + 1}" for index in range(4)]
        rest = {key: value for key, value in logs.items() if key not in names}
        return {**rest, "stage_losses": [logs[name] for name in names]}


def _shrunk(model: PhysicsOptions, points: int) -> PhysicsOptions:
    weights = ("lambda_data", "lambda_pde", "lambda_ic")
    same = {name: PhysicsOptions.model_fields[name].default for name in weights}
    return model.model_copy(update={**same, "size": "tiny", "hidden": (8, 8), "n_collocation": points})


def trajectory(model: keras.Model, rows: Rows, fractions: ArrayLike) -> NDArray[np.float32]:
    """Return the states of tracks at fractions of their paths.

    Args:
        model: The network in training form, from `build` or `load_trajectory`.
        rows: `state` `(n, 5)`, `z0` `(n, 1)`, `dz` `(n, 1)`.
        fractions: `(k,)` in [0, 1].

    Returns:
        `(n, k, 5)`. A PINN is asked for its state on the way; an RK_PINN, which has none, for the end of a
        shorter path.

    Raises:
        UserError: A fraction outside [0, 1].
    """
    from trackkeras.domains.extrapolation.pinn_models import PathModel

    wanted = np.asarray(fractions, dtype=np.float32)
    if wanted.ndim != 1 or not ((wanted >= 0) & (wanted <= 1)).all():
        raise UserError(f"fractions of a path must be a list of numbers in [0, 1], received {fractions!r}")
    inputs = {name: np.asarray(rows[name], dtype=np.float32) for name in ("state", "z0", "dz")}
    found = []
    for fraction in wanted:
        if isinstance(model, PathModel):
            asked = {**inputs, "z_frac": np.full_like(inputs["dz"], fraction)}
            found.append(model.get_layer("path").predict(asked, batch_size=8192, verbose=0)["state_at"])
        else:
            shorter = {**inputs, "dz": fraction * inputs["dz"]}
            found.append(model.predict(shorter, batch_size=8192, verbose=0)["final_state"])
    return np.stack(found, axis=1)


def load_trajectory(path: Path) -> keras.Model:
    """Return the network of a run folder in training form, with the weights of its best epoch.

    Raises:
        UserError: The folder is no run, or its network is neither a PINN nor an RK_PINN.
    """
    from trackkeras.checkpoints import copy_weights, load_model
    from trackkeras.runs import open_run

    folder, run = open_run(path)
    task = task_of(run)
    if not isinstance(task, PhysicsTask):
        raise UserError(
            f"{path} holds a network of kind {run.model.kind!r}; a trajectory needs pinn or rk_pinn"
        )
    model = task.build(run, folder.read("normalization.json"))
    copy_weights(load_model(folder.best, task), model)
    return model
