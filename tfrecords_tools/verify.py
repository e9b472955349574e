"""Everything that can be wrong with a dataset on disk, found in one pass over its bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tfrecords_tools.blocks import decode_block, rechunk, row_count
from tfrecords_tools.errors import ContentError, RecordError
from tfrecords_tools.files import read_json
from tfrecords_tools.manifest import FILE, Manifest, Shard, load_manifest, metadata
from tfrecords_tools.schema import Columns, Schema
from tfrecords_tools.stats import column_statistics, limit_problem
from tfrecords_tools.wire import read_record
from tfrecords_tools.writer import file_crc

Check = Callable[[Columns], Iterable[str]]
"""Given some rows of a shard, one sentence for each rule that they break."""

_CHUNK_ROWS = 65_536


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and the file in which it is."""

    file: str
    message: str


@dataclass(frozen=True)
class Report:
    """What `verify` found.

    Attributes:
        problems: What is wrong, in the order of the files.
        files: Shards that were looked at.
        rows: Rows that could be read.
        bytes: Their files' size.
    """

    problems: tuple[Problem, ...]
    files: int
    rows: int
    bytes: int

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Return this report as a JSON object."""
        return {"ok": self.ok, **asdict(self)}


def verify(directory: Path | str, checks: Sequence[Check] = ()) -> Report:
    """Check a dataset: every file present, every CRC, counts, finite values, limits, and the given rules.

    Bad data never raises: it is reported, and the next record or file is looked at.

    Args:
        directory: The dataset's folder.
        checks: Further rules, such as those of physics; each sees up to 65,536 rows of one shard at a time.
    """
    directory = Path(directory)
    try:
        manifest = load_manifest(directory)
    except RecordError as error:
        return Report((Problem(FILE, str(error)),), 0, 0, 0)
    problems = list(_metadata_problems(directory, manifest))
    files, rows, size = 0, 0, 0
    for split in manifest.splits.values():
        for shard in split.shards:
            path = directory / shard.file
            files += 1
            if not path.is_file():
                problems.append(Problem(shard.file, "the file is missing"))
                continue
            size += path.stat().st_size
            found = _ShardReader(path, manifest.schema)
            messages = list(_rule_problems(found, manifest.schema, checks))
            messages += _shard_problems(path, shard, found)
            problems += [Problem(shard.file, message) for message in dict.fromkeys(messages)]
            rows += found.rows
    return Report(tuple(problems), files, rows, size)


class _ShardReader:
    """Reads what can be read of a shard, and keeps what cannot as messages."""

    def __init__(self, path: Path, schema: Schema) -> None:
        self.path, self.schema = path, schema
        self.rows = 0
        self.records = 0
        self.messages: list[str] = []

    def blocks(self) -> Iterator[Columns]:
        with self.path.open("rb", buffering=1 << 18) as stream:
            while True:
                try:
                    data = read_record(stream, self.path, self.records)
                except ContentError as error:
                    self._keep(error)
                    continue
                except RecordError as error:  # where the next record begins is unknown
                    self._keep(error)
                    return
                if data is None:
                    return
                try:
                    block = decode_block(self.schema, data, self.schema.features)
                except RecordError as error:
                    self._keep(RecordError(f"record {self.records}: {error}"))
                    continue
                self.records += 1
                self.rows += row_count(block)
                yield block

    def _keep(self, error: RecordError) -> None:
        self.messages.append(str(error).removeprefix(f"{self.path}: "))
        self.records += 1


def _rule_problems(found: _ShardReader, schema: Schema, checks: Sequence[Check]) -> Iterator[str]:
    for chunk in rechunk(found.blocks(), _CHUNK_ROWS):
        statistics = column_statistics(schema, chunk)
        for feature in schema.features:
            problem = limit_problem(feature, statistics[feature.name])
            if problem:
                yield problem
        for check in checks:
            yield from check(chunk)


def _shard_problems(path: Path, shard: Shard, found: _ShardReader) -> Iterator[str]:
    yield from found.messages
    size = path.stat().st_size
    for what, value, stated in (
        ("bytes", size, shard.bytes),
        ("records", found.records, shard.records),
        ("rows", found.rows, shard.rows),
    ):
        if value != stated:
            yield f"holds {value} {what}, the manifest says {stated}"
    if size == shard.bytes and file_crc(path) != shard.crc32c:
        yield f"the CRC of the file differs from the manifest's {shard.crc32c}"


def _metadata_problems(directory: Path, manifest: Manifest) -> Iterator[Problem]:
    for name, content in metadata(manifest).items():
        try:
            if read_json(directory / name) != content:
                yield Problem(name, "the content contradicts the manifest")
        except RecordError as error:
            yield Problem(name, str(error))
    stated = {shard.file for split in manifest.splits.values() for shard in split.shards}
    for path in sorted(directory.glob(f"{manifest.name}-*.tfrecord-*")):
        if path.name not in stated:
            yield Problem(path.name, "the manifest does not name this file")
