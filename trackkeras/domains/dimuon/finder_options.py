"""What a finder preset may say about its network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trackkeras.config import ModelOptions

Network = Literal["basic", "prod", "acc", "attention", "flagship"]


class FinderOptions(ModelOptions):
    """A network from the hits of an event to the hit arrays of its two muons."""

    kind: Literal["finder"] = "finder"
    network: Network = Field(
        "basic",
        description="basic: three convolutions; prod: as VGG16; acc: residual blocks; attention: these with "
        "channel and spatial attention; flagship: two U-Net++ and axial attention.",
    )
    size: Literal["tiny", "small", "full"] = Field("small", description="Width and depth.")
    overlap: float = Field(0.1, ge=0, description="Weight of the loss's term on hits given to both muons.")
