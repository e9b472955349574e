"""`trackkeras dimuon calibrate`: the response of a momentum network becomes part of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trackkeras.console import JsonOption, print_json
from trackkeras.errors import UserError

if TYPE_CHECKING:
    from trackkeras.domain import Rows
    from trackkeras.domains.dimuon.momentum import MomentumTask


def calibrate(
    run: Annotated[Path, typer.Argument(help="Run folder of a momentum network.")],
    out: Annotated[Path, typer.Option(help="Run folder to make.")],
    file: Annotated[
        list[Path] | None,
        typer.Option(
            help="RUS file of muons with known momenta (repeat for more); default: what it was trained on."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Take slope and offset of reconstructed against true px, py, pz back, inside the network itself.

    An estimate of least squared error is drawn to the mean of its training sample, and a simulation is a
    little off: both are seen as a response, with mu+ and mu- as mirror images. The new run folder has the
    same weights and the response in its configuration; export it as any other. Never calibrate on muons that
    are to judge the network.

    Example: trackkeras dimuon calibrate runs/jpsi --file JPsi_Dump.root --out runs/jpsi_calibrated
    """
    from trackkeras.domains.dimuon.momentum import open_momentum_run
    from trackkeras.domains.dimuon.momentum_options import MomentumOptions
    from trackkeras.tensorflow_import import load_tensorflow

    folder, configuration, task = open_momentum_run(run)
    if out.exists():
        raise UserError(f"{out} exists; choose another folder")
    rows = muons_of(file, task) if file else None  # before TensorFlow is loaded
    load_tensorflow()
    from trackkeras.domains.dimuon.calibration import calibrate as make
    from trackkeras.evaluation import training_rows

    rows = training_rows(folder, configuration, task) if rows is None else rows
    made = make(folder, configuration, rows, out).model
    assert isinstance(made, MomentumOptions)
    assert made.response is not None
    muons = len(rows["momentum"])
    if as_json:
        print_json({"run": str(out), "muons": muons, **made.response.model_dump()})
        return
    print(f"{out}: response on {muons:,} muons taken back")
    for name, slope, offset in zip(
        ("px", "py", "pz"), made.response.slope, made.response.offset, strict=True
    ):
        print(f"  {name}: slope {slope:.4f}, offset {offset:+.4f} GeV")


def muons_of(files: list[Path], task: MomentumTask) -> Rows:
    """Return the muons of some RUS files whose momentum is known where a task asks for it.

    Raises:
        UserError: There are none, or a file cannot be read.
    """
    import numpy as np

    from trackkeras.domains.dimuon.record_options import RecordOptions
    from trackkeras.domains.dimuon.records import read_rows

    parts = [task.own_rows(rows) for rows in read_rows(files, RecordOptions())]
    muons = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
    if not muons or not len(muons["momentum"]):
        names = ", ".join(map(str, files))
        raise UserError(f"{names}: no muon whose momentum {task.place} is known")
    return muons
