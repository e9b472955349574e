"""Ordered rows into shuffled shards and leak-free splits, in bounded memory.

The first pass throws every row into a random shard of its split, the second one permutes each shard: together
they are a uniform shuffle of the split. Memory holds one shard at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tfrecords_tools.blocks import checked, decode_block, encode_block, join, rechunk, row_count, take
from tfrecords_tools.errors import RecordError
from tfrecords_tools.schema import Columns, Schema
from tfrecords_tools.stats import check_statistics, column_statistics
from tfrecords_tools.wire import frame, read_record


@dataclass(frozen=True)
class Part:
    """One split to scatter rows into: its share of the rows, and a temporary file for each of its shards."""

    share: float
    files: tuple[Path, ...]


def scatter(
    schema: Schema, chunks: Iterable[Columns], parts: Sequence[Part], *, seed: int, group: str | None
) -> None:
    """Throw rows into the files of the parts at random.

    Where a row goes depends on the seed, its group and its position, not on the size of the chunks.

    Args:
        schema: The columns.
        chunks: Columns by name, of any size.
        parts: Splits and their files.
        seed: Seed of the draws.
        group: Column of integers or text whose equal values go to one part; it need not be in the schema.
            None lets every row stand alone.

    Raises:
        RecordError: A chunk does not suit the schema or lacks the group, or a file received no row.
    """
    edges = np.cumsum([part.share for part in parts])[:-1]
    counts = np.array([len(part.files) for part in parts])
    firsts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    filled = np.zeros(counts.sum(), dtype=np.int64)
    which, where = (np.random.Generator(np.random.PCG64DXSM([seed, stream])) for stream in (0, 1))
    rows = 0
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(path.open("wb")) for part in parts for path in part.files]
        for chunk in chunks:
            try:
                draws = group_draws(_group_values(chunk, group), seed) if group else None
                columns = checked(schema, _without(chunk, group, schema))
                check_statistics(schema, column_statistics(schema, columns))
            except RecordError as error:
                raise RecordError(f"input rows from {rows}: {error}") from None
            size = row_count(columns)
            draws = which.random(size) if draws is None else draws
            if len(draws) != size:
                raise RecordError(
                    f"input rows from {rows}: group {group!r} has {len(draws)} values for {size} rows"
                )
            part = np.searchsorted(edges, draws, side="right")
            file = firsts[part] + (where.random(size) * counts[part]).astype(np.int64)
            order = np.argsort(file, kind="stable")
            ends = np.cumsum(np.bincount(file, minlength=len(streams)))
            for index, stream in enumerate(streams):
                chosen = order[ends[index - 1] if index else 0 : ends[index]]
                if chosen.size:
                    _append(stream, schema, take(columns, chosen))
                    filled[index] += chosen.size
            rows += size
    if not filled.all():
        empty = int(np.flatnonzero(filled == 0)[0])
        raise RecordError(
            f"{rows} rows leave shard {empty} of {len(filled)} empty"
            f"{f' (groups by {group!r} are too few or too unequal)' if group else ''}: use fewer shards"
        )


def gather(schema: Schema, path: Path, *, seed: int, shard: int) -> Columns:
    """Return the rows of one scattered file in random order.

    Raises:
        RecordError: The file was changed in between.
    """
    blocks: list[Columns] = []
    with path.open("rb") as stream:
        while (data := read_record(stream, path, len(blocks))) is not None:
            blocks.append(decode_block(schema, data, schema.features))
    columns = join(blocks)
    rng = np.random.Generator(np.random.PCG64DXSM([seed, 2, shard]))
    return take(columns, rng.permutation(row_count(columns)))


def group_draws(values: NDArray[Any], seed: int) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each row that depends on its group and the seed alone.

    Args:
        values: `(n,)` integers or text.
        seed: Other seeds give independent numbers.

    Raises:
        RecordError: The values are neither.
    """
    if values.dtype.kind not in "iubSU":
        raise RecordError(f"a group must be of integers or text, received {values.dtype}")
    groups, inverse = np.unique(values, return_inverse=True)
    draws = np.empty(len(groups))
    for index, value in enumerate(groups.tolist()):
        name = value if isinstance(value, bytes) else str(value).encode()
        hashed = hashlib.blake2b(b"%d:" % seed + name, digest_size=8).digest()
        draws[index] = (int.from_bytes(hashed, "little") >> 11) * 2.0**-53
    return draws[inverse]


def _group_values(chunk: Columns, group: str) -> NDArray[Any]:
    if group not in chunk:
        raise RecordError(f"there is no column {group!r} to group by; there are: {', '.join(sorted(chunk))}")
    values = np.asarray(chunk[group])
    if values.size != len(values):
        raise RecordError(f"group {group!r} needs one value per row, received shape {values.shape}")
    return values.reshape(-1)


def _without(chunk: Columns, group: str | None, schema: Schema) -> Columns:
    """Return the chunk less a group column that only serves the split."""
    return {name: column for name, column in chunk.items() if name != group or name in schema.names}


def _append(stream: BinaryIO, schema: Schema, columns: Columns) -> None:
    for block in rechunk([columns], schema.block_rows):
        stream.writelines(frame(encode_block(schema, block)))
