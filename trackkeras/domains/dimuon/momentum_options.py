"""What a momentum preset may say about its network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from trackkeras.config import ModelOptions, Options

Target = Literal["vertex", "station_1"]
"""Where the momentum is asked for: where the muon was made, or behind the iron."""

SIZES: dict[str, tuple[int, ...]] = {"small": (32, 32), "medium": (128, 128)}
"""Hidden widths of the size presets."""

Three = tuple[float, float, float]
"""A number for each of px, py, pz."""


class ResponseOptions(Options):
    """The response of a network that is taken back: reconstructed = offset + slope * true, of px, py, pz."""

    slope: Three
    offset: Three = Field((0.0, 0.0, 0.0), description="[GeV], as those of positive muons.")

    @field_validator("slope")
    @classmethod
    def _follows(cls, slope: Three) -> Three:
        if min(slope) <= 0:
            raise ValueError("slopes must be positive")
        return slope


class MomentumOptions(ModelOptions):
    """A dense network on what the chambers say of a muon."""

    kind: Literal["momentum"] = "momentum"
    size: Literal["small", "medium"] = "medium"
    hidden: tuple[int, ...] | None = Field(None, min_length=1, description="Widths; replaces `size`.")
    activation: Literal["silu", "tanh", "relu"] = "silu"
    target: Target = Field(
        "vertex",
        description="Where the momentum is asked for; station_1 is behind the iron, so that the chambers "
        "alone limit it.",
    )
    precision: Literal["float32", "float64"] = Field(
        "float64",
        description="Arithmetic of the saved network; training is in float32. In float32, ONNX Runtime may "
        "differ from Keras by a little more than the parity rule allows in the worst of 100,000 muons.",
    )
    resolution: float = Field(
        0.03, gt=0, description="Error of drift distances [cm] with which the sides of wires are weighed."
    )
    response: ResponseOptions | None = Field(
        None,
        description="Taken back by the saved network alone; `trackkeras dimuon calibrate` finds it.",
    )
    hits: Literal["truth", "finder"] = Field(
        "truth",
        description="Hits to train and test on: those that the simulation says are the muon's, or those that "
        "reconstructed records say were found.",
    )

    @property
    def widths(self) -> tuple[int, ...]:
        """Hidden widths in force."""
        return self.hidden or SIZES[self.size]
