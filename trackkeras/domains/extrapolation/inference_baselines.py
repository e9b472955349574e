"""Classical extrapolation beside the times of a network: Runge-Kutta in C++ and Numba, and ACTS."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from serving.bundle import Bundle
from serving.native import find_compiler, write_column
from serving.runtime import load
from serving.signature import DEFAULT_SIGNATURE
from trackkeras.domain import Rows
from trackkeras.domains.extrapolation.baselines import rk4_equal_cost
from trackkeras.domains.extrapolation.cpp_baseline import METHODS, CppBaseline, Method
from trackkeras.domains.extrapolation.fields import make_field
from trackkeras.domains.extrapolation.propagation_bench import acts_case
from trackkeras.domains.extrapolation.simulate import make_shard
from trackkeras.inference_bench import Plan, Row, Turn, times_of

MOST_STEPS = 1024
ACCURACY_ROWS = 4096
"""Tracks by whose mean position error a number of steps is called as accurate as a network."""

INPUTS = ("state", "z0", "dz")


def simulated(count: int, seed: int = 0) -> Rows:
    """Return tracks of the default sample: `state`, `z0`, `dz` and `final_state`, float32."""
    chunks = [columns for columns, _ in make_shard({}, np.random.default_rng(seed), count)]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in (*INPUTS, "final_state")}


def classical_turns(bundle: Bundle, rows: Rows, plan: Plan, folder: Path) -> list[Turn]:
    """Return what takes turns with the engines of a network.

    Args:
        bundle: The network, whose accuracy the Numba row is to have.
        rows: Tracks with their `final_state`.
        plan: Batch sizes and numbers of calls.
        folder: Where C++ programs and maps are put.
    """
    truth = rows["final_state"][:ACCURACY_ROWS]
    few = {name: rows[name][:ACCURACY_ROWS] for name in INPUTS}
    network = load(bundle).run(DEFAULT_SIGNATURE, few)
    error = position_error(network, truth)
    steps, reached = steps_of_accuracy(few, truth, error)
    label = f"Numba RK4 in lhcb, {steps} steps: mean error {reached:.3g} mm (network: {error:.3g})"
    numba = rk4_equal_cost(make_field("lhcb"), steps, threads=1)
    turns: list[Turn] = [lambda: times_of(label, numba, rows, plan)]
    if find_compiler() is not None:
        for name in INPUTS:
            write_column(folder, name, rows[name])
        baseline = CppBaseline(folder)
        turns += [lambda method=method: _cpp(baseline, method, folder) for method in METHODS]  # type: ignore[misc]
    case = acts_case(folder)
    if case is not None:
        turns.append(lambda: _repeated(case.method, case.run, case.tracks))
    return turns


def position_error(pred: Rows, truth: Any) -> float:
    """Return the mean distance of positions [mm]."""
    return float(np.linalg.norm(pred["final_state"][:, :2] - truth[:, :2].astype(float), axis=1).mean())


def steps_of_accuracy(rows: Rows, truth: Any, error: float) -> tuple[int, float]:
    """Return the smallest number of equal RK4 steps whose mean error is not larger, and that error [mm].

    All numbers up to 16 are tried, from there on each a tenth larger than the one before.
    """
    field = make_field("lhcb")
    steps = 1
    while True:
        reached = position_error(rk4_equal_cost(field, steps)(rows), truth)
        if reached <= error or steps >= MOST_STEPS:
            return steps, reached
        steps = max(steps + 1, round(1.1 * steps)) if steps >= 16 else steps + 1


def _cpp(baseline: CppBaseline, method: Method, folder: Path) -> Iterator[Row]:
    said = baseline.run(method, folder)
    yield {"engine": f"{method.label}, grid", "batch": 1} | {
        key: said[key] for key in ("p50_us", "p95_us", "memory_mb")
    }


def _repeated(engine: str, run: Callable[[], object], tracks: int, calls: int = 5) -> Iterator[Row]:
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        run()
        times.append(1e6 * (time.perf_counter() - start) / tracks)
    yield {
        "engine": f"{engine}, from Python, grid",
        "batch": 1,
        "p50_us": float(np.median(times)),
        "p95_us": float(np.quantile(times, 0.95)),
    }
