"""How events become rows of a dataset."""

from __future__ import annotations

from pydantic import Field

from trackkeras.config import Options

MAX_HITS = 1024


class RecordOptions(Options):
    """How events become rows."""

    max_hits: int = Field(MAX_HITS, ge=1, description="Hits that a row has room for.")
    signed: bool = Field(
        False,
        description="Keep the sign of drift distances; in simulation it is truth that no measurement has.",
    )
    drop_invalid: bool = Field(False, description="Leave out hits outside of the detectors.")
    reconstructed: bool = Field(
        False,
        description="Also read the hits and momenta that `trackkeras dimuon reconstruct` wrote.",
    )
