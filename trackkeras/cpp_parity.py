"""A bundle's engines in C++ against Keras, on rows of a dataset and under the task's own parity rule.

The exporter compares from Python; this is what a C++ program gets: `TrackModel` over ONNX Runtime and over
TensorFlow's C API, and the generated header where the bundle has one. It works for every domain.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from serving import native
from serving.bundle import Bundle, read_bundle
from serving.signature import DEFAULT_SIGNATURE
from tfrecords_tools.reader import Dataset
from trackkeras.checkpoints import load_model
from trackkeras.domain import Endpoint, Rows, Task, open_dataset, task_of
from trackkeras.errors import UserError
from trackkeras.export import all_endpoints
from trackkeras.parity import compare
from trackkeras.progress import Progress
from trackkeras.runs import open_run

CHUNK = 8192
"""Rows of a dataset that are read at a time."""

LABELS = {
    "onnx": "ONNX Runtime, C++",
    "saved_model": "TensorFlow C API, C++",
    "generated": "generated header, C++",
}


def compare_engines(
    path: Path, run: Path, data: Path | None = None, *, rows: int = 100_000, split: str = "train"
) -> list[dict[str, Any]]:
    """Compare every function of a bundle in every engine of C++ with Keras.

    Args:
        path: Version folder of the bundle.
        run: Folder of the run that it was exported from.
        data: Dataset folder; by default the run's own.
        rows: Rows of the network; a split may have fewer. A further function gets no more than its own
            `parity_rows`.
        split: Split that they are the first rows of.

    Returns:
        One row per function, engine and output: how many rows were compared, the largest difference in the
        output's unit, the largest one as a share of what the rule allows (of all outputs together), and the
        share of rows that are equal to the last bit.

    Raises:
        UserError: The bundle is not of this run, or there are no rows.
        ServingError: There is no compiler, or the bundle is broken.
    """
    if rows < 1:
        raise UserError(f"rows must be at least 1, received {rows}")
    bundle = read_bundle(path)
    folder, configuration = open_run(run)
    if folder.name != bundle.description.get("run"):
        raise UserError(f"{path} was exported from the run {bundle.description.get('run')!r}, received {run}")
    task = task_of(configuration)
    source = open_dataset(data or Path(folder.read("dataset.json")["path"]), configuration)
    chosen = first_rows(task, source, split, rows)
    model = load_model(folder.best, task)
    header = next(iter(bundle.path.glob("*.hpp")), None)
    engines = [
        (name, endpoint, kind)
        for name, endpoint in all_endpoints(task).items()
        for kind in LABELS
        if kind != "generated" or (header is not None and endpoint.in_header)
    ]
    progress = Progress("compare-with-cpp", len(engines), "engines")
    table: list[dict[str, Any]] = []
    references: dict[str, Rows] = {}
    with tempfile.TemporaryDirectory() as programs:
        program = native.Program(native.build("apply", Path(programs), header=header))
        for done, (name, endpoint, kind) in enumerate(engines):
            own = _own(chosen, name, endpoint)
            if name not in references:
                references[name] = endpoint.reference(model, own)
            signature = endpoint.signature
            found = program.apply(
                kind, _model(bundle, kind, name), task.inputs(own), signature.inputs, signature.outputs, name
            )
            table += _described(name, kind, endpoint, own, references[name], found)
            progress.update(done)
    progress.finish(len(engines))
    return table


def first_rows(task: Task, source: Dataset, split: str, limit: int) -> Rows:
    """Return the first of the task's rows of a split, which need not be as many as those of the dataset.

    Raises:
        UserError: There are none.
    """
    parts: list[Rows] = []
    count = 0
    for chunk in source.chunks(split, task.columns, rows=min(CHUNK, limit)):
        parts.append(task.own_rows(chunk))
        count += len(next(iter(parts[-1].values())))
        if count >= limit:
            break
    if not count:
        raise UserError(f"{source.directory} has no rows in {split!r} to compare on")
    return {name: np.concatenate([part[name] for part in parts])[:limit] for name in parts[0]}


def _own(rows: Rows, name: str, endpoint: Endpoint) -> Rows:
    """Return as many rows as a function is compared on."""
    if name == DEFAULT_SIGNATURE:
        return rows
    return {key: column[: endpoint.parity_rows] for key, column in rows.items()}


def _model(bundle: Bundle, kind: str, signature: str) -> str:
    """Return what the program `apply` wants to open."""
    return {
        "onnx": str(bundle.onnx_of(signature)),
        "saved_model": str(bundle.path),
        "generated": "best",  # of the instruction sets
    }[kind]


def _described(
    name: str, kind: str, endpoint: Endpoint, rows: Rows, reference: Rows, found: Rows
) -> Iterator[dict[str, Any]]:
    result = compare(endpoint.parity, rows, reference, found)
    for tensor in endpoint.signature.outputs:
        one, other = reference[tensor.name], found[tensor.name]
        same = (one == other).reshape(len(one), -1).all(axis=1)
        yield {
            "signature": name,
            "engine": LABELS[kind],
            "output": tensor.name,
            "rows": len(one),
            "largest_difference": max(result.largest[tensor.name]),
            "unit": tensor.unit,
            "share_of_allowance": result.excess,
            "equal_rows": float(same.mean()),
            "rule": f"{name}: {endpoint.parity.description}",
        }
