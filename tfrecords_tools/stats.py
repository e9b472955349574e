"""Mean, spread and range of every feature component in one pass, and their exact merge over shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfrecords_tools.errors import RecordError
from tfrecords_tools.schema import Columns, Feature, Schema, json_object

_PIECE = 4096  # entries per pass: a float64 copy of them stays in the second-level cache

_WIDE = 64
"""Components of which a row is worth a pass of its own."""


@dataclass(frozen=True)
class Statistics:
    """Statistics of one feature, each array `(components,)` float64.

    Attributes:
        count: Entries per component.
        mean: Mean.
        squares: Sum of squared deviations from the mean.
        minimum: Smallest value, +inf when there is no entry.
        maximum: Largest value, -inf when there is no entry.
    """

    count: int
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]
    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]

    @classmethod
    def empty(cls, components: int) -> Statistics:
        """Return the statistics of nothing."""
        zero, infinity = np.zeros(components), np.full(components, np.inf)
        return cls(0, zero, zero, infinity, -infinity)

    @classmethod
    def of(cls, values: NDArray[Any]) -> Statistics:
        """Return the statistics of `(n, components)` values."""
        total = cls.empty(values.shape[1])
        for start in range(0, len(values), _PIECE):
            part = values[start : start + _PIECE]
            # A reduction along a short axis is twenty times slower: few components are turned into rows.
            wide = part.shape[1] >= _WIDE
            piece = part.astype(np.float64) if wide else np.ascontiguousarray(part.T, dtype=np.float64).T
            minimum, maximum = piece.min(axis=0), piece.max(axis=0)
            with np.errstate(invalid="ignore"):  # an infinity shows in minimum and maximum
                mean = piece.mean(axis=0)
                piece -= mean
                squares = np.einsum("ij,ij->j", piece, piece)
            total = total.merge(cls(len(piece), mean, squares, minimum, maximum))
        return total

    def merge(self, other: Statistics) -> Statistics:
        """Return the statistics of both samples together.

        Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample
        variances" (1979), eq. 2.1.
        """
        if not self.count or not other.count:
            return other if other.count else self
        count = self.count + other.count
        shift = other.mean - self.mean
        return Statistics(
            count,
            self.mean + shift * (other.count / count),
            self.squares + other.squares + shift**2 * (self.count * other.count / count),
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
        )

    @property
    def std(self) -> NDArray[np.float64]:
        """Standard deviation of the entries (divided by n)."""
        return np.sqrt(self.squares / max(self.count, 1))

    def summary(self) -> dict[str, Any]:
        """Return `count`, and `mean`, `std`, `min` and `max` as lists with one entry per component."""
        return {
            "count": self.count,
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "min": self.minimum.tolist() if self.count else None,
            "max": self.maximum.tolist() if self.count else None,
        }

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `from_json` restores every bit."""
        return {**self.summary(), "squares": self.squares.tolist()}

    @classmethod
    def from_json(cls, value: Any) -> Statistics:
        """Rebuild what `to_json` gave.

        Raises:
            RecordError: A key is missing or unknown.
        """
        entry = json_object(value, ("count", "mean", "std", "min", "max", "squares"), "statistics")
        if not entry["count"]:
            return cls.empty(len(entry["mean"]))
        arrays = [np.asarray(entry[key], dtype=np.float64) for key in ("mean", "squares", "min", "max")]
        return cls(int(entry["count"]), *arrays)


def column_statistics(schema: Schema, columns: Columns) -> dict[str, Statistics]:
    """Return the statistics of every column of a chunk."""
    return {
        feature.name: Statistics.of(component_rows(feature, columns[feature.name]))
        for feature in schema.features
    }


def merge_statistics(parts: list[dict[str, Statistics]], schema: Schema) -> dict[str, Statistics]:
    """Return the statistics of all parts together, merged in their order."""
    total = {feature.name: Statistics.empty(feature.components) for feature in schema.features}
    for part in parts:
        total = {name: statistics.merge(part[name]) for name, statistics in total.items()}
    return total


def component_rows(feature: Feature, column: NDArray[Any]) -> NDArray[Any]:
    """Return all values of a column as `(entries, components)`."""
    if feature.ragged:
        empty = np.empty((0, *feature.row_shape), dtype=feature.dtype)
        column = np.concatenate([empty, *column])
    return column.reshape(-1, feature.components)


def limit_problem(feature: Feature, statistics: Statistics) -> str | None:
    """Return one sentence if a value is not finite or outside the feature's limits, None if all are well."""
    if not statistics.count:
        return None
    low, high = statistics.minimum, statistics.maximum
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return f"feature {feature.name!r} holds NaN or infinity"
    for limit, value, outside, word in (
        (feature.minimum, low, np.less, "below its minimum"),
        (feature.maximum, high, np.greater, "above its maximum"),
    ):
        if limit is None:
            continue
        # A stored value can only be compared with the limit as its own type can hold it.
        allowed = np.broadcast_to(np.asarray(limit, dtype=feature.dtype).astype(np.float64), value.shape)
        for component in np.flatnonzero(outside(value, allowed)):
            unit = feature.units[component % len(feature.units)]
            return (
                f"feature {feature.name!r}[{component}] holds {value[component]:.9g} {unit}, "
                f"{word} {allowed[component]:.9g}"
            )
    return None


def check_statistics(schema: Schema, statistics: dict[str, Statistics]) -> None:
    """Raise for a value that is not finite or outside its feature's limits.

    Raises:
        RecordError: One line that names the feature.
    """
    for feature in schema.features:
        problem = limit_problem(feature, statistics[feature.name])
        if problem:
            raise RecordError(problem)
