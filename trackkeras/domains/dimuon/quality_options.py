"""What a quality preset may say about its network and about the tracks that it learns from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trackkeras.config import ModelOptions

SIZES: dict[str, tuple[int, ...]] = {"small": (32, 32), "medium": (128, 64)}
"""Hidden widths of the size presets."""

Target = Literal["relative", "chi2"]


class QualityOptions(ModelOptions):
    """A dense network on how well the hits of a track fit together."""

    kind: Literal["quality"] = "quality"
    size: Literal["small", "medium"] = "medium"
    hidden: tuple[int, ...] | None = Field(None, min_length=1, description="Widths; replaces `size`.")
    activation: Literal["silu", "tanh", "relu"] = "silu"
    resolution: float = Field(
        0.03, gt=0, description="Error of drift distances [cm] with which the sides of wires are weighed."
    )
    hits: Literal["finder", "spoiled"] = Field(
        "finder",
        description="Tracks to judge: those of reconstructed records, or true ones with hits exchanged.",
    )
    target: Target = Field(
        "relative",
        description="The error: |p - p_true| / |p_true|, or chi2, |p - p_true|^2 / |p_true| [GeV].",
    )

    @property
    def widths(self) -> tuple[int, ...]:
        """Hidden widths in force."""
        return self.hidden or SIZES[self.size]
