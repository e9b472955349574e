"""The hybrid: an integrator in a base field, and a network for what the base field lacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from trackkeras.config import ModelOptions, Run
from trackkeras.domain import Baseline, Rows
from trackkeras.domains.extrapolation.equation import EquationTask
from trackkeras.domains.extrapolation.model_options import HybridOptions

if TYPE_CHECKING:
    import keras

    from trackkeras.cpp_export import Network
    from trackkeras.domains.extrapolation.fields import Field
    from trackkeras.domains.extrapolation.physics_loss import Physics

METHOD = "nystrom4"


class HybridTask(EquationTask):
    """Runge-Kutta steps in a base field plus what a network adds to it."""

    options = HybridOptions
    keras_modules = (
        *EquationTask.keras_modules,
        "trackkeras.domains.extrapolation.physics_loss",
        "trackkeras.domains.extrapolation.hybrid_models",
    )

    def physics(self) -> type[Physics]:
        """Return the loss that compares fields."""
        from trackkeras.domains.extrapolation.hybrid_models import FieldPhysics

        return FieldPhysics

    def compile_arguments(self, run: Run, statistics: Mapping[str, Any]) -> dict[str, Any]:
        """Return data and field loss; there are no streaming metrics, as training need not predict states."""
        arguments = super().compile_arguments(run, statistics)
        return {name: value for name, value in arguments.items() if name != "metrics"}

    def build(self, run: Run, statistics: Mapping[str, Any]) -> keras.Model:
        """Return the network with its loss."""
        from trackkeras.domains.extrapolation.hybrid_models import build_hybrid

        assert isinstance(run.model, HybridOptions)
        return build_hybrid(run.model)

    def build_deployed(self, run: Run, statistics: Mapping[str, Any]) -> keras.Model:
        """Return the same network in the precision that the preset saves it in."""
        from trackkeras.domains.extrapolation.hybrid_models import build_hybrid

        assert isinstance(run.model, HybridOptions)
        return build_hybrid(run.model, run.model.precision)

    def cpp_network(self, model: keras.Model) -> Network:
        """Return steps, base field and network as weights and C++ text."""
        from trackkeras.domains.extrapolation.cpp_hybrid import hybrid_network

        return hybrid_network(model, self.signature())

    def shrink(self, model: ModelOptions) -> ModelOptions:
        """Return the same network with two layers of eight units and two steps."""
        assert isinstance(model, HybridOptions)
        return model.model_copy(
            update={"size": "tiny", "hidden": (8, 8), "steps": 2, "n_collocation": 2, "lambda_data": 0.0}
        )

    def cost(self, run: Run) -> float:
        """Return the counted operations per track: the integration, and the network at every field point."""
        from trackkeras.domains.extrapolation.baselines import EXPONENTIAL, mlp_operations, step_operations
        from trackkeras.domains.extrapolation.tableaus import TABLEAUS

        options = run.model
        assert isinstance(options, HybridOptions)
        features = 20
        network = mlp_operations((5, *options.widths, 3), activation=EXPONENTIAL + 4) + features
        steps = step_operations(base_field(options), TABLEAUS[METHOD])
        return options.steps * steps + (2 * options.steps + 1) * network

    def baselines(self, dataset_config: Mapping[str, Any], run: Run) -> tuple[Baseline, ...]:
        """Return the usual methods, and the hybrid's own steps in the base field and in the full field."""
        from trackkeras.domains.extrapolation.baselines import default_baselines, step_operations
        from trackkeras.domains.extrapolation.fields import make_field
        from trackkeras.domains.extrapolation.tableaus import TABLEAUS

        options = run.model
        assert isinstance(options, HybridOptions)
        base, full = base_field(options), make_field(**options.field)
        line, *others = default_baselines(dataset_config, self.cost(run))
        own = [
            Baseline(
                name,
                f"{METHOD}, {options.steps} steps, {label}",
                fixed_steps(field, options.steps),
                options.steps * step_operations(field, TABLEAUS[METHOD]),
            )
            for name, field, label in (
                ("base_field", base, "base field alone (the untrained hybrid)"),
                ("same_steps", full, f"field {full.name}"),
            )
        ]
        return (line, *own, *others)


def base_field(options: HybridOptions) -> Field:
    """Return the base field, with the polarity of the field that is learnt."""
    from trackkeras.domains.extrapolation.fields import make_field

    polarity = options.field.get("polarity", 1)
    return make_field("maxwell", terms=[list(term) for term in options.base], polarity=polarity)


def fixed_steps(field: Field, steps: int) -> Any:
    """Return the integration that is inside the hybrid, in a field of its own; lost tracks go straight."""
    from trackkeras.domains.extrapolation.baselines import straight_line
    from trackkeras.domains.extrapolation.propagation import Status, integrate
    from trackkeras.domains.extrapolation.tableaus import TABLEAUS

    def predict(rows: Rows) -> Rows:
        state, z0, dz = (np.ascontiguousarray(rows[name], np.float64) for name in ("state", "z0", "dz"))
        count = np.full(len(state), steps, np.int64)
        done = integrate(
            field, state, z0.reshape(-1), dz.reshape(-1), count, TABLEAUS[METHOD], max_slope=np.inf
        )
        lost = (done.status != Status.OK)[:, None]
        return {"final_state": np.where(lost, straight_line(rows)["final_state"], done.state)}

    return predict
