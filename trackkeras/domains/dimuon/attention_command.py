"""`trackkeras dimuon attention`: a picture or a page of where a finder with spatial attention looks."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from trackkeras.console import JsonOption, print_json
from trackkeras.domains.dimuon.command_files import new_files
from trackkeras.domains.dimuon.command_options import OverwriteOption
from trackkeras.errors import UserError


def attention(
    run: Annotated[Path, typer.Argument(help="Run folder of a finder with spatial attention.")],
    data: Annotated[Path | None, typer.Option(help="Dataset folder; default: the run's.")] = None,
    event: Annotated[int, typer.Option(min=0, help="Event of the split, from 0.")] = 0,
    split: Annotated[str, typer.Option(help="Split of the dataset.")] = "test",
    out: Annotated[Path, typer.Option(help="Picture, .png or .svg, or page to write, .html.")] = Path(
        "attention.png"
    ),
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Draw the spatial attention maps of an event over its hits, one panel for each block of the network.

    A page has the same picture, and how much attention falls on hits of the muons, on others, and elsewhere;
    it is one file that loads nothing.

    Example: trackkeras dimuon attention runs/cbam --event 7 --out attention.html
    """
    from tfrecords_tools.files import new_file
    from trackkeras.domain import open_dataset, task_of
    from trackkeras.domains.dimuon.finder import FinderTask
    from trackkeras.runs import open_run

    if out.suffix not in (".png", ".svg", ".html"):
        raise UserError(f"--out must end in .png, .svg or .html, received {out.name}")
    folder, configuration = open_run(run)
    task = task_of(configuration)
    if not isinstance(task, FinderTask):
        raise UserError(f"{run} is a run of {configuration.model.kind}; attention maps are a finder's")
    source = open_dataset(data or Path(folder.read("dataset.json")["path"]), configuration)
    size = source.rows(split)
    if event >= size:
        raise UserError(f"split {split!r} has {size:,} events, so that none is --event {event:,}")
    rows = task.own_rows(source.read(split, task.columns, event, 1))
    (path,) = new_files([out], overwrite)
    from trackkeras.tensorflow_import import load_tensorflow

    load_tensorflow()
    from trackkeras.checkpoints import load_model
    from trackkeras.domains.dimuon.attention_maps import (
        attention_figure,
        attention_maps,
        attention_summary,
    )
    from trackkeras.plots import render

    maps = attention_maps(load_model(folder.best, task), task.inputs(rows)["hits"])
    where = f"event {event} of {split}, {int(rows['background_tracks'][0, 0])} background tracks"
    summary = attention_summary(maps, rows)
    figure = attention_figure(maps, rows, f"{folder.name}, {where}")
    if out.suffix == ".html":
        from trackkeras.domains.dimuon.attention_page import page

        words = ["trackkeras", "dimuon", "attention", run, "--event", event, "--split", split]
        content = page(folder.name, where, figure, summary, shlex.join(map(str, words))).encode()
    else:
        content = render(figure, out.suffix.removeprefix("."))
    with new_file(path) as stream:
        stream.write(content)
    if as_json:
        print_json({"file": str(out), "event": event, "split": split, "maps": summary})
        return
    print(f"{out}: {folder.name}, {where}")
    for name, numbers in summary.items():
        print(f"  {name}: {numbers['rows']} x {numbers['columns']}, mean {numbers['mean']:.3f}")
