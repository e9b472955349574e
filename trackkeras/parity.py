"""How far exported formats are from Keras: on which rows, by how much, and in which band.

The rows are real ones, of the validation split: the first of it, and further on as many as a band of momentum
or distance (whatever the domain's axes are) lacks to a thousand, as far as the split has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trackkeras.domain import Axis, Parity, Rows
from trackkeras.evaluation import band_index

BAND_ROWS = 1000
"""Rows to compare in every band, unless a task wants fewer."""

MOST_COMPONENTS = 64
"""Outputs of more components are described by the largest difference of all."""


@dataclass(frozen=True)
class ParityResult:
    """Agreement of one exported format with Keras.

    Attributes:
        excess: Largest difference, divided by what is allowed.
        largest: Largest absolute difference per output component, or of all if they are many.
        worst: Index of the row with the largest excess.
        by_row: `(n,)` excess of every row.
    """

    excess: float
    largest: dict[str, list[float]]
    worst: int
    by_row: NDArray[Any] = field(repr=False, compare=False)

    def in_bands(self, axes: Sequence[Axis], rows: Rows) -> dict[str, list[float | None]]:
        """Return the largest excess in every band of every axis; None where a band is empty."""
        result: dict[str, list[float | None]] = {}
        for axis in axes:
            bands = band_index(axis, rows)
            inside = [self.by_row[bands == number] for number in range(len(axis.edges) - 1)]
            result[axis.name] = [float(values.max()) if values.size else None for values in inside]
        return result


def compare(parity: Parity, rows: Rows, reference: Rows, other: Rows) -> ParityResult:
    """Compare predictions row by row under a parity rule."""
    excess = np.asarray(parity.excess(rows, reference, other))
    excess = np.where(np.isfinite(excess), excess, np.inf)
    difference = {name: np.abs(other[name].astype(float) - reference[name]) for name in reference}
    largest = {name: np.max(value, axis=0).ravel().tolist() for name, value in difference.items()}
    largest = {name: v if len(v) <= MOST_COMPONENTS else [max(v)] for name, v in largest.items()}
    return ParityResult(float(excess.max()), largest, int(excess.argmax()), excess)


def joined(parts: Sequence[ParityResult]) -> ParityResult:
    """Return the agreement on the rows of all parts, one after the other."""
    excess = np.concatenate([part.by_row for part in parts])
    largest = {
        name: np.max([part.largest[name] for part in parts], axis=0).tolist() for name in parts[0].largest
    }
    return ParityResult(float(excess.max()), largest, int(excess.argmax()), excess)


def choose_rows(
    chunks: Iterable[Rows], axes: Sequence[Axis], limit: int, band_rows: int | None = None
) -> Rows:
    """Return the first rows, and of the others those that a band lacks.

    Args:
        chunks: Rows in their order; no more are taken than needed.
        axes: Their bands.
        limit: How many of the first rows.
        band_rows: How many of every band; a thousand if None.
    """
    wanted = BAND_ROWS if band_rows is None else band_rows
    counts = [np.zeros(len(axis.edges) - 1, int) for axis in axes]
    parts: list[Rows] = []
    seen = 0
    for chunk in chunks:
        size = len(next(iter(chunk.values())))
        taken = np.arange(seen, seen + size) < limit
        for axis, count in zip(axes, counts, strict=True):
            bands = band_index(axis, chunk)
            for band in range(len(count)):
                inside = bands == band
                lacking = wanted - count[band] - int((inside & taken).sum())
                taken[np.flatnonzero(inside & ~taken)[: max(lacking, 0)]] = True
        for axis, count in zip(axes, counts, strict=True):
            count += _rows_in_bands(axis, {name: column[taken] for name, column in chunk.items()})
        parts.append({name: column[taken] for name, column in chunk.items()})
        seen += size
        if seen >= limit and all((count >= wanted).all() for count in counts):
            break
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def describe_bands(axes: Sequence[Axis], rows: Rows) -> dict[str, dict[str, Any]]:
    """Return edges and number of rows of every band, by axis."""
    return {
        axis.name: {
            "label": axis.label,
            "edges": list(axis.edges),
            "rows": _rows_in_bands(axis, rows).tolist(),
        }
        for axis in axes
    }


def _rows_in_bands(axis: Axis, rows: Rows) -> NDArray[np.int64]:
    if not len(next(iter(rows.values()))):
        return np.zeros(len(axis.edges) - 1, int)
    bands = band_index(axis, rows)
    return np.bincount(bands[bands >= 0], minlength=len(axis.edges) - 1)
