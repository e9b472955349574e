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

import logging
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import keras
import numpy as np
import onnxruntime
import tensorflow as tf

from serving.bundle import onnx_name
from serving.native import find_compiler
from serving.signature import DEFAULT_SIGNATURE
from tfrecords_tools.files import new_file, read_json, write_json
from tfrecords_tools.reader import Dataset
from trackkeras.checkpoints import load_model
from trackkeras.config import Run
from trackkeras.cpp_export import identifier, run_header, write_header
from trackkeras.domain import Endpoint, Parity, Rows, Signature, Task, Tensor, open_dataset, task_of
from trackkeras.errors import UserError
from trackkeras.evaluation import predict
from trackkeras.onnx_handlers import HANDLERS
from trackkeras.runs import RunFolder, environment, open_run

OPSET = 18
"""ONNX operator set; the newest that tf2onnx 1.17 writes."""
FORMATS = ("saved_model", "onnx", "cpp")
"""What may stand in `parity.json` for a signature."""


def all_endpoints(task: Task) -> dict[str, Endpoint]:
    """Return the functions of a task's bundles by name; the network itself is `serving_default`."""

    def compute(model: keras.Model, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return dict(model(inputs, training=False))

    def reference(model: keras.Model, rows: Rows) -> Rows:
        return predict(model, rows, task)

    network = Endpoint(task.signature(), compute, reference, task.parity(), task.parity_rows, in_header=True)
    return {DEFAULT_SIGNATURE: network, **task.endpoints()}


def write_saved_model(model: keras.Model, endpoints: Mapping[str, Endpoint], directory: Path) -> None:
    """Write a SavedModel that session-based loaders (C, C++, TF-Serving) can read.

    `tf.saved_model.save` of a Keras 3 model loads in Python only; `ExportArchive` is read everywhere.
    """
    archive = keras.export.ExportArchive()
    archive.track(model)
    for name, endpoint in endpoints.items():
        specs = {
            tensor.name: tf.TensorSpec((None, *tensor.shape), tensor.dtype, name=tensor.name)
            for tensor in endpoint.signature.inputs
        }
        archive.add_endpoint(name, _function(model, endpoint), input_signature=[specs])
    archive.write_out(str(directory), verbose=False)


def _function(
    model: keras.Model, endpoint: Endpoint
) -> Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]:
    def function(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        outputs = endpoint.compute(model, inputs)
        names = [tensor.name for tensor in endpoint.signature.outputs]
        return {name: tf.identity(outputs[name], name=name) for name in names}

    return function


def write_onnx(saved_model: Path, name: str, signature: Signature, path: Path) -> None:
    """Convert a signature of a SavedModel to ONNX with the same input and output names.

    Args:
        saved_model: Its folder.
        name: Name of the signature.
        signature: What it takes and gives.
        path: The file to write.

    Raises:
        UserError: The file would want other inputs than the signature declares.
    """
    import onnx
    from tf2onnx import convert, tf_loader

    graph, inputs, outputs, rename = tf_loader.from_saved_model(
        str(saved_model), None, None, tag="serve", signatures=[name], return_tensors_to_rename=True
    )
    with tf.device("/cpu:0"):
        onnx_model, _ = convert._convert_common(
            graph,
            name="trackkeras",
            input_names=inputs,
            output_names=outputs,
            tensors_to_rename=rename,
            opset=OPSET,
            custom_op_handlers=dict(HANDLERS),
        )
    declared = {tensor.name for tensor in signature.inputs}
    found = {entry.name for entry in onnx_model.graph.input}
    if found != declared:
        raise UserError(
            f"ONNX conversion of {name!r}: inputs {sorted(found)} instead of {sorted(declared)}; "
            "nothing exported"
        )
    onnx.save_model(onnx_model, str(path))


def run_saved_model(directory: Path, rows: Rows, signature: Signature, name: str = DEFAULT_SIGNATURE) -> Rows:
    """Run a SavedModel through the session loader, as C++ and TF-Serving do."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(directory))
        definition = loaded.signature_def[name]
        feeds = {definition.inputs[tensor.name].name: rows[tensor.name] for tensor in signature.inputs}
        fetches = {tensor.name: definition.outputs[tensor.name].name for tensor in signature.outputs}
        return dict(session.run(fetches, feeds))


def run_onnx(path: Path, rows: Rows, signature: Signature) -> Rows:
    """Run an ONNX file in ONNX Runtime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [tensor.name for tensor in signature.outputs]
    values = session.run(names, {tensor.name: rows[tensor.name] for tensor in signature.inputs})
    return dict(zip(names, values, strict=True))


@dataclass(frozen=True)
class ParityResult:
    """Agreement of one exported format with Keras.

    Attributes:
        excess: Largest difference, divided by what is allowed.
        largest: Largest absolute difference per output component.
        worst: Index of the row with the largest excess.
    """

    excess: float
    largest: dict[str, list[float]]
    worst: int


def compare(parity: Parity, rows: Rows, reference: Rows, other: Rows) -> ParityResult:
    """Compare predictions row by row under a parity rule."""
    excess = np.asarray(parity.excess(rows, reference, other))
    excess = np.where(np.isfinite(excess), excess, np.inf)
    difference = {name: np.abs(other[name].astype(float) - reference[name]) for name in reference}
    largest = {name: np.max(value, axis=0).ravel().tolist() for name, value in difference.items()}
    return ParityResult(float(excess.max()), largest, int(excess.argmax()))


def check_parity(
    task: Task, model: keras.Model, directory: Path, rows: Rows, header: Path | None = None
) -> dict[str, Any]:
    """Compare every function in SavedModel, ONNX and the C++ header, if there is one, with Keras.

    Args:
        task: Names the functions and their parity rules.
        model: The Keras model.
        directory: Folder of the exported formats.
        rows: Rows to compare on; an endpoint may use fewer of them.
        header: The C++ header.

    Returns:
        The content of `parity.json`.

    Raises:
        UserError: A format differs by more than the task allows; the message shows the worst row.
    """
    return {
        name: _check_endpoint(task, name, endpoint, model, directory, rows, header)
        for name, endpoint in all_endpoints(task).items()
    }


def _check_endpoint(
    task: Task,
    name: str,
    endpoint: Endpoint,
    model: keras.Model,
    directory: Path,
    rows: Rows,
    header: Path | None,
) -> dict[str, Any]:
    signature = endpoint.signature
    rows = {key: column[: endpoint.parity_rows] for key, column in rows.items()}
    inputs = task.inputs(rows)
    reference = endpoint.reference(model, rows)
    runners: dict[str, Callable[[], Rows]] = {
        "saved_model": lambda: run_saved_model(directory, inputs, signature, name),
        "onnx": lambda: run_onnx(directory / onnx_name(name), inputs, signature),
    }
    report: dict[str, Any] = {"rule": endpoint.parity.description, "rows": len(next(iter(rows.values())))}
    if header is not None and endpoint.in_header:
        if find_compiler() is None:
            report["cpp"] = {"not_compared": "there is no C++ compiler"}
        else:
            runners["cpp"] = lambda: run_header(header, inputs, signature, name)
    for kind, runner in runners.items():
        result = compare(endpoint.parity, rows, reference, runner())
        report[kind] = {"excess": result.excess, "largest_difference": result.largest}
        if result.excess > 1.0:
            row = {tensor.name: inputs[tensor.name][result.worst].tolist() for tensor in signature.inputs}
            raise UserError(
                f"{name} in {kind} differs from Keras by {result.excess:.3g} times what is allowed "
                f"({endpoint.parity.description}); worst row {row}; nothing exported"
            )
    return report


def next_version(folder: Path) -> int:
    """Return the version after the largest that exists in a bundle's folder."""
    versions = [int(entry.name) for entry in folder.glob("[0-9]*") if entry.name.isdigit()]
    return max(versions, default=0) + 1


def bundle_name(run: Run, folder: RunFolder) -> str:
    """Return the bundle's name, which begins with the preset's name."""
    return folder.name if folder.name.startswith(f"{run.preset}-") else f"{run.preset}-{folder.name}"


def export(path: Path, out: Path, data: Path | None = None, *, cpp: bool = False) -> Path:
    """Export the best model of a run as the next version of its bundle.

    Args:
        path: Run folder.
        out: Folder of bundles.
        data: Dataset whose validation rows check the parity; by default the run's own.
        cpp: Also write the network as a C++ header.

    Returns:
        The version folder.

    Raises:
        UserError: The run has no model, or an exported format differs from Keras.
    """
    folder, run = open_run(path)
    task = task_of(run)
    source = open_dataset(data or Path(folder.read("dataset.json")["path"]), run)
    model = load_model(folder.best, task)
    rows = source.read("validation", limit=task.parity_rows)
    name = bundle_name(run, folder)
    target = out / name / str(next_version(out / name))
    temporary = out / name / f".{uuid.uuid4().hex[:8]}"
    try:
        write_bundle(model, task, temporary, rows, header=f"{identifier(name)}.hpp" if cpp else None)
        _describe(temporary, name, int(target.name), run, folder, task, source)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def write_bundle(
    model: keras.Model, task: Task, directory: Path, rows: Rows, header: str | None = None
) -> dict[str, Any]:
    """Write SavedModel, ONNX, a C++ header if named, and `parity.json`; the parity gate is part of it."""
    directory.mkdir(parents=True)
    endpoints = all_endpoints(task)
    if header is not None:
        write_header(
            model, task, directory / header, f"A {model.name} network, {model.count_params():,} weights"
        )
    with _quiet_converters():
        write_saved_model(model, endpoints, directory)
        for name, endpoint in endpoints.items():
            write_onnx(directory, name, endpoint.signature, directory / onnx_name(name))
        report = check_parity(task, model, directory, rows, directory / header if header else None)
    write_json(directory / "parity.json", report)
    return report


def _describe(
    directory: Path, name: str, version: int, run: Run, folder: RunFolder, task: Task, source: Dataset
) -> None:
    description = {
        "name": name,
        "version": version,
        "domain": run.domain,
        "preset": run.preset,
        "run": folder.name,
        "dataset": source.manifest.config_hash,
        "opset": OPSET,
        "signatures": {
            key: {
                "inputs": {tensor.name: _tensor_entry(tensor) for tensor in endpoint.signature.inputs},
                "outputs": {tensor.name: _tensor_entry(tensor) for tensor in endpoint.signature.outputs},
            }
            for key, endpoint in all_endpoints(task).items()
        },
        "examples": {key: value.tolist() for key, value in task.signature().examples.items()},
        "environment": environment(),
    }
    write_json(directory / "bundle.json", description)
    metrics = folder.read("metrics.json") if folder.metrics.is_file() else None
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("trackkeras"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    card = templates.get_template("card.md.j2").render(
        bundle=description,
        parity=read_json(directory / "parity.json"),
        formats=FORMATS,
        metrics=metrics,
        config=source.manifest.config,
        rows={split: source.rows(split) for split in source.splits},
        model=run.model.model_dump(mode="json"),
    )
    with new_file(directory / "card.md") as stream:
        stream.write(card.encode())


def _tensor_entry(tensor: Tensor) -> dict[str, Any]:
    return {"dtype": tensor.dtype, "shape": [-1, *tensor.shape], "unit": tensor.unit, "doc": tensor.doc}


@contextmanager
def _quiet_converters() -> Iterator[None]:
    """Silence the progress chatter of the converters; their errors still raise."""
    import warnings

    loggers = [logging.getLogger(name) for name in ("tf2onnx", "tensorflow", "absl")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="In the future `np.object` will be defined", category=FutureWarning
        )
        warnings.filterwarnings("ignore", message="__array__ implementation doesn't accept a copy keyword")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
