"""The benchmarks that put networks beside classical extrapolation: what they contain, not how fast it was."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving import deployment, native
from serving.bundle import read_bundle
from serving.runtime import load
from trackkeras import bench
from trackkeras.domains.extrapolation import cpp_baseline, cpp_comparison
from trackkeras.domains.extrapolation.grid import NODES
from trackkeras.domains.extrapolation.inference_baselines import (
    INPUTS,
    position_error,
    simulated,
    steps_of_accuracy,
)
from trackkeras.errors import UserError
from trackkeras.inference_bench import Plan

pytestmark = pytest.mark.skipif(native.find_compiler() is None, reason="there is no C++ compiler")

PLAN = Plan(batches=(1, 4), warm_ups=1, calls=3, turns=1)


@pytest.fixture(autouse=True)
def coarse_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """A map of a hundredth of the nodes, and one turn: the programs read it again and again."""
    steps = (500.0, 500.0, 250.0)
    nodes = tuple((first, last, step) for (first, last, _), step in zip(NODES, steps, strict=True))
    monkeypatch.setattr(cpp_baseline, "NODES", nodes)
    monkeypatch.setattr(cpp_comparison, "TURNS", 1)


def test_every_engine_and_every_baseline_is_in_the_table(
    bundle: Path, trained_run: Path, tmp_path: Path
) -> None:
    table = bench.inference(bundle, trained_run, PLAN)
    for engine in (
        "Keras, predict_on_batch",
        "TensorFlow SavedModel, Python",
        "ONNX Runtime, Python",
        "ONNX Runtime, C++",
        "TensorFlow C API, C++",
        "generated C++",
        "server, gRPC, Python client",
        "server, REST, Python client",
    ):
        assert [row["batch"] for row in table if row["engine"] == engine] == [1, 4], engine
    for word in ("Numba RK4", "C++ RK4", "C++ Cash-Karp"):
        assert [row for row in table if row["engine"].startswith(word)], word
    for row in table:
        assert 0 < row["inference_time_cpu"] == row["us_per_row"] * row["batch"]
        assert row["rows_per_s"] == pytest.approx(1e6 / row["us_per_row"])
    # its file is the latency curve that `serving-config --batching` reads: that of the SavedModel in C++
    file = tmp_path / "times.json"
    file.write_text(json.dumps({"rows": table}))
    curve = deployment.read_curve(file)
    (single,) = (row for row in table if row["engine"] == "TensorFlow C API, C++" and row["batch"] == 1)
    assert curve[1] == single["inference_time_cpu"]
    assert list(curve) == [1, 4]


def test_a_run_that_the_bundle_did_not_come_from_is_refused(
    bundle: Path, trained_run: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(trained_run / "config.json", other)
    with pytest.raises(UserError, match="was exported from the run 'small', received"):
        bench.inference(bundle, other, PLAN)


def test_steps_of_equal_accuracy_are_the_fewest() -> None:
    tracks = simulated(500)
    rows, truth = {name: tracks[name] for name in INPUTS}, tracks["final_state"]
    found = [steps_of_accuracy(rows, truth, error) for error in (1e9, 30.0, 1.0, 0.01)]
    steps, reached = zip(*found, strict=True)
    assert steps[0] == 1
    assert list(steps) == sorted(set(steps))
    assert all(value <= error for value, error in zip(reached, (1e9, 30.0, 1.0, 0.01), strict=True))


def recorded(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Let states of the C++ extrapolator be those of the simulation."""
    from trackkeras.domain import Sample

    sample = Sample("cpp_states", "stands for recorded states", simulated(rows, seed=9), simulated=False)
    monkeypatch.setattr(cpp_comparison.real_data, "samples", lambda: (sample,))


def test_network_and_baseline_side_by_side(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch, 300)
    table = bench.compare_with_cpp(bundle, 2000, seed=3)
    by_sample: dict[str, dict[str, dict[str, Any]]] = {}
    for row in table:
        by_sample.setdefault(row["sample"], {})[row["method"]] = row
    assert list(by_sample) == ["simulated", "cpp_states"]
    for rows in by_sample.values():
        network, line, coarse, fine, adaptive = rows.values()
        assert network["method"].endswith("generated header, C++")
        assert len({row["tracks"] for row in rows.values()}) == 1
        assert network["lost"] == line["lost"] == 0 < network["tracks"] + coarse["lost"]
        # the map differs from the closed form that made the tracks: all methods end at the same error
        assert coarse["pos_mean_mm"] < 0.1 * line["pos_mean_mm"]
        for row in (coarse, adaptive):
            assert row["pos_mean_mm"] == pytest.approx(fine["pos_mean_mm"], rel=0.05)
        assert all(row["us_per_track"] > 0 for row in (network, coarse, fine, adaptive))
        assert line["us_per_track"] == "n/a"


def test_a_bundle_without_header_runs_in_onnx_runtime(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "mlp_tiny-small/1"
    shutil.copytree(bundle, copy, ignore=shutil.ignore_patterns("*.hpp"))
    network = cpp_comparison.CppNetwork(read_bundle(copy), tmp_path)
    assert network.label == "mlp_tiny-small, ONNX Runtime, C++"
    tracks = simulated(5)
    rows = {name: tracks[name] for name in INPUTS}
    expected = load(read_bundle(copy)).run("serving_default", rows)
    np.testing.assert_array_equal(network.predict(rows)["final_state"], expected["final_state"])


def test_without_recorded_states_the_simulated_tracks_remain(no_experiment_data: None) -> None:
    assert list(cpp_comparison._recorded()) == []


def test_what_cannot_be_compared_is_named(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tracks must be at least 1, received 0"):
        bench.compare_with_cpp(bundle, 0, seed=1)
    other = tmp_path / "mlp_tiny-small/1"
    shutil.copytree(bundle, other)
    description = json.loads((other / "bundle.json").read_text())
    (other / "bundle.json").write_text(json.dumps(description | {"domain": "pointing"}))
    with pytest.raises(UserError, match="is a bundle of 'pointing'"):
        bench.compare_with_cpp(other, 10, seed=1)


@pytest.fixture
def run(run: Any) -> Any:
    """Run a command of `trackkeras bench`."""
    return partial(run, "bench")


@pytest.mark.parametrize(
    ("name", "function"), [("inference", "inference"), ("compare-with-cpp", "compare_with_cpp")]
)
def test_tables_go_to_the_screen_and_to_a_file_with_their_machine(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, function: str
) -> None:
    rows = [{"engine": "one", "batch": 1, "description": "a sample"}]
    monkeypatch.setattr(bench, function, lambda *_: rows)
    file = tmp_path / "times.json"
    code, out, _ = run(name, "some/1", "--output", file)
    assert code == 0
    assert "one" in out
    assert f"{bench.machine()['cpus']} cores" in out
    written = json.loads(file.read_text())
    assert written["rows"] == rows
    assert written["bundle"] == "some/1"
    assert written["machine"]["packages"]["tensorflow"]
    code, out, _ = run(name, "some/1", "--json")
    assert json.loads(out)["rows"] == rows
    # refused before anything is measured
    monkeypatch.setattr(bench, function, None)
    code, out, err = run(name, "some/1", "--output", tmp_path / "none/times.json")
    assert (code, out) == (2, "")
    assert err.startswith("error: no such folder: ")
    assert len(err.splitlines()) == 1


def test_a_bundle_that_is_not_there(run: Any, tmp_path: Path) -> None:
    for name in ("inference", "compare-with-cpp"):
        code, out, err = run(name, tmp_path / "none")
        assert (code, out) == (2, "")
        assert err.startswith("error: no such bundle: ")


def test_position_error_is_the_mean_distance() -> None:
    truth = np.zeros((2, 5))
    assert position_error({"final_state": np.array([[3.0, 4, 0, 0, 0], [0, 1, 9, 9, 9]])}, truth) == 3
