"""One question to a server: address, inputs from JSON or NPZ, and the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from serving.client import Client, ModelClient, RestClient, Retry
from serving.errors import ServingError
from serving.signature import DEFAULT_SIGNATURE, check_names
from serving.tensors import Array


def connect(address: str, retry: Retry | None = None) -> ModelClient:
    """Return a client: REST for `http://HOST:PORT`, gRPC for `HOST:PORT`."""
    kind = RestClient if address.startswith(("http://", "https://")) else Client
    return kind(address, retry)


def read_inputs(text: str) -> dict[str, Any]:
    """Read inputs by name.

    Args:
        text: A JSON object of (nested) lists, or `@FILE` with the same, or `@FILE.npz`.

    Raises:
        ServingError: The file is missing, or the content is not as described.
    """
    if not text.startswith("@"):
        return _from_json(text, "--inputs")
    path = Path(text[1:])
    if not path.is_file():
        raise ServingError(f"no such file: {path}")
    if path.suffix != ".npz":
        return _from_json(path.read_text(), str(path))
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except (ValueError, BadZipFile, OSError) as error:
        raise ServingError(f"{path} is not a NumPy archive of plain arrays: {error}") from None


def _from_json(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ServingError(f"{where} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ServingError(f"{where} must be a JSON object of inputs, received {type(value).__name__}")
    return value


def ask(
    client: ModelClient,
    model: str,
    inputs: Mapping[str, Any],
    version: int | None = None,
    signature: str = DEFAULT_SIGNATURE,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Send inputs with the types that the model wants.

    Returns:
        The inputs as sent, and the outputs.

    Raises:
        ServingError: Unknown model, signature or input, values that are no numbers, or the server's refusal.
    """
    signatures = client.metadata(model, version).signatures
    if signature not in signatures:
        raise ServingError(f"model {model!r} has no signature {signature!r}; it has {', '.join(signatures)}")
    wanted = signatures[signature].inputs
    check_names(inputs, wanted)
    arrays = {name: _typed(name, inputs[name], spec.dtype) for name, spec in wanted.items()}
    return arrays, client.predict(model, arrays, version=version, signature=signature)


def _typed(name: str, value: Any, dtype: np.dtype[Any]) -> Array:
    """Return numbers in a type; for one of whole numbers they must be whole and in its range."""
    try:
        given = np.asarray(value)
    except ValueError:  # lists of different lengths
        given = np.array(None)
    if given.dtype.kind not in "iufb":
        raise ServingError(f"input {name!r} must be an array of {dtype.name} numbers")
    with np.errstate(invalid="ignore", over="ignore"):
        array = given.astype(dtype)
    other = given[array != given] if dtype.kind in "iu" else given[:0]
    if other.size:
        raise ServingError(f"input {name!r} must hold integers ({dtype.name}), received {other.flat[0]}")
    return array
