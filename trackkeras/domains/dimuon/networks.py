"""The networks of the reconstruction as functions on arrays: exported bundles, run without TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from serving.bundle import Bundle, discover
from serving.errors import ServingError
from serving.runtime import BackendName, load
from serving.signature import DEFAULT_SIGNATURE
from trackkeras.domains.dimuon.finder import MUONS
from trackkeras.domains.dimuon.road import DOMAIN
from trackkeras.errors import UserError

Array = NDArray[Any]

Network = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Outputs by name, of inputs by name; several threads may call it."""

Part = Literal["finder", "momentum", "quality"]

OUTPUTS: dict[Part, tuple[str, ...]] = {
    "finder": MUONS,
    "momentum": ("momentum",),
    "quality": ("p_right", "error"),
}
"""What is asked of each network; it may give more."""

ELSEWHERE = "at station 1"
"""What a bundle says of momenta that are not those of the vertex."""


def open_network(path: Path, part: Part, backend: BackendName = "onnx") -> Network:
    """Load the newest version of a bundle, or the one that is named.

    Args:
        path: Folder of a bundle, or of one of its versions.
        part: What it must be.
        backend: `onnx`, or `savedmodel`, which imports TensorFlow.

    Raises:
        UserError: The folder holds no bundle, several, or one that takes or gives something else; momenta
            of station 1 are something else.
    """
    try:
        models = discover([path])
        if len(models) > 1:
            names = ", ".join(model.name for model in models)
            raise UserError(f"--{part}: {path} holds several bundles, {names}: name one of them")
        bundle = models[0].versions[-1]
        _check(bundle, part)
        engine = load(bundle, backend)
    except ServingError as error:
        raise UserError(f"--{part}: {error}") from None

    def run(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        return engine.run(DEFAULT_SIGNATURE, inputs)

    return run


def _check(bundle: Bundle, part: Part) -> None:
    """Refuse a bundle whose tensors are not those of the task."""
    signature, task = bundle.signatures[DEFAULT_SIGNATURE], DOMAIN.tasks[part].signature()
    taken = {name: (spec.shape, spec.dtype.name) for name, spec in signature.inputs.items()}
    given = {name: spec.shape for name, spec in signature.outputs.items()}
    wanted = {tensor.name: ((-1, *tensor.shape), tensor.dtype) for tensor in task.inputs}
    answer = {tensor.name: (-1, *tensor.shape) for tensor in task.outputs if tensor.name in OUTPUTS[part]}
    if taken != wanted or any(given.get(name) != shape for name, shape in answer.items()):
        inputs = ", ".join(f"{name} {dtype}{list(shape)}" for name, (shape, dtype) in wanted.items())
        outputs = ", ".join(f"{name} {list(shape)}" for name, shape in answer.items())
        raise UserError(
            f"--{part}: {bundle.path} is no {part} network: it takes {', '.join(taken)} and gives "
            f"{', '.join(given)}, but must take {inputs} and give {outputs}; "
            f"export a run of a {part}_* preset"
        )
    if part == "momentum" and ELSEWHERE in signature.outputs["momentum"].doc:
        raise UserError(
            f"--momentum: {bundle.path} gives momenta {ELSEWHERE}, behind the iron, but those of "
            "the vertex are wanted: export a run without model.target=station_1"
        )
