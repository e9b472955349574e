"""A generator of plain uniform numbers: the smallest shard function, for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tfrecords_tools.schema import Columns, Feature, Schema

CHUNK = 8192


def uniform_schema(width: int = 12, block_rows: int = 1024) -> Schema:
    """Return a schema of `values (width,)` float32 in [0, 1] and `index ()` int64, the row's number."""
    return Schema(
        "uniform",
        (
            Feature("values", "float32", (width,), "1", "Uniform random numbers.", 0.0, 1.0),
            Feature("index", "int64", (), "1", "Number of the row in its shard.", 0),
        ),
        block_rows,
    )


def uniform(
    config: Mapping[str, Any], rng: np.random.Generator, rows: int
) -> Iterator[tuple[Columns, dict[str, int]]]:
    """Make one shard of `uniform_schema(config["width"])`; half of the tries count as rejected.

    Args:
        config: `width`, the number of values in a row.
        rng: Source of the numbers.
        rows: Rows to make.

    Yields:
        Columns, and counts by reason.
    """
    for start in range(0, rows, CHUNK):
        count = min(CHUNK, rows - start)
        columns: Columns = {
            "values": rng.random((count, config["width"]), dtype=np.float32),
            "index": np.arange(start, start + count),
        }
        yield columns, {"tried": 2 * count, "rejected": count}
