"""Dataset folder -> `tf.data`: the one reader that feeds every model.

Records hold blocks of rows. A block is parsed whole, the rows of several blocks are mixed, and `rebatch` cuts
batches from the result; rows are never handled one by one. The order of an epoch is a pure function of
(seed, epoch): the same run reads the same batches again, and a resumed run goes on where it stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tfrecords_tools.reader import Dataset
from tfrecords_tools.schema import Feature
from trackkeras.errors import UserError

SplitBatch = Callable[[Mapping[str, Any]], Any]

OPEN_SHARDS = 8
"""Shards read side by side, so that a batch mixes rows of several files."""


WINDOW = 4
"""Groups of `shuffle_blocks` blocks among which whole blocks are exchanged."""


@dataclass(frozen=True)
class Batches:
    """Batches of one split.

    Attributes:
        dataset: Yields what `split_batch` returns; repeats for ever when `steps` belongs to training.
        steps: Batches in one epoch.
        rows: Rows in one epoch on this host.
    """

    dataset: tf.data.Dataset
    steps: int
    rows: int


def training_batches(
    source: Dataset,
    split_batch: SplitBatch,
    *,
    batch_size: int,
    shuffle_blocks: int = 128,
    seed: int = 0,
    first_epoch: int = 0,
    limit: int | None = None,
    columns: Sequence[str] | None = None,
    host: int = 0,
    hosts: int = 1,
) -> Batches:
    """Return shuffled training batches of equal size, epoch after epoch, without end.

    Args:
        source: The dataset folder.
        split_batch: Turns record columns into `(inputs, truth)`.
        batch_size: Rows per batch on this host.
        shuffle_blocks: Blocks whose rows are mixed with each other.
        seed: With the epoch number, fixes shard order, block order and row order.
        first_epoch: Epoch to begin with, for a resumed run.
        limit: Rows per epoch at most; which ones is drawn anew in each epoch.
        columns: Columns that `split_batch` reads; all if None.
        host: Number of this host.
        hosts: Hosts that share the shards; shard i belongs to host i mod hosts.

    Raises:
        UserError: Fewer shards than hosts, or fewer rows than one batch.
    """
    files = _files_of_host(source, "train", host, hosts)
    smallest = min(_rows_of_host(source, other, hosts) for other in range(hosts))  # all hosts step together
    available = min(smallest, limit or smallest)
    steps = available // batch_size
    if steps == 0:
        raise UserError(
            f"{source.directory}: {available} training rows do not fill one batch of {batch_size}; "
            "generate more rows or lower data.batch_size"
        )

    features = _features(source, columns)

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        return (
            _mixed_rows(files, features, shuffle_blocks, seed, number)
            .rebatch(batch_size, drop_remainder=True)
            .take(steps)
        )

    epochs = tf.data.Dataset.range(first_epoch, 2**31).flat_map(epoch)
    return Batches(_finish(epochs, split_batch), steps, steps * batch_size)


def ordered_batches(
    source: Dataset,
    split: str,
    split_batch: SplitBatch,
    *,
    batch_size: int,
    limit: int | None = None,
    columns: Sequence[str] | None = None,
) -> Batches:
    """Return the rows of a split once, in file order; the last batch may be short.

    Args:
        source: The dataset folder.
        split: Name of the split.
        split_batch: Turns record columns into `(inputs, truth)`.
        batch_size: Rows per batch.
        limit: Stop after this many rows.
        columns: Columns that `split_batch` reads; all if None.
    """
    rows = min(source.rows(split), limit or source.rows(split))
    parse = _block_parser(_features(source, columns))
    blocks = tf.data.TFRecordDataset([str(path) for path in source.files(split)]).batch(1).map(parse)
    batches = blocks.rebatch(batch_size)
    if rows < source.rows(split):
        steps = math.ceil(rows / batch_size)
        last = rows - (steps - 1) * batch_size
        batches = (
            batches.take(steps)
            .enumerate()
            .map(
                lambda index, batch: {
                    name: column[: tf.where(index == steps - 1, last, tf.shape(column)[0])]
                    for name, column in batch.items()
                }
            )
        )
    steps = math.ceil(rows / batch_size)
    batches = batches.apply(tf.data.experimental.assert_cardinality(steps))
    return Batches(_finish(batches, split_batch), steps, rows)


def _finish(batches: tf.data.Dataset, split_batch: SplitBatch) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # Files are divided by the manifest (`hosts`), never by a guess of the distribution strategy.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return batches.map(split_batch, num_parallel_calls=2).with_options(options).prefetch(4)


def _files_of_host(source: Dataset, split: str, host: int, hosts: int) -> list[str]:
    files = [str(path) for path in source.files(split)]
    if len(files) < hosts:
        raise UserError(f"{source.directory}: {len(files)} {split} shards cannot be shared by {hosts} hosts")
    return files[host::hosts]


def _rows_of_host(source: Dataset, host: int, hosts: int) -> int:
    return sum(shard.rows for shard in source.manifest.split("train").shards[host::hosts])


def _mixed_rows(
    files: list[str], features: Sequence[Feature], shuffle_blocks: int, seed: int, epoch: tf.Tensor
) -> tf.data.Dataset:
    """One epoch as large mixed groups of rows: shard order, block order and row order all drawn.

    Only stateless draws are used: `Dataset.shuffle` would also depend on TensorFlow's global seed.
    """
    key = tf.stack([tf.constant(seed, tf.int64), tf.cast(epoch, tf.int64)])
    order = tf.random.experimental.stateless_shuffle(tf.range(len(files)), seed=key)
    parse = _block_parser(features)

    def mix_blocks(index: tf.Tensor, records: tf.Tensor) -> tf.Tensor:
        drawn = tf.random.experimental.stateless_fold_in(key, 2 * index + 1)
        return tf.random.experimental.stateless_shuffle(records, seed=drawn)

    def mix_rows(index: tf.Tensor, records: tf.Tensor) -> dict[str, tf.Tensor]:
        columns = parse(records)
        rows = tf.shape(next(iter(columns.values())))[0]
        drawn = tf.random.experimental.stateless_fold_in(key, 2 * index)
        permutation = tf.random.experimental.stateless_shuffle(tf.range(rows), seed=drawn)
        return {name: tf.gather(column, permutation) for name, column in columns.items()}

    return (
        tf.data.Dataset.from_tensor_slices(tf.gather(tf.constant(files), order))
        .interleave(
            tf.data.TFRecordDataset,
            cycle_length=min(OPEN_SHARDS, len(files)),
            block_length=1,
            num_parallel_calls=min(2, len(files)),
            deterministic=True,
        )
        .batch(WINDOW * shuffle_blocks)
        .enumerate()
        .map(mix_blocks)
        .rebatch(shuffle_blocks)
        .enumerate()
        .map(mix_rows, num_parallel_calls=2, deterministic=True)
    )


def _features(source: Dataset, columns: Sequence[str] | None) -> list[Feature]:
    """Return the features to parse; what a network does not read may be most of a record."""
    schema = source.schema
    features = [schema.feature(name) for name in (schema.names if columns is None else columns)]
    ragged = [feature.name for feature in features if feature.ragged]
    if ragged:
        raise UserError(
            f"records {schema.name!r}: ragged features {ragged} cannot be batched; store them padded"
        )
    return features


def _block_parser(features: Sequence[Feature]) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Return a function from serialised Examples `(blocks,)` to columns `(rows, *shape)`."""
    spec = {
        feature.name: tf.io.RaggedFeature(tf.as_dtype(feature.dtype), row_splits_dtype=tf.int64)
        for feature in features
    }

    def parse(records: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_example(records, spec)
        return {
            feature.name: tf.reshape(parsed[feature.name].values, (-1, *feature.shape))
            for feature in features
        }

    return parse
