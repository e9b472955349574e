"""The Runge-Kutta baseline in C++ against the Numba propagator on the same map."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from serving import native
from serving.errors import ServingError
from trackkeras.domains.extrapolation import make_field, propagate
from trackkeras.domains.extrapolation.grid import write_grid
from trackkeras.units import KAPPA

pytestmark = pytest.mark.skipif(native.find_compiler() is None, reason="there is no C++ compiler")

NODES = ((-3000.0, 3000.0, 300.0), (-3000.0, 3000.0, 300.0), (0.0, 10_000.0, 200.0))
ROWS = 400


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("map") / "field.txt"
    write_grid(make_field("lhcb"), path, NODES)
    return path


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> native.Program:
    return native.Program(native.build("propagate", tmp_path_factory.mktemp("programs")))


@pytest.fixture
def tracks(tmp_path: Path) -> Path:
    rng = np.random.default_rng(4)
    columns = [rng.uniform(-1, 1, ROWS) * size for size in (400, 400, 0.15, 0.1)]
    momentum = np.exp(rng.uniform(np.log(3000), np.log(100_000), ROWS))
    state = np.column_stack([*columns, rng.choice([-1, 1], ROWS) / momentum])
    backwards = rng.uniform(size=ROWS) < 0.5
    for name, column in {
        "state": state,
        "z0": np.where(backwards, 8000.0, 1000.0),
        "dz": np.where(backwards, -6000.0, 6500.0),
    }.items():
        column.astype("float32").tofile(tmp_path / f"{name}.f32")
    return tmp_path


def read(folder: Path, name: str, columns: int) -> np.ndarray:
    return np.fromfile(folder / f"{name}.f32", "<f4").astype(float).reshape(-1, columns)


def run(program: native.Program, grid: Path, method: str, value: float, folder: Path) -> np.ndarray:
    (said,) = program.run(grid, method, str(value), folder)
    assert said["tracks"] == ROWS
    return np.fromfile(folder / "final_state.f64").reshape(-1, 5)


def test_both_methods_equal_the_numba_propagator(program: native.Program, grid: Path, tracks: Path) -> None:
    field = make_field("grid", path=grid, length="mm", field="T")
    state, z0, dz = read(tracks, "state", 5), read(tracks, "z0", 1)[:, 0], read(tracks, "dz", 1)[:, 0]
    same = propagate(field, state, z0, dz, step=100.0)
    fine = propagate(field, state, z0, dz, step=5.0)
    ok = (same.status == 0) & (fine.status == 0)
    assert ok.sum() > 0.9 * ROWS
    bend = np.linalg.norm(fine.state[:, :2] - state[:, :2] - dz[:, None] * state[:, 2:4], axis=1)
    # nodes are float32 in C++: a bend is good to about 1e-7 of itself
    for method, value, expected, allowed in (
        ("rk4", 100.0, same.state, 1e-6 + 1e-6 * bend),
        ("adaptive", 1e-6, fine.state, 2e-2 + 1e-5 * bend),
    ):
        got = run(program, grid, method, value, tracks)
        difference = np.linalg.norm((got - expected)[ok, :2], axis=1)
        assert (difference <= allowed[ok]).all(), (method, difference.max())


def test_there_and_back(program: native.Program, grid: Path, tracks: Path) -> None:
    state, z0, dz = (read(tracks, name, size) for name, size in (("state", 5), ("z0", 1), ("dz", 1)))
    there = run(program, grid, "adaptive", 1e-6, tracks)
    ok = np.isfinite(there).all(axis=1)
    assert ok.sum() > 0.9 * ROWS
    there.astype("float32").tofile(tracks / "state.f32")
    (z0 + dz).astype("float32").tofile(tracks / "z0.f32")
    (-dz).astype("float32").tofile(tracks / "dz.f32")
    back = run(program, grid, "adaptive", 1e-6, tracks)
    assert np.abs(back - state)[ok, :2].max() < 0.01
    np.testing.assert_array_equal(back[ok, 4], state[ok, 4].astype("float32"))


def test_text_and_binary_maps_are_the_same(program: native.Program, grid: Path, tracks: Path) -> None:
    text = run(program, grid, "rk4", 200.0, tracks)
    table = np.loadtxt(grid)
    binary = tracks / "field.f64"
    np.random.default_rng(0).permutation(table).tofile(binary)
    np.testing.assert_array_equal(run(program, binary, "rk4", 200.0, tracks), text)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0 0 1 2", "line 2: needs six numbers"),
        ("0 0 0 0 zero 0", "line 2: needs six"),
        ("0 0 50 0 0 0", "grid|spaced"),
    ],
)
def test_a_broken_map_is_named(program: native.Program, tracks: Path, line: str, message: str) -> None:
    broken = tracks / "broken.txt"
    nodes = [f"{x} {y} {z} 0 1 0" for x in (0, 100) for y in (0, 100) for z in (0, 100)]
    broken.write_text("\n".join([nodes[0], line, *nodes[1:]]))
    with pytest.raises(ServingError, match=message):
        program.run(broken, "rk4", "100", tracks)


def test_the_bending_constant_is_that_of_the_library() -> None:
    stated = []
    for path in native.SOURCES.iterdir():
        stated += re.findall(r"kappa = ([\d']+) \* (\S+);", path.read_text())
    ((speed, factor),) = stated
    assert float(speed.replace("'", "")) * float(factor) == KAPPA
