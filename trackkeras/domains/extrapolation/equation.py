"""What networks share that are trained on the equation of motion: the loss and the check of its field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trackkeras.config import Run
from trackkeras.domains.extrapolation.model_options import EquationOptions
from trackkeras.domains.extrapolation.task import ExtrapolationTask
from trackkeras.errors import UserError

if TYPE_CHECKING:
    from trackkeras.domains.extrapolation.physics_loss import Physics


class EquationTask(ExtrapolationTask):
    """A network that is trained on the final state, the Lorentz equation along the path, or both."""

    def physics(self) -> type[Physics]:
        """Return what computes the loss."""
        from trackkeras.domains.extrapolation.physics_loss import Physics

        return Physics

    def compile_arguments(self, run: Run, statistics: Mapping[str, Any]) -> dict[str, Any]:
        """Return data loss, streaming metrics and the physics loss."""
        options = run.model
        assert isinstance(options, EquationOptions)
        physics = self.physics()(
            field=options.field,
            weights={"data": options.lambda_data, "pde": options.lambda_pde, "ic": options.lambda_ic},
            points=options.n_collocation,
            collocation=options.collocation,
            floor_mm=options.loss_floor_mm,
            seed=run.training.seed,
        )
        return {**super().compile_arguments(run, statistics), "physics": physics}

    def check_data(self, run: Run, dataset_config: Mapping[str, Any]) -> None:
        """Refuse data of another field than the equation's; imported tracks do not say theirs.

        Raises:
            UserError: The generator's options name another field, or there is no field of this description.
        """
        from trackkeras.domains.extrapolation.fields import check_options

        assert isinstance(run.model, EquationOptions)
        own, given = run.model.field, dataset_config.get("field")
        if "name" not in own:
            raise UserError(f"model.field needs a name, such as 'name: lhcb', received {own}")
        checked = check_options(**_arguments(own))
        if given is None:
            return
        if (own["name"], checked) != (given["name"], check_options(**_arguments(given))):
            raise UserError(
                f"model.field is {own}, but the data was made in {given}; "
                f"train with --set 'model.field={given}'"
            )


def _arguments(field: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": field["name"], "options": {key: value for key, value in field.items() if key != "name"}}
