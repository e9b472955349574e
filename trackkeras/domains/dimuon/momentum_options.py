"""What a momentum preset may say about its network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trackkeras.config import ModelOptions

SIZES: dict[str, tuple[int, ...]] = {"small": (32, 32), "medium": (128, 128)}
"""Hidden widths of the size presets."""


class MomentumOptions(ModelOptions):
    """A dense network on what the chambers say of a muon."""

    kind: Literal["momentum"] = "momentum"
    size: Literal["small", "medium"] = "medium"
    hidden: tuple[int, ...] | None = Field(None, min_length=1, description="Widths; replaces `size`.")
    activation: Literal["silu", "tanh", "relu"] = "silu"
    resolution: float = Field(
        0.03, gt=0, description="Error of drift distances [cm] with which the sides of wires are weighed."
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
