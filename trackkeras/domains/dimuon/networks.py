"""The networks of the reconstruction as functions on arrays: exported bundles, run without TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from serving.bundle import Bundle, discover
from serving.errors import ServingError
from serving.runtime import BackendName, load
from serving.signature import DEFAULT_SIGNATURE
from trackkeras.domains.dimuon.detectors import ELEMENTS, PLANES
from trackkeras.errors import UserError

Array = NDArray[Any]

Network = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Outputs by name, of inputs by name; several threads may call it."""

Part = Literal["finder", "momentum", "quality"]

_MATRIX, _SLOTS, _ONE, _VECTOR = (PLANES, ELEMENTS), (PLANES,), (1,), (3,)

_MUON: dict[str, tuple[tuple[int, ...], str]] = {
    "elements": (_SLOTS, "int32"),
    "drift": (_SLOTS, "float32"),
    "charge": (_ONE, "float32"),
}


@dataclass(frozen=True)
class Contract:
    """What a bundle must take, shape of a row and type by name; and what it must at least give, shapes."""

    inputs: Mapping[str, tuple[tuple[int, ...], str]]
    outputs: Mapping[str, tuple[int, ...]]


CONTRACTS: dict[Part, Contract] = {
    "finder": Contract(
        {"hits": (_MATRIX, "float32")},
        {"track_mup": _MATRIX, "track_mum": _MATRIX},
    ),
    "momentum": Contract(_MUON, {"momentum": _VECTOR}),
    "quality": Contract(
        {**_MUON, "momentum": (_VECTOR, "float32")},
        {"p_right": _ONE, "error": _ONE},
    ),
}


def open_network(path: Path, part: Part, backend: BackendName = "onnx") -> Network:
    """Load the newest version of a bundle, or the one that is named.

    Args:
        path: Folder of a bundle, or of one of its versions.
        part: What it must be.
        backend: `onnx`, or `savedmodel`, which imports TensorFlow.

    Raises:
        UserError: The folder holds no bundle, several, or one that takes or gives something else.
    """
    try:
        models = discover([path])
        if len(models) > 1:
            names = ", ".join(model.name for model in models)
            raise UserError(f"{path} holds several bundles, {names}: name one of them")
        bundle = models[0].versions[-1]
        _check(bundle, part)
        engine = load(bundle, backend)
    except ServingError as error:
        raise UserError(f"--{part}: {error}") from None

    def run(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        return engine.run(DEFAULT_SIGNATURE, inputs)

    return run


def _check(bundle: Bundle, part: Part) -> None:
    contract, signature = CONTRACTS[part], bundle.signatures[DEFAULT_SIGNATURE]
    taken = {name: (spec.shape, spec.dtype.name) for name, spec in signature.inputs.items()}
    given = {name: spec.shape for name, spec in signature.outputs.items()}
    wanted = {name: ((-1, *shape), dtype) for name, (shape, dtype) in contract.inputs.items()}
    answer = {name: (-1, *shape) for name, shape in contract.outputs.items()}
    if taken != wanted or any(given.get(name) != shape for name, shape in answer.items()):
        inputs = ", ".join(f"{name} {dtype}{list(shape)}" for name, (shape, dtype) in wanted.items())
        outputs = ", ".join(f"{name} {list(shape)}" for name, shape in answer.items())
        raise UserError(
            f"--{part}: {bundle.path} is no {part} network: it takes {', '.join(taken)} and gives "
            f"{', '.join(given)}, but must take {inputs} and give {outputs}; "
            f"export a run of a {part}_* preset"
        )
