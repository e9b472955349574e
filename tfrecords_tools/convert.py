"""A dataset from rows that exist already: files of an experiment, of another program, in any order."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tfrecords_tools.errors import RecordError
from tfrecords_tools.files import new_folder
from tfrecords_tools.manifest import SPLITS, Manifest, Split, allot, plain, shard_name, write_metadata
from tfrecords_tools.schema import Columns, Schema
from tfrecords_tools.shuffle import Part, gather, scatter
from tfrecords_tools.writer import write_shard


def write_dataset(
    directory: Path | str,
    schema: Schema,
    chunks: Iterable[Columns],
    *,
    source: dict[str, Any],
    name: str,
    splits: Mapping[str, float] = SPLITS,
    shards: int = 16,
    seed: int = 1,
    group: str | None = None,
) -> Manifest:
    """Write rows as a shuffled dataset that is split by group.

    The folder appears when it is complete. Its bytes depend on the rows, their order and the arguments, not
    on the size of the chunks. Memory holds one shard and one chunk; the disk holds up to twice the rows.

    Args:
        directory: The folder to make; it must not exist, or be empty.
        schema: The columns.
        chunks: Columns by name, each `(n, *shape)` with any n.
        source: Where the rows come from, JSON-like; the manifest's `config`.
        name: Who read them, in words; the manifest's `generator`.
        splits: Share of every split, of the groups where there are some.
        shards: Files over all splits.
        seed: Seed of the split and of the shuffle.
        group: Column of integers or text whose equal values stay in one split; it is stored if the schema has
            it. None where no two rows share an origin.

    Raises:
        RecordError: The folder holds something, the rows do not suit the schema, or a shard stays empty.
            Nothing is left on disk.
    """
    if seed < 0:
        raise RecordError(f"seed must not be negative, received {seed}")
    directory = Path(directory)
    source = plain(source, "the source")
    counts = allot(shards, splits)
    with new_folder(directory) as staging:
        spill = staging / ".spill"
        spill.mkdir()
        files = {
            split: tuple(shard_name(schema.name, split, index, count) for index in range(count))
            for split, count in counts.items()
        }
        parts = [Part(share, tuple(spill / file for file in files[split])) for split, share in splits.items()]
        scatter(schema, chunks, parts, seed=seed, group=group)
        numbers = iter(range(shards))
        made: dict[str, Split] = {}
        for split, part in zip(splits, parts, strict=True):
            infos = []
            for path in part.files:
                columns = gather(schema, path, seed=seed, shard=next(numbers))
                infos.append(write_shard(staging / path.name, schema, [columns]))
                path.unlink()
            made[split] = Split.of(infos, schema)
        shutil.rmtree(spill)
        manifest = Manifest(schema, name, None, source, seed, group, made)
        write_metadata(staging, manifest)
    return manifest
