"""`trackkeras dimuon simulate`: simulated events as a file in the experiment's layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trackkeras.console import JsonOption
from trackkeras.domains.dimuon.command_files import new_files, shown, summarize
from trackkeras.domains.dimuon.command_options import OverwriteOption
from trackkeras.errors import UserError

if TYPE_CHECKING:
    from trackkeras.domains.dimuon.events import Events
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
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Simulate events of a SpinQuest-like spectrometer: J/psi from the dump unless told otherwise.

    Drift distances keep their sign, as in the experiment's simulated files. The summary also counts the
    events drawn, of which only those with every muon in all stations are kept.

    Example: trackkeras dimuon simulate --n 10000 --set background.upper=50 --out messy.root
    """
    options = _options(preset, set_ or [])
    (path,) = new_files([out], overwrite)
    from trackkeras.domains.dimuon.rus_layout import NAMINGS
    from trackkeras.domains.dimuon.rus_writing import write_rus

    counts = Counter[str]()
    made = write_rus(path, _events(options, n, seed, counts), NAMINGS[naming.value], clean=clean)
    summarize(as_json, [path], made, hits=counts["hits"], drawn_events=counts["tried"])


def _options(preset: str | None, assignments: list[str]) -> GenerateOptions:
    from trackkeras.config import merge, parse_assignments, validate
    from trackkeras.domains.dimuon.simulation_options import PRESETS, GenerateOptions

    if preset is not None and preset not in PRESETS:
        raise UserError(f"dimuon has no generation preset {preset!r}; there are: {', '.join(PRESETS)}")
    values = merge(PRESETS[preset] if preset else {}, parse_assignments(assignments))
    return validate(GenerateOptions, values, "dimuon simulate")


def _events(options: GenerateOptions, n: int, seed: int, counts: Counter[str]) -> Iterator[Events]:
    import numpy as np

    from trackkeras.domains.dimuon.simulate import simulate as make

    chunks = make(options, np.random.Generator(np.random.PCG64DXSM(seed)), n)
    for events, chunk in shown(chunks, "simulate", n):
        counts.update(chunk, hits=len(events.hits))
        yield events
