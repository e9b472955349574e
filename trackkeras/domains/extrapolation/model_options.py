"""What an extrapolation preset may say about its network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trackkeras.config import ModelOptions

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


class MlpOptions(ExtrapolationOptions):
    """A dense network."""

    kind: Literal["mlp"] = "mlp"
    form: Literal["residual", "absolute"] = Field(
        "residual",
        description="residual: straight line + bend-scaled output, 7 inputs. absolute: final state "
        "itself from 6 inputs without z0.",
    )
    magnet_centre: float = Field(5000.0, description="Centre of the magnet [mm], for the size of the bend.")
    magnet_width: float = Field(1700.0, gt=0, description="Gaussian width of its field in z [mm].")
