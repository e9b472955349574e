"""Engines that run a bundle: ONNX Runtime by default, TensorFlow on demand."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np

from serving.bundle import Bundle
from serving.errors import Code, ServingError
from serving.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from serving.tensors import Array

BackendName = Literal["onnx", "savedmodel"]

_ONNX_NAMES = {"float32": "float", "float64": "double"}  # the other types have NumPy's names


class Backend(Protocol):
    """A loaded model. `run` is called by several threads at once."""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The signatures that this engine can run."""

    def run(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs for inputs that the signature has accepted."""


class OnnxBackend:
    """ONNX Runtime, one file per signature, one thread per call: parallelism comes from concurrent requests.

    Signatures without a file are not offered.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.signatures = {
            name: signature
            for name, signature in bundle.signatures.items()
            if name == DEFAULT_SIGNATURE
            or "onnx" in bundle.description["signatures"][name]
            or bundle.onnx_of(name).is_file()
        }
        self._sessions = {
            name: _session(bundle.onnx_of(name), signature) for name, signature in self.signatures.items()
        }
        self._outputs = {name: list(signature.outputs) for name, signature in self.signatures.items()}

    def run(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name."""
        names = self._outputs[signature]
        return dict(zip(names, self._sessions[signature].run(names, dict(inputs)), strict=True))


def _session(path: Path, signature: Signature) -> Any:
    """Load an ONNX file whose inputs and outputs are those of a signature."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only: what matters is raised
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has no common base class for its errors
        raise ServingError(f"{path} cannot be loaded: {error}", Code.INTERNAL) from None
    for side, declared, actual in (
        ("inputs", signature.inputs, session.get_inputs()),
        ("outputs", signature.outputs, session.get_outputs()),
    ):
        found = {tensor.name: tensor.type for tensor in actual}
        wanted = {name: _onnx_type(spec) for name, spec in declared.items()}
        if found != wanted:
            raise ServingError(
                f"{path} has {side} {_listing(found)}, bundle.json declares {_listing(wanted)}"
            )
    return session


def _onnx_type(spec: TensorSpec) -> str:
    return f"tensor({_ONNX_NAMES.get(spec.dtype.name, spec.dtype.name)})"


def _listing(types: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in sorted(types.items()))


class SavedModelBackend:
    """TensorFlow on the SavedModel, as TensorFlow Serving runs it, with all its signatures."""

    def __init__(self, bundle: Bundle) -> None:
        tensorflow: Any = importlib.import_module("tensorflow")
        try:
            # The functions refer to the object's variables without keeping them alive.
            self._loaded = tensorflow.saved_model.load(str(bundle.path))
        except (OSError, ValueError, RuntimeError) as error:
            raise ServingError(f"{bundle.path} cannot be loaded: {error}", Code.INTERNAL) from None
        self._constant = tensorflow.constant
        self._functions = {name: self._loaded.signatures[name] for name in bundle.signatures}
        self.signatures = bundle.signatures

    def run(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name."""
        tensors = {name: self._constant(array) for name, array in inputs.items()}
        return {name: np.asarray(value) for name, value in self._functions[signature](**tensors).items()}


_BACKENDS: dict[str, type[OnnxBackend] | type[SavedModelBackend]] = {
    "onnx": OnnxBackend,
    "savedmodel": SavedModelBackend,
}
assert tuple(_BACKENDS) == get_args(BackendName)


def load(bundle: Bundle, backend: BackendName = "onnx") -> Backend:
    """Load a bundle into an engine.

    Args:
        bundle: What to run.
        backend: `onnx` or `savedmodel`; the second imports TensorFlow.

    Raises:
        ServingError: Unknown engine, or a file that it cannot load or that differs from `bundle.json`.
    """
    if backend not in _BACKENDS:
        raise ServingError(f"backend must be one of {', '.join(_BACKENDS)}, received {backend!r}")
    return _BACKENDS[backend](bundle)
