"""What a finder preset may say about its network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from trackkeras.config import ModelOptions

Network = Literal["basic", "prod", "acc", "attention", "flagship", "roads", "hitset"]
Size = Literal["tiny", "small", "medium", "full"]

FLAGSHIP: dict[Size, tuple[int, int]] = {
    "tiny": (2, 2),
    "small": (8, 4),
    "medium": (16, 5),
    "full": (64, 5),
}
"""Filters of the first level, and levels, of the flagship's second U-Net++."""


@dataclass(frozen=True)
class Roads:
    """Size of the network `roads`.

    Attributes:
        pairs: Lines in x, and
        lines: in x and y, that each half of station 3 may have; see `RoadSearch`.
        tracks: Tracks that are fitted and judged by themselves,
        company: in each other's company, and
        paired: as mu+ or mu- of a pair.
        units: Widths of the network that judges a track by itself.
    """

    pairs: int
    lines: int
    tracks: int
    company: int
    paired: int
    units: tuple[int, ...]


ROADS: dict[Size, Roads] = {
    "tiny": Roads(32, 16, 12, 8, 6, (8,)),
    "small": Roads(128, 48, 48, 32, 12, (64, 32)),
    "medium": Roads(256, 96, 96, 48, 16, (128, 64)),
    "full": Roads(384, 128, 128, 64, 16, (128, 128, 64)),
}
"""By size."""


@dataclass(frozen=True)
class HitSet:
    """Size of the network `hitset`.

    Attributes:
        tokens: Widths of the layers that make a token of each hit.
        tracks: Tracks that look for muons.
        settling: Half width of their windows while they settle, step by step [cm].
        content: Numbers that a track keeps beside its place.
        reach: Half width of their windows in the rounds that are learnt, at first [cm].
        values: Numbers that hits tell the tracks.
        units: Width of the layers that move and judge tracks.
    """

    tokens: tuple[int, ...]
    tracks: int
    settling: tuple[float, ...]
    content: int
    reach: tuple[float, ...]
    values: int
    units: int


def _settling(steps: int) -> tuple[float, ...]:
    return tuple(reach for reach in (15.0, 6.0, 2.5, 1.0) for _ in range(steps))


HITSET: dict[Size, HitSet] = {
    "tiny": HitSet((8,), 8, (15.0, 3.0), 8, (2.0,), 4, 16),
    "small": HitSet((32, 16), 64, _settling(3), 32, (2.0, 1.0), 16, 64),
    "medium": HitSet((64, 32), 128, _settling(4), 64, (2.0, 1.0), 32, 128),
    "full": HitSet((64, 32), 256, _settling(4), 64, (2.0, 1.0), 32, 128),
}
"""By size."""


class FinderOptions(ModelOptions):
    """A network from the hits of an event to the hit arrays of its two muons."""

    kind: Literal["finder"] = "finder"
    network: Network = Field(
        "basic",
        description="basic: three convolutions; prod: as VGG16; acc: residual blocks; attention: these with "
        "channel and spatial attention; flagship: two U-Net++ and axial attention; roads: a search for "
        "tracks, fitted to hits, whose judge alone is learnt; hitset: attention over the event's hits.",
    )
    size: Size = Field("small", description="Width and depth; full has the layers of the originals.")
    width: int | None = Field(None, ge=2, description="flagship: filters of the first level.")
    levels: int | None = Field(None, ge=2, le=5, description="flagship: levels of each U-Net++.")
    precision: Literal["float32", "float64"] = Field(
        "float64",
        description="roads, hitset: arithmetic of the saved network, but for a search that is exact; "
        "training is in float32.",
    )
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
        return self.network not in ("prod", "roads", "hitset")

    @property
    def roads(self) -> Roads:
        """Size of the network `roads`."""
        return ROADS[self.size]

    @property
    def hitset(self) -> HitSet:
        """Size of the network `hitset`."""
        return HITSET[self.size]

    @model_validator(mode="after")
    def _of_the_flagship(self) -> FinderOptions:
        if self.network != "flagship" and (self.width, self.levels) != (None, None):
            raise ValueError(f"width and levels are the flagship's; {self.network} has sizes alone")
        return self
