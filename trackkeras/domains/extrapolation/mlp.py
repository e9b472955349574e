"""The MLP: the final state from the initial one, learnt from data alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trackkeras.config import ModelOptions, Run
from trackkeras.domains.extrapolation.model_options import MlpOptions
from trackkeras.domains.extrapolation.task import ExtrapolationTask

if TYPE_CHECKING:
    import keras

    from trackkeras.cpp_export import Network


class MlpTask(ExtrapolationTask):
    """A dense network whose output is a residual to the straight line, or the final state itself."""

    options = MlpOptions
    keras_modules = (*ExtrapolationTask.keras_modules, "trackkeras.domains.extrapolation.models")

    def build(self, run: Run, statistics: Mapping[str, Any]) -> keras.Model:
        """Return the functional model that the preset describes."""
        from trackkeras.domains.extrapolation.models import build_mlp

        assert isinstance(run.model, MlpOptions)
        return build_mlp(run.model, statistics)

    def build_deployed(self, run: Run, statistics: Mapping[str, Any]) -> keras.Model:
        """Return the same network in the precision that the preset saves it in."""
        from trackkeras.domains.extrapolation.models import build_mlp

        assert isinstance(run.model, MlpOptions)
        return build_mlp(run.model, statistics, run.model.precision)

    def shrink(self, model: ModelOptions) -> ModelOptions:
        """Return the same network with two layers of eight units."""
        assert isinstance(model, MlpOptions)
        return model.model_copy(update={"size": "tiny", "hidden": (8, 8)})

    def cost(self, run: Run) -> float:
        """Return the counted operations of the network per track."""
        from trackkeras.domains.extrapolation.baselines import BEND_RESIDUAL, mlp_operations

        assert isinstance(run.model, MlpOptions)
        if run.model.form == "absolute":
            return mlp_operations((6, *run.model.widths, 4))
        return mlp_operations((7, *run.model.widths, 4)) + BEND_RESIDUAL

    def cpp_network(self, model: keras.Model) -> Network:
        """Return the residual or the absolute MLP as weights and C++ text."""
        from trackkeras.domains.extrapolation.cpp import mlp_network

        return mlp_network(model, self.signature())
