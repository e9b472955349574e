"""The bytes: TFRecord framing with masked CRC-32C, and `tf.train.Example` messages of packed numbers.

An encoded message is a list of buffers that share the memory of the arrays, so that a block of rows goes from
the array to the file without a copy. Bytes equal those of TensorFlow's own writer, with the features in the
order of `SerializeToString(deterministic=True)` in Python.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from tfrecords_tools.errors import ContentError, RecordError

Buffer = bytes | memoryview
Pieces = list[Buffer]

FRAME_BYTES = 16
"""Bytes of one record beside its data: length (8), CRC of the length (4), CRC of the data (4)."""

_FLOATS, _INTEGERS = 2, 3  # field numbers in tf.train.Feature
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf wire types
_MAXIMUM_VARINT = 10


# -- framing ---------------------------------------------------------------------------------------------
def masked(crc: int) -> int:
    """Return a CRC-32C as TFRecord stores it: rotated right by 15 bits plus a constant."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame(pieces: Pieces) -> Pieces:
    """Return one TFRecord around the data that `pieces` make together."""
    length, crc = 0, 0
    for piece in pieces:
        length += len(piece)
        crc = crc32c(piece, crc)
    head = struct.pack("<Q", length)
    return [head + struct.pack("<I", masked(crc32c(head))), *pieces, struct.pack("<I", masked(crc))]


def read_record(stream: BinaryIO, path: Path, index: int) -> bytes | None:
    """Read the record at the stream's position; None at the end of the file.

    Args:
        stream: Open file.
        path: Its name, for errors.
        index: Number of the record, for errors.

    Raises:
        RecordError: The file ends inside the record, or a CRC does not match.
    """
    length = _read_length(stream, path, index)
    if length is None:
        return None
    data = stream.read(length)
    tail = stream.read(4)
    if len(data) < length or len(tail) < 4:
        raise RecordError(f"{path}: record {index} is cut off")
    if int.from_bytes(tail, "little") != masked(crc32c(data)):
        raise ContentError(f"{path}: record {index} is corrupt: its CRC does not match")
    return data


def record_offsets(path: Path) -> NDArray[np.int64]:
    """Return the byte offset of every record of a file, and the file's size as the last entry.

    Raises:
        RecordError: A length is corrupt, or the file ends inside a record.
    """
    offsets = [0]
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            while offsets[-1] < size:
                length = _read_length(stream, path, len(offsets) - 1)
                offsets.append(offsets[-1] + FRAME_BYTES + (length or 0))
                if offsets[-1] > size:
                    raise RecordError(f"{path}: record {len(offsets) - 2} is cut off")
                stream.seek(offsets[-1])
    except FileNotFoundError:
        raise RecordError(f"{path}: the file is missing") from None
    return np.array(offsets, dtype=np.int64)


def _read_length(stream: BinaryIO, path: Path, index: int) -> int | None:
    head = stream.read(12)
    if not head:
        return None
    if len(head) < 12:
        raise RecordError(f"{path}: record {index} is cut off")
    length, crc = struct.unpack("<QI", head)
    if crc != masked(crc32c(head[:8])):
        raise RecordError(f"{path}: record {index} is corrupt: the CRC of its length does not match")
    return int(length)


# -- tf.train.Example ------------------------------------------------------------------------------------
def encode_example(features: Mapping[str, NDArray[Any]]) -> Pieces:
    """Return a `tf.train.Example` of flat `<f4` or `<i8` arrays by name, as buffers in order.

    The float32 arrays are referred to, not copied: write the buffers before the arrays change.
    """
    body: Pieces = []
    size = 0
    for name in sorted(features, key=_map_order):
        values = features[name]
        if values.dtype.kind == "f":
            field, payload = _FLOATS, values.data.cast("B") if values.size else b""
        else:
            field, payload = _INTEGERS, encode_varints(values)
        listed = _lengthy(1, len(payload)) if len(payload) else b""
        head = _lengthy(field, len(listed) + len(payload)) + listed
        head = _lengthy(2, len(head) + len(payload)) + head
        key = name.encode()
        head = _lengthy(1, len(key)) + key + head
        head = _lengthy(1, len(head) + len(payload)) + head
        body += [head, payload] if len(payload) else [head]
        size += len(head) + len(payload)
    return [_lengthy(1, size), *body]


def _map_order(name: str) -> bytes:
    """Return the sort key of protobuf for Python: as text, but a longer name before its own beginning."""
    return name.encode() + b"\xff"


def decode_example(data: Buffer, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Return the wanted features of a serialized `tf.train.Example` as flat arrays.

    float32 arrays are views of `data`. Both packed and unpacked lists are understood.

    Raises:
        RecordError: The message is malformed, or a wanted feature is absent or holds text.
    """
    view = memoryview(data)
    wanted = {name.encode(): name for name in names}
    found: dict[str, NDArray[Any]] = {}
    for field, features in _fields(view):
        if field != 1:
            continue
        for _, entry in _fields(_message(features)):
            key, feature = b"", memoryview(b"")
            for part, content in _fields(_message(entry)):
                if part == 1:
                    key = bytes(_message(content))
                else:
                    feature = _message(content)
            if key in wanted:
                found[wanted[key]] = _decode_feature(feature, wanted[key])
    missing = sorted(set(wanted.values()) - set(found))
    if missing:
        raise RecordError(f"the Example lacks {', '.join(missing)}")
    return found


def _decode_feature(feature: memoryview, name: str) -> NDArray[Any]:
    for field, content in _fields(feature):
        if field == _FLOATS:
            parts = [_message(value) for _, value in _fields(_message(content))]
            if any(len(part) % 4 for part in parts):
                raise RecordError(f"feature {name!r}: a float list of broken length")
            floats = [np.frombuffer(part, dtype="<f4") for part in parts]
            return floats[0] if len(floats) == 1 else np.concatenate([np.empty(0, "<f4"), *floats])
        if field == _INTEGERS:
            values = [value for _, value in _fields(_message(content))]
            packed = [value if isinstance(value, memoryview) else _varint(value) for value in values]
            return decode_varints(b"".join(packed))
        raise RecordError(f"feature {name!r} holds text, not numbers")
    raise RecordError(f"feature {name!r} holds no list")


def encode_varints(values: NDArray[np.int64]) -> bytes:
    """Return int64 values as protobuf varints, one after the other (negative ones take ten bytes)."""
    unsigned = values.astype("<i8", copy=False).view("<u8")
    if not unsigned.size:
        return b""
    if unsigned.max() < 128:
        return unsigned.astype(np.uint8).tobytes()
    # One column per byte, and only as many as the largest value needs.
    width = -(-int(unsigned.max()).bit_length() // 7)
    payload = np.empty((unsigned.size, width), dtype=np.uint8)
    keep = np.ones(payload.shape, dtype=bool)
    rest = unsigned
    for place in range(width):
        higher = rest >> np.uint64(7)
        more = higher != 0
        payload[:, place] = rest & np.uint64(0x7F)
        payload[:, place] |= more.view(np.uint8) << np.uint8(7)
        if place + 1 < width:
            keep[:, place + 1] = more
        rest = higher
    return payload[keep].tobytes()


def decode_varints(data: Buffer) -> NDArray[np.int64]:
    """Return the int64 values of consecutive protobuf varints.

    Raises:
        RecordError: A number has more than ten bytes, or the last one is cut off.
    """
    raw = np.frombuffer(data, dtype=np.uint8)
    last = np.flatnonzero(raw < 128)
    if not raw.size:
        return np.empty(0, dtype=np.int64)
    if raw[-1] >= 128:
        raise RecordError("an integer list is cut off")
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > _MAXIMUM_VARINT:
        raise RecordError("an integer list holds a number of more than ten bytes")
    place = np.arange(raw.size) - np.repeat(first, lengths)
    groups = (raw & 0x7F).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.bitwise_or.reduceat(groups, first).view(np.int64)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(0x80 | value & 0x7F)
        value >>= 7
    out.append(value)
    return bytes(out)


def _lengthy(field: int, length: int) -> bytes:
    """Return the tag of a length-delimited field, and the length."""
    return _varint(field << 3 | _BYTES) + _varint(length)


def _read_varint(view: memoryview, position: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        if position >= len(view) or shift >= 7 * _MAXIMUM_VARINT:
            raise RecordError("the Example is malformed: a number is cut off")
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _fields(view: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Walk through a protobuf message: field number, and its bytes or its varint."""
    position, end = 0, len(view)
    while position < end:
        tag, position = _read_varint(view, position)
        kind = tag & 7
        if kind == _VARINT:
            value, position = _read_varint(view, position)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            length, position = _read_varint(view, position)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise RecordError(f"the Example is malformed: wire type {kind}")
        if position + length > end:
            raise RecordError("the Example is malformed: a field is longer than its message")
        yield tag >> 3, view[position : position + length]
        position += length


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise RecordError("the Example is malformed: a number where a message belongs")
    return value
