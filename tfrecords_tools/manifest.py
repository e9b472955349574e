"""`manifest.json`: all that is known about a dataset, and what TFDS needs to open the same folder."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tfrecords_tools.errors import RecordError
from tfrecords_tools.files import read_json, write_json
from tfrecords_tools.schema import Schema, json_object
from tfrecords_tools.stats import Statistics, merge_statistics

FORMAT_VERSION = 1
FILE = "manifest.json"
SPLITS: Mapping[str, float] = {"train": 0.8, "validation": 0.1, "test": 0.1}
"""Default share of every split."""


@dataclass(frozen=True)
class Shard:
    """One file: its name, rows, records (Examples), bytes and the hexadecimal CRC-32C of all of it."""

    file: str
    rows: int
    records: int
    bytes: int
    crc32c: str


@dataclass(frozen=True)
class ShardInfo:
    """A written shard with what was learnt while writing it.

    Attributes:
        shard: The file.
        statistics: Statistics of every feature.
        counts: What its maker counted, such as rejected tracks by reason.
    """

    shard: Shard
    statistics: dict[str, Statistics]
    counts: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return this as a JSON object."""
        statistics = {name: value.to_json() for name, value in self.statistics.items()}
        return {"shard": asdict(self.shard), "counts": self.counts, "statistics": statistics}

    @classmethod
    def from_json(cls, value: Any) -> ShardInfo:
        """Rebuild what `to_json` gave.

        Raises:
            RecordError: A key is missing or unknown.
        """
        entry = json_object(value, ("shard", "counts", "statistics"), "shard information")
        statistics = {name: Statistics.from_json(item) for name, item in entry["statistics"].items()}
        return cls(_shard(entry["shard"]), statistics, entry["counts"])


@dataclass(frozen=True)
class Split:
    """The shards of one split, with the statistics and counts of all of them together."""

    shards: tuple[Shard, ...]
    statistics: dict[str, Statistics]
    counts: dict[str, int]

    @classmethod
    def of(cls, infos: Sequence[ShardInfo], schema: Schema) -> Split:
        """Return the split that these shards make, merged in their order."""
        statistics = merge_statistics([info.statistics for info in infos], schema)
        return cls(tuple(info.shard for info in infos), statistics, total(info.counts for info in infos))

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(shard.rows for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Size of all shards."""
        return sum(shard.bytes for shard in self.shards)


@dataclass(frozen=True)
class Manifest:
    """All that is known about a dataset.

    Attributes:
        schema: Names, types, units and limits of the columns.
        generator: Who made the rows, in words.
        function: `module:function` that made them, None for rows that were read from elsewhere.
        config: Configuration of the function, or description of the source.
        seed: Seed of the generation or of the shuffle.
        group: Column whose equal values stay in one split, None where every row stands alone.
        splits: The parts by name.
    """

    schema: Schema
    generator: str
    function: str | None
    config: dict[str, Any]
    seed: int
    group: str | None
    splits: dict[str, Split]

    @property
    def name(self) -> str:
        """Name of the dataset; shard files begin with it."""
        return self.schema.name

    @property
    def config_hash(self) -> str:
        """Hash of the configuration, independent of the order of its keys."""
        return digest(self.config)

    @property
    def rows(self) -> int:
        """Rows of all splits."""
        return sum(split.rows for split in self.splits.values())

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The files of all splits."""
        return tuple(shard for split in self.splits.values() for shard in split.shards)

    @property
    def counts(self) -> dict[str, int]:
        """What the generator counted, over all splits."""
        return total(split.counts for split in self.splits.values())

    @property
    def acceptance(self) -> float | None:
        """Kept rows divided by the count `tried`, None where nothing was counted so."""
        tried = self.counts.get("tried")
        return self.rows / tried if tried else None

    def statistics(self, split: str) -> dict[str, dict[str, Any]]:
        """Return `count`, `mean`, `std`, `min`, `max` of every feature of a split.

        Raises:
            RecordError: There is no such split.
        """
        return {name: value.summary() for name, value in self.split(split).statistics.items()}

    def split(self, name: str) -> Split:
        """Return the split called `name`.

        Raises:
            RecordError: There is none.
        """
        if name not in self.splits:
            raise RecordError(
                f"dataset {self.name!r} has no split {name!r}; there are: {', '.join(self.splits)}"
            )
        return self.splits[name]

    def to_json(self) -> dict[str, Any]:
        """Return the content of `manifest.json`."""
        return {
            "format_version": FORMAT_VERSION,
            "rows": self.rows,
            "generator": self.generator,
            "function": self.function,
            "config": self.config,
            "config_hash": self.config_hash,
            "seed": self.seed,
            "group": self.group,
            "counts": self.counts,
            "acceptance": self.acceptance,
            "schema": self.schema.to_json(),
            "splits": {
                name: {
                    "rows": split.rows,
                    "counts": split.counts,
                    "statistics": {key: value.to_json() for key, value in split.statistics.items()},
                    "shards": [asdict(shard) for shard in split.shards],
                }
                for name, split in self.splits.items()
            },
        }

    @classmethod
    def from_json(cls, value: Any) -> Manifest:
        """Rebuild a manifest from the content of `manifest.json`.

        Raises:
            RecordError: Another format version, a missing or unknown key, or row counts that contradict.
        """
        version = value.get("format_version") if isinstance(value, Mapping) else None
        if version != FORMAT_VERSION:
            raise RecordError(f"format version is {version!r}, this program reads version {FORMAT_VERSION}")
        entry = json_object(
            value,
            (
                *(
                    "format_version",
                    "rows",
                    "generator",
                    "function",
                    "config",
                    "config_hash",
                    "seed",
                    "group",
                ),
                *("counts", "acceptance", "schema", "splits"),
            ),
            "the manifest",
        )
        splits = {}
        for name, item in entry["splits"].items():
            part = json_object(item, ("rows", "counts", "statistics", "shards"), f"split {name!r}")
            statistics = {key: Statistics.from_json(inner) for key, inner in part["statistics"].items()}
            splits[name] = Split(tuple(_shard(shard) for shard in part["shards"]), statistics, part["counts"])
            if splits[name].rows != part["rows"]:
                raise RecordError(
                    f"split {name!r} states {part['rows']} rows, its shards hold {splits[name].rows}"
                )
        return cls(
            schema=Schema.from_json(entry["schema"]),
            splits=splits,
            **{key: entry[key] for key in ("generator", "function", "config", "seed", "group")},
        )

    def tfds_info(self) -> dict[str, Any]:
        """Return the content of the `dataset_info.json` that TFDS reads; its unit is the Example."""
        return {
            "name": self.name,
            "version": "1.0.0",
            "description": f"{self.rows} rows, {self.schema.block_rows} in an Example: {self.generator}",
            "fileFormat": "tfrecord",
            "splits": [
                {
                    "name": name,
                    "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                    "shardLengths": [str(shard.records) for shard in split.shards],
                    "numBytes": str(split.bytes),
                }
                for name, split in self.splits.items()
            ],
        }


def metadata(manifest: Manifest) -> dict[str, dict[str, Any]]:
    """Return every metadata file of a dataset by name, the manifest last."""
    return {
        "features.json": manifest.schema.tfds_features(),
        "dataset_info.json": manifest.tfds_info(),
        FILE: manifest.to_json(),
    }


def write_metadata(directory: Path, manifest: Manifest) -> None:
    """Write the metadata files; the manifest comes last, so it never stands without the others."""
    for name, content in metadata(manifest).items():
        write_json(directory / name, content)


def load_manifest(directory: Path) -> Manifest:
    """Read `manifest.json`.

    Raises:
        RecordError: The folder or the file is missing, the dataset is not complete, or the content is not a
            manifest of this format version.
    """
    path = directory / FILE
    if not directory.is_dir():
        raise RecordError(f"no such folder: {directory}")
    if not path.exists():
        if (directory / "recipe.json").exists():
            raise RecordError(f"{directory} is not complete: run the same generation again to finish it")
        raise RecordError(f"{directory} holds no dataset: {FILE} is missing")
    content = read_json(path)
    try:
        return Manifest.from_json(content)
    except (RecordError, TypeError, AttributeError, KeyError) as error:
        raise RecordError(f"{path}: {error}") from None


def shard_name(dataset: str, split: str, index: int, count: int) -> str:
    """Return the file name of shard `index` of the `count` shards of a split."""
    return f"{dataset}-{split}.tfrecord-{index:05d}-of-{count:05d}"


def allot(amount: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Divide `amount` among `shares` by largest remainder, at least one each.

    Raises:
        RecordError: Shares are not positive or do not add up to one, or `amount` is less than their number.
    """
    if not shares or min(shares.values()) <= 0 or not math.isclose(sum(shares.values()), 1.0, abs_tol=1e-9):
        raise RecordError(f"splits must be positive fractions that add up to 1, received {dict(shares)}")
    if amount < len(shares):
        raise RecordError(f"{amount} cannot be divided among {len(shares)} splits: each needs at least one")
    parts = {name: max(1, math.floor(share * amount + 1e-9)) for name, share in shares.items()}
    while sum(parts.values()) != amount:
        step = 1 if sum(parts.values()) < amount else -1
        able = [name for name in parts if parts[name] + step >= 1]
        parts[max(able, key=lambda name: step * (shares[name] * amount - parts[name]))] += step
    return parts


def total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the sum of several counts, by reason."""
    result: Counter[str] = Counter()
    for count in counts:
        result.update(count)
    return dict(sorted(result.items()))


def plain(value: dict[str, Any], what: str) -> dict[str, Any]:
    """Return a JSON-like value as it is after writing and reading it.

    Raises:
        RecordError: JSON cannot hold it.
    """
    try:
        result: dict[str, Any] = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise RecordError(f"{what} cannot be written as JSON: {error}") from None
    return result


def digest(value: Any) -> str:
    """Return a short hash of a JSON-like value that does not depend on the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _shard(value: Any) -> Shard:
    return Shard(**json_object(value, tuple(field.name for field in fields(Shard)), "shard"))
