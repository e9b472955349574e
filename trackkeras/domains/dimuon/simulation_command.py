"""`trackkeras dimuon simulate`: simulated events as a file in the experiment's layout."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trackkeras.console import JsonOption, print_json
from trackkeras.errors import UserError

if TYPE_CHECKING:
    from trackkeras.domains.dimuon.simulation_options import GenerateOptions


class Names(StrEnum):
    """Generations of branch names."""

    OLD = "old"
    TRANSITIONAL = "transitional"
    NEW = "new"


def simulate(
    out: Annotated[Path, typer.Option(help="File to write.")],
    n: Annotated[int, typer.Option(min=1, help="Events to make.")] = 10_000,
    preset: Annotated[
        str | None, typer.Option(help="Named sample, as of `generate`: singles, signals, messy, ...")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Option of the simulation.")
    ] = None,
    naming: Annotated[Names, typer.Option(help="Branch names.")] = Names.NEW,
    clean: Annotated[
        bool, typer.Option("--clean", help="Also write detectorIDClean, elementIDClean: the signal alone.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all that is drawn.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Simulate events of a SpinQuest-like spectrometer: J/psi from the dump unless told otherwise.

    Drift distances keep their sign, as in the experiment's simulated files.

    Example: trackkeras dimuon simulate --n 10000 --set background.upper=50 --out messy.root
    """
    options = _options(preset, set_ or [])
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists already: choose another name, or replace it with --overwrite")
    from trackkeras.domains.dimuon.rus_layout import NAMINGS
    from trackkeras.domains.dimuon.rus_writing import rus_writer

    out.parent.mkdir(parents=True, exist_ok=True)
    counts = Counter[str]()
    with rus_writer(out, NAMINGS[naming.value], clean=clean) as write:
        _simulate(options, n, seed, write, counts)
    summary: dict[str, Any] = {
        "file": str(out),
        "events": n,
        **counts,
        "options": options.model_dump(mode="json"),
    }
    if as_json:
        print_json(summary)
    else:
        share = n / counts["tried"]
        print(
            f"{out}: {n:,} events, {counts['hits']:,} hits, {share:.2%} of {counts['tried']:,} events drawn"
        )


def _options(preset: str | None, assignments: list[str]) -> GenerateOptions:
    from trackkeras.config import merge, parse_assignments, validate
    from trackkeras.domains.dimuon.simulation_options import PRESETS, GenerateOptions

    if preset is not None and preset not in PRESETS:
        raise UserError(f"dimuon has no generation preset {preset!r}; there are: {', '.join(PRESETS)}")
    values = merge(PRESETS[preset] if preset else {}, parse_assignments(assignments))
    return validate(GenerateOptions, values, "dimuon simulate")


def _simulate(options: GenerateOptions, n: int, seed: int, write: Any, counts: Counter[str]) -> None:
    import numpy as np

    from trackkeras.domains.dimuon.simulate import simulate as make
    from trackkeras.progress import Progress

    progress, done = Progress("dimuon simulate", n, "events"), 0
    progress.update(0)
    for events, chunk in make(options, np.random.Generator(np.random.PCG64DXSM(seed)), n):
        write(events)
        counts.update(chunk, hits=len(events.hits))
        done += len(events)
        progress.update(done)
    progress.finish(done)
