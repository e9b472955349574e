"""NumPy arrays to `TensorProto` and back, by the rules of TensorFlow.

A tensor travels either as raw little-endian bytes (`tensor_content`) or as a typed list (`float_val`, ...).
Arrays leave as bytes, which cost one copy where a list costs a step per value; both forms are understood.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.errors import Code, ServingError
from serving.messages import DATA_TYPES, TensorProto

Array = NDArray[Any]

_DTYPES: dict[str, tuple[str, str]] = {
    # NumPy name: (tensorflow.DataType, field of the typed list)
    "float16": ("DT_HALF", "half_val"),
    "float32": ("DT_FLOAT", "float_val"),
    "float64": ("DT_DOUBLE", "double_val"),
    "int8": ("DT_INT8", "int_val"),
    "int16": ("DT_INT16", "int_val"),
    "int32": ("DT_INT32", "int_val"),
    "int64": ("DT_INT64", "int64_val"),
    "uint8": ("DT_UINT8", "int_val"),
    "uint16": ("DT_UINT16", "int_val"),
    "uint32": ("DT_UINT32", "uint32_val"),
    "uint64": ("DT_UINT64", "uint64_val"),
    "bool": ("DT_BOOL", "bool_val"),
}

_NUMPY_NAMES = {DATA_TYPES[name]: numpy_name for numpy_name, (name, _) in _DTYPES.items()}


def data_type(dtype: np.dtype[Any]) -> int:
    """Return the number of the `tensorflow.DataType` for a NumPy type.

    Raises:
        ServingError: Networks do not take or give this type.
    """
    if dtype.name not in _DTYPES:
        raise ServingError(f"dtype {dtype.name} cannot be sent; one of these can: {', '.join(_DTYPES)}")
    return DATA_TYPES[_DTYPES[dtype.name][0]]


def numpy_type(number: int) -> np.dtype[Any]:
    """Return the NumPy type for the number of a `tensorflow.DataType`.

    Raises:
        ServingError: Not a number type, or none at all.
    """
    if number not in _NUMPY_NAMES:
        names = {value: name for name, value in DATA_TYPES.items()}
        raise ServingError(
            f"tensor type {names.get(number, number)} is not supported: send numbers or booleans"
        )
    return np.dtype(_NUMPY_NAMES[number])


def encode(array: Array) -> Any:
    """Return the `TensorProto` of an array, its values as `tensor_content`.

    Raises:
        ServingError: The array holds something other than numbers or booleans.
    """
    proto = TensorProto(dtype=data_type(array.dtype))
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    proto.tensor_content = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return proto


def decode(proto: Any, name: str, max_bytes: int | None = None) -> Array:
    """Return the array of a `TensorProto`.

    As in TensorFlow, a typed list shorter than the tensor repeats its last value, and an empty one means
    zeros. A list longer than the tensor, of which TensorFlow drops the rest, is an error here.

    Args:
        proto: The message.
        name: What the tensor is called, for the error message.
        max_bytes: Largest size of the array; a short list may stand for a tensor of any size.

    Raises:
        ServingError: Unknown type, unknown or negative size, or values that do not fill the shape.
    """
    try:
        dtype = numpy_type(proto.dtype)
    except ServingError as error:
        raise ServingError(f"{name}: {error}") from None
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if proto.tensor_shape.unknown_rank or any(size < 0 for size in shape):
        raise ServingError(f"{name}: the shape must be complete, received {_shape_text(proto.tensor_shape)}")
    count = math.prod(shape)
    if max_bytes is not None and count * dtype.itemsize > max_bytes:
        raise ServingError(
            f"{name}: shape {list(shape)} takes {count * dtype.itemsize} bytes, at most {max_bytes} allowed",
            Code.RESOURCE_EXHAUSTED,
        )
    if proto.tensor_content:
        values = _from_content(proto.tensor_content, dtype, count, name)
    else:
        values = _from_list(proto, dtype, count, name)
    try:
        return values.reshape(shape)
    except ValueError:  # sizes of zero hide others beyond what NumPy can index
        raise ServingError(f"{name}: shape {list(shape)} is too large") from None


def _from_content(content: bytes, dtype: np.dtype[Any], count: int, name: str) -> Array:
    if len(content) != count * dtype.itemsize:
        raise ServingError(
            f"{name}: tensor_content holds {len(content)} bytes, "
            f"{count} values of {dtype.name} need {count * dtype.itemsize}"
        )
    if dtype == np.bool_:  # any other byte would be an invalid NumPy boolean
        return np.frombuffer(content, np.uint8).astype(np.bool_)
    return np.frombuffer(content, dtype.newbyteorder("<")).astype(dtype, copy=False)


def _from_list(proto: Any, dtype: np.dtype[Any], count: int, name: str) -> Array:
    field = _DTYPES[dtype.name][1]
    received = getattr(proto, field)
    if len(received) > count:
        raise ServingError(f"{name}: {field} holds {len(received)} values for a tensor of {count}")
    if dtype == np.float16:  # half_val carries the 16 bits in an int32
        given = _integers(received, np.dtype(np.uint16), name).view(np.float16)
    elif dtype.kind in "iu":
        given = _integers(received, dtype, name)
    else:
        given = np.array(received, dtype)
    values = np.zeros(count, dtype)
    values[: len(given)] = given
    if len(given):
        values[len(given) :] = given[-1]
    return values


def _integers(received: Any, dtype: np.dtype[Any], name: str) -> Array:
    try:
        return np.array(list(received), dtype)
    except OverflowError:
        raise ServingError(f"{name}: a value does not fit {dtype.name}") from None


def _shape_text(shape: Any) -> str:
    return "unknown rank" if shape.unknown_rank else str([dim.size for dim in shape.dim])
