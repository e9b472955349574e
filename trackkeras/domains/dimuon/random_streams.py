"""Random numbers that depend on the seed, the tool and the events, and on nothing else."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

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


def mixed_bits(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return numbers whose bits all depend on all bits of the values.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014), `SplitMix64`.
    """
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def draws_of(keys: NDArray[np.integer], shape: tuple[int, ...], salt: int) -> NDArray[np.float64]:
    """Return uniform numbers of [0, 1) that are a function of a key, the same wherever the key appears.

    Args:
        keys: `(n,)`.
        shape: Numbers wanted for each key.
        salt: Another one gives other numbers.

    Returns:
        `(n, *shape)`.
    """
    count = int(np.prod(shape, dtype=int))
    places = mixed_bits(np.arange(count, dtype=np.uint64) ^ mixed_bits(np.array([salt], dtype=np.uint64)))
    bits = mixed_bits(mixed_bits(keys.astype(np.uint64))[:, None] ^ places)
    return (bits >> np.uint64(11)).astype(np.float64).reshape(-1, *shape) * 2.0**-53
