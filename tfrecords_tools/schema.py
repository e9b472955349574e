"""What one row of a dataset holds: names, types, shapes, units and limits, and how rows lie in an Example."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tfrecords_tools.errors import RecordError

Columns = dict[str, NDArray[Any]]
"""Rows by feature name; the first axis of each array is the row. A ragged column has dtype object."""

UNITS = (
    *("1", "um", "mm", "cm", "m", "fs", "ps", "ns", "us", "ms", "s", "rad", "mrad", "deg"),
    *("eV", "keV", "MeV", "GeV", "TeV", "1/MeV", "1/GeV", "T", "V", "mV", "ADC", "pe"),
)
"""Unit strings that a feature may state; `1` is for a number without unit, `pe` for photo-electrons."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_TYPES = ("float32", "int64")


@dataclass(frozen=True)
class Feature:
    """One column.

    Attributes:
        name: Lower-case identifier.
        dtype: `float32` or `int64`, the two numeric types of `tf.train.Example`.
        shape: Shape of one row, `()` for a scalar. The first axis may be None: its length varies by row.
        unit: One of `UNITS`, or one for each entry of the last axis, separated by commas.
        doc: One sentence about the meaning.
        minimum: Smallest allowed value, or one for each entry of the last axis; None for no limit.
        maximum: Largest allowed value, alike.

    Raises:
        RecordError: An entry is not as described here.
    """

    name: str
    dtype: Literal["float32", "int64"]
    shape: tuple[int | None, ...]
    unit: str
    doc: str
    minimum: float | tuple[float, ...] | None = None
    maximum: float | tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise RecordError(f"feature name {self.name!r} is not a lower-case identifier")
        if self.dtype not in _TYPES:
            raise RecordError(f"feature {self.name!r}: dtype is {self.dtype!r}, known: {', '.join(_TYPES)}")
        if any(size is None or size < 1 for size in self.row_shape) or (self.shape and self.shape[0] == 0):
            raise RecordError(
                f"feature {self.name!r}: sizes in shape {self.shape} must be positive, the first may be None"
            )
        for unit in self.units:
            if unit not in UNITS:
                raise RecordError(f"feature {self.name!r}: unknown unit {unit!r}, known: {', '.join(UNITS)}")
        for what, count in (
            ("unit", len(self.units)),
            ("minimum", len(self.minimum) if isinstance(self.minimum, tuple) else 1),
            ("maximum", len(self.maximum) if isinstance(self.maximum, tuple) else 1),
        ):
            if count not in (1, self.components):
                raise RecordError(
                    f"feature {self.name!r}: {what} needs 1 or {self.components} entries, received {count}"
                )

    @property
    def ragged(self) -> bool:
        """Whether the first axis varies from row to row."""
        return bool(self.shape) and self.shape[0] is None

    @property
    def row_shape(self) -> tuple[Any, ...]:
        """Shape of one row without its ragged axis."""
        return self.shape[1:] if self.ragged else self.shape

    @property
    def size(self) -> int:
        """Number of values in one row, or in one entry of the ragged axis."""
        return math.prod(self.row_shape)

    @property
    def components(self) -> int:
        """Length of the last axis (1 for a scalar): statistics, limits and units are per component."""
        return self.row_shape[-1] if self.row_shape else 1

    @property
    def units(self) -> tuple[str, ...]:
        """The unit of every component, or the one that all share."""
        return tuple(part.strip() for part in self.unit.split(","))


@dataclass(frozen=True)
class ExampleFeature:
    """How a parser finds one feature in a serialized Example.

    Attributes:
        dtype: `float32` or `int64`.
        shape: Fixed part of the shape.
        sequence: Whether an axis of unknown length stands before `shape` (`tf.io.FixedLenSequenceFeature`
            with `allow_missing`); otherwise the shape is complete (`tf.io.FixedLenFeature`).
    """

    dtype: str
    shape: tuple[int, ...]
    sequence: bool


@dataclass(frozen=True)
class Schema:
    """What a dataset holds.

    Attributes:
        name: Lower-case identifier; shard files begin with it.
        features: The columns.
        block_rows: Rows in one Example. With 1 an Example is one row with the shapes as declared, and a
            feature may be ragged; otherwise every feature of an Example has one leading axis of rows, and the
            last block of a shard may be short.

    Raises:
        RecordError: Names repeat or are no identifiers, or `block_rows` does not suit.
    """

    name: str
    features: tuple[Feature, ...]
    block_rows: int = 1024

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise RecordError(f"dataset name {self.name!r} is not a lower-case identifier")
        names = self.names
        if not names or len(set(names)) < len(names):
            raise RecordError(f"schema {self.name!r} needs features of distinct names, received {names}")
        if self.block_rows < 1:
            raise RecordError(
                f"schema {self.name!r}: block_rows must be at least 1, received {self.block_rows}"
            )
        ragged = [feature.name for feature in self.features if feature.ragged]
        if ragged and self.block_rows > 1:
            raise RecordError(f"schema {self.name!r}: ragged features {ragged} need block_rows=1")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features, in order."""
        return tuple(feature.name for feature in self.features)

    def feature(self, name: str) -> Feature:
        """Return the feature called `name`.

        Raises:
            RecordError: There is none.
        """
        for feature in self.features:
            if feature.name == name:
                return feature
        raise RecordError(
            f"dataset {self.name!r} has no feature {name!r}; there are: {', '.join(self.names)}"
        )

    def parse_spec(self) -> dict[str, ExampleFeature]:
        """Return how to parse one Example of this schema, as plain data for `tf.io` or any other parser."""
        return {
            feature.name: ExampleFeature(
                feature.dtype, feature.row_shape, sequence=feature.ragged or self.block_rows > 1
            )
            for feature in self.features
        }

    def to_json(self) -> dict[str, Any]:
        """Return this schema as a JSON object."""
        return {
            "name": self.name,
            "block_rows": self.block_rows,
            "features": [
                {
                    "name": feature.name,
                    "dtype": feature.dtype,
                    "shape": list(feature.shape),
                    "unit": feature.unit,
                    "doc": feature.doc,
                    "minimum": _listed(feature.minimum),
                    "maximum": _listed(feature.maximum),
                }
                for feature in self.features
            ],
        }

    @classmethod
    def from_json(cls, value: Any) -> Schema:
        """Rebuild a schema from `to_json`.

        Raises:
            RecordError: A key is missing or unknown, or a value does not suit.
        """
        entries = json_object(value, ("name", "block_rows", "features"), "schema")
        names = tuple(field.name for field in fields(Feature))
        features = []
        for item in entries["features"]:
            entry = json_object(item, names, "feature")
            entry["shape"] = tuple(entry["shape"])
            for limit in ("minimum", "maximum"):
                entry[limit] = tuple(entry[limit]) if isinstance(entry[limit], list) else entry[limit]
            features.append(Feature(**entry))
        return cls(entries["name"], tuple(features), entries["block_rows"])

    def tfds_features(self) -> dict[str, Any]:
        """Return the content of the `features.json` that TFDS reads."""
        package = "tensorflow_datasets.core.features"
        content = {}
        for name, parsed in sorted(self.parse_spec().items()):
            feature = self.feature(name)
            dimensions = [str(size) for size in ((-1,) if parsed.sequence else ()) + parsed.shape]
            content[name] = {
                "description": f"{feature.doc} [{feature.unit}]",
                "pythonClassName": f"{package}.tensor_feature.Tensor",
                "tensor": {
                    "dtype": feature.dtype,
                    "encoding": "none",
                    "shape": {"dimensions": dimensions} if dimensions else {},
                },
            }
        return {
            "featuresDict": {"features": content},
            "pythonClassName": f"{package}.features_dict.FeaturesDict",
        }


def json_object(value: Any, keys: tuple[str, ...], where: str) -> dict[str, Any]:
    """Return `value` as a dictionary that has exactly `keys`.

    Raises:
        RecordError: It is no JSON object, or a key is missing or unknown.
    """
    if not isinstance(value, Mapping):
        raise RecordError(f"{where} must be a JSON object, received {type(value).__name__}")
    missing = [key for key in keys if key not in value]
    unknown = [key for key in value if key not in keys]
    if missing or unknown:
        parts = [f"missing {missing}"] * bool(missing) + [f"unknown {unknown}"] * bool(unknown)
        raise RecordError(f"{where} has other keys than expected: {', '.join(parts)}")
    return dict(value)


def ragged(rows: list[NDArray[Any]]) -> NDArray[Any]:
    """Return the rows of a ragged feature as one column `(n,)` of dtype object."""
    column = np.empty(len(rows), dtype=object)
    for index, row in enumerate(rows):
        column[index] = row
    return column


def _listed(limit: float | tuple[float, ...] | None) -> float | list[float] | None:
    return list(limit) if isinstance(limit, tuple) else limit
