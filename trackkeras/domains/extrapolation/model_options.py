"""What an extrapolation preset may say about its network."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from trackkeras.config import ModelOptions
from trackkeras.domains.extrapolation.lhcb import TERMS

SIZES: dict[str, tuple[int, ...]] = {
    "tiny": (64, 64),
    "small": (128, 128),
    "medium": (256, 256, 128),
    "wide": (512, 512, 256, 128),
}
"""Hidden widths of the four size presets."""


class ExtrapolationOptions(ModelOptions):
    """What every extrapolation network has: its size, its loss and the precision of its use."""

    size: Literal["tiny", "small", "medium", "wide"] = "medium"
    hidden: tuple[int, ...] | None = Field(None, min_length=1, description="Widths; replaces `size`.")
    activation: Literal["silu", "tanh", "relu", "gelu"] = Field(
        "silu",
        description="gelu is exact: in float64 ONNX Runtime sums a series, 20 times as slow as silu.",
    )
    precision: Literal["float32", "float64"] = Field(
        "float64",
        description="Arithmetic of the saved network; training is in float32. In float32, engines may differ "
        "by more than the parity rule allows in one row of 100,000: a low-momentum track that hardly bends.",
    )
    loss: Literal["bend", "mse"] = Field(
        "bend", description="bend: error relative to the bend; mse: squared error of the standardised state."
    )
    loss_floor_mm: float = Field(1.0, gt=0, description="Errors well below this are not worth improving.")

    @property
    def widths(self) -> tuple[int, ...]:
        """Hidden widths in force."""
        return self.hidden or SIZES[self.size]


class MagnetOptions(ExtrapolationOptions):
    """Where the magnet is, for networks that scale their outputs by the size of the bend."""

    magnet_centre: float = Field(5000.0, description="Centre of the magnet [mm], for the size of the bend.")
    magnet_width: float = Field(1700.0, gt=0, description="Gaussian width of its field in z [mm].")


class MlpOptions(MagnetOptions):
    """A dense network."""

    kind: Literal["mlp"] = "mlp"
    form: Literal["residual", "absolute"] = Field(
        "residual",
        description="residual: straight line + bend-scaled output, 7 inputs. absolute: final state "
        "itself from 6 inputs without z0.",
    )


class EquationOptions(ExtrapolationOptions):
    """The losses of a network that knows the equation of motion, and its collocation points."""

    lambda_data: float = Field(1.0, ge=0, description="Weight of the loss at the final plane.")
    lambda_pde: float = Field(1.0, ge=0, description="Weight of the Lorentz equation along the path.")
    lambda_ic: float = Field(1.0, ge=0, description="Weight of the initial condition.")
    n_collocation: int = Field(10, ge=1, description="Points per track at which the equation is asked for.")
    collocation: Literal["random", "equidistant"] = Field(
        "random", description="random: drawn anew in each step, one in each of `n_collocation` equal parts."
    )
    field: dict[str, Any] = Field(
        default={"name": "lhcb", "polarity": 1},
        description="Name and options for make_field, or a YAML file of them; must be the field of the data.",
    )

    @field_validator("field", mode="before")
    @classmethod
    def _field_of_a_file(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        from trackkeras.domains.extrapolation.fields import field_options

        return field_options(value)

    @model_validator(mode="after")
    def _something_to_learn(self) -> EquationOptions:
        if self.lambda_data == self.lambda_pde == 0:
            raise ValueError("lambda_data and lambda_pde cannot both be 0: nothing would be learnt")
        return self


class PhysicsOptions(EquationOptions, MagnetOptions):
    """A network that scales its outputs by the size of the bend and is trained on the equation of motion."""


class PinnOptions(PhysicsOptions):
    """A trajectory as a function of the fraction of the path, whose derivative obeys the Lorentz force."""

    kind: Literal["pinn"] = "pinn"
    initial: Literal["exact", "learned"] = Field(
        "exact",
        description="exact: the trajectory starts at the given state by construction. learned: it is drawn "
        "there by ic_loss.",
    )


class RkPinnOptions(PhysicsOptions):
    """A shared backbone with a head for each of four stages."""

    kind: Literal["rk_pinn"] = "rk_pinn"
    n_collocation: int = Field(
        1, ge=1, description="Shortened paths per track at whose four stages the equation is asked for."
    )
    combine: Literal["states", "slopes"] = Field(
        "states",
        description="states: learnable combination of the bends up to four planes. slopes: the stages and "
        "the sum of the classical Runge-Kutta method.",
    )


HYBRID_SIZES: dict[str, tuple[int, ...]] = {
    "tiny": (16, 16),
    "small": (32, 32),
    "medium": (64, 64),
    "wide": (128, 128),
}
"""Hidden widths of a hybrid, smaller than those of an MLP as its network runs twice per step."""


class HybridOptions(EquationOptions):
    """Runge-Kutta steps in a base field plus what a network adds to it."""

    kind: Literal["hybrid"] = "hybrid"
    activation: Literal["silu", "tanh", "relu", "gelu"] = Field(
        "tanh", description="tanh fits a smooth field better than silu."
    )
    lambda_data: float = Field(
        0.0, ge=0, description="Weight of the loss at the final plane; above 0, each step integrates paths."
    )
    n_collocation: int = Field(8, ge=1, description="Points per track at which fields are compared.")
    steps: int = Field(40, ge=1, description="Integration steps, whatever the distance.")
    base: tuple[tuple[float, float, float, float], ...] = Field(
        TERMS[:5],
        min_length=1,
        description="Terms of the base field: peak [T], centre [mm], width [mm], sin2.",
    )

    @property
    def widths(self) -> tuple[int, ...]:
        """Hidden widths in force."""
        return self.hidden or HYBRID_SIZES[self.size]
