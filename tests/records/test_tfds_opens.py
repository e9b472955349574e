"""TFDS opens a dataset folder as its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tfrecords_tools.convert import write_dataset
from tfrecords_tools.reader import Dataset
from tfrecords_tools.schema import Feature, Schema, ragged

tfds = pytest.importorskip("tensorflow_datasets")


def tracks(folder: Path) -> Dataset:
    schema = Schema(
        "tracks",
        (
            Feature("state", "float32", (5,), "mm, mm, 1, 1, 1/MeV", "Track state."),
            Feature("charge", "int64", (), "1", "Charge."),
        ),
        block_rows=64,
    )
    rng = np.random.default_rng(0)
    columns = {
        "state": rng.normal(size=(1000, 5)).astype(np.float32),
        "charge": rng.choice([-1, 1], 1000),
    }
    write_dataset(folder, schema, [columns], source={}, name="test", shards=5)
    return Dataset(folder)


def clouds(folder: Path) -> Dataset:
    schema = Schema(
        "clouds",
        (
            Feature("points", "float32", (None, 3), "cm", "Space points."),
            Feature("view", "float32", (4, 2), "ADC", "Image."),
            Feature("label", "int64", (), "1", "Class."),
        ),
        block_rows=1,
    )
    rng = np.random.default_rng(0)
    columns = {
        "points": ragged([rng.normal(size=(n, 3)).astype(np.float32) for n in rng.integers(0, 9, 60)]),
        "view": rng.normal(size=(60, 4, 2)).astype(np.float32),
        "label": rng.integers(0, 5, 60),
    }
    write_dataset(folder, schema, [columns], source={}, name="test", shards=4)
    return Dataset(folder)


@pytest.mark.parametrize("make", [tracks, clouds])
def test_tfds_reads_the_same_rows(tmp_path: Path, make) -> None:
    ours = make(tmp_path / "data")
    builder = tfds.builder_from_directory(str(tmp_path / "data"))
    assert builder.name == ours.schema.name
    for split in ours.splits:
        shards = ours.manifest.split(split).shards
        assert builder.info.splits[split].num_examples == sum(shard.records for shard in shards)
        assert [Path(name).name for name in builder.info.splits[split].filenames] == [
            shard.file for shard in shards
        ]
        config = tfds.ReadConfig(interleave_cycle_length=1)
        examples = list(builder.as_dataset(split=split, read_config=config).as_numpy_iterator())
        rows = ours.read(split)
        for feature in ours.schema.features:
            column = rows[feature.name]
            if feature.ragged:
                for example, row in zip(examples, column, strict=True):
                    np.testing.assert_array_equal(example[feature.name], row)
                continue
            join = np.concatenate if ours.schema.block_rows > 1 else np.stack
            np.testing.assert_array_equal(join([example[feature.name] for example in examples]), column)


@pytest.mark.parametrize("make", [tracks, clouds])
def test_features_file_is_what_tfds_would_write(tmp_path: Path, make) -> None:
    ours = make(tmp_path / "data")
    theirs = tfds.features.FeaturesDict(
        {
            name: tfds.features.Tensor(
                shape=(*([None] if part.sequence else []), *part.shape),
                dtype=np.dtype(part.dtype).type,
                doc=f"{ours.schema.feature(name).doc} [{ours.schema.feature(name).unit}]",
            )
            for name, part in ours.schema.parse_spec().items()
        }
    )
    (tmp_path / "theirs").mkdir()
    theirs.save_config(str(tmp_path / "theirs"))
    written, expected = (
        json.loads((tmp_path / name / "features.json").read_text()) for name in ("data", "theirs")
    )
    assert written == expected
