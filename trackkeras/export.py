"""Run -> bundle: SavedModel and ONNX in physical units, refused unless both agree with Keras.

A bundle is a version folder of TF-Serving with a few files more:

    bundles/NAME/VERSION/
      saved_model.pb, variables/   signature `serving_default` and those of the task's endpoints
      model.onnx                   `serving_default`: the same named inputs and outputs
      model.SIGNATURE.onnx         an endpoint: one file each
      bundle.json                  names, shapes, units, origin; what servers and clients read
      NAME.hpp                     the network as C++ without dependencies, where it was asked for
      parity.json                  largest difference from Keras, per signature and format
      card.md                      intended range, training data, accuracy, parity
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

import keras
import numpy as np

from serving.bundle import onnx_name
from serving.errors import ServingError
from serving.native import find_compiler
from serving.signature import DEFAULT_SIGNATURE
from tfrecords_tools.files import new_file, read_json, write_json
from tfrecords_tools.reader import Dataset
from trackkeras.checkpoints import load_model
from trackkeras.config import Run
from trackkeras.cpp_export import identifier, run_header, write_header
from trackkeras.domain import Axis, Endpoint, Rows, Task, Tensor, open_dataset, task_of
from trackkeras.errors import UserError
from trackkeras.evaluation import in_chunks, raw_outputs
from trackkeras.formats import (
    OPSET,
    quiet_converters,
    run_onnx,
    run_saved_model,
    write_onnx,
    write_saved_model,
)
from trackkeras.keras_file import check_keras_file, write_keras
from trackkeras.pages import render_text
from trackkeras.parity import ParityResult, choose_rows, compare, describe_bands, joined
from trackkeras.runs import RunFolder, environment, open_run

FORMATS = ("saved_model", "onnx", "cpp")
"""What may stand in `parity.json` for a signature."""

NOT_EVALUATED = "Not evaluated: run `trackkeras evaluate` before the export to have the numbers here."


class Judged(Protocol):
    """What is compared in each format: the functions of a task, or of several networks as one."""

    chunk_rows: ClassVar[int | None]
    """Rows in memory at a time; None for all."""
    parity_band_rows: ClassVar[int | None]
    """Rows wanted in every band; a thousand if None."""

    def axes(self) -> tuple[Axis, ...]:
        """Return the truth variables in whose bands the differences are told."""

    def inputs(self, rows: Rows) -> Rows:
        """Return the inputs of the functions for some rows."""


def all_endpoints(task: Task) -> dict[str, Endpoint]:
    """Return the functions of a task's bundles by name; the network itself is `serving_default`."""

    def compute(model: keras.Model, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return dict(model(inputs, training=False))

    def reference(model: keras.Model, rows: Rows) -> Rows:
        return raw_outputs(model, rows, task)

    network = Endpoint(task.signature(), compute, reference, task.parity(), task.parity_rows, in_header=True)
    return {DEFAULT_SIGNATURE: network, **task.endpoints()}


def check_parity(
    task: Task, model: keras.Model, directory: Path, rows: Rows, header: Path | None = None
) -> dict[str, Any]:
    """Compare every function in SavedModel, ONNX and the C++ header, if there is one, with Keras.

    Args:
        task: Names the functions and their parity rules.
        model: The Keras model.
        directory: Folder of the exported formats.
        rows: Rows to compare on; an endpoint may use fewer of them, in every band as many as it has, up to a
            thousand.
        header: The C++ header.

    Returns:
        The content of `parity.json`.

    Raises:
        UserError: A format cannot be run, or differs by more than the task allows; the message shows the
            worst row.
    """
    return check_endpoints(all_endpoints(task), task, model, directory, rows, header)


def check_endpoints(
    endpoints: Mapping[str, Endpoint],
    judged: Judged,
    model: keras.Model,
    directory: Path,
    rows: Rows,
    header: Path | None = None,
) -> dict[str, Any]:
    """Compare some functions in SavedModel, ONNX and C++ with their references, as `check_parity`."""
    return {
        name: _check_endpoint(judged, name, endpoint, model, directory, rows, header)
        for name, endpoint in endpoints.items()
    }


def _check_endpoint(
    task: Judged,
    name: str,
    endpoint: Endpoint,
    model: keras.Model,
    directory: Path,
    rows: Rows,
    header: Path | None,
) -> dict[str, Any]:
    signature, axes = endpoint.signature, task.axes()
    rows = choose_rows([rows], axes, endpoint.parity_rows, task.parity_band_rows)
    runners: dict[str, Callable[[Rows], Rows]] = {
        "saved_model": lambda inputs: run_saved_model(directory, inputs, signature, name),
        "onnx": lambda inputs: run_onnx(directory / onnx_name(name), inputs, signature),
    }
    report: dict[str, Any] = {
        "rule": endpoint.parity.description,
        "rows": len(next(iter(rows.values()))),
        "bands": describe_bands(axes, rows),
    }
    if header is not None and endpoint.in_header:
        if find_compiler() is None:
            report["cpp"] = {"not_compared": "there is no C++ compiler"}
        else:
            runners["cpp"] = lambda inputs: run_header(header, inputs, signature, name)
    results: dict[str, list[ParityResult]] = {kind: [] for kind in runners}
    for part in in_chunks(rows, task.chunk_rows):
        inputs, reference = task.inputs(part), endpoint.reference(model, part)
        for kind, runner in runners.items():
            found = _outputs(f"{name} in {kind}", runner, inputs)
            result = compare(endpoint.parity, part, reference, found)
            if result.excess > 1.0:
                row = result.worst
                raise UserError(
                    f"{name} in {kind} differs from Keras by {result.excess:.3g} times what is allowed "
                    f"({endpoint.parity.description}); worst row {_row(signature.inputs, inputs, row)}: "
                    f"Keras gives {_row(signature.outputs, reference, row)}, {kind} gives "
                    f"{_row(signature.outputs, found, row)}; nothing exported"
                )
            results[kind].append(result)
    for kind, parts in results.items():
        result = joined(parts)
        report[kind] = {
            "excess": result.excess,
            "largest_difference": result.largest,
            "bands": result.in_bands(axes, rows),
        }
    return report


def _outputs(what: str, runner: Callable[[Rows], Rows], inputs: Rows) -> Rows:
    """Return what a format gives.

    Raises:
        UserError: It cannot be run.
    """
    try:
        return runner(inputs)
    except (ServingError, UserError):
        raise
    except Exception as error:  # the engines' errors have no common base class
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise UserError(f"{what} cannot be run: {reason}; nothing exported") from error


def _row(tensors: Sequence[Tensor], columns: Rows, row: int) -> str:
    """Return one row as text, with units; long tensors are shortened."""
    words = []
    for tensor in tensors:
        numbers = np.array2string(
            np.asarray(columns[tensor.name][row]).ravel(),
            separator=", ",
            threshold=12,
            max_line_width=10**6,
            formatter={"float_kind": lambda value: f"{value:.9g}"},
        )
        words.append(f"{tensor.name!r}: {numbers} [{tensor.unit}]")
    return "{" + ", ".join(words) + "}"


def next_version(folder: Path) -> int:
    """Return the version after the largest that exists in a bundle's folder."""
    versions = [int(entry.name) for entry in folder.glob("[0-9]*") if entry.name.isdigit()]
    return max(versions, default=0) + 1


def bundle_name(run: Run, folder: RunFolder) -> str:
    """Return the bundle's name, which begins with the preset's name."""
    return folder.name if folder.name.startswith(f"{run.preset}-") else f"{run.preset}-{folder.name}"


def export(
    path: Path, out: Path, data: Path | None = None, *, cpp: bool = False, keras_file: Path | None = None
) -> Path:
    """Export the best model of a run as the next version of its bundle.

    Args:
        path: Run folder.
        out: Folder of bundles.
        data: Dataset whose validation rows check the parity; by default the run's own.
        cpp: Also write the network as a C++ header.
        keras_file: Also write the network to this `.keras` or `.h5` file, as `write_keras`.

    Returns:
        The version folder.

    Raises:
        UserError: The run has no model, or an exported format differs from Keras.
    """
    if keras_file is not None:
        check_keras_file(keras_file)
    folder, run = open_run(path)
    task = task_of(run)
    source = open_dataset(data or Path(folder.read("dataset.json")["path"]), run)
    model = load_model(folder.best, task)
    chunks = map(task.own_rows, source.chunks("validation", task.columns, rows=task.parity_rows))
    rows = choose_rows(chunks, task.axes(), task.parity_rows, task.parity_band_rows)
    name = bundle_name(run, folder)

    def write(directory: Path) -> None:
        write_bundle(model, task, directory, rows, header=f"{identifier(name)}.hpp" if cpp else None)
        if keras_file is not None:
            write_keras(model, task, keras_file, next(in_chunks(rows, task.chunk_rows)))

    return publish(out, name, write, partial(_describe, name, run, folder, task, source))


def publish(
    out: Path, name: str, write: Callable[[Path], object], describe: Callable[[Path, int], None]
) -> Path:
    """Make the next version of a bundle, which appears when it is complete; return its folder.

    Args:
        out: Folder of bundles.
        name: Name of the bundle.
        write: Fills a folder that does not exist yet.
        describe: Adds what says the version, its second argument; called again if another export took it.
    """
    temporary = out / name / f".{uuid.uuid4().hex[:8]}"
    try:
        write(temporary)
        while True:
            target = out / name / str(next_version(out / name))
            describe(temporary, int(target.name))
            try:
                # A folder with content is never replaced: should another export have taken the number, the
                # next one is tried.
                temporary.rename(target)
            except OSError:
                if not target.exists():
                    raise
            else:
                return target
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_bundle(
    model: keras.Model, task: Task, directory: Path, rows: Rows, header: str | None = None
) -> dict[str, Any]:
    """Write SavedModel, ONNX, a C++ header if named, and `parity.json`; the parity gate is part of it."""
    directory.mkdir(parents=True)
    path = None
    if header is not None:
        path = directory / header
        write_header(model, task, path, f"A {model.name} network, {model.count_params():,} weights")
    return write_endpoints(model, all_endpoints(task), task, directory, rows, path)


def write_endpoints(
    model: keras.Model,
    endpoints: Mapping[str, Endpoint],
    judged: Judged,
    directory: Path,
    rows: Rows,
    header: Path | None = None,
) -> dict[str, Any]:
    """Write SavedModel, ONNX and `parity.json` of some functions, as `write_bundle`."""
    with quiet_converters():
        write_saved_model(model, endpoints, directory)
        for name, endpoint in endpoints.items():
            write_onnx(directory, name, endpoint.signature, directory / onnx_name(name))
        report = check_endpoints(endpoints, judged, model, directory, rows, header)
    write_json(directory / "parity.json", report)
    return report


def _describe(
    name: str, run: Run, folder: RunFolder, task: Task, source: Dataset, directory: Path, version: int
) -> None:
    origin = {
        "name": name,
        "version": version,
        "domain": run.domain,
        "preset": run.preset,
        "run": folder.name,
        "dataset": source.manifest.config_hash,
    }
    write_description(
        directory,
        origin,
        all_endpoints(task),
        task.signature().examples,
        source,
        run.model.model_dump(mode="json"),
        folder.read("metrics.json") if folder.metrics.is_file() else None,
    )


def write_description(
    directory: Path,
    origin: Mapping[str, Any],
    endpoints: Mapping[str, Endpoint],
    examples: Rows,
    source: Dataset,
    model: Mapping[str, Any],
    metrics: Mapping[str, Any] | None,
    unmeasured: str = NOT_EVALUATED,
) -> None:
    """Write `bundle.json` and `card.md` into a folder that has `parity.json`.

    Args:
        directory: The folder.
        origin: `name`, `version`, `domain`, `preset`, `run` and `dataset`.
        endpoints: The functions.
        examples: Inputs to try them with.
        source: The dataset that was trained on.
        model: What there is to say of the network, by name.
        metrics: Result of the evaluation.
        unmeasured: What the card says without one.
    """
    description = {
        **origin,
        "opset": OPSET,
        "signatures": {
            key: {
                "inputs": {tensor.name: _tensor_entry(tensor) for tensor in endpoint.signature.inputs},
                "outputs": {tensor.name: _tensor_entry(tensor) for tensor in endpoint.signature.outputs},
            }
            for key, endpoint in endpoints.items()
        },
        "examples": {key: value.tolist() for key, value in examples.items()},
        "environment": environment(),
    }
    write_json(directory / "bundle.json", description)
    card = render_text(
        "card.md.j2",
        bundle=description,
        parity=read_json(directory / "parity.json"),
        formats=FORMATS,
        metrics=metrics,
        unmeasured=unmeasured,
        config=source.manifest.config,
        rows={split: source.rows(split) for split in source.splits},
        model=model,
    )
    with new_file(directory / "card.md") as stream:
        stream.write(card.encode())


def _tensor_entry(tensor: Tensor) -> dict[str, Any]:
    return {"dtype": tensor.dtype, "shape": [-1, *tensor.shape], "unit": tensor.unit, "doc": tensor.doc}
