"""Our bytes are TensorFlow's bytes, and each side reads what the other wrote."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfrecords_tools.blocks import decode_block
from tfrecords_tools.errors import RecordError
from tfrecords_tools.schema import Feature, Schema, ragged
from tfrecords_tools.wire import (
    decode_example,
    decode_varints,
    encode_example,
    encode_varints,
    read_record,
    record_offsets,
)
from tfrecords_tools.writer import write_shard

SIZES = st.integers(0, 300)
FLOATS = hnp.arrays(np.float32, SIZES, elements=st.floats(width=32))
INTEGERS = hnp.arrays(np.int64, SIZES, elements=st.integers(-(2**63), 2**63 - 1))
NAMES = st.sampled_from(["a", "a_", "a0", "b", "state", "z", "z0", "z00", "y" * 130])


def tf_example(features: dict[str, np.ndarray]) -> bytes:
    def one(values: np.ndarray) -> tf.train.Feature:
        if values.dtype == np.float32:
            return tf.train.Feature(float_list=tf.train.FloatList(value=values))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    content = {name: one(values) for name, values in features.items()}
    example = tf.train.Example(features=tf.train.Features(feature=content))
    return example.SerializeToString(deterministic=True)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(NAMES, FLOATS | INTEGERS, max_size=5))
def test_example_bytes_equal_tensorflows_and_round_trip(features: dict[str, np.ndarray]) -> None:
    data = b"".join(encode_example(features))
    assert data == tf_example(features)
    back = decode_example(data, features)
    for name, values in features.items():
        assert back[name].dtype == values.dtype
        assert back[name].tobytes() == values.tobytes()


@settings(max_examples=100, deadline=None)
@given(INTEGERS)
def test_varints_round_trip(values: np.ndarray) -> None:
    np.testing.assert_array_equal(decode_varints(encode_varints(values)), values)


def test_unpacked_lists_are_understood() -> None:
    # A feature `a` with int64 values 7 and 300, each with its own tag instead of one packed field.
    listed = b"\x08\x07\x08\xac\x02"
    feature = b"\x1a" + bytes([len(listed)]) + listed
    entry = b"\x0a\x01a\x12" + bytes([len(feature)]) + feature
    features = b"\x0a" + bytes([len(entry)]) + entry
    data = b"\x0a" + bytes([len(features)]) + features
    parsed = tf.train.Example.FromString(data)
    assert list(parsed.features.feature["a"].int64_list.value) == [7, 300]
    np.testing.assert_array_equal(decode_example(data, ["a"])["a"], [7, 300])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_decode_or_raise_one_kind_of_error(data: bytes) -> None:
    with contextlib.suppress(RecordError):
        decode_example(data, ["a"])


@pytest.mark.parametrize("block_rows", [1, 7, 64])
def test_shard_equals_the_file_of_tensorflows_writer(tmp_path: Path, block_rows: int) -> None:
    schema = Schema(
        "golden",
        (
            Feature("state", "float32", (5,), "mm, mm, 1, 1, 1/MeV", "Track state."),
            Feature("hit", "int64", (), "1", "Identifier."),
            Feature("image", "float32", (2, 3), "pe", "Charges."),
        ),
        block_rows,
    )
    rng = np.random.default_rng(3)
    columns = {
        "state": rng.normal(size=(100, 5)).astype(np.float32),
        "hit": rng.integers(-(2**62), 2**62, 100),
        "image": rng.normal(size=(100, 2, 3)).astype(np.float32),
    }
    theirs = tmp_path / "theirs"
    with tf.io.TFRecordWriter(str(theirs)) as writer:
        for start in range(0, 100, block_rows):
            block = {name: column[start : start + block_rows].ravel() for name, column in columns.items()}
            writer.write(tf_example(block))
    info = write_shard(tmp_path / "ours", schema, [columns])
    assert (tmp_path / "ours").read_bytes() == theirs.read_bytes()
    assert info.shard.bytes == theirs.stat().st_size
    assert (info.shard.rows, info.shard.records) == (100, -(-100 // block_rows))

    spec = {
        name: tf.io.FixedLenSequenceFeature(part.shape, part.dtype, allow_missing=True)
        if part.sequence
        else tf.io.FixedLenFeature(part.shape, part.dtype)
        for name, part in schema.parse_spec().items()
    }
    parsed = [
        tf.io.parse_single_example(record, spec) for record in tf.data.TFRecordDataset(str(tmp_path / "ours"))
    ]
    for name, column in columns.items():
        join = np.concatenate if block_rows > 1 else np.stack
        np.testing.assert_array_equal(join([part[name].numpy() for part in parsed]), column)

    offsets = record_offsets(theirs)
    with theirs.open("rb") as stream:
        stream.seek(offsets[1])
        record = read_record(stream, theirs, 1)
    assert record is not None
    second = decode_block(schema, record, schema.features)
    for name, column in columns.items():
        np.testing.assert_array_equal(second[name], column[block_rows : 2 * block_rows])


def test_ragged_rows_round_trip_through_tensorflow(tmp_path: Path) -> None:
    schema = Schema(
        "cloud",
        (
            Feature("points", "float32", (None, 3), "cm", "Space points."),
            Feature("energy", "float32", (), "MeV", "Energy."),
        ),
        block_rows=1,
    )
    rows = [np.arange(3 * n, dtype=np.float32).reshape(n, 3) for n in (4, 0, 1)]
    energies = np.array([1.0, 2.0, 3.0], np.float32)
    write_shard(tmp_path / "cloud", schema, [{"points": ragged(rows), "energy": energies}])
    spec = {
        "points": tf.io.FixedLenSequenceFeature((3,), tf.float32, allow_missing=True),
        "energy": tf.io.FixedLenFeature((), tf.float32),
    }
    for record, points, energy in zip(
        tf.data.TFRecordDataset(str(tmp_path / "cloud")), rows, energies, strict=True
    ):
        parsed = tf.io.parse_single_example(record, spec)
        np.testing.assert_array_equal(parsed["points"], points)
        assert parsed["energy"] == energy
