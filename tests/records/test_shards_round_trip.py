"""What is written is what is read, whatever the sizes; what is unsuitable is refused and leaves nothing."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrecords_tools.convert import write_dataset
from tfrecords_tools.errors import RecordError
from tfrecords_tools.examples import uniform_schema
from tfrecords_tools.files import new_file, new_folder, remove_leftovers
from tfrecords_tools.generate import Recipe, generate
from tfrecords_tools.reader import Dataset
from tfrecords_tools.schema import Feature, Schema, ragged
from tfrecords_tools.stats import Statistics
from tfrecords_tools.writer import file_crc, write_shard

MIXED = Schema(
    "mixed",
    (
        Feature("state", "float32", (5,), "mm, mm, 1, 1, 1/MeV", "State.", (-9.0,) * 5, (9.0,) * 5),
        Feature("charge", "int64", (), "1", "Charge.", -1, 1),
    ),
    block_rows=8,
)


def mixed_rows(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "state": rng.uniform(-9, 9, (count, 5)).astype(np.float32),
        "charge": rng.integers(-1, 2, count),
    }


def cut(columns: dict[str, np.ndarray], sizes: list[int]) -> list[dict[str, np.ndarray]]:
    """Cut rows into chunks of the given sizes, the rest as one."""
    edges = np.minimum(np.cumsum([0, *sizes, len(columns["charge"])]), len(columns["charge"]))
    return [
        {name: column[low:high] for name, column in columns.items()}
        for low, high in itertools.pairwise(edges)
    ]


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 60), sizes=st.lists(st.integers(0, 30), max_size=6))
def test_bytes_do_not_depend_on_the_chunks(
    tmp_path_factory: pytest.TempPathFactory, count: int, sizes: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    columns = mixed_rows(count)
    whole = write_shard(folder / "whole", MIXED, [columns])
    parts = write_shard(folder / "parts", MIXED, cut(columns, sizes))
    assert (folder / "whole").read_bytes() == (folder / "parts").read_bytes()
    assert whole.shard.crc32c == parts.shard.crc32c == file_crc(folder / "whole")


def test_a_generator_may_use_its_arrays_again(tmp_path: Path) -> None:
    columns = mixed_rows(50)
    buffer = {name: np.empty_like(column[:10]) for name, column in columns.items()}

    def chunks():
        for start in range(0, 50, 10):
            for name, column in columns.items():
                buffer[name][:] = column[start : start + 10]
            yield buffer

    write_shard(tmp_path / "again", MIXED, chunks())
    write_shard(tmp_path / "whole", MIXED, [columns])
    assert (tmp_path / "again").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("data") / "mixed"
    write_dataset(folder, MIXED, [mixed_rows(997)], source={}, name="test", shards=7, seed=5)
    return Dataset(folder)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_range_of_rows_is_the_slice_of_the_whole(dataset: Dataset, data: st.DataObject) -> None:
    split = data.draw(st.sampled_from(dataset.splits))
    start = data.draw(st.integers(0, dataset.rows(split)))
    limit = data.draw(st.none() | st.integers(0, 1000))
    features = data.draw(st.sampled_from([None, ["charge"], ["charge", "state"]]))
    whole = dataset.read(split)
    part = dataset.read(split, features, start, limit)
    assert list(part) == list(features or MIXED.names)
    for name, column in part.items():
        np.testing.assert_array_equal(column, whole[name][start : None if limit is None else start + limit])


def test_chunks_make_the_whole_split(dataset: Dataset) -> None:
    chunks = list(dataset.chunks("train", rows=100))
    whole = dataset.read("train")
    assert {len(chunk["charge"]) for chunk in chunks[:-1]} == {100}
    for name, column in whole.items():
        np.testing.assert_array_equal(np.concatenate([chunk[name] for chunk in chunks]), column)
        assert column.flags.aligned
        assert column.flags.writeable


def test_splits_together_are_the_input(dataset: Dataset) -> None:
    rows = np.concatenate([dataset.read(split)["state"] for split in dataset.splits])
    original = mixed_rows(997)["state"]
    np.testing.assert_array_equal(rows[np.lexsort(rows.T)], original[np.lexsort(original.T)])
    assert not np.array_equal(rows, original)


def test_ragged_rows_round_trip(tmp_path: Path) -> None:
    schema = Schema("cloud", (Feature("points", "float32", (None, 3), "cm", "Points."),), block_rows=1)
    rng = np.random.default_rng(1)
    clouds = [rng.normal(size=(n, 3)).astype(np.float32) for n in rng.integers(0, 20, 200)]
    write_dataset(tmp_path / "d", schema, [{"points": ragged(clouds)}], source={}, name="test", shards=3)
    found = Dataset(tmp_path / "d")
    back = [cloud for split in found.splits for cloud in found.read(split)["points"]]
    assert sorted(map(np.ndarray.tobytes, back)) == sorted(map(np.ndarray.tobytes, clouds))
    first = found.read("train", start=5, limit=3)["points"]
    assert [cloud.tobytes() for cloud in first] == [cloud.tobytes() for cloud in back[5:8]]
    total = sum(part["points"]["count"] for part in map(found.manifest.statistics, found.splits))
    assert total == sum(map(len, clouds))


# -- statistics ------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 6000), min_size=1, max_size=4),
    offset=st.sampled_from([0.0, 1e3, -1e6]),
    scale=st.sampled_from([1e-3, 1.0, 1e4]),
)
def test_merged_statistics_equal_numpys(sizes: list[int], offset: float, scale: float) -> None:
    rng = np.random.default_rng(sum(sizes))
    parts = [(offset + scale * rng.normal(size=(size, 3))).astype(np.float32) for size in sizes]
    merged = Statistics.empty(3)
    for part in parts:
        merged = merged.merge(Statistics.of(part))
    every = np.concatenate(parts).astype(np.float64)
    assert merged.count == len(every)
    if len(every):
        np.testing.assert_allclose(merged.mean, every.mean(axis=0), rtol=1e-12, atol=1e-12 * scale)
        np.testing.assert_allclose(merged.std, every.std(axis=0), rtol=1e-9)
        np.testing.assert_array_equal(merged.minimum, every.min(axis=0))
        np.testing.assert_array_equal(merged.maximum, every.max(axis=0))
    restored = Statistics.from_json(merged.to_json())
    np.testing.assert_array_equal(restored.mean, merged.mean)
    np.testing.assert_array_equal(restored.squares, merged.squares)


def test_manifest_statistics_are_those_of_the_rows(dataset: Dataset) -> None:
    for split in dataset.splits:
        rows = dataset.read(split)["state"].astype(np.float64)
        stated = dataset.manifest.statistics(split)["state"]
        np.testing.assert_allclose(stated["mean"], rows.mean(axis=0), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(stated["std"], rows.std(axis=0), rtol=1e-12)
        assert stated["min"] == rows.min(axis=0).tolist()


# -- bad input -------------------------------------------------------------------------------------------
def broken(**changes: np.ndarray) -> dict[str, np.ndarray]:
    return {**mixed_rows(20), **changes}


def with_value(value: float) -> np.ndarray:
    state = mixed_rows(20)["state"]
    state[17, 2] = value
    return state


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (broken(state=np.zeros((20, 4), np.float32)), r"'state' needs shape \('n', 5\), received \(20, 4\)"),
        (broken(state=np.zeros((20, 5))), "'state' needs float32, received float64"),
        (broken(charge=np.zeros(20, np.float32)), "'charge' needs int64, received float32"),
        (broken(charge=np.zeros(19, np.int64)), "different numbers of rows"),
        (broken(extra=np.zeros(20)), "columns are .*extra"),
        ({"state": np.zeros((20, 5), np.float32)}, r"needs \['charge', 'state'\]"),
        (broken(state=with_value(np.nan)), "'state' holds NaN or infinity"),
        (broken(state=with_value(-np.inf)), "'state' holds NaN or infinity"),
        (broken(state=with_value(9.5)), r"'state'\[2\] holds 9.5 1, above its maximum 9"),
        (broken(charge=np.full(20, -2)), r"'charge'\[0\] holds -2 1, below its minimum -1"),
    ],
)
def test_bad_rows_are_refused_in_one_line_and_leave_nothing(
    tmp_path: Path, columns: dict[str, np.ndarray], words: str
) -> None:
    path = tmp_path / "shard"
    path.write_bytes(b"what stood here")
    with pytest.raises(RecordError, match=words) as caught:
        write_shard(path, MIXED, [mixed_rows(30), columns])
    assert "shard, rows from 30" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"what stood here"
    with pytest.raises(RecordError, match=words):
        write_dataset(tmp_path / "set", MIXED, [mixed_rows(30), columns], source={}, name="t", shards=3)
    assert [found.name for found in tmp_path.iterdir()] == ["shard"]


def test_a_shard_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no rows"):
        write_shard(tmp_path / "shard", MIXED, [])
    assert not list(tmp_path.iterdir())


def test_limits_are_compared_as_the_type_can_hold_them(tmp_path: Path) -> None:
    schema = Schema("slope", (Feature("tx", "float32", (), "1", "Slope.", -0.3, 0.3),))
    values = np.array([0.3, -0.3], np.float32)  # in double precision both are beyond 0.3
    assert write_shard(tmp_path / "s", schema, [{"tx": values}]).shard.rows == 2


def test_narrower_integers_are_taken(tmp_path: Path) -> None:
    narrow = broken(charge=mixed_rows(20)["charge"].astype(np.int8))
    write_shard(tmp_path / "narrow", MIXED, [narrow])
    write_shard(tmp_path / "wide", MIXED, [mixed_rows(20)])
    assert (tmp_path / "narrow").read_bytes() == (tmp_path / "wide").read_bytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "Bad name"}, "'Bad name' is not a lower-case identifier"),
        ({"dtype": "float64"}, "dtype is 'float64', known: float32, int64"),
        ({"unit": "furlong"}, "unknown unit 'furlong', known: 1, um, mm"),
        ({"unit": "mm, mm"}, "unit needs 1 or 5 entries, received 2"),
        ({"shape": (0,)}, "must be positive"),
        ({"shape": (2, None)}, "must be positive, the first may be None"),
        ({"minimum": (0.0, 1.0)}, "minimum needs 1 or 5 entries, received 2"),
        ({"shape": (None, 5)}, "need block_rows=1"),
    ],
)
def test_bad_features_are_refused(change: dict[str, object], words: str) -> None:
    values = {"name": "state", "dtype": "float32", "shape": (5,), "unit": "1", "doc": "."}
    with pytest.raises(RecordError, match=words):
        Schema("bad", (Feature(**{**values, **change}),))


def test_schema_survives_json() -> None:
    cloud = Schema("cloud", (Feature("points", "float32", (None, 3), "cm", "P.", 0, (1.0, 2.0, 3.0)),), 1)
    for schema in (MIXED, cloud, uniform_schema()):
        assert Schema.from_json(schema.to_json()) == schema
    with pytest.raises(RecordError, match=r"unknown \['blocks'\]"):
        Schema.from_json({**MIXED.to_json(), "blocks": 3})


# -- files and folders -----------------------------------------------------------------------------------
def test_leftovers_of_the_dead_go_and_work_in_progress_stays(tmp_path: Path) -> None:
    (tmp_path / ".a.0123.partial").write_bytes(b"left by a killed process")
    (tmp_path / ".b.4567.partial").mkdir()
    (tmp_path / "kept").write_bytes(b"")
    with new_file(tmp_path / "new") as stream:
        stream.write(b"content")
        remove_leftovers(tmp_path)
    assert (tmp_path / "new").read_bytes() == b"content"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "new"]


def test_a_failure_leaves_the_old_file_and_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with contextlib.suppress(KeyboardInterrupt), new_file(tmp_path / "file") as stream:
        stream.write(b"new")
        raise KeyboardInterrupt
    with contextlib.suppress(KeyboardInterrupt), new_folder(tmp_path / "folder") as folder:
        (folder / "part").write_bytes(b"new")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_folder_that_holds_something_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"x")
    with pytest.raises(RecordError, match="exists already: choose another folder"):
        write_dataset(tmp_path, MIXED, [mixed_rows(50)], source={}, name="test", shards=3)
    recipe = Recipe(uniform_schema(), "tfrecords_tools.examples:uniform", {"width": 12}, 1, 30, 3, "test")
    with pytest.raises(RecordError, match="is a file"):
        generate(tmp_path / "mine", recipe)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
