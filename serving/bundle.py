"""Exported bundles on disk: what a folder must hold to be served, and how bundles are found.

`NAME/VERSION/` is a version folder of TensorFlow Serving (`saved_model.pb`, `variables/`) with more beside it
(`model.onnx`, `model.SIGNATURE.onnx` for further signatures, `bundle.json`, ...), which TensorFlow Serving
ignores.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from serving.errors import Code, ServingError
from serving.messages import SavedModel
from serving.signature import DEFAULT_SIGNATURE, Signature, TensorSpec, from_signature_def
from serving.tensors import data_type

SAVED_MODEL = "saved_model.pb"
ONNX = "model.onnx"
DESCRIPTION = "bundle.json"

_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Bundle:
    """One version of a model, checked.

    Attributes:
        path: The version folder.
        name: Name under which it is served.
        version: Positive integer; the largest of a model is its default.
        signatures: What its functions take and give.
        description: All of `bundle.json`.
    """

    path: Path
    name: str
    version: int
    signatures: Mapping[str, Signature]
    description: Mapping[str, Any]

    @property
    def onnx(self) -> Path:
        """Path of the ONNX file of the default signature."""
        return self.path / ONNX

    def onnx_of(self, signature: str) -> Path:
        """Path of the ONNX file of a signature, whether or not there is one.

        `bundle.json` may name it (`"onnx": "FILE"` beside `inputs`); otherwise it is `model.onnx` for the
        default signature and `model.SIGNATURE.onnx` for any other.
        """
        return self.path / str(self.description["signatures"][signature].get("onnx", onnx_name(signature)))


def onnx_name(signature: str) -> str:
    """Return the name of the ONNX file of a signature where `bundle.json` names none."""
    return ONNX if signature == DEFAULT_SIGNATURE else f"model.{signature}.onnx"


@dataclass(frozen=True)
class Model:
    """The versions of one model, oldest first."""

    name: str
    versions: tuple[Bundle, ...]


def read_bundle(path: Path) -> Bundle:
    """Read and check one version folder.

    Names, types and shapes of `bundle.json` must be those of the SavedModel, since TensorFlow Serving goes by
    the latter. Weights and graphs are not read here; a backend does that when it loads them.

    Args:
        path: A folder `NAME/VERSION`.

    Raises:
        ServingError: A file is missing or broken, or two of them disagree.
    """
    if not path.is_dir():
        raise ServingError(f"no such bundle: {path}", Code.NOT_FOUND)
    for name in (DESCRIPTION, SAVED_MODEL, ONNX):
        if not (path / name).is_file():
            raise ServingError(f"{path} is no bundle: {name} is missing; export the model again")
    if not (path / "variables").is_dir():
        raise ServingError(f"{path} is no bundle: variables/ is missing; export the model again")
    file = path / DESCRIPTION
    try:
        description = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise ServingError(f"{file} is not valid JSON: {error}") from None
    try:
        name, version, signatures = _parse(description)
    except ServingError as error:
        raise ServingError(f"{file}: {error}") from None
    folder = path.resolve().name
    if folder != str(version):
        raise ServingError(
            f"{file} says version {version}, but the folder is named {folder!r}; rename the folder"
        )
    exported = _saved_signatures(path / SAVED_MODEL)
    return Bundle(
        path,
        name,
        version,
        {key: _agree(file, key, signature, exported) for key, signature in signatures.items()},
        description,
    )


def discover(paths: Iterable[Path]) -> list[Model]:
    """Find the models in some folders.

    Args:
        paths: Version folders, model folders (of versions) or folders of models, in any mixture.

    Returns:
        Models by name, each with its versions in ascending order.

    Raises:
        ServingError: A path holds no bundle, a bundle is broken, or two have the same name and version.
    """
    models, problems = scan(map(Path, paths))
    if problems:
        raise problems[0]
    if not models:
        raise ServingError("no bundle to serve: name at least one folder")
    return models


def scan(paths: Iterable[Path]) -> tuple[list[Model], list[ServingError]]:
    """Find the models in some folders as `discover` does, and go on where it would stop.

    Returns:
        Models that can be read, and what is wrong with the rest.
    """
    found: dict[tuple[str, int], Bundle] = {}
    problems: list[ServingError] = []
    for path in paths:
        try:
            folders = _version_folders(path)
        except ServingError as error:
            problems.append(error)
            continue
        for folder in folders:
            try:
                bundle = read_bundle(folder)
            except ServingError as error:
                problems.append(error)
            except OSError as error:  # removed between listing and reading
                problems.append(ServingError(f"{folder} cannot be read: {error.strerror}"))
            else:
                known = found.setdefault((bundle.name, bundle.version), bundle)
                if known.path.resolve() != folder.resolve():
                    where = f"both in {known.path} and in {folder}"
                    problems.append(ServingError(f"{bundle.name!r} version {bundle.version} is {where}"))
    names = sorted({name for name, _ in found})
    models = [
        Model(name, tuple(bundle for (owner, _), bundle in sorted(found.items()) if owner == name))
        for name in names
    ]
    return models, problems


def _version_folders(path: Path) -> list[Path]:
    if not path.is_dir():
        raise ServingError(f"no such folder: {path}", Code.NOT_FOUND)
    if (path / DESCRIPTION).exists() or (path / SAVED_MODEL).exists():
        return [path]
    folders = _versions(path) or [version for model in _folders(path) for version in _versions(model)]
    if not folders:
        raise ServingError(
            f"{path} holds no bundle: expected VERSION/, or NAME/VERSION/, with a {DESCRIPTION}"
        )
    return folders


def _folders(path: Path) -> list[Path]:
    return sorted(item for item in path.iterdir() if item.is_dir() and not item.name.startswith("."))


def _versions(path: Path) -> list[Path]:
    return [item for item in _folders(path) if _VERSION.fullmatch(item.name)]


def _parse(description: Any) -> tuple[str, int, dict[str, Signature]]:
    if not isinstance(description, dict):
        raise ServingError(f"expected a JSON object, received {type(description).__name__}")
    name, version, signatures = (description.get(key) for key in ("name", "version", "signatures"))
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ServingError(f"'name' must be letters, digits, '.', '_' and '-', received {name!r}")
    if type(version) is not int or not _VERSION.fullmatch(str(version)):
        raise ServingError(f"'version' must be a positive integer, received {version!r}")
    if not isinstance(signatures, dict) or DEFAULT_SIGNATURE not in signatures:
        raise ServingError(f"'signatures' must hold {DEFAULT_SIGNATURE!r}, received {signatures!r}")
    bad = [key for key in signatures if not _NAME.fullmatch(key)]
    if bad:
        raise ServingError(
            f"a signature's name must be letters, digits, '.', '_' and '-', received {bad[0]!r}"
        )
    return name, version, {key: _signature(key, value) for key, value in signatures.items()}


def _signature(key: str, value: Any) -> Signature:
    sides = {}
    for side in ("inputs", "outputs"):
        tensors = value.get(side) if isinstance(value, dict) else None
        if not isinstance(tensors, dict) or not tensors:
            raise ServingError(
                f"signature {key!r}: {side!r} must be an object of tensors, received {tensors!r}"
            )
        sides[side] = {name: _tensor(name, tensor) for name, tensor in tensors.items()}
    file = value.get("onnx", ONNX)
    if not isinstance(file, str) or not _NAME.fullmatch(file):
        raise ServingError(f"signature {key!r}: 'onnx' must be the name of a file here, received {file!r}")
    return Signature(**sides)


def _tensor(name: str, value: Any) -> TensorSpec:
    try:
        shape, dtype = tuple(value["shape"]), np.dtype(str(value["dtype"]))
        data_type(dtype)
        if not all(type(size) is int and size >= -1 for size in shape):
            raise TypeError
        return TensorSpec(dtype, shape, str(value.get("unit", "")), str(value.get("doc", "")))
    except (TypeError, KeyError):
        raise ServingError(
            f"tensor {name!r} needs a 'dtype' and a 'shape' of integers, received {value!r}"
        ) from None


def _saved_signatures(file: Path) -> Mapping[str, Any]:
    try:
        graphs = SavedModel.FromString(file.read_bytes()).meta_graphs
    except DecodeError:
        raise ServingError(f"{file} is not a SavedModel, or is truncated; export the model again") from None
    if len(graphs) != 1:
        raise ServingError(f"{file} must hold one graph, it has {len(graphs)}; export the model again")
    signatures: Mapping[str, Any] = graphs[0].signature_def
    return signatures


def _agree(file: Path, key: str, signature: Signature, exported: Mapping[str, Any]) -> Signature:
    """Return the signature with the graph's tensor names, if the SavedModel has the same one."""
    if key not in exported:
        raise ServingError(f"{file} declares signature {key!r}, which {SAVED_MODEL} does not have")
    graph = from_signature_def(exported[key])
    sides = {}
    for side in ("inputs", "outputs"):
        declared, actual = getattr(signature, side), getattr(graph, side)
        if declared.keys() != actual.keys() or any(
            not declared[name].same_type(actual[name]) for name in declared
        ):
            raise ServingError(
                f"{file} and {SAVED_MODEL} disagree on the {side} of {key!r}: "
                f"{_describe(declared)} against {_describe(actual)}"
            )
        sides[side] = {
            name: TensorSpec(spec.dtype, spec.shape, spec.unit, spec.doc, actual[name].graph_name)
            for name, spec in declared.items()
        }
    return Signature(**sides)


def _describe(specs: Mapping[str, TensorSpec]) -> str:
    return ", ".join(f"{name} {spec}" for name, spec in sorted(specs.items()))
