"""A network in C++ beside Runge-Kutta in C++, on the same tracks: accuracy and time per track in one table.

Samples: simulated tracks of the default sample, and states that LHCb's own C++ extrapolator recorded, where
they are at hand. The Runge-Kutta methods run on a map of the field `lhcb`, which the recorded states did not
go through: there their error is that of the field. Errors are over the tracks that every method answers.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from serving import native
from serving.bundle import Bundle, read_bundle
from trackkeras.domain import Rows, Sample, find_task
from trackkeras.domains.extrapolation import real_data
from trackkeras.domains.extrapolation.baselines import straight_line
from trackkeras.domains.extrapolation.cpp_baseline import METHODS, CppBaseline
from trackkeras.domains.extrapolation.inference_baselines import INPUTS, simulated
from trackkeras.domains.extrapolation.jacobian import NAME
from trackkeras.errors import UserError
from trackkeras.progress import Progress

BATCH = 1024
TURNS = 3
TIMED_ROWS = 4 * BATCH
"""Tracks whose time is taken; a smaller sample is repeated."""

STRAIGHT_LINE = "straight line"


def compare(path: Path, tracks: int, seed: int = 1) -> list[dict[str, Any]]:
    """Compare a bundle with the C++ baseline.

    Args:
        path: Version folder of a bundle of this domain.
        tracks: Number of simulated tracks.
        seed: Seed of the simulation.

    Returns:
        One row per sample and method: tracks, how many the method loses, mean, median and 95th percentile of
        the position error [mm], mean slope error, and the time per track on one thread [us], alone and, for
        the network, in batches of 1024.

    Raises:
        UserError: The bundle is of another domain, or there is no track to compare.
        ServingError: There is no compiler, or the bundle is broken.
    """
    bundle = read_bundle(path)
    domain = bundle.description["domain"]
    if domain != "extrapolation":
        raise UserError(f"the C++ baseline extrapolates tracks; {path} is a bundle of {domain!r}")
    if tracks < 1:
        raise UserError(f"tracks must be at least 1, received {tracks}")
    samples = [_simulated(tracks, seed), *_recorded()]
    progress = Progress("bench compare-with-cpp", len(samples), "samples")
    table: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        baseline, network = CppBaseline(folder), CppNetwork(bundle, folder)
        for done, sample in enumerate(samples):
            place = folder / sample.name
            place.mkdir()
            table += _compare(sample, baseline, network, place)
            progress.update(done)
    progress.finish(len(samples))
    return table


class CppNetwork:
    """The bundle in C++: its generated header, or ONNX Runtime where it has none.

    Args:
        bundle: The network.
        folder: Where programs are put.
    """

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        header = next(iter(bundle.path.glob("*.hpp")), None)
        self.kind, self.model = ("generated", "best") if header else ("onnx", str(bundle.onnx))
        engine = "generated header" if header else "ONNX Runtime"
        self.label = f"{bundle.name}, {engine}, C++"
        self._library = "" if header else f"@{native.find_library('onnxruntime')}"
        self._folder, self._header = folder, header
        self._apply = self._build("apply")

    def _build(self, program: str) -> native.Program:
        return native.Program(native.build(program, self._folder, header=self._header))

    @cached_property
    def _benchmark(self) -> native.Program:
        return self._build("benchmark")

    def predict(self, rows: Rows) -> Rows:
        """Return the network's outputs."""
        signature = find_task("extrapolation", "mlp").signature()
        return self._apply.apply(self.kind, self.model, rows, signature.inputs, signature.outputs)

    def predict_with_jacobian(self, rows: Rows) -> Rows:
        """Return `final_state` and `jacobian`, by the header alone."""
        signature = find_task("extrapolation", "mlp").endpoints()[NAME].signature
        return self._apply.apply(self.kind, self.model, rows, signature.inputs, signature.outputs, NAME)

    def times(self, folder: Path) -> tuple[float, float]:
        """Return the time per track [us] alone and in batches, of the tracks in a folder."""
        said = self._benchmark.run(folder, f"1,{BATCH}", f"{self.kind}={self.model}{self._library}")
        found = {row["batch"]: row["p50_us"] for row in said if row["engine"] == self.kind}
        return found[1], found[BATCH] / BATCH


def _simulated(tracks: int, seed: int) -> Sample:
    text = f"{tracks} simulated tracks of the default sample, field lhcb, seed {seed}"
    return Sample("simulated", text, simulated(tracks, seed))


def _recorded() -> Iterator[Sample]:
    yield from (sample for sample in real_data.samples() if sample.name == "cpp_states")


def _compare(
    sample: Sample, baseline: CppBaseline, network: CppNetwork, folder: Path
) -> Iterator[dict[str, Any]]:
    rows = {name: sample.rows[name].astype("float32") for name in INPUTS}
    _write(rows, folder)
    predictions = {network.label: network.predict(rows), STRAIGHT_LINE: straight_line(rows)}
    for method in METHODS:
        predictions[method.label] = baseline.propagate(method, folder)[0]
    timed = _times(rows, baseline, network, folder)
    answered = {name: np.isfinite(pred["final_state"]).all(axis=1) for name, pred in predictions.items()}
    common = np.logical_and.reduce(list(answered.values()))
    if not common.any():
        raise UserError(f"no track of the sample {sample.name!r} is answered by every method")
    truth = {"final_state": sample.rows["final_state"][common]}
    for name, pred in predictions.items():
        alone, together = timed.get(name, (None, None))
        yield {
            "sample": sample.name,
            "method": name,
            "tracks": int(common.sum()),
            "lost": int((~answered[name]).sum()),
            **_errors(truth, {"final_state": pred["final_state"][common]}),
            "us_per_track": "n/a" if alone is None else alone,
            "us_per_track_in_batches": "n/a" if together is None else together,
            "description": sample.description,
        }


def _times(
    rows: Mapping[str, Any], baseline: CppBaseline, network: CppNetwork, folder: Path
) -> dict[str, tuple[float, float | None]]:
    """Return medians of several turns, in which network and baseline alternate."""
    place = folder / "timed"
    place.mkdir()
    repeats = -(-TIMED_ROWS // len(rows["z0"]))
    _write({name: np.tile(column, (repeats, 1))[:TIMED_ROWS] for name, column in rows.items()}, place)
    networks, methods = [], []
    for _ in range(TURNS):
        networks.append(network.times(place))
        methods.append([baseline.run(method, place)["us_per_track"] for method in METHODS])
    alone, together = (statistics.median(values) for values in zip(*networks, strict=True))
    return {network.label: (alone, together)} | {
        method.label: (statistics.median(values), None)
        for method, values in zip(METHODS, zip(*methods, strict=True), strict=True)
    }


def _write(rows: Mapping[str, Any], folder: Path) -> None:
    for name, column in rows.items():
        native.write_column(folder, name, column)


def _errors(truth: Rows, pred: Rows) -> dict[str, float]:
    errors = find_task("extrapolation", "mlp").errors(truth, pred)
    return {
        "pos_mean_mm": float(errors["pos"].mean()),
        "pos_median_mm": float(np.median(errors["pos"])),
        "pos_p95_mm": float(np.quantile(errors["pos"], 0.95)),
        "slope_mean": float(errors["slope"].mean()),
    }
