"""`trackkeras dimuon evaluate`: reconstructed files beside their truth."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from trackkeras.console import JsonOption, print_json
from trackkeras.domains.dimuon.command_files import new_files, number_of_events, shown
from trackkeras.domains.dimuon.command_options import OverwriteOption
from trackkeras.domains.dimuon.display_command import read_event
from trackkeras.errors import UserError


def evaluate(
    files: Annotated[list[str], typer.Argument(help="Reconstructed files with truth; a pattern in quotes.")],
    out: Annotated[
        Path, typer.Option(help="Page to write, .html; the numbers go beside it as .json.")
    ] = Path("reconstruction.html"),
    event: Annotated[int, typer.Option(min=0, help="Event of the first file to show.")] = 0,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare found muons with the true ones: efficiency, fake rate, hits, momenta, and one event as picture.

    All by the number of background tracks, and by detector. The page is one file that loads nothing.

    Example: trackkeras dimuon evaluate qtracker_reco.root --out reconstruction.html
    """
    if out.suffix != ".html":
        raise UserError(f"the page's name must end in .html, received {out}")
    from tfrecords_tools.files import expand, write_json
    from trackkeras.domains.dimuon.reconstructed import read_softmax
    from trackkeras.domains.dimuon.reconstruction_metrics import Comparison, compare, summarise
    from trackkeras.domains.dimuon.rus_reading import read_rus

    numbers = out.with_suffix(".json")
    new_files([out, numbers], overwrite)
    paths = expand(files)
    total = sum(map(number_of_events, paths))
    picture = read_event(paths[0], event)
    chunks = ((events, path) for path in paths for events in read_rus(path))
    parts = (compare(events, path) for events, path in shown(chunks, "evaluate", total))
    summary = {"files": [str(path) for path in paths], **summarise(Comparison.joined(parts))}
    from trackkeras.domains.dimuon.reconstruction_page import page
    from trackkeras.pages import write_page

    command = shlex.join(["trackkeras", "dimuon", "evaluate", *files])
    names = [path.name for path in paths]
    text = page(summary, picture, read_softmax(paths[0], event), names, command)
    write_json(numbers, summary)
    write_page(out, text)
    if as_json:
        print_json(summary | {"page": str(out)})
    else:
        print("\n".join([*_lines(summary), f"{out}, {numbers}: written"]))


def _lines(summary: dict[str, Any]) -> list[str]:
    muons = summary["muons"]
    lines = [
        f"{summary['events']:,} events, {muons['true']:,} true muons: {muons['found']:,} found, "
        f"{muons['right']:,} of them right"
    ]
    lines += [
        f"{label} {_shown(summary[key])}"
        for key, label in (
            ("efficiency", "efficiency"),
            ("fake_rate", "fake rate"),
            ("completeness", "share of true hits found"),
        )
    ]
    for which in ("right", "found"):
        momentum = summary["momentum"][which]
        if momentum:
            lines += [
                f"{name} of {which} muons [GeV]: bias {_shown(momentum[name]['mean'])}, "
                f"sd {_shown(momentum[name]['std'])}, w68 {_shown(momentum[name]['w68'])}"
                for name in ("px", "py", "pz")
            ]
    return lines


def _shown(cell: dict[str, float] | None) -> str:
    return "not known" if cell is None else f"{cell['value']:.3f} ({cell['low']:.3f} ... {cell['high']:.3f})"
