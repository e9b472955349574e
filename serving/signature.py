"""What a model takes and gives: named tensors with types and shapes, and the check of inputs against them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.errors import Code, ServingError
from serving.messages import SignatureDef, TensorInfo
from serving.tensors import Array, data_type, numpy_type

DEFAULT_SIGNATURE = "serving_default"

PREDICT_METHOD = "tensorflow/serving/predict"


@dataclass(frozen=True)
class TensorSpec:
    """One named tensor of a signature.

    Attributes:
        dtype: NumPy type.
        shape: Size of every axis, -1 where any size is allowed.
        unit: Unit of the values, with several columns the units of each; empty where it is not known.
        doc: What the values are.
        graph_name: Name of the tensor inside the SavedModel.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    unit: str = ""
    doc: str = ""
    graph_name: str = ""

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Return whether an array of this shape fits."""
        return len(shape) == len(self.shape) and all(
            want in (-1, size) for want, size in zip(self.shape, shape, strict=True)
        )

    def same_type(self, other: TensorSpec) -> bool:
        """Return whether type and shape are equal."""
        return (self.dtype, self.shape) == (other.dtype, other.shape)

    def __str__(self) -> str:
        return f"{self.dtype.name}{list(self.shape)}"


@dataclass(frozen=True)
class Signature:
    """The tensors of one function of a model, by name."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]

    def check_inputs(self, inputs: Mapping[str, Array], max_rows: int | None = None) -> int | None:
        """Check the names, types and shapes of a request, and that all its tensors have as many rows.

        Args:
            inputs: Arrays by name; where a shape begins with -1, the first axis is the row.
            max_rows: Largest number of rows.

        Returns:
            The number of rows; None for a function that has none.

        Raises:
            ServingError: One line that names the tensor, what was received and what is wanted.
        """
        check_names(inputs, self.inputs)
        rows: dict[str, int] = {}
        for name, spec in self.inputs.items():
            array = inputs[name]
            if array.dtype != spec.dtype:
                raise ServingError(f"input {name!r} must be {spec.dtype.name}, received {array.dtype.name}")
            if not spec.accepts(array.shape):
                raise ServingError(
                    f"input {name!r} must have shape {list(spec.shape)}, received {list(array.shape)}"
                )
            if spec.shape[:1] == (-1,):
                rows[name] = array.shape[0]
        if len(set(rows.values())) > 1:
            received = ", ".join(f"{name} {count}" for name, count in rows.items())
            raise ServingError(f"all inputs must have the same number of rows, received {received}")
        largest = max(rows.values(), default=0)
        if max_rows is not None and largest > max_rows:
            raise ServingError(
                f"{largest} rows in one request, at most {max_rows} are allowed: send several requests",
                Code.RESOURCE_EXHAUSTED,
            )
        return largest if rows else None

    def no_rows(self) -> dict[str, Array]:
        """Return the outputs for a request of no rows: empty arrays."""
        return {
            name: np.zeros([max(size, 0) for size in spec.shape], spec.dtype)
            for name, spec in self.outputs.items()
        }


def check_names(received: Iterable[str], wanted: Iterable[str], what: str = "input") -> None:
    """Raise a `ServingError` that lists missing and unknown names, if there are any."""
    missing = [name for name in wanted if name not in set(received)]
    extra = [name for name in received if name not in set(wanted)]
    if missing or extra:
        parts = [f"missing {what} {', '.join(map(repr, missing))}"] if missing else []
        parts += [f"unknown {what} {', '.join(map(repr, extra))}"] if extra else []
        raise ServingError(f"{', '.join(parts)}; expected {', '.join(wanted)}")


def to_signature_def(signature: Signature) -> Any:
    """Return the `SignatureDef` message of a signature, as TensorFlow Serving reports it."""
    message = SignatureDef(method_name=PREDICT_METHOD)
    for specs, infos in ((signature.inputs, message.inputs), (signature.outputs, message.outputs)):
        for name, spec in specs.items():
            info = TensorInfo(name=spec.graph_name, dtype=data_type(spec.dtype))
            for size in spec.shape:
                info.tensor_shape.dim.add(size=size)
            infos[name].CopyFrom(info)
    return message


def from_signature_def(message: Any) -> Signature:
    """Return the signature that a `SignatureDef` message describes.

    Raises:
        ServingError: A tensor has no fixed number of axes, or a type that is not a number.
    """
    return Signature(_specs(message.inputs), _specs(message.outputs))


def _specs(infos: Mapping[str, Any]) -> dict[str, TensorSpec]:
    specs = {}
    for name, info in sorted(infos.items()):
        if info.tensor_shape.unknown_rank:
            raise ServingError(f"tensor {name!r} of the signature has no fixed number of axes")
        shape = tuple(dim.size for dim in info.tensor_shape.dim)
        specs[name] = TensorSpec(numpy_type(info.dtype), shape, graph_name=info.name)
    return specs
