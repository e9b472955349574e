"""Datasets that fit together become one with every row once, in its split; others are refused."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrecords_tools.errors import RecordError
from tfrecords_tools.examples import uniform_schema
from tfrecords_tools.files import expand
from tfrecords_tools.generate import Recipe, generate
from tfrecords_tools.manifest import load_manifest
from tfrecords_tools.merge import merge_datasets, reshard
from tfrecords_tools.parquet import read_parquet, write_parquet
from tfrecords_tools.reader import Dataset
from tfrecords_tools.schema import Feature, Schema
from tfrecords_tools.verify import verify
from tfrecords_tools.writer import write_shard

RECIPE = Recipe(uniform_schema(3, 64), "tfrecords_tools.examples:uniform", {"width": 3}, 1, 2000, 5, "test")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sources")
    for seed in (1, 2, 3):
        generate(folder / f"seed{seed}", replace(RECIPE, seed=seed, rows=1500 + 500 * seed))
    return [folder / f"seed{seed}" for seed in (1, 2, 3)]


def content(folder: Path) -> dict[str, np.ndarray]:
    data = Dataset(folder)
    return {split: data.read(split)["values"] for split in data.splits}


# -- merge -------------------------------------------------------------------------------------------------


def test_a_merged_dataset_holds_every_row_once_in_its_split(sources: list[Path], tmp_path: Path) -> None:
    made = merge_datasets(sources, tmp_path / "all")
    assert verify(tmp_path / "all").problems == ()
    assert made.rows == 2000 + 2500 + 3000
    assert len(made.shards) == 15
    assert made.to_json() == load_manifest(tmp_path / "all").to_json()
    parts = [content(source) for source in sources]
    for split, values in content(tmp_path / "all").items():
        np.testing.assert_array_equal(values, np.concatenate([part[split] for part in parts]))
        statistics = made.statistics(split)["values"]
        np.testing.assert_allclose(statistics["mean"], values.mean(axis=0, dtype=np.float64), rtol=1e-12)
        np.testing.assert_allclose(statistics["std"], values.std(axis=0, dtype=np.float64), rtol=1e-9)
    assert made.counts["tried"] == 2 * made.rows
    assert made.config["width"] == 3
    assert [part["seed"] for part in made.config["sources"]] == [1, 2, 3]


def test_a_merged_dataset_can_be_merged_again(sources: list[Path], tmp_path: Path) -> None:
    merge_datasets(sources[:2], tmp_path / "two")
    made = merge_datasets([tmp_path / "two", sources[2]], tmp_path / "three")
    assert made.rows == 7500
    assert verify(tmp_path / "three").ok


def other(tmp_path: Path, **change: object) -> Path:
    generate(tmp_path / "other", replace(RECIPE, seed=9, **change))
    return tmp_path / "other"


def in_metres(schema: Schema) -> Schema:
    return replace(schema, features=(replace(schema.features[0], unit="m"), *schema.features[1:]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"schema": uniform_schema(4, 64), "config": {"width": 4}},
            r"shape of 'values' is \(4,\), not \(3,\)",
        ),
        ({"schema": in_metres(RECIPE.schema)}, "unit of 'values' is m, not 1"),
        ({"schema": uniform_schema(3, 32)}, "its blocks have 32 rows, not 64"),
        ({"schema": replace(RECIPE.schema, name="other")}, "a dataset of 'other', not of 'uniform'"),
        ({"splits": {"train": 0.5, "test": 0.5}}, r"its splits are \['train', 'test'\]"),
        ({"config": {"width": 3, "field": "up"}}, "its field is up, not None"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(
    sources: list[Path], tmp_path: Path, change: dict[str, object], words: str
) -> None:
    with pytest.raises(RecordError, match=words):
        merge_datasets([sources[0], other(tmp_path, **change)], tmp_path / "all", same=("field",))
    assert not (tmp_path / "all").exists()


def test_the_same_rows_twice_are_refused(sources: list[Path], tmp_path: Path) -> None:
    shutil.copytree(sources[0], tmp_path / "copy")
    with pytest.raises(RecordError, match=r"holds the same rows as .*: merge datasets of different seeds"):
        merge_datasets([*sources, tmp_path / "copy"], tmp_path / "all")
    with pytest.raises(RecordError, match="at least two datasets, received 1"):
        merge_datasets(sources[:1], tmp_path / "all")


@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_a_damaged_source_is_named(sources: list[Path], tmp_path: Path, damage: str) -> None:
    shutil.copytree(sources[0], tmp_path / "bad")
    path = Dataset(tmp_path / "bad").files("train")[1]
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    if damage == "remove":
        path.unlink()
    for make in (
        lambda: merge_datasets([sources[1], tmp_path / "bad"], tmp_path / "all"),
        lambda: reshard(tmp_path / "bad", tmp_path / "all", 4),
    ):
        with pytest.raises(RecordError, match=path.name):
            make()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["bad"]


# -- reshard -----------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(shards=st.integers(3, 40))
def test_resharded_rows_keep_order_split_and_counts(
    sources: list[Path], tmp_path_factory: pytest.TempPathFactory, shards: int
) -> None:
    folder = tmp_path_factory.mktemp("reshard") / "data"
    made = reshard(sources[0], folder, shards)
    assert len(made.shards) == shards
    assert verify(folder).ok
    before, after = content(sources[0]), content(folder)
    for split, values in before.items():
        np.testing.assert_array_equal(after[split], values)
    old = load_manifest(sources[0])
    assert made.counts == old.counts
    assert made.config == old.config


def test_resharding_back_gives_the_same_bytes(sources: list[Path], tmp_path: Path) -> None:
    reshard(sources[0], tmp_path / "one", 3)
    reshard(tmp_path / "one", tmp_path / "back", 5)
    for path in sources[0].glob("*.tfrecord-*"):
        assert path.read_bytes() == (tmp_path / "back" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("shards", "words"), [(2, "2 cannot be divided among 3 splits"), (3000, "cannot fill")]
)
def test_impossible_numbers_of_shards_are_refused(
    sources: list[Path], tmp_path: Path, shards: int, words: str
) -> None:
    with pytest.raises(RecordError, match=words):
        reshard(sources[0], tmp_path / "d", shards)
    assert not (tmp_path / "d").exists()


# -- names of files ----------------------------------------------------------------------------------------


def test_patterns_are_expanded_in_natural_order_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in (1, 2, 10):
        Path(f"batch_{number}.npz").touch()
    assert [path.name for path in expand(["batch_*.npz", "batch_1.npz"])] == [
        *("batch_1.npz", "batch_2.npz", "batch_10.npz")
    ]
    assert expand([f"{tmp_path}{os.sep}*_2.npz"]) == [tmp_path / "batch_2.npz"]
    with pytest.raises(RecordError, match=r"nothing matches run_\*\.npz"):
        expand(["run_*.npz"])
    with pytest.raises(RecordError, match=r"no such file or folder: run_1\.npz"):
        expand(["run_1.npz"])


# -- Parquet -----------------------------------------------------------------------------------------------


def test_without_pyarrow_one_line_says_what_to_install(
    sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for action in (
        lambda: write_parquet(Dataset(sources[0]), "train", tmp_path / "x.parquet"),
        lambda: next(read_parquet(tmp_path / "x.parquet")),
    ):
        with pytest.raises(
            RecordError, match=r"Parquet needs the extra `tfio` .*install 'trackkeras\[tfio\]'"
        ):
            action()
    assert not list(tmp_path.iterdir())


def dataset_of(folder: Path, schema: Schema, columns: dict[str, np.ndarray]) -> Dataset:
    from tfrecords_tools.manifest import Manifest, Split, shard_name, write_metadata

    folder.mkdir()
    info = write_shard(folder / shard_name(schema.name, "train", 0, 1), schema, [columns])
    write_metadata(folder, Manifest(schema, "test", None, {}, 0, None, {"train": Split.of([info], schema)}))
    return Dataset(folder)


@pytest.mark.parametrize("ragged", [False, True])
def test_parquet_there_and_back(tmp_path: Path, ragged: bool) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra `tfio`")
    rng = np.random.default_rng(1)
    rows = 300
    features = [
        Feature("number", "int64", (), "1", "Scalar."),
        Feature("vector", "float32", (3,), "mm", "Vector."),
        Feature("matrix", "float32", (4, 5), "GeV", "Matrix."),
    ]
    columns = {
        "number": rng.integers(-(2**60), 2**60, rows),
        "vector": rng.normal(size=(rows, 3)).astype("f4"),
        "matrix": rng.normal(size=(rows, 4, 5)).astype("f4"),
    }
    if ragged:
        features.append(Feature("hits", "float32", (None, 2), "cm", "Hits."))
        columns["hits"] = np.empty(rows, object)
        for row in range(rows):
            columns["hits"][row] = rng.normal(size=(rng.integers(0, 6), 2)).astype("f4")
    schema = Schema("sample", tuple(features), 1 if ragged else 64)
    path = tmp_path / "sample.parquet"
    assert write_parquet(dataset_of(tmp_path / "d", schema, columns), "train", path) == rows
    described = parquet.read_schema(path)
    assert described.field("vector").metadata[b"unit"] == b"mm"
    assert described.metadata[b"dataset"] == b"sample"
    (back,) = read_parquet(path)
    assert set(back) == set(columns)
    for name, column in columns.items():
        if name == "hits":
            assert all(np.array_equal(one, two) for one, two in zip(column, back[name], strict=True))
        else:
            np.testing.assert_array_equal(back[name], column)
            assert back[name].dtype == column.dtype


def test_bad_parquet_files_are_named(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra `tfio`")
    from pyarrow import parquet

    with pytest.raises(RecordError, match="no such file"):
        next(read_parquet(tmp_path / "none.parquet"))
    (tmp_path / "text.parquet").write_text("x,y\n1,2\n")
    with pytest.raises(RecordError, match="not a readable Parquet file"):
        next(read_parquet(tmp_path / "text.parquet"))
    parquet.write_table(pyarrow.table({"name": ["a", "b"]}), tmp_path / "names.parquet")
    with pytest.raises(RecordError, match="column 'name' holds string"):
        next(read_parquet(tmp_path / "names.parquet"))


def test_the_manifest_of_a_merge_is_json(sources: list[Path], tmp_path: Path) -> None:
    merge_datasets(sources, tmp_path / "all")
    assert json.loads((tmp_path / "all" / "manifest.json").read_text())["rows"] == 7500
