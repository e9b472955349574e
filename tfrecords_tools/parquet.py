"""A split as a Parquet file and back: one column per feature, units and meaning in the metadata.

A feature of shape `()` is a plain column, `(5,)` a fixed-size list, `(k, 5)` a list of lists; a ragged axis
is a list of varying length. pyarrow is optional (extra `tfio`).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfrecords_tools.errors import RecordError
from tfrecords_tools.files import new_file
from tfrecords_tools.reader import Dataset
from tfrecords_tools.schema import Columns, Feature, ragged

ROWS = 65_536
"""Rows of one row group, and in memory."""


def write_parquet(dataset: Dataset, split: str, path: Path) -> int:
    """Write one split as a Parquet file, in constant memory; the file appears when it is complete.

    Args:
        dataset: The dataset.
        split: Its split.
        path: The file; what stands there is replaced.

    Returns:
        The number of rows.

    Raises:
        RecordError: pyarrow is not installed, no such split, or a shard is damaged.
    """
    arrow, parquet = _arrow()
    rows = dataset.rows(split)
    features = dataset.schema.features
    table = arrow.schema(
        [
            arrow.field(
                feature.name, _type(arrow, feature), False, {"unit": feature.unit, "description": feature.doc}
            )
            for feature in features
        ],
        metadata={"dataset": dataset.schema.name, "split": split, "generator": dataset.manifest.generator},
    )
    with new_file(path) as stream, parquet.ParquetWriter(stream, table) as writer:
        for chunk in dataset.chunks(split, rows=ROWS):
            arrays = [_array(arrow, feature, chunk[feature.name]) for feature in features]
            writer.write_batch(arrow.record_batch(arrays, schema=table))
    return rows


def read_parquet(path: Path) -> Iterator[Columns]:
    """Yield the columns of a Parquet file that `write_parquet` wrote, at most 65,536 rows at a time.

    Raises:
        RecordError: pyarrow is not installed, no such file, or it is no Parquet file of number columns.
    """
    arrow, parquet = _arrow()
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROWS):
                yield {name: _column(arrow, name, batch.column(name)) for name in batch.schema.names}
    except FileNotFoundError:
        raise RecordError(f"no such file: {path}") from None
    except (arrow.ArrowException, OSError) as error:
        raise RecordError(f"{path} is not a readable Parquet file: {error}") from None


def _arrow() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise RecordError(f"Parquet needs the extra `tfio` ({error}): install 'trackkeras[tfio]'") from None


def _type(arrow: Any, feature: Feature) -> Any:
    kind = arrow.float32() if feature.dtype == "float32" else arrow.int64()
    for size in reversed(feature.row_shape):
        kind = arrow.list_(kind, size)
    return arrow.list_(kind) if feature.ragged else kind


def _array(arrow: Any, feature: Feature, column: NDArray[Any]) -> Any:
    rows = (
        np.concatenate([np.empty((0, *feature.row_shape), feature.dtype), *column])
        if feature.ragged
        else column
    )
    array = arrow.array(rows.reshape(-1))
    for size in reversed(feature.row_shape):
        array = arrow.FixedSizeListArray.from_arrays(array, size)
    if not feature.ragged:
        return array
    offsets = np.cumsum([0, *map(len, column)], dtype=np.int32)
    return arrow.ListArray.from_arrays(offsets, array)


def _column(arrow: Any, name: str, array: Any) -> NDArray[Any]:
    types = arrow.types
    if types.is_list(array.type):
        offsets = np.asarray(array.offsets)
        values = _column(arrow, name, array.values)
        return ragged([values[begin:end] for begin, end in pairwise(offsets)])
    shape = [len(array)]
    while types.is_fixed_size_list(array.type):
        shape.append(array.type.list_size)
        array = array.flatten()
    if not (types.is_floating(array.type) or types.is_integer(array.type)) or array.null_count:
        raise RecordError(f"column {name!r} holds {array.type}, not complete rows of numbers")
    return np.asarray(array.to_numpy(zero_copy_only=False)).reshape(shape)
