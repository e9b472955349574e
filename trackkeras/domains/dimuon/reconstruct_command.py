"""`trackkeras dimuon reconstruct`: a file of hits becomes one of muons, through exported networks."""

from __future__ import annotations

import os
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trackkeras.console import JsonOption
from trackkeras.domains.dimuon.command_files import new_files, number_of_events, shown, summarize
from trackkeras.domains.dimuon.command_options import FileArgument, OverwriteOption
from trackkeras.errors import UserError

if TYPE_CHECKING:
    from trackkeras.domains.dimuon.events import Events
    from trackkeras.domains.dimuon.reconstruction import Muons, Reconstruction

CHUNK_WITH_MATRICES = 256
"""Events at a time where matrices are written: the finder's answer takes 100 kB per event."""

MOST_THREADS = 8
"""Used unless told otherwise; each takes 20 MB and what the finder needs for a batch."""


class Engine(StrEnum):
    """What runs the networks."""

    ONNX = "onnx"
    SAVEDMODEL = "savedmodel"


def reconstruct(
    file: FileArgument,
    momentum: Annotated[Path, typer.Option(help="Bundle of a momentum_* preset.")],
    finder: Annotated[Path | None, typer.Option(help="Bundle of a finder_* preset.")] = None,
    quality: Annotated[Path | None, typer.Option(help="Bundle of a quality_* preset.")] = None,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("qtracker_reco.root"),
    truth_hits: Annotated[
        bool, typer.Option("--truth-hits", help="Take the true hits, without a finder: the most it can give.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(help="Farthest from the finder's answer to a hit, in elements; any if not given."),
    ] = None,
    min_hits: Annotated[
        int, typer.Option(help="A muon with fewer hits is not found; it leaves about 35.")
    ] = 18,
    signed: Annotated[
        bool,
        typer.Option(
            "--signed", help="Give the networks the sign of drift distances, which is simulation truth."
        ),
    ] = False,
    decluster: Annotated[
        bool, typer.Option("--decluster", help="Take crosstalk out first; needs hits with times.")
    ] = False,
    matrices: Annotated[
        bool, typer.Option("--matrices", help="Also write hitMatrixTree: which elements fired.")
    ] = False,
    softmax: Annotated[
        bool, typer.Option("--softmax", help="Also write softmaxTree: all that the finder says.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Batches at a time; up to 8 if not given.")
    ] = None,
    backend: Annotated[
        Engine, typer.Option(help="Engine of the networks; savedmodel imports TensorFlow.")
    ] = Engine.ONNX,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find mu+ and mu- of each event: their hits, momenta and quality, beside what the file has.

    Adds qHitArray_mup/mum, driftDistance_mup/mum, qpx, qpy, qpz, qchi2 and, with --quality, qpright; of two
    entries the first is the mu+. qchi2 is the error that the quality network estimates, qpright the chance
    that it gives the hits. A muon that is not found has zeros, and qchi2 -1, as all have without --quality.

    Example: trackkeras dimuon reconstruct mc_events.root --finder bundles/finder_roads-a
    --momentum bundles/momentum_medium-a --quality bundles/quality_medium-a --out qtracker_reco.root
    """
    if (finder is None) is not truth_hits:
        raise UserError(
            "name the track finder with --finder, or leave it out and give --truth-hits"
            if finder is None
            else "--truth-hits takes the place of a finder: leave out --finder or --truth-hits"
        )
    if softmax and finder is None:
        raise UserError("--softmax writes what a finder says: name one with --finder")
    from trackkeras.domains.dimuon.networks import open_network
    from trackkeras.domains.dimuon.reconstruction import Reconstruction, Settings

    settings = Settings(limit, min_hits, signed, decluster, threads or min(_cores(), MOST_THREADS))
    total = number_of_events(file)
    chain = Reconstruction(
        open_network(momentum, "momentum", backend.value),
        open_network(finder, "finder", backend.value) if finder else None,
        open_network(quality, "quality", backend.value) if quality else None,
        settings,
    )
    (path,) = new_files([out], overwrite)
    counts = _write(chain, file, path, total, matrices, softmax)
    summarize(as_json, [path], counts.pop("events"), **counts)


def _write(
    chain: Reconstruction, file: Path, path: Path, total: int, matrices: bool, softmax: bool
) -> dict[str, int]:
    """Write the file; return how many events, muons and pairs it has."""
    import numpy as np

    from trackkeras.domains.dimuon.detectors import ELEMENTS, PLANES
    from trackkeras.domains.dimuon.hit_matrix import hit_matrices
    from trackkeras.domains.dimuon.reconstructed import (
        HIT_MATRIX,
        HIT_TREE,
        SOFTMAX,
        SOFTMAX_TREE,
        with_muons,
    )
    from trackkeras.domains.dimuon.rus_reading import CHUNK_EVENTS, naming_of, read_rus
    from trackkeras.domains.dimuon.rus_writing import rus_writer

    chunk = CHUNK_WITH_MATRICES if matrices or softmax else CHUNK_EVENTS
    counts = Counter(events=0, mup=0, mum=0, pairs=0)
    with rus_writer(path, naming_of(file)) as write:
        for events in shown(read_rus(file, chunk=chunk), "reconstruct", total):
            if chain.finder is None and not len(events.tracks):
                raise UserError(
                    f"{file} has no truth tracks, whose hits --truth-hits would take: name a track finder "
                    "with --finder"
                )
            answer = np.empty((len(events), 2, PLANES, ELEMENTS), np.float32) if softmax else None
            muons = chain(events, answer)
            beside: dict[str, dict[str, Any]] = {}
            if matrices:
                beside[HIT_TREE] = {HIT_MATRIX: hit_matrices(events).astype(np.uint8)}
            if answer is not None:
                beside[SOFTMAX_TREE] = {name: answer[:, index] for index, name in enumerate(SOFTMAX)}
            write(with_muons(events, muons), beside)
            counts.update(_counted(events, muons))
    return counts


def _counted(events: Events, muons: Muons) -> dict[str, int]:
    plus, minus = muons.found.T
    return {
        "events": len(events),
        "mup": int(plus.sum()),
        "mum": int(minus.sum()),
        "pairs": int((plus & minus).sum()),
    }


def _cores() -> int:
    return len(os.sched_getaffinity(0))
