"""One shard: chunks of any size become blocks of rows in a file that appears when it is complete."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from crc32c import crc32c

from tfrecords_tools.blocks import checked, encode_block, rechunk, row_count
from tfrecords_tools.errors import RecordError
from tfrecords_tools.files import new_file
from tfrecords_tools.manifest import Shard, ShardInfo
from tfrecords_tools.schema import Columns, Schema
from tfrecords_tools.stats import check_statistics, column_statistics, merge_statistics
from tfrecords_tools.wire import frame


def write_shard(path: Path, schema: Schema, chunks: Iterable[Columns]) -> ShardInfo:
    """Write one shard.

    Args:
        path: The file; what stands there is replaced when the new shard is complete.
        schema: Names, types and limits of the columns.
        chunks: Columns by name, each `(n, *shape)` with any n.

    Returns:
        Size, CRC and statistics of the shard.

    Raises:
        RecordError: A column does not suit the schema, holds NaN, infinity or a value outside its limits, or
            there are no rows. Nothing is left on disk.
    """
    statistics = merge_statistics([], schema)
    rows = 0

    def measured() -> Iterator[Columns]:
        nonlocal statistics, rows
        for chunk in chunks:
            try:
                columns = checked(schema, chunk)
                part = column_statistics(schema, columns)
                check_statistics(schema, part)
            except RecordError as error:
                raise RecordError(f"{path.name}, rows from {rows}: {error}") from None
            statistics = merge_statistics([statistics, part], schema)
            rows += row_count(columns)
            yield columns

    records, size, crc = 0, 0, 0
    with new_file(path) as stream:
        for block in rechunk(measured(), schema.block_rows):
            for piece in frame(encode_block(schema, block)):
                stream.write(piece)
                size += len(piece)
                crc = crc32c(piece, crc)
            records += 1
        if not rows:
            raise RecordError(f"{path.name}: there are no rows to write")
    return ShardInfo(Shard(path.name, rows, records, size, f"{crc:08x}"), statistics, {})


def file_crc(path: Path) -> str:
    """Return the CRC-32C of a whole file in hexadecimal."""
    crc = 0
    with path.open("rb", buffering=0) as stream:
        while data := stream.read(1 << 22):
            crc = crc32c(data, crc)
    return f"{crc:08x}"
