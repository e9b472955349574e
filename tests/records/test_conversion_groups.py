"""Ordered input becomes shuffled shards; rows of one group never meet in two splits."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from tfrecords_tools.convert import write_dataset
from tfrecords_tools.errors import RecordError
from tfrecords_tools.reader import Dataset
from tfrecords_tools.schema import Feature, Schema
from tfrecords_tools.shuffle import group_draws

SCHEMA = Schema(
    "hits",
    (
        Feature("x", "float32", (2,), "mm", "Position."),
        Feature("event", "int64", (), "1", "Event."),
        Feature("row", "int64", (), "1", "Place in the input."),
    ),
    block_rows=64,
)
ROWS = 6000


def rows(per_event: int) -> dict[str, np.ndarray]:
    return {
        "x": np.random.default_rng(0).normal(size=(ROWS, 2)).astype(np.float32),
        "event": np.arange(ROWS) // per_event,
        "row": np.arange(ROWS),
    }


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("as_text", [False, True])
def test_no_group_is_in_two_splits(tmp_path: Path, as_text: bool) -> None:
    columns = rows(per_event=7)
    group = "origin" if as_text else "event"
    if as_text:  # a column beside the schema serves the split and is not stored
        columns["origin"] = np.array([f"run{value}" for value in columns["event"]])
    write_dataset(
        tmp_path / "d",
        SCHEMA,
        [columns],
        source={},
        name="t",
        shards=6,
        group=group,
    )
    found = Dataset(tmp_path / "d")
    events = {split: set(found.read(split)["event"].tolist()) for split in found.splits}
    assert sum(map(len, events.values())) == len(set(columns["event"].tolist()))
    assert sum(found.rows(split) for split in found.splits) == ROWS
    # 857 groups: the binomial spread of the training share is 1.4 %
    assert abs(len(events["train"]) / 857 - 0.8) < 0.07
    assert found.manifest.group == group


@pytest.mark.parametrize("group", [None, "event"])
@pytest.mark.parametrize("sizes", [[1, 999, 5000], [3000, 7, 2993]])
def test_bytes_do_not_depend_on_the_chunks(tmp_path: Path, group: str | None, sizes: list[int]) -> None:
    columns = rows(per_event=7)
    chunks = [
        {name: column[low:high] for name, column in columns.items()}
        for low, high in itertools.pairwise(np.cumsum([0, *sizes]))
    ]
    options = {"source": {}, "name": "t", "shards": 5, "seed": 3, "group": group}
    write_dataset(tmp_path / "whole", SCHEMA, [columns], **options)
    write_dataset(tmp_path / "parts", SCHEMA, chunks, **options)
    assert files(tmp_path / "whole") == files(tmp_path / "parts")


def test_another_seed_splits_otherwise(tmp_path: Path) -> None:
    members = []
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        write_dataset(folder, SCHEMA, [rows(7)], source={}, name="t", shards=4, seed=seed, group="event")
        members.append(set(Dataset(folder).read("test")["event"].tolist()))
    assert len(members[0] & members[1]) < 0.5 * min(map(len, members))


def test_the_order_of_the_input_is_gone(tmp_path: Path) -> None:
    write_dataset(tmp_path / "d", SCHEMA, [rows(1)], source={}, name="t", shards=6)
    order = Dataset(tmp_path / "d").read("train")["row"].astype(float)
    count = len(order)
    # Under a uniform shuffle a rank correlation has standard deviation 1 / sqrt(n): 0.014 here.
    assert abs(np.corrcoef(order, np.arange(count))[0, 1]) < 6 / np.sqrt(count)
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 6 / np.sqrt(count)
    # Every shard holds rows of the whole input: its mean is that of the input within six sigma.
    for start in range(0, count - 500, 500):
        part = order[start : start + 500]
        assert abs(part.mean() - ROWS / 2) < 6 * ROWS / np.sqrt(12 * 500)


def test_group_numbers_are_uniform_and_independent_of_the_type() -> None:
    draws = group_draws(np.arange(20_000), seed=4)
    counts = np.histogram(draws, bins=20, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 60  # chi2 with 19 degrees of freedom
    np.testing.assert_array_equal(draws, group_draws(np.arange(20_000, dtype=np.uint16), seed=4))
    assert abs(np.corrcoef(draws, group_draws(np.arange(20_000), seed=5))[0, 1]) < 0.05


@pytest.mark.parametrize(
    ("columns", "group", "words"),
    [
        (rows(7), "particle", "no column 'particle' to group by"),
        (rows(7), "x", r"one value per row, received shape \(6000, 2\)"),
        ({**rows(7), "weight": np.ones(ROWS)}, "weight", "integers or text, received float64"),
        ({**rows(7), "event": np.zeros(ROWS, int)}, "event", "groups by 'event' are too few"),
        ({name: column[:4] for name, column in rows(1).items()}, None, "use fewer shards"),
    ],
)
def test_unusable_groups_are_refused(
    tmp_path: Path, columns: dict[str, np.ndarray], group: str | None, words: str
) -> None:
    with pytest.raises(RecordError, match=words):
        write_dataset(tmp_path / "d", SCHEMA, [columns], source={}, name="t", shards=8, group=group)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"splits": {"train": 0.9, "test": 0.2}}, "add up to 1"),
        ({"splits": {"train": 1.5, "test": -0.5}}, "positive fractions"),
        ({"shards": 2}, "2 cannot be divided among 3 splits"),
        ({"seed": -1}, "seed must not be negative"),
        ({"source": {"file": object()}}, "source cannot be written as JSON"),
    ],
)
def test_bad_options_are_refused(tmp_path: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(RecordError, match=words):
        write_dataset(tmp_path / "d", SCHEMA, [rows(1)], **{"source": {}, "name": "t", **options})
    assert not list(tmp_path.iterdir())
