"""What a finder preset may say about its network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from trackkeras.config import ModelOptions

Network = Literal["basic", "prod", "acc", "attention", "flagship"]
Size = Literal["tiny", "small", "medium", "full"]

FLAGSHIP: dict[Size, tuple[int, int]] = {
    "tiny": (2, 2),
    "small": (8, 4),
    "medium": (16, 5),
    "full": (64, 5),
}
"""Filters of the first level, and levels, of the flagship's second U-Net++."""


class FinderOptions(ModelOptions):
    """A network from the hits of an event to the hit arrays of its two muons."""

    kind: Literal["finder"] = "finder"
    network: Network = Field(
        "basic",
        description="basic: three convolutions; prod: as VGG16; acc: residual blocks; attention: these with "
        "channel and spatial attention; flagship: two U-Net++ and axial attention.",
    )
    size: Size = Field("small", description="Width and depth; full has the layers of the originals.")
    width: int | None = Field(None, ge=2, description="flagship: filters of the first level.")
    levels: int | None = Field(None, ge=2, le=5, description="flagship: levels of each U-Net++.")
    overlap: float = Field(0.1, ge=0, description="Weight of the loss's part for hits given to both muons.")
    denoise: float = Field(
        10.0, ge=0, description="flagship: weight of the loss's part for hits that are the muons' or not."
    )

    @property
    def filters(self) -> tuple[int, ...]:
        """Filters of each level of the flagship's second U-Net++."""
        width, levels = FLAGSHIP[self.size]
        return tuple((self.width or width) << level for level in range(self.levels or levels))

    @property
    def normalised(self) -> bool:
        """Whether the network has batch normalisation."""
        return self.network != "prod"

    @model_validator(mode="after")
    def _of_the_flagship(self) -> FinderOptions:
        if self.network != "flagship" and (self.width, self.levels) != (None, None):
            raise ValueError(f"width and levels are the flagship's; {self.network} has sizes alone")
        return self
