"""The reader: every row once per epoch, in an order that is a function of seed and epoch, well mixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrecords_tools.reader import Dataset
from tfrecords_tools.schema import Feature, Schema
from trackkeras.data import ordered_batches, training_batches
from trackkeras.errors import UserError

ROWS = 40_000
SCHEMA = Schema("numbers", (Feature("number", "int64", (1,), "1", "position in the split"),), block_rows=256)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Rows that know where they lie: shard and position, as one number."""
    from tfrecords_tools import manifest as parts
    from tfrecords_tools.writer import write_shard

    folder = tmp_path_factory.mktemp("numbers")
    splits = {}
    for split, (count, rows) in {"train": (5, ROWS // 5), "validation": (1, 1000)}.items():
        infos = []
        for index in range(count):
            column = np.arange(index * rows, (index + 1) * rows)[:, None]
            path = folder / parts.shard_name(SCHEMA.name, split, index, count)
            infos.append(write_shard(path, SCHEMA, [{"number": column}]))
        splits[split] = parts.Split.of(infos, SCHEMA)
    parts.write_metadata(folder, parts.Manifest(SCHEMA, "test", None, {}, 0, None, splits))
    return Dataset(folder)


def epoch(source: Dataset, number: int = 0, **options: Any) -> np.ndarray:
    options = {"batch_size": 100, "shuffle_blocks": 16, "seed": 3} | options
    batches = training_batches(source, lambda batch: batch["number"], first_epoch=number, **options)
    parts = [batch.numpy()[:, 0] for batch in batches.dataset.take(batches.steps)]
    assert all(len(part) == options["batch_size"] for part in parts)
    return np.concatenate(parts)


def test_an_epoch_holds_every_row_once(source: Dataset) -> None:
    assert sorted(epoch(source)) == list(range(ROWS))


def test_order_is_a_function_of_seed_and_epoch(source: Dataset) -> None:
    first = epoch(source)
    tf.random.set_seed(99)
    np.testing.assert_array_equal(first, epoch(source), "the global seed plays no part")
    assert (first != epoch(source, number=1)).any()
    assert (first != epoch(source, seed=4)).any()


def test_a_later_start_reads_what_would_have_come(source: Dataset) -> None:
    batches = training_batches(source, lambda batch: batch["number"], batch_size=1000, seed=5)
    third = [batch.numpy() for batch in batches.dataset.take(3 * batches.steps)][2 * batches.steps :]
    resumed = training_batches(source, lambda batch: batch["number"], batch_size=1000, seed=5, first_epoch=2)
    np.testing.assert_array_equal(third, [batch.numpy() for batch in resumed.dataset.take(batches.steps)])


@pytest.mark.parametrize("blocks", [8, 16, 40])
def test_batches_mix_the_files(source: Dataset, blocks: int) -> None:
    """How well batches are mixed, as chi-squared of the five files' shares in a batch (4 degrees of freedom).

    Rows drawn singly give 4; a group of `blocks` whole blocks has random shares itself, which adds the batch
    size over the number of blocks; unmixed blocks of 256 rows would give about 4 * 256.
    """
    size = 1000
    read = epoch(source, batch_size=size, shuffle_blocks=blocks)
    shares = np.stack([np.bincount(part // (ROWS // 5), minlength=5) for part in read.reshape(-1, size)])
    chi2 = ((shares - size / 5) ** 2 / (size / 5)).sum(axis=1)
    assert chi2.mean() < 1.5 * 4 * (1 + size / blocks)
    assert np.mean(np.abs(np.diff(read)) == 1) < 0.01, "neighbours on disk stay neighbours"
    if 4 * blocks * SCHEMA.block_rows < ROWS:
        return  # blocks move within a window of four groups only
    position = np.empty(ROWS)
    position[read] = np.arange(ROWS)
    within = position.reshape(5, -1)
    correlation = [np.corrcoef(np.arange(len(part)), part)[0, 1] for part in within]
    assert np.max(np.abs(correlation)) < 0.5, "rows come in the order of the file"


@settings(max_examples=8, deadline=None)
@given(hosts=st.integers(1, 5), batch_size=st.integers(1, 700))
def test_hosts_share_the_rows(source: Dataset, hosts: int, batch_size: int) -> None:
    seen: list[set[int]] = []
    steps = set()
    for host in range(hosts):
        batches = training_batches(
            source, lambda batch: batch["number"], batch_size=batch_size, host=host, hosts=hosts
        )
        steps.add(batches.steps)
        rows = [batch.numpy()[:, 0] for batch in batches.dataset.take(min(5, batches.steps))]
        seen.append(set(np.concatenate(rows)))
    assert len(steps) == 1, "hosts must step together"
    assert sum(len(rows) for rows in seen) == len(set().union(*seen)), "two hosts read one row"


def test_ordered_batches_keep_the_order_and_the_last_rows(source: Dataset) -> None:
    for limit, expected in ((None, 1000), (250, 250), (1, 1), (5000, 1000)):
        batches = ordered_batches(
            source, "validation", lambda batch: batch["number"], batch_size=96, limit=limit
        )
        read = np.concatenate([batch.numpy()[:, 0] for batch in batches.dataset])
        np.testing.assert_array_equal(read, np.arange(expected))
        assert batches.rows == expected
        assert batches.steps == -(-expected // 96)


def test_limit_of_training_rows(source: Dataset) -> None:
    batches = training_batches(source, lambda batch: batch["number"], batch_size=100, limit=1050)
    assert (batches.steps, batches.rows) == (10, 1000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": ROWS + 1}, f"{ROWS} training rows do not fill one batch of {ROWS + 1}"),
        ({"batch_size": 10, "hosts": 6}, "5 train shards cannot be shared by 6 hosts"),
    ],
)
def test_impossible_requests(source: Dataset, options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        training_batches(source, lambda batch: batch, **options)


def test_a_flipped_bit_is_reported(dataset: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    source = Dataset(copy)
    path = source.files("train")[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    batches = training_batches(source, lambda batch: batch["dz"], batch_size=1000)
    with pytest.raises(tf.errors.DataLossError):
        for _ in batches.dataset.take(batches.steps):
            pass
