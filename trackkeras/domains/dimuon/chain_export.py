"""Runs of a finder, a momentum and a quality network -> one bundle that takes hits and gives muons.

Its parity is that of the whole chain: the networks in Keras with NumPy in between, against one SavedModel and
one ONNX file, on events of the finder's validation rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from trackkeras.config import Run
from trackkeras.domain import Axis, Endpoint, Parity, Rows, Signature, Task, Tensor, open_dataset, task_of
from trackkeras.domains.dimuon.detectors import ELEMENTS, PLANES
from trackkeras.domains.dimuon.events import CHARGES
from trackkeras.domains.dimuon.finder import MUONS as FINDER_OUTPUTS
from trackkeras.errors import UserError
from trackkeras.runs import RunFolder, open_run

if TYPE_CHECKING:
    from trackkeras.domains.dimuon.chain import Chain

PARITY_EVENTS = 200
"""Events on which the formats are compared; their matrices take 20 MB."""

COLUMNS = ("hit_detector", "hit_element", "hit_drift")

MASS_TOLERANCE = 2e-4
"""Allowed relative difference of the mass: twice that of the momenta."""

TIES = 0.01
"""Share of events in which rounding may decide between two elements that the finder thinks equally likely."""

MUONS = ("mup", "mum")
"""Suffixes of the outputs, in the order of `CHARGES`."""

NAMES = {"mup": "mu+", "mum": "mu-"}

UNMEASURED = (
    "The parts have figures on their own cards; `trackkeras dimuon reconstruct` and `trackkeras dimuon mass` "
    "measure the whole."
)


@dataclass(frozen=True)
class Part:
    """A trained network of the chain."""

    folder: RunFolder
    run: Run
    task: Task


def open_part(path: Path, kind: str) -> Part:
    """Return a run that has a network of a kind.

    Raises:
        UserError: The folder is no run, its network is of another kind, or it has none yet.
    """
    folder, run = open_run(path)
    if run.domain != "dimuon" or run.model.kind != kind:
        raise UserError(
            f"--{kind}: {path} holds a network of kind {run.model.kind!r} of the domain {run.domain!r}; "
            f"give the run of a {kind}_* preset"
        )
    if not folder.best.is_file():
        raise UserError(f"--{kind}: {path} has no model yet; `trackkeras train --resume` finishes it")
    return Part(folder, run, task_of(run))


def chain_signature(parts: Mapping[str, Task]) -> Signature:
    """Return what a chain takes and gives.

    Args:
        parts: Tasks of `finder`, `momentum` and, where there is one, `quality`.
    """
    shape = (PLANES, ELEMENTS)
    outputs = [
        Tensor(
            f"elements_{muon}", (PLANES,), "1", f"hit of the {NAMES[muon]} in detector d at d - 1", "int32"
        )
        for muon in MUONS
    ]
    for kind in ("momentum", "quality"):
        if kind in parts:
            outputs += [
                Tensor(f"{tensor.name}_{muon}", tensor.shape, tensor.unit, f"{NAMES[muon]}: {tensor.doc}")
                for tensor in parts[kind].signature().outputs
                for muon in MUONS
            ]
    return Signature(
        inputs=(
            Tensor("hits", shape, "1", "1 where an element fired; row d - 1 is detector d"),
            Tensor("drift", shape, "cm", "absolute drift distance where it fired"),
        ),
        outputs=(*outputs, Tensor("mass", (1,), "GeV", "invariant mass of both")),
        examples={name: np.zeros((1, *shape), "float32") for name in ("hits", "drift")},
    )


class ChainFunctions:
    """What a chain offers and how its formats are judged; the rows are those of `chain_rows`.

    Args:
        parts: Tasks of `finder`, `momentum` and, where there is one, `quality`.
    """

    chunk_rows: ClassVar[int | None] = None
    parity_band_rows: ClassVar[int | None] = None

    def __init__(self, parts: Mapping[str, Task]) -> None:
        self.parts = parts

    def axes(self) -> tuple[Axis, ...]:
        """Return no bands."""
        return ()

    def inputs(self, rows: Rows) -> Rows:
        """Return matrices of hits and of drift distances, each `(n, 62, 201)`."""
        event, place = np.nonzero(rows["hit_detector"])
        cell = (event, rows["hit_detector"][event, place] - 1, rows["hit_element"][event, place])
        matrices = np.zeros((2, len(rows["hit_detector"]), PLANES, ELEMENTS), dtype=np.float32)
        matrices[0][cell] = 1.0
        matrices[1][cell] = np.abs(rows["hit_drift"][event, place])
        return {"hits": matrices[0], "drift": matrices[1]}

    def endpoints(self) -> dict[str, Endpoint]:
        """Return the chain as the one function of its bundle."""
        from serving.signature import DEFAULT_SIGNATURE

        def compute(model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
            return dict(model(inputs, training=False))

        signature = chain_signature(self.parts)
        return {DEFAULT_SIGNATURE: Endpoint(signature, compute, self.reference, self.parity(), PARITY_EVENTS)}

    def reference(self, model: Chain, rows: Rows) -> Rows:
        """Return the outputs from the networks in Keras, with refinement, drift and mass in NumPy."""
        from trackkeras.domains.dimuon.finder_rows import refine_rows
        from trackkeras.domains.dimuon.mass import pair_mass

        inputs = self.inputs(rows)
        likely = _predict(model.finder, {"hits": inputs["hits"]})
        predicted = np.stack([likely[name].argmax(axis=-1) for name in FINDER_OUTPUTS], axis=1)
        refined = refine_rows(rows, predicted, model.window)
        outputs: Rows = {}
        for index, muon in enumerate(MUONS):
            elements = refined[:, index].astype(np.int32)
            drift = np.take_along_axis(inputs["drift"], elements[..., None], axis=2)[..., 0]
            charge = np.full((len(elements), 1), CHARGES[index], np.float32)
            hits = {"elements": elements, "drift": drift, "charge": charge}
            answer = _predict(model.momentum, hits)
            if model.quality is not None:
                answer |= _predict(model.quality, {**hits, "momentum": answer["momentum"]})
            outputs |= {f"{name}_{muon}": value for name, value in {"elements": elements, **answer}.items()}
        outputs["mass"] = pair_mass(*(outputs[f"momentum_{muon}"] for muon in MUONS))[:, None]
        return outputs

    def parity(self) -> Parity:
        """Return the rule: the same hits, and for the rest the rules of the parts."""
        rules = "; ".join(
            f"{kind}: {self.parts[kind].parity().description}"
            for kind in ("momentum", "quality")
            if kind in self.parts
        )
        return Parity(
            f"the same elements, but for one tie of the finder in at most {TIES:.0%} of the events; {rules}; "
            f"|difference| of the mass <= {MASS_TOLERANCE:g} of it",
            self._excess,
        )

    def _excess(self, rows: Rows, reference: Rows, other: Rows) -> NDArray[np.float64]:
        different = sum(
            (reference[name] != other[name]).sum(axis=1) for name in (f"elements_{muon}" for muon in MUONS)
        )
        excess = np.abs(other["mass"].astype(float) - reference["mass"])[:, 0]
        excess = excess / (MASS_TOLERANCE * reference["mass"][:, 0])
        for kind in ("momentum", "quality"):
            for muon in MUONS if kind in self.parts else ():
                names = [tensor.name for tensor in self.parts[kind].signature().outputs]
                expected, found = (
                    {name: outputs[f"{name}_{muon}"] for name in names} for outputs in (reference, other)
                )
                excess = np.maximum(excess, self.parts[kind].parity().excess(rows, expected, found))
        tied = different == 1
        if (different > 1).any() or tied.sum() > TIES * len(tied):
            return np.where(different > 0, np.inf, excess)
        # behind another hit everything else differs too
        return np.where(tied, 0.0, excess)


def _predict(model: Any, inputs: Rows) -> Rows:
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="__array__ implementation doesn't accept a copy keyword")
        return dict(model.predict(inputs, batch_size=PARITY_EVENTS, verbose=0))


def chain_rows(events: Rows) -> Rows:
    """Return the hits of some events, the first of several in one element alone, as matrices see them.

    Args:
        events: Columns `COLUMNS`.
    """
    detector = events["hit_detector"].copy()
    event, place = np.nonzero(detector)
    cell = (event * PLANES + detector[event, place] - 1) * ELEMENTS + events["hit_element"][event, place]
    first = np.unique(cell, return_index=True)[1]
    repeated = np.ones(len(cell), dtype=bool)
    repeated[first] = False
    detector[event[repeated], place[repeated]] = 0
    return {**{name: events[name] for name in COLUMNS}, "hit_detector": detector}


def export_chain(
    finder: Path,
    momentum: Path,
    quality: Path | None,
    out: Path,
    *,
    name: str | None = None,
    window: int | None = None,
    data: Path | None = None,
) -> Path:
    """Export the best models of two or three runs as the next version of one bundle.

    Args:
        finder: Run of a finder.
        momentum: Run of a momentum network.
        quality: Run of a quality network, or None.
        out: Folder of bundles.
        name: Name of the bundle behind `chain_`; by default those of the runs.
        window: Farthest distance from the finder's answer to a hit, in elements; None for any.
        data: Dataset whose validation rows check the parity; by default the finder's own.

    Returns:
        The version folder.

    Raises:
        UserError: A run is of another kind or has no model, or a format differs from the parts in Keras.
    """
    from trackkeras.checkpoints import load_model
    from trackkeras.domains.dimuon.chain import Chain
    from trackkeras.export import publish, write_description, write_endpoints

    paths = {"finder": finder, "momentum": momentum, "quality": quality}
    parts = {kind: open_part(path, kind) for kind, path in paths.items() if path is not None}
    run = parts["finder"].run
    source = open_dataset(data or Path(parts["finder"].folder.read("dataset.json")["path"]), run)
    models = {kind: load_model(part.folder.best, part.task) for kind, part in parts.items()}
    chain = Chain(models["finder"], models["momentum"], models.get("quality"), window)
    functions = ChainFunctions({kind: part.task for kind, part in parts.items()})
    chain(functions.inputs({name: np.zeros((1, 1), np.int64) for name in COLUMNS}))
    rows = chain_rows(source.read("validation", COLUMNS, limit=PARITY_EVENTS))
    names = {kind: part.folder.name for kind, part in parts.items()}
    bundle = f"chain_{name or '-'.join(names.values())}"

    def write(directory: Path) -> None:
        directory.mkdir(parents=True)
        write_endpoints(chain, functions.endpoints(), functions, directory, rows)

    def describe(directory: Path, version: int) -> None:
        origin = {
            "name": bundle,
            "version": version,
            "domain": run.domain,
            "preset": "chain",
            "run": " + ".join(names.values()),
            "dataset": source.manifest.config_hash,
        }
        about = {kind: f"{part.run.preset}, run {part.folder.name}" for kind, part in parts.items()}
        about["farthest hit"] = "any" if window is None else f"{window} elements"
        signature = chain_signature(functions.parts)
        write_description(
            directory,
            origin,
            functions.endpoints(),
            signature.examples,
            source,
            about,
            None,
            UNMEASURED,
        )

    return publish(out, bundle, write, describe)
