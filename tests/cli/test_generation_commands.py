"""Commands around generation: named samples, status, merge, reshard, export, tensorflow-io."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tfrecords_tools.reader import Dataset
from trackkeras.tfio import open_source, try_native_operation


@pytest.fixture
def run(run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return run


# -- generate ----------------------------------------------------------------------------------------------


def test_a_named_sample_with_added_columns(run) -> None:
    options = ("--preset", "ut_t", "--set", "planes=3", "--set", "importance=1", "--p-min", 3)
    assert run("generate", "extrapolation", "--n", 900, "--shards", 3, "--out", "d", *options)[0] == 0
    rows = Dataset("d").read("train")
    assert rows["states_at"].shape == (720, 3, 5)
    assert rows["weight"].shape == (720, 1)
    assert (rows["z0"] < 2660).all()
    assert (1e-3 / np.abs(rows["state"][:, 4]) > 2.999).all()
    assert run("verify", "d")[0] == 0
    assert "states_at" in run("inspect", "d")[1]


def test_status_and_continuing_without_options(run) -> None:
    command = ("generate", "extrapolation", "--n", 1200, "--shards", 5, "--out", "d", "--preset", "low_p")
    assert run(*command, "--shard", 0, "--shard", 3)[0] == 0
    code, out, _ = run("generate", "--status", "d")
    assert code == 1
    assert "2 of 5 shards are done" in out
    assert "missing: 1, 2, 4" in out
    assert "sbatch --array=1-2,4 scripts/cluster_job.sh generate --out d" in out
    report = json.loads(run("generate", "--status", "d", "--json")[1])
    assert report["missing"] == [1, 2, 4]
    assert run("generate", "--out", "d")[0] == 0
    code, out, _ = run("generate", "--status", "d")
    assert (code, out) == (0, "d: 5 of 5 shards are done\n")
    path = Dataset("d").files("train")[1]
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    code, out, _ = run("generate", "--status", "d")
    assert code == 1
    assert "damaged: 1" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "--out", "d"], "recipe.json"),
        (["generate"], "name the dataset folder with --out"),
        (["generate", "--out", "d", "--p-min", "2"], "options of the sample need a domain"),
        (["generate", "--out", "d", "--n", "2"], "options of the sample need a domain"),
        (["generate", "--status", "d"], "recipe.json"),
        (["generate", "extrapolation", "--out", "d", "--preset", "lowp"], "no generation preset 'lowp'"),
        (["generate", "extrapolation", "--out", "d", "--launcher-set", "queue=x"], "needs --launcher"),
        (["merge", "batch_*.npz", "--out", "all.npz"], "nothing matches batch_*.npz"),
        (["merge", "a", "b", "--out", "c"], "no such file or folder: a"),
        (["reshard", "d", "--out", "e", "--shards", "4"], "no such folder: d"),
        (["dump", "d", "--out", "e.parquet"], "no such folder: d"),
        (["tfio", "none.h5"], "no such file: none.h5"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(run, tmp_path: Path, arguments: list[str], message: str) -> None:
    code, _, err = run(*arguments)
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_benchmark_counts_time_memory_and_problems(run) -> None:
    code, out, err = run("bench", "generate", "--tracks", 1500, "--workers", 1, "--folder", ".", "--json")
    assert code == 0, err
    (row,) = json.loads(out)
    assert (row["tracks"], row["problems"]) == (1500, 0)
    assert row["tracks_per_s"] == pytest.approx(1500 / row["seconds"])
    assert row["all_mb"] >= row["worker_mb"] >= 0
    assert not list(Path().iterdir())


# -- merge, reshard, dump ----------------------------------------------------------------------------------


@pytest.fixture
def batches(run) -> dict[str, np.ndarray]:
    """Three batch files, written by `dump`; the arrays that they hold together."""
    parts = []
    for number, seed in ((1, 3), (2, 4), (10, 5)):
        run("generate", "extrapolation", "--n", 300, "--shards", 3, "--seed", seed, "--out", f"seed{seed}")
        run("dump", f"seed{seed}", "--out", f"batch_{number}.npz")
        with np.load(f"batch_{number}.npz") as archive:
            parts.append(dict(archive))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_batch_files_become_one_file_or_one_dataset(run, batches) -> None:
    code, out, err = run("merge", "batch_*.npz", "--out", "all.npz", "--verify")
    assert code == 0, err
    assert out == "all.npz: 720 rows of 3 files, verified\n"
    with np.load("all.npz") as archive:
        for name, array in batches.items():
            np.testing.assert_array_equal(archive[name], array)
            assert archive[name].dtype == np.float32
    code, out, err = run("merge", "batch_*.npz", "--out", "data", "--shards", 4, "--verify")
    assert code == 0, err
    assert "720 rows, 0 problems" in out
    found = np.concatenate([Dataset("data").read(split)["state"] for split in Dataset("data").splits])
    order, expected = np.argsort(found[:, 0]), np.argsort(batches["X"][:, 0])
    np.testing.assert_array_equal(found[order], batches["X"][expected, :5])


def test_bad_batches_are_refused_and_leave_nothing(run, batches) -> None:
    shutil.copy("batch_2.npz", "batch_3.npz")
    code, _, err = run("merge", "batch_*.npz", "--out", "all.npz")
    assert code == 2
    assert "batch_3.npz holds the same rows as batch_2.npz" in err
    assert not Path("all.npz").exists()
    with np.load("batch_2.npz") as archive:
        arrays = dict(archive)
    arrays["X"][:, 4] *= 1000
    np.savez("batch_3.npz", **arrays)
    code, _, err = run("merge", "batch_*.npz", "--out", "all.npz")
    assert code == 2
    assert "batch_3.npz: q/p is in 1/GeV" in err
    code, _, err = run("merge", "batch_1.npz", "all.npz", "--out", "all.npz")
    assert code == 2
    code, _, err = run("merge", "seed3", "batch_1.npz", "--out", "all")
    assert "merge dataset folders or files, not both" in err
    assert not Path("all").exists()


def test_datasets_merge_and_reshard(run, batches) -> None:
    code, out, err = run("merge", "seed3", "seed4", "seed5", "--out", "all", "--verify")
    assert code == 0, err
    assert "900 rows in 9 shards" in out
    assert "0 problems" in out
    assert run("reshard", "all", "--shards", 4, "--out", "four")[1] == "four: 900 rows in 4 shards\n"
    assert run("verify", "four")[0] == 0
    reversed_ = ("--set", "field={name: lhcb, polarity: -1}")
    run("generate", "extrapolation", "--n", 300, "--shards", 3, "--seed", 8, "--out", "up", *reversed_)
    code, _, err = run("merge", "seed3", "up", "--out", "mixed")
    assert code == 2
    assert "its field is" in err
    assert not Path("mixed").exists()


def test_parquet_and_back(run, batches) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra `tfio`")
    assert run("dump", "seed3", "--out", "rows.parquet")[1] == "rows.parquet: 240 rows\n"
    assert run("ingest", "extrapolation", "rows.parquet", "--shards", 3, "--out", "again")[0] == 0
    found = np.concatenate([Dataset("again").read(split)["final_state"] for split in Dataset("again").splits])
    expected = Dataset("seed3").read("train")["final_state"]
    np.testing.assert_array_equal(found[np.argsort(found[:, 0])], expected[np.argsort(expected[:, 0])])


# -- tensorflow-io -----------------------------------------------------------------------------------------


def stand_in(operation) -> ModuleType:
    """A module with the parts of tensorflow_io that are used."""
    module = ModuleType("tensorflow_io")
    module.__version__ = "0.99"
    module.experimental = SimpleNamespace(IODataset=SimpleNamespace(from_numpy_file=operation))
    module.IODataset = SimpleNamespace(
        from_hdf5=lambda path, dataset: tf.data.Dataset.from_tensors(f"{path}{dataset}"),
        from_parquet=lambda path, columns: tf.data.Dataset.from_tensors(dict.fromkeys(columns or ["all"], 1)),
    )
    return module


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch):
    """Put a stand-in in the place of tensorflow-io, and forget what was found before and after."""

    def install(module: ModuleType | None) -> None:
        monkeypatch.setitem(sys.modules, "tensorflow_io", module)
        try_native_operation.cache_clear()

    yield install
    try_native_operation.cache_clear()


def read_numpy(path: str) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(np.load(path))


def cannot_load(path: str) -> tf.data.Dataset:
    raise NotImplementedError(
        "unable to open file: libtensorflow_io.so\ncaused by: ['undefined symbol: _ZNK10']"
    )


def test_where_the_operation_runs_files_are_read_through_it(run, answer) -> None:
    answer(stand_in(read_numpy))
    assert run("tfio")[1].startswith("tensorflow-io 0.99 runs beside TensorFlow 2.")
    np.save("rows.npy", np.arange(6.0).reshape(3, 2))
    assert "[2. 3.]" in run("tfio", "rows.npy")[1]
    for name in ("a.h5", "a.parquet"):
        Path(name).touch()
    first, second = next(iter(open_source(Path("a.h5"), ("X", "/Y"))))
    assert (first.numpy(), second.numpy()) == (b"a.h5/X", b"a.h5/Y")
    assert set(next(iter(open_source(Path("a.parquet"), ("p",))))) == {"p"}
    assert "name the data sets" in run("tfio", "a.h5")[2]


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (None, "tensorflow-io is not installed (extra `tfio`)"),
        (stand_in(cannot_load), "does not run beside TensorFlow 2."),
        (
            stand_in(lambda path: tf.data.Dataset.from_tensor_slices([0.0, 9.0])),
            "reads [0.0, 9.0] from a file of",
        ),
    ],
)
def test_where_it_does_not_one_line_says_why(run, answer, module: ModuleType | None, words: str) -> None:
    answer(module)
    code, out, _ = run("tfio")
    assert code == 0
    assert words in out
    assert out.count("\n") == 1
    np.save("rows.npy", np.zeros(3))
    code, _, err = run("tfio", "rows.npy")
    assert code == 2
    assert words in err
    assert err.count("\n") == 1
    Path("rows.root").touch()
    assert "reads .h5" in run("tfio", "rows.root")[2]
