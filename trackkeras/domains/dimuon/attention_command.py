"""`trackkeras dimuon attention`: a picture of where a finder with spatial attention looks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trackkeras.console import JsonOption, print_json
from trackkeras.errors import UserError


def attention(
    run: Annotated[Path, typer.Argument(help="Run folder of a finder with spatial attention.")],
    data: Annotated[Path | None, typer.Option(help="Dataset folder; default: the run's.")] = None,
    event: Annotated[int, typer.Option(min=0, help="Event of the split, from 0.")] = 0,
    split: Annotated[str, typer.Option(help="Split of the dataset.")] = "test",
    out: Annotated[Path, typer.Option(help="Picture to write, .png or .svg.")] = Path("attention.png"),
    as_json: JsonOption = False,
) -> None:
    """Draw the spatial attention maps of an event over its hits, one panel for each block of the network.

    Example: trackkeras dimuon attention runs/cbam --event 7 --out attention.png
    """
    from tfrecords_tools.files import new_file
    from trackkeras.domain import open_dataset, task_of
    from trackkeras.domains.dimuon.finder import FinderTask
    from trackkeras.runs import open_run

    if out.suffix not in (".png", ".svg"):
        raise UserError(f"--out must end in .png or .svg, received {out.name}")
    folder, configuration = open_run(run)
    task = task_of(configuration)
    if not isinstance(task, FinderTask):
        raise UserError(f"{run} is a run of {configuration.model.kind}; attention maps are a finder's")
    source = open_dataset(data or Path(folder.read("dataset.json")["path"]), configuration)
    size = source.rows(split)
    if event >= size:
        raise UserError(f"split {split!r} has {size:,} events, so that none is --event {event:,}")
    rows = task.own_rows(source.read(split, task.columns, event, 1))
    from trackkeras.tensorflow_import import load_tensorflow

    load_tensorflow()
    from trackkeras.checkpoints import load_model
    from trackkeras.domains.dimuon.attention_maps import attention_figure, attention_maps
    from trackkeras.plots import render

    maps = attention_maps(load_model(folder.best, task), task.inputs(rows)["hits"])
    title = (
        f"{folder.name}, event {event} of {split}, {int(rows['background_tracks'][0, 0])} background tracks"
    )
    picture = render(attention_figure(maps, rows, title), out.suffix.removeprefix("."))
    out.parent.mkdir(parents=True, exist_ok=True)
    with new_file(out) as stream:
        stream.write(picture)
    summary = {
        name: {"rows": values.shape[1], "columns": values.shape[2], "mean": float(values.mean())}
        for name, values in maps.items()
    }
    if as_json:
        print_json({"file": str(out), "event": event, "split": split, "maps": summary})
        return
    print(f"{out}: {title}")
    for name, numbers in summary.items():
        print(f"  {name}: {numbers['rows']} x {numbers['columns']}, mean {numbers['mean']:.3f}")
