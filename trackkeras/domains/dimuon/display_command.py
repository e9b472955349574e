"""`trackkeras dimuon display`: one event of a file as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trackkeras.console import JsonOption, print_json
from trackkeras.domains.dimuon.command_files import new_files, number_of_events
from trackkeras.domains.dimuon.command_options import FileArgument, OverwriteOption
from trackkeras.domains.dimuon.mass_command import picture_kind
from trackkeras.errors import UserError

if TYPE_CHECKING:
    from trackkeras.domains.dimuon.event_display import Shown
    from trackkeras.domains.dimuon.events import Ints


def display(
    file: FileArgument,
    event: Annotated[int, typer.Option(min=0, help="Its place in the file, from 0.")] = 0,
    out: Annotated[Path, typer.Option(help="Picture to write, .png or .svg.")] = Path("event.png"),
    matrix: Annotated[
        bool,
        typer.Option("--matrix", help="Draw the hit matrix, and what the finder says if the file has it."),
    ] = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Draw the hits of an event with its muons: the true ones, and those that were found.

    Example: trackkeras dimuon display qtracker_reco.root --event 12 --out event.png
    """
    kind = picture_kind(out)
    shown = read_event(file, event)
    (path,) = new_files([out], overwrite)
    from tfrecords_tools.files import new_file
    from trackkeras import plots
    from trackkeras.domains.dimuon.event_display import draw_matrix, draw_tracks
    from trackkeras.domains.dimuon.reconstructed import read_softmax

    figure = draw_matrix(shown, read_softmax(file, event)) if matrix else draw_tracks(shown)
    content = plots.render(figure, kind)
    with new_file(path) as stream:
        stream.write(content)
    hits, true = len(shown.event.hits), _hits(shown.true)
    found = None if shown.found is None else _hits(shown.found)
    if as_json:
        print_json(
            {"picture": str(path), "event": event, "hits": hits, "true_hits": true, "found_hits": found}
        )
        return
    text = "" if found is None else f", found {found[0]} and {found[1]}"
    print(f"{path}: event {event} of {file}, {hits} hits; mu+ and mu- have {true[0]} and {true[1]}{text}")


def _hits(muons: Ints) -> list[int]:
    return [int((muon > 0).sum()) for muon in muons]


def read_event(file: Path, event: int) -> Shown:
    """Return one event of a file.

    Raises:
        UserError: There is none, or the file cannot be read.
    """
    from trackkeras.domains.dimuon.event_display import Shown
    from trackkeras.domains.dimuon.rus_reading import read_rus

    size = number_of_events(file)
    if event >= size:
        raise UserError(f"{file} has {size:,} events, so that none is at --event {event:,}")
    (events,) = read_rus(file, start=event, stop=event + 1)
    return Shown.of(events, event, file)
