"""A dataset described for a reader: what it holds, in which units, how it was made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tfrecords_tools.manifest import Manifest

MOST_COMPONENTS = 32
"""Components of a feature that are listed one by one."""


def describe(manifest: Manifest) -> dict[str, Any]:
    """Return what the card says as a JSON object."""
    features: dict[str, Any] = {}
    for feature in manifest.schema.features:
        features[feature.name] = {
            "doc": feature.doc,
            "dtype": feature.dtype,
            "shape": list(feature.shape),
            "unit": feature.unit,
            "statistics": {
                split: part.statistics[feature.name].summary() for split, part in manifest.splits.items()
            },
        }
    return {
        "name": manifest.name,
        "rows": manifest.rows,
        "bytes": sum(part.bytes for part in manifest.splits.values()),
        "block_rows": manifest.schema.block_rows,
        "splits": {
            split: {"rows": part.rows, "shards": len(part.shards), "bytes": part.bytes, "counts": part.counts}
            for split, part in manifest.splits.items()
        },
        "features": features,
        "generator": manifest.generator,
        "function": manifest.function,
        "config": manifest.config,
        "config_hash": manifest.config_hash,
        "seed": manifest.seed,
        "group": manifest.group,
        "counts": manifest.counts,
        "acceptance": manifest.acceptance,
    }


def card(manifest: Manifest) -> str:
    """Return the data card as Markdown; feature statistics are those of the first split."""
    first = next(iter(manifest.splits))
    splits = [
        (split, f"{part.rows:,}", str(len(part.shards)), _size(part.bytes))
        for split, part in manifest.splits.items()
    ]
    lines = [
        f"# {manifest.name}",
        "",
        f"{manifest.rows:,} rows, {manifest.schema.block_rows:,} in an Example, by {manifest.generator}.",
        "",
        *_table(("split", "rows", "shards", "size"), splits),
        "",
        f"## Features ({first} rows)",
        "",
        *_table(("feature", "unit", "mean", "std", "min", "max", "meaning"), _feature_rows(manifest, first)),
        "",
        "## Origin",
        "",
        f"- seed: {manifest.seed}",
        f"- configuration: {manifest.config_hash}",
        *([f"- function: `{manifest.function}`"] if manifest.function else []),
        *([f"- split by: `{manifest.group}`"] if manifest.group else []),
        *(f"- {key}: {json.dumps(value)}" for key, value in manifest.config.items()),
    ]
    if manifest.counts:
        lines += [
            "",
            "## Counts",
            "",
            *(f"- {reason}: {count:,}" for reason, count in manifest.counts.items()),
        ]
        if manifest.acceptance is not None:
            lines.append(f"- acceptance: {manifest.acceptance:.4f}")
    return "\n".join(lines)


def _feature_rows(manifest: Manifest, split: str) -> Iterable[tuple[str, ...]]:
    """Yield one row for each component; one for all of them together where there are many."""
    for feature in manifest.schema.features:
        statistics = manifest.split(split).statistics[feature.name]
        if feature.components > MOST_COMPONENTS and len(feature.units) == 1 and statistics.count:
            mean = statistics.mean.mean()
            std = np.sqrt((statistics.std**2 + (statistics.mean - mean) ** 2).mean())
            pooled = (mean, std, statistics.minimum.min(), statistics.maximum.max())
            name = f"{feature.name}[0..{feature.components - 1}]"
            yield name, feature.unit, *(f"{value:.6g}" for value in pooled), feature.doc
            continue
        for index in range(feature.components):
            values = (statistics.mean, statistics.std, statistics.minimum, statistics.maximum)
            numbers = [f"{value[index]:.6g}" if statistics.count else "-" for value in values]
            name = feature.name if feature.components == 1 else f"{feature.name}[{index}]"
            unit = feature.units[index % len(feature.units)]
            yield name, unit, *numbers, feature.doc if index == 0 else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    cells = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    lines.insert(1, " | ".join("-" * width for width in widths))
    return [f"| {line} |" for line in lines]


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.4g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"
