"""Options that several commands of the domain have."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Model(StrEnum):
    """How background falls along the spectrometer."""

    GAUSSIAN = "gaussian"
    LINEAR = "linear"
    EXPONENTIAL = "exponential"
    FLAT = "flat"


class Counts(StrEnum):
    """How the number of background tracks is drawn."""

    UNIFORM = "uniform"
    SKEWED = "skewed"


FileArgument = Annotated[Path, typer.Argument(help="RUS file.")]
FolderOption = Annotated[Path, typer.Option("--out", help="Folder to write to.")]
SeedOption = Annotated[int, typer.Option(help="Seed of all that is drawn.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]
ModelOption = Annotated[Model, typer.Option(help="Share of a track's hits that is kept, by detector.")]
SigmaOption = Annotated[float, typer.Option(help="Width of `gaussian`, in detectors.")]
DecayOption = Annotated[float, typer.Option(help="Length of `exponential`, in detectors.")]
EfficiencyOption = Annotated[float, typer.Option(help="Mean share of hits that a track keeps anyway.")]
SpreadOption = Annotated[float, typer.Option(help="Standard deviation of that share.")]
CountsOption = Annotated[Counts, typer.Option(help="How the number of tracks is drawn.")]
