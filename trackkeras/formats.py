"""SavedModel and ONNX files: writing them, and running them as their users do."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import keras
import onnxruntime
import tensorflow as tf

from serving.signature import DEFAULT_SIGNATURE
from trackkeras.domain import Endpoint, Rows, Signature
from trackkeras.errors import UserError
from trackkeras.onnx_handlers import HANDLERS

OPSET = 18
"""ONNX operator set; the newest that tf2onnx 1.17 writes."""


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
    """Convert a signature of a SavedModel to ONNX with the same names, and the outputs in the same order.

    Args:
        saved_model: Its folder.
        name: Name of the signature.
        signature: What it takes and gives.
        path: The file to write.

    Raises:
        UserError: The conversion fails, or the file would want other inputs than the signature declares.
    """
    import onnx
    from tf2onnx import constants, convert, tf_loader

    # Unless this is set, tf2onnx copies the graph before each of its optimizers, lest one fail: a fifth of
    # the time of an export. Without the copies one that fails is an error.
    os.environ.setdefault(constants.ENV_TF2ONNX_CATCH_ERRORS, "FALSE")
    graph, inputs, names, rename = tf_loader.from_saved_model(
        str(saved_model), None, None, tag="serve", signatures=[name], return_tensors_to_rename=True
    )
    try:
        with tf.device("/cpu:0"):
            onnx_model, _ = convert._convert_common(
                graph,
                name="trackkeras",
                input_names=inputs,
                output_names=names,
                tensors_to_rename=rename,
                opset=OPSET,
                custom_op_handlers=dict(HANDLERS),
            )
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), "")
        raise UserError(
            f"ONNX conversion of {name!r} failed, {type(error).__name__}: {first}; nothing exported"
        ) from error
    declared = {tensor.name for tensor in signature.inputs}
    found = {entry.name for entry in onnx_model.graph.input}
    if found != declared:
        raise UserError(
            f"ONNX conversion of {name!r}: inputs {sorted(found)} instead of {sorted(declared)}; "
            "nothing exported"
        )
    # a SavedModel sorts its outputs by name
    outputs = {entry.name: entry for entry in copy.deepcopy(list(onnx_model.graph.output))}
    del onnx_model.graph.output[:]
    onnx_model.graph.output.extend(outputs[tensor.name] for tensor in signature.outputs)
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


@contextmanager
def quiet_converters() -> Iterator[None]:
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
