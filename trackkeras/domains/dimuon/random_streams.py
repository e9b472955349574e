"""Random numbers that depend on the seed, the tool and the events, and on nothing else."""

from __future__ import annotations

from typing import Literal

import numpy as np

from trackkeras.errors import UserError

Tool = Literal["messy", "noise", "background"]

_TOOLS: tuple[Tool, ...] = ("messy", "noise", "background")


def chunk_rng(seed: int, tool: Tool, chunk: int = 0) -> np.random.Generator:
    """Return the random stream of one chunk of events; two tools with one seed draw independently.

    Raises:
        UserError: The seed is negative.
    """
    if seed < 0:
        raise UserError(f"seed must not be negative, received {seed}")
    return np.random.Generator(np.random.PCG64DXSM([seed, _TOOLS.index(tool), chunk]))
