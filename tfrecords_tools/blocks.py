"""Rows as columns of arrays, and one Example as a block of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfrecords_tools.errors import RecordError
from tfrecords_tools.schema import Columns, Feature, Schema, ragged
from tfrecords_tools.wire import Buffer, Pieces, decode_example, encode_example


def row_count(columns: Columns) -> int:
    """Return the number of rows of a chunk."""
    return len(next(iter(columns.values())))


def take(columns: Columns, rows: slice | NDArray[Any]) -> Columns:
    """Return some rows of a chunk; a slice copies nothing."""
    return {name: column[rows] for name, column in columns.items()}


def join(chunks: Sequence[Columns]) -> Columns:
    """Return the rows of all chunks, one after the other."""
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def checked(schema: Schema, columns: Columns) -> Columns:
    """Return the columns as the schema wants them: same names, exact types, contiguous.

    A type that holds every value of the received one is converted (int32 to int64); another one is refused,
    because it would lose digits in silence.

    Raises:
        RecordError: A column is missing or unknown, or has another type, shape or number of rows.
    """
    if set(columns) != set(schema.names):
        raise RecordError(f"columns are {sorted(columns)}, the schema needs {sorted(schema.names)}")
    ready = {feature.name: _checked_column(feature, columns[feature.name]) for feature in schema.features}
    lengths = {name: len(column) for name, column in ready.items()}
    if len(set(lengths.values())) > 1:
        raise RecordError(f"columns have different numbers of rows: {lengths}")
    return ready


def _checked_column(feature: Feature, column: NDArray[Any]) -> NDArray[Any]:
    column = np.asarray(column)
    if feature.ragged:
        if column.dtype != object or column.ndim != 1:
            raise RecordError(
                f"feature {feature.name!r} is ragged: it needs an object array (n,) of arrays, "
                f"received {column.dtype} {column.shape}"
            )
        return ragged([_checked_values(feature, np.asarray(row)) for row in column])
    return _checked_values(feature, column)


def _checked_values(feature: Feature, values: NDArray[Any]) -> NDArray[Any]:
    if values.ndim == 0 or values.shape[1:] != feature.row_shape:
        wanted = ("n", *feature.row_shape)
        raise RecordError(f"feature {feature.name!r} needs shape {wanted}, received {values.shape}")
    if not np.can_cast(values.dtype, feature.dtype, "safe"):
        raise RecordError(
            f"feature {feature.name!r} needs {feature.dtype}, received {values.dtype}: convert it"
        )
    return np.ascontiguousarray(values, dtype=np.dtype(feature.dtype).newbyteorder("<"))


def rechunk(chunks: Iterable[Columns], rows: int) -> Iterator[Columns]:
    """Yield chunks of exactly `rows` rows (the last may be shorter), copying only where two chunks meet.

    What is held back for the next chunk is a copy: the maker of the chunks may use its arrays again.
    """
    held: list[Columns] = []
    count = 0
    for chunk in chunks:
        total, start = row_count(chunk), 0
        if held:
            start = min(rows - count, total)
            held.append(_copy(take(chunk, slice(0, start))))
            count += start
            if count < rows:
                continue
            yield join(held)
            held, count = [], 0
        whole = start + (total - start) // rows * rows
        for begin in range(start, whole, rows):
            yield take(chunk, slice(begin, begin + rows))
        if whole < total:
            held, count = [_copy(take(chunk, slice(whole, total)))], total - whole
    if held:
        yield join(held)


def _copy(columns: Columns) -> Columns:
    return {name: column.copy() for name, column in columns.items()}


def encode_block(schema: Schema, columns: Columns) -> Pieces:
    """Return one Example that holds all rows of `columns` (one row if the schema's blocks have one)."""
    return encode_example(
        {
            feature.name: (columns[feature.name][0] if feature.ragged else columns[feature.name]).reshape(-1)
            for feature in schema.features
        }
    )


def decode_block(schema: Schema, data: Buffer, features: Sequence[Feature]) -> Columns:
    """Return the rows of one Example; float columns may be views of `data`.

    Raises:
        RecordError: The Example is malformed or does not hold what the schema says.
    """
    flat = decode_example(data, [feature.name for feature in features])
    columns: Columns = {}
    for feature in features:
        values = flat[feature.name]
        if values.dtype != feature.dtype:
            raise RecordError(f"feature {feature.name!r} is {values.dtype}, the schema says {feature.dtype}")
        if values.size % feature.size:
            raise RecordError(
                f"feature {feature.name!r}: {values.size} numbers make no rows of shape {feature.row_shape}"
            )
        rows = values.reshape(-1, *feature.row_shape)
        columns[feature.name] = ragged([rows]) if feature.ragged else rows
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) > 1 or not 1 <= row_count(columns) <= schema.block_rows:
        raise RecordError(f"the Example holds {counts} rows, the schema says at most {schema.block_rows}")
    return columns
