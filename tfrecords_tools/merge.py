"""Several datasets as one, and one dataset in another number of shards; no row changes its split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from crc32c import crc32c

from tfrecords_tools.errors import RecordError
from tfrecords_tools.files import new_file, new_folder
from tfrecords_tools.manifest import Manifest, Shard, Split, allot, shard_name, total, write_metadata
from tfrecords_tools.reader import Dataset
from tfrecords_tools.schema import Columns, Schema
from tfrecords_tools.stats import merge_statistics
from tfrecords_tools.writer import write_shard

_CHUNK_ROWS = 65_536
_CHUNK_BYTES = 1 << 22


def merge_datasets(
    sources: Sequence[Path | str], directory: Path | str, *, same: Sequence[str] = ()
) -> Manifest:
    """Put the shards of several datasets into one folder; each split takes the shards of its name.

    The bytes of the shards are copied and checked on the way, not decoded. The new configuration holds what
    all sources agree on, and what each one is in `sources`.

    Args:
        sources: Folders of at least two datasets.
        directory: The folder to make; it must not exist, or be empty.
        same: Keys of the configuration in which the sources must agree, such as the magnetic field.

    Raises:
        RecordError: The sources differ in schema, units, splits, grouping or a key of `same`, two of them
            hold the same rows, or a shard is damaged. Nothing is left on disk.
    """
    if len(sources) < 2:
        raise RecordError(f"a merge needs at least two datasets, received {len(sources)}")
    datasets = [Dataset(source) for source in sources]
    manifests = [dataset.manifest for dataset in datasets]
    for dataset in datasets[1:]:
        _check_compatible(datasets[0], dataset, same)
    _check_distinct(datasets)
    first = manifests[0]
    with new_folder(Path(directory)) as staging:
        splits = {name: _join_split(datasets, name, staging) for name in first.splits}
        functions = {manifest.function for manifest in manifests}
        makers = dict.fromkeys(manifest.generator for manifest in manifests)
        manifest = Manifest(
            schema=first.schema,
            generator=f"merge of {len(sources)} datasets: {'; '.join(makers)}",
            function=first.function if len(functions) == 1 else None,
            config=_common(manifests) | {"sources": [_provenance(dataset) for dataset in datasets]},
            seed=first.seed,
            group=first.group,
            splits=splits,
        )
        write_metadata(staging, manifest)
    return manifest


def reshard(source: Path | str, directory: Path | str, shards: int) -> Manifest:
    """Write a dataset with another number of shards; rows keep their order and their split.

    Args:
        source: Folder of a dataset.
        directory: The folder to make; it must not exist, or be empty.
        shards: Files over all splits, divided among them by rows.

    Raises:
        RecordError: More shards than rows, fewer than splits, or a shard of the source is damaged. Nothing is
            left on disk.
    """
    dataset = Dataset(source)
    manifest = dataset.manifest
    counts = allot(shards, {name: split.rows / manifest.rows for name, split in manifest.splits.items()})
    for name, count in counts.items():
        if dataset.rows(name) < count:
            raise RecordError(f"split {name!r}: {dataset.rows(name)} rows cannot fill {count} shards")
    with new_folder(Path(directory)) as staging:
        splits = {}
        for name, count in counts.items():
            each, more = divmod(dataset.rows(name), count)  # the first shards hold one more
            bounds = [each * index + min(index, more) for index in range(count + 1)]
            infos = [
                write_shard(
                    staging / shard_name(manifest.name, name, index, count),
                    manifest.schema,
                    _rows(dataset, name, bounds[index], bounds[index + 1]),
                )
                for index in range(count)
            ]
            splits[name] = replace(Split.of(infos, manifest.schema), counts=manifest.split(name).counts)
        made = replace(manifest, splits=splits)
        write_metadata(staging, made)
    return made


def _rows(dataset: Dataset, split: str, begin: int, end: int) -> Iterator[Columns]:
    for start in range(begin, end, _CHUNK_ROWS):
        yield dataset.read(split, start=start, limit=min(_CHUNK_ROWS, end - start))


# -- what may be merged ------------------------------------------------------------------------------------
def _check_compatible(first: Dataset, other: Dataset, same: Sequence[str]) -> None:
    where = f"{other.directory} cannot be merged with {first.directory}"
    for problem in _schema_differences(first.schema, other.schema):
        raise RecordError(f"{where}: {problem}")
    one, two = first.manifest, other.manifest
    if list(one.splits) != list(two.splits):
        raise RecordError(f"{where}: its splits are {list(two.splits)}, not {list(one.splits)}")
    if one.group != two.group:
        raise RecordError(f"{where}: its rows are grouped by {two.group!r}, not by {one.group!r}")
    for key in same:
        if one.config.get(key) != two.config.get(key):
            raise RecordError(f"{where}: its {key} is {two.config.get(key)}, not {one.config.get(key)}")


def _schema_differences(first: Schema, other: Schema) -> Iterator[str]:
    if first.name != other.name:
        yield f"it is a dataset of {other.name!r}, not of {first.name!r}"
    if first.names != other.names:
        yield f"its columns are {', '.join(other.names)}, not {', '.join(first.names)}"
    for one, two in zip(first.features, other.features, strict=False):
        for attribute in ("dtype", "shape", "unit", "minimum", "maximum"):
            if getattr(one, attribute) != getattr(two, attribute):
                yield (
                    f"{attribute} of {one.name!r} is {getattr(two, attribute)}, not {getattr(one, attribute)}"
                )
    if first.block_rows != other.block_rows:
        yield f"its blocks have {other.block_rows} rows, not {first.block_rows}"


def _check_distinct(datasets: Sequence[Dataset]) -> None:
    """Refuse rows that come twice: they would weigh double, and could stand in two splits."""
    seen: dict[tuple[str, int], Path] = {}
    for dataset in datasets:
        for shard in dataset.manifest.shards:
            key = (shard.crc32c, shard.bytes)
            if key in seen:
                raise RecordError(
                    f"{dataset.directory / shard.file} holds the same rows as {seen[key]}: "
                    "merge datasets of different seeds"
                )
            seen[key] = dataset.directory / shard.file


# -- the parts of the merged dataset -----------------------------------------------------------------------
def _join_split(datasets: Sequence[Dataset], name: str, staging: Path) -> Split:
    parts = [dataset.manifest.split(name) for dataset in datasets]
    files = [(file, shard) for dataset, part in zip(datasets, parts, strict=True)
             for file, shard in zip(dataset.files(name), part.shards, strict=True)]  # fmt: skip
    schema = datasets[0].schema
    shards = tuple(
        _copy(file, shard, staging / shard_name(schema.name, name, index, len(files)))
        for index, (file, shard) in enumerate(files)
    )
    statistics = merge_statistics([part.statistics for part in parts], schema)
    return Split(shards, statistics, total(part.counts for part in parts))


def _copy(source: Path, shard: Shard, path: Path) -> Shard:
    """Copy a shard under its new name; refuse one that is not as its manifest says."""
    crc = 0
    try:
        with source.open("rb") as stream, new_file(path) as out:
            while data := stream.read(_CHUNK_BYTES):
                crc = crc32c(data, crc)
                out.write(data)
    except FileNotFoundError:
        raise RecordError(f"{source}: the file is missing") from None
    if f"{crc:08x}" != shard.crc32c:
        raise RecordError(f"{source} is damaged: its CRC differs from the manifest's {shard.crc32c}")
    return replace(shard, file=path.name)


def _common(manifests: Sequence[Manifest]) -> dict[str, Any]:
    first, *others = (manifest.config for manifest in manifests)
    return {
        key: value
        for key, value in first.items()
        if key != "sources" and all(key in other and other[key] == value for other in others)
    }


def _provenance(dataset: Dataset) -> dict[str, Any]:
    manifest = dataset.manifest
    return {
        "folder": dataset.directory.name,
        "generator": manifest.generator,
        "config": manifest.config,
        "seed": manifest.seed,
        "rows": manifest.rows,
    }
