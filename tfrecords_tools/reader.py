"""A dataset folder as columns of arrays, in order, from any row on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tfrecords_tools.blocks import decode_block
from tfrecords_tools.errors import ContentError, RecordError
from tfrecords_tools.manifest import Shard, load_manifest
from tfrecords_tools.schema import Columns, Feature, Schema
from tfrecords_tools.wire import read_record, record_offsets


class Dataset:
    """A dataset on disk.

    Every record that is read is checked against its CRC.

    Args:
        directory: The folder that holds `manifest.json`.

    Raises:
        RecordError: There is no complete dataset.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        self.manifest = load_manifest(self.directory)
        self.schema: Schema = self.manifest.schema
        self._offsets: dict[str, NDArray[np.int64]] = {}

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.manifest.splits)

    def files(self, split: str) -> list[Path]:
        """Return the shards of a split, in order."""
        return [self.directory / shard.file for shard in self.manifest.split(split).shards]

    def rows(self, split: str) -> int:
        """Return the number of rows of a split."""
        return self.manifest.split(split).rows

    def read(
        self, split: str, features: Sequence[str] | None = None, start: int = 0, limit: int | None = None
    ) -> Columns:
        """Read rows into memory; only the blocks that hold them are read.

        Args:
            split: Name of the split.
            features: Columns to read, all if None.
            start: First row.
            limit: Number of rows at most, all that follow if None.

        Returns:
            Columns by name, each `(n, *shape)`; a ragged one `(n,)` of dtype object.

        Raises:
            RecordError: No such split, feature or row, or a shard is missing, cut off or corrupt.
        """
        total = self.rows(split)
        if start < 0 or start > total or (limit is not None and limit < 0):
            raise RecordError(f"split {split!r} has {total} rows, received start {start}, limit {limit}")
        stop = total if limit is None else min(total, start + limit)
        wanted = self._features(features)
        columns: Columns = {}
        for feature in wanted:
            shape = () if feature.ragged else feature.row_shape
            columns[feature.name] = np.empty(
                (stop - start, *shape), dtype=object if feature.ragged else feature.dtype
            )
        first = 0  # row of the split at which the shard begins
        for shard in self.manifest.split(split).shards:
            begin, end = max(start, first), min(stop, first + shard.rows)
            if begin < end:
                position = begin
                for block in self._blocks(shard, wanted, begin - first, end - first):
                    count = len(next(iter(block.values())))
                    for name, column in block.items():
                        columns[name][position - start : position - start + count] = column
                    position += count
            first += shard.rows
        return columns

    def chunks(
        self, split: str, features: Sequence[str] | None = None, rows: int = 65_536
    ) -> Iterator[Columns]:
        """Yield a split in order, `rows` rows at a time (the last chunk may be shorter), in constant memory.

        Raises:
            RecordError: As `read`.
        """
        for start in range(0, self.rows(split), rows):
            yield self.read(split, features, start, rows)

    def _features(self, names: Sequence[str] | None) -> list[Feature]:
        return [self.schema.feature(name) for name in (self.schema.names if names is None else names)]

    def _blocks(self, shard: Shard, features: list[Feature], begin: int, end: int) -> Iterator[Columns]:
        """Yield rows `begin` to `end` of a shard, block by block."""
        path = self.directory / shard.file
        offsets = self._shard_offsets(shard)
        size = self.schema.block_rows
        with path.open("rb", buffering=1 << 18) as stream:
            stream.seek(offsets[begin // size])
            for index in range(begin // size, -(-end // size)):
                data = read_record(stream, path, index)
                expected = min(size, shard.rows - index * size)
                try:
                    block = decode_block(self.schema, data or b"", features)
                    count = len(next(iter(block.values())))
                    if count != expected:
                        raise RecordError(f"it holds {count} rows, the manifest says {expected}")
                except RecordError as error:
                    raise ContentError(f"{path}: record {index}: {error}") from None
                rows = slice(max(begin - index * size, 0), end - index * size)
                yield {name: column[rows] for name, column in block.items()}

    def _shard_offsets(self, shard: Shard) -> NDArray[np.int64]:
        """Return where the records of a shard begin; the file is walked once."""
        if shard.file not in self._offsets:
            path = self.directory / shard.file
            offsets = record_offsets(path)
            if len(offsets) - 1 != shard.records:
                raise RecordError(
                    f"{path}: record {len(offsets) - 1} is missing: the manifest says {shard.records} records"
                )
            self._offsets[shard.file] = offsets
        return self._offsets[shard.file]
