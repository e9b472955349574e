"""Warm-up records: requests that TensorFlow Serving answers to itself before a version takes its first one.

The file is a TFRecord of `PredictionLog` messages at a place that the server knows. The first calls of a
graph build its kernels and cost many times the later ones; nobody should wait for them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import crc32c
import numpy as np

from serving.bundle import Bundle
from serving.errors import ServingError
from serving.messages import PredictionLog
from serving.signature import Signature
from serving.tensors import Array, encode

WARMUP = Path("assets.extra/tf_serving_warmup_requests")
"""Where TensorFlow Serving looks, inside a version folder."""

ROWS = (1, 32, 256)
"""Rows of the requests for every signature: kernels may depend on the size."""

MOST_RECORDS = 1000  # TensorFlow Serving refuses a file with more


def warmup_records(bundle: Bundle, rows: Sequence[int] = ROWS) -> list[bytes]:
    """Return one serialised `PredictionLog` per signature and number of rows.

    Inputs are the bundle's `examples`, repeated to the number of rows, and ones where it has none.

    Args:
        bundle: What to warm up.
        rows: Rows of the requests, each at least 1.

    Raises:
        ServingError: Too many records, or a number of rows below 1.
    """
    if not rows or min(rows) < 1 or len(rows) * len(bundle.signatures) > MOST_RECORDS:
        raise ServingError(
            f"warm-up needs numbers of rows of at least 1 and at most {MOST_RECORDS} records, received {rows}"
        )
    records = []
    for name, signature in bundle.signatures.items():
        for count in rows:
            log = PredictionLog()
            request = log.predict_log.request
            request.model_spec.name = bundle.name
            request.model_spec.signature_name = name
            for key, array in _inputs(bundle, signature, count).items():
                request.inputs[key].CopyFrom(encode(array))
            records.append(log.SerializeToString(deterministic=True))
    return records


def write_warmup(bundle: Bundle, folder: Path, rows: Sequence[int] = ROWS) -> Path:
    """Write the warm-up file of a bundle into a version folder.

    Args:
        bundle: What to warm up.
        folder: The version folder; one that is not served yet.
        rows: Rows of the requests.

    Returns:
        Path of the file.
    """
    path = folder / WARMUP
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"".join(_framed(warmup_records(bundle, rows))))
    return path


def _inputs(bundle: Bundle, signature: Signature, rows: int) -> dict[str, Array]:
    examples = bundle.description.get("examples", {})
    inputs = {}
    for name, spec in signature.inputs.items():
        shape = tuple(1 if size < 0 else size for size in spec.shape)
        example = np.asarray(examples.get(name, np.ones(shape)), spec.dtype)
        if spec.accepts(example.shape) and len(example) and spec.shape[0] == -1:
            example = np.resize(example, (rows, *example.shape[1:]))
        inputs[name] = example
    return inputs


def _framed(records: Iterable[bytes]) -> Iterable[bytes]:
    """TFRecord framing: length, its masked CRC-32C, data, its masked CRC-32C."""
    for record in records:
        length = struct.pack("<Q", len(record))
        yield length + _masked_crc(length) + record + _masked_crc(record)


def _masked_crc(data: bytes) -> bytes:
    crc = crc32c.crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
