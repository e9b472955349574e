"""Tracks as NPZ files: there and back, and every contradiction in a file is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tfrecords_tools.convert import write_dataset
from tfrecords_tools.reader import Dataset
from tfrecords_tools.schema import Feature, Schema
from trackkeras.domains.extrapolation.npz import read_seed_npz, write_seed_npz
from trackkeras.errors import UserError

STATE = "mm, mm, 1, 1, 1/MeV"
SCHEMA = Schema(
    "extrapolation",
    (
        Feature("state", "float32", (5,), STATE, "Start."),
        Feature("z0", "float32", (1,), "mm", "Plane."),
        Feature("dz", "float32", (1,), "mm", "Distance."),
        Feature("final_state", "float32", (5,), STATE, "End."),
    ),
)


def arrays(rows: int = 500, dtype: type = np.float64) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    momentum = rng.uniform(0.5, 100, rows)  # GeV
    start = rng.uniform(0, 13_000, rows)
    end = rng.uniform(0, 13_000, rows)
    inputs = np.column_stack(
        [
            rng.uniform(-3000, 3000, rows),
            rng.uniform(-2500, 2500, rows),
            rng.uniform(-0.3, 0.3, rows),
            rng.uniform(-0.25, 0.25, rows),
            rng.choice([-1, 1], rows) / (1000 * momentum),
            end - start,
        ]
    )
    outputs = rng.uniform(-1, 1, (rows, 4))
    found = {"X": inputs, "Y": outputs, "P": momentum, "Z": np.column_stack([start, end])}
    return {name: array.astype(dtype) for name, array in found.items()}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_there_and_back(tmp_path: Path, dtype: type) -> None:
    given = arrays(dtype=dtype)
    np.savez(tmp_path / "given.npz", **given)
    chunks = list(read_seed_npz(tmp_path / "given.npz"))
    write_dataset(tmp_path / "data", SCHEMA, chunks, source={}, name="test", shards=3, seed=1)
    data = Dataset(tmp_path / "data")
    seen = []
    for split in data.splits:
        write_seed_npz(data, split, tmp_path / f"{split}.npz")
        with np.load(tmp_path / f"{split}.npz") as content:
            assert content.files == ["X", "Y", "P", "Z"]
            back = dict(content)
        rows = data.read(split)
        np.testing.assert_array_equal(back["X"][:, :5], rows["state"])
        # The written file is a valid one, and reads as the same rows.
        again = {
            name: np.concatenate([chunk[name] for chunk in read_seed_npz(tmp_path / f"{split}.npz")])
            for name in SCHEMA.names
        }
        for name, column in rows.items():
            np.testing.assert_array_equal(again[name], column)
        seen.append(back)
    order = np.argsort(np.concatenate([part["X"][:, 0] for part in seen]))
    expected = np.argsort(given["X"][:, 0].astype(np.float32))
    for name, array in given.items():
        joined = np.concatenate([part[name] for part in seen])[order]
        np.testing.assert_allclose(joined, array[expected], rtol=1e-6, atol=2e-3 if name == "Z" else 1e-30)


def test_equal_rows_make_equal_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "given.npz", **arrays())
    chunks = read_seed_npz(tmp_path / "given.npz")
    write_dataset(tmp_path / "data", SCHEMA, chunks, source={}, name="test", shards=3)
    for name in ("a", "b"):
        write_seed_npz(Dataset(tmp_path / "data"), "train", tmp_path / f"{name}.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def spoiled(name: str, index: tuple, value: float) -> dict[str, np.ndarray]:
    found = arrays()
    found[name][index] = value
    return found


def without(name: str) -> dict[str, np.ndarray]:
    return {key: array for key, array in arrays().items() if key != name}


def in_gev() -> dict[str, np.ndarray]:
    found = arrays()
    found["X"][:, 4] *= 1000
    return found


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (without("P"), "lacks P; it holds X, Y, Z"),
        ({**arrays(), "X": arrays()["X"][:, :5]}, r"X must be floats \(N, 6\).* received float64 \(500, 5\)"),
        ({**arrays(), "Y": arrays()["Y"][:-1]}, r"Y must be floats \(N, 4\).* received float64 \(499, 4\)"),
        ({**arrays(), "P": np.ones(500, int)}, r"P must be floats \(N\).* received int64 \(500,\)"),
        ({**arrays(), "P": arrays()["P"][:, None]}, r"P must be floats"),
        (arrays(0), r"received float64 \(0, 6\)"),
        (spoiled("X", (3, 1), np.nan), "X holds NaN or infinity in 1 rows, the first is row 3"),
        (spoiled("Y", (4, 1), np.inf), "Y holds NaN or infinity in 1 rows, the first is row 4"),
        (spoiled("P", (5,), 0.0), "P must be positive, row 5 has 0 GeV"),
        (spoiled("P", (5,), -2.0), "P must be positive, row 5 has -2 GeV"),
        (in_gev(), "q/p is in 1/GeV; column 4 of X must be in 1/MeV"),
        (spoiled("X", (6, 4), 0.0), r"contradicts P \[GeV\] in 1 rows, the first is row 6"),
        (spoiled("X", (7, 4), 1.0), r"contradicts P \[GeV\] in 1 rows, the first is row 7"),
        (spoiled("Z", (8, 1), -5.0), "dz contradicts Z in 1 rows, the first is row 8"),
    ],
)
def test_contradictions_are_named(tmp_path: Path, content: dict[str, np.ndarray], words: str) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, **content)
    with pytest.raises(UserError, match=words) as caught:
        list(read_seed_npz(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_npz(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        list(read_seed_npz(tmp_path / "none.npz"))
    (tmp_path / "text.npz").write_text("x y z")
    with pytest.raises(UserError, match="not a readable NPZ file"):
        list(read_seed_npz(tmp_path / "text.npz"))
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(UserError, match="single array"):
        list(read_seed_npz(tmp_path / "single.npy"))
    np.savez(tmp_path / "cut.npz", **arrays())
    data = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="not a readable NPZ file"):
        list(read_seed_npz(tmp_path / "cut.npz"))


def test_a_track_without_momentum_cannot_be_written(tmp_path: Path) -> None:
    rows = {feature.name: np.ones((30, *feature.shape), np.float32) for feature in SCHEMA.features}
    rows["state"][:, 4] = 0
    write_dataset(tmp_path / "data", SCHEMA, [rows], source={}, name="test", shards=3)
    with pytest.raises(UserError, match="q/p = 0"):
        write_seed_npz(Dataset(tmp_path / "data"), "train", tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()
