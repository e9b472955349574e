#!/usr/bin/env python
"""Judge fields and networks by tracks through the real LHCb map, z 2665 to 7826 mm, in cross-validation.

The first 1,200 tracks of the sample were used to fit the field `lhcb` and stay out. The other 2,800 are cut
into folds; what is calibrated or trained further sees all folds but the one that it is tested on:

- `lhcb`, and networks that were trained on generated tracks (`--run`): no fold is learnt from;
- the same networks, trained further on the other folds (`--finetune`);
- the field itself, calibrated with the other folds: the terms of `maxwell` (`--calibrate terms`), or `lhcb`
  plus harmonics without symmetry (`--calibrate harmonics`).

`--map` calibrates the harmonics once more, with all 2,800 tracks, and writes the field as a map with a YAML
file that names it: known in the map's box, where tracks were. `--terms` does the same with the terms of
`maxwell`. `trackkeras generate extrapolation --set field=FILE.yaml` makes tracks in either.

Examples:
    scripts/real_field_study.py --data ../shared/data --calibrate harmonics --out study.json
    scripts/real_field_study.py --data ../shared/data --run runs/mlp --finetune runs/mlp --epochs 60
    scripts/real_field_study.py --data ../shared/data --legacy runs/legacy
    scripts/real_field_study.py --data ../shared/data --map calibrated.txt
    scripts/real_field_study.py --data ../shared/data --calibrate terms --terms calibrated.yaml
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from tfrecords_tools.files import new_file
from trackkeras.domain import Rows, task_of
from trackkeras.domains.extrapolation import lhcb, real_data
from trackkeras.domains.extrapolation.field_fit import Tracks, track_errors
from trackkeras.domains.extrapolation.fields import Field, make_field
from trackkeras.errors import UserError
from trackkeras.evaluation import intervals
from trackkeras.progress import Progress
from trackkeras.units import GEV

STATISTICS = ("median", "mean", "p68", "p95")
MOMENTA = (2.0, 5.0, 10.0, 20.0, 50.0, 100.0)

Errors = NDArray[np.float64]


def main() -> None:
    """Parse the arguments, judge, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--data", type=Path, default=real_data.data_folder(), help="folder that holds lhcb/")
    parser.add_argument("--folds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the folds (default: %(default)s)")
    parser.add_argument("--run", type=Path, nargs="*", default=[], help="run folders of trained networks")
    parser.add_argument("--finetune", type=Path, nargs="*", default=[], help="run folders to train further")
    parser.add_argument("--epochs", type=int, default=60, help="of --finetune (default: %(default)s)")
    parser.add_argument(
        "--learning-rate", type=float, default=1e-3, help="of --finetune (default: %(default)s)"
    )
    parser.add_argument("--calibrate", choices=("terms", "harmonics"), nargs="*", default=[])
    parser.add_argument("--legacy", type=Path, help="run folder to test on the 2,500 tracks of the toy field")
    parser.add_argument("--map", type=Path, help="text file to write the calibrated field to")
    parser.add_argument("--terms", type=Path, help="YAML file to write the calibrated terms to")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    try:
        report = study(parser.parse_args())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(report)


def study(arguments: argparse.Namespace) -> str:
    """Return the report as text, and write what is asked for.

    Raises:
        UserError: The data or a run is absent, or the folds make no sense.
    """
    if arguments.data is None:
        raise UserError("no data folder; name it with --data")
    if arguments.folds < 2:
        raise UserError(f"--folds is at least 2, received {arguments.folds}")
    rows = real_data.real_field_crossing(arguments.data)
    count = len(rows["z0"])
    fold = np.random.default_rng(arguments.seed).permutation(count) % arguments.folds
    entries: dict[str, Any] = {}

    def judge(name: str, find: Callable[[], Errors]) -> None:
        started = time.monotonic()
        entries[name] = summary(find(), rows) | {"seconds": round(time.monotonic() - started, 1)}

    judge("field lhcb, Runge-Kutta", partial(field_errors, make_field("lhcb"), rows))
    for path in arguments.run:
        judge(f"{path.name}, generated tracks alone", partial(run_errors, path, rows))
    tuning = arguments.epochs, arguments.learning_rate, arguments.seed
    for path in arguments.finetune:
        judge(f"{path.name}, trained further", partial(finetuned, path, rows, fold, *tuning))
    for kind in arguments.calibrate:
        judge(f"field calibrated, {kind}", partial(calibrated, kind, rows, fold))
    report = {
        "sample": f"rows {real_data.FIT_ROWS} to {real_data.FIT_ROWS + count - 1} of real_field_crossing_4000"
        f".npz, z {real_data.CROSSING_Z[0]:g} to {real_data.CROSSING_Z[1]:g} mm; {arguments.folds} folds, "
        f"seed {arguments.seed}",
        "unit": "mm",
        "methods": entries,
    }
    if arguments.legacy:
        report["legacy"] = {arguments.legacy.name: legacy(arguments.data, arguments.legacy)}
    if arguments.map:
        report["map"] = write_map(arguments.map, rows)
    if arguments.terms:
        report["terms"] = write_terms(arguments.terms, rows)
    text = json.dumps(report, indent=1, allow_nan=False)
    if arguments.out:
        with new_file(arguments.out) as out:
            out.write(text.encode())
    return text if arguments.json else table(report)


def summary(errors: Errors, rows: Rows) -> dict[str, Any]:
    """Return the statistics of position errors [mm], over all rows and in bands of momentum [GeV]."""
    momentum = 1.0 / (np.abs(rows["state"][:, 4]) * GEV)
    bands = {}
    for low, high in pairwise(MOMENTA):
        inside = errors[(momentum >= low) & (momentum < high)]
        if inside.size:
            bands[f"{low:g}-{high:g}"] = {"rows": int(inside.size), **intervals(inside, STATISTICS)}
    return {"rows": len(errors), **intervals(errors, STATISTICS), "bands_GeV": bands}


def tracks_of(rows: Rows) -> Tracks:
    """Return the rows as tracks between two planes."""
    return Tracks(rows["state"], rows["final_state"], *real_data.CROSSING_Z)


def field_errors(field: Field, rows: Rows) -> Errors:
    """Return the position errors [mm] of Runge-Kutta in a field.

    Raises:
        UserError: A track does not arrive.
    """
    errors = track_errors(field, tracks_of(rows), step=25.0)
    lost = int((~np.isfinite(errors)).sum())
    if lost:
        raise UserError(f"{lost} of {len(errors)} tracks do not arrive in field {field.name!r}")
    return errors


def calibrated(kind: str, rows: Rows, fold: NDArray[np.int64]) -> Errors:
    """Return the errors of every fold in a field that was calibrated with the others."""
    from trackkeras.domains.extrapolation.field_calibration import (
        BOX,
        calibrate_harmonics,
        calibrate_terms,
        calibrated_map,
    )

    base = make_field("lhcb")

    def find(known: Rows, unknown: Rows) -> Errors:
        tracks = tracks_of(known)
        if kind == "terms":
            field = make_field("maxwell", terms=calibrate_terms(tracks, lhcb.TERMS))
        else:
            field = calibrated_map(base, BOX, calibrate_harmonics(tracks, base))
        return field_errors(field, unknown)

    return in_folds(f"calibrate {kind}", rows, fold, find)


def run_errors(path: Path, rows: Rows) -> Errors:
    """Return the errors of a trained network on all rows."""
    from trackkeras.checkpoints import load_model
    from trackkeras.evaluation import predict
    from trackkeras.runs import open_run

    folder, run = open_run(path)
    task = task_of(run)
    return np.asarray(task.errors(rows, predict(load_model(folder.best, task), rows, task))["pos"])


def finetuned(
    path: Path, rows: Rows, fold: NDArray[np.int64], epochs: int, learning_rate: float, seed: int
) -> Errors:
    """Return the errors of every fold by a network that was trained further on the others.

    A network with an equation of motion learns from the final states alone here: its field is not the
    tracks'.
    """
    import keras

    from trackkeras.checkpoints import copy_weights, load_model
    from trackkeras.domains.extrapolation.model_options import EquationOptions
    from trackkeras.evaluation import predict
    from trackkeras.optimizers import RenewBases
    from trackkeras.runs import open_run
    from trackkeras.training import build_model

    batch = 280
    folder, run = open_run(path)
    task = task_of(run)
    options = run.model
    if isinstance(options, EquationOptions):
        options = options.model_copy(update={"lambda_data": 1.0, "lambda_pde": 0.0, "lambda_ic": 0.0})
    training = run.training.model_copy(
        update={"epochs": epochs, "learning_rate": learning_rate, "warmup_epochs": 1.0}
    )
    run = run.model_copy(update={"model": options, "training": training})
    statistics = folder.read("normalization.json")
    trained = load_model(folder.best, task)

    def find(known: Rows, unknown: Rows) -> Errors:
        keras.utils.set_random_seed(seed)
        model = build_model(task, run, statistics, steps=-(-len(known["z0"]) // batch))
        copy_weights(trained, model)
        columns = {name: values.astype("float32") for name, values in known.items()}
        inputs, truth = task.split_batch(run, columns)
        callbacks = [RenewBases()] if run.training.optimizer == "soap" else []
        model.fit(inputs, truth, batch_size=batch, epochs=epochs, verbose=0, callbacks=callbacks)
        deployed = task.build_deployed(run, statistics)
        copy_weights(model, deployed)
        return np.asarray(task.errors(unknown, predict(deployed, unknown, task))["pos"])

    return in_folds(f"train {path.name} further", rows, fold, find)


def in_folds(label: str, rows: Rows, fold: NDArray[np.int64], find: Callable[[Rows, Rows], Errors]) -> Errors:
    """Return what `find(known rows, unknown rows)` gives for every fold, in the order of the rows."""
    errors = np.full(len(fold), np.nan)
    count = int(fold.max()) + 1
    progress = Progress(label, count, "folds")
    for number in range(count):
        unknown = fold == number
        known_rows, unknown_rows = (
            {name: values[chosen] for name, values in rows.items()} for chosen in (~unknown, unknown)
        )
        errors[unknown] = find(known_rows, unknown_rows)
        progress.update(number + 1)
    progress.finish(count)
    return errors


def legacy(data: Path, path: Path) -> dict[str, Any]:
    """Return the errors on the 2,500 tracks through the toy field, z 3000 to 7000 mm."""
    folder = data / "lhcb"
    try:
        start, end = (np.load(folder / f"legacy_{name}_test.npy") for name in "XY")
    except OSError:
        raise UserError(f"cannot read {folder}/legacy_X_test.npy and legacy_Y_test.npy") from None
    rows = {
        "state": start[:, :5],
        "z0": np.full((len(start), 1), 3000.0),
        "dz": start[:, 5:6],
        "final_state": np.concatenate([end[:, :4], start[:, 4:5]], axis=1),
    }
    return summary(run_errors(path, rows), rows)


def write_map(path: Path, rows: Rows) -> dict[str, Any]:
    """Calibrate with all rows and write the map, with a YAML file beside it that names it."""
    from trackkeras.domains.extrapolation.field_calibration import (
        BOX,
        NODES,
        calibrate_harmonics,
        calibrated_map,
    )
    from trackkeras.domains.extrapolation.grid import check_new, write_grid

    named = path.with_suffix(".yaml")
    for file in (path, named):
        check_new(file, False)
    base = make_field("lhcb")
    found = calibrate_harmonics(tracks_of(rows), base, log=lambda line: print(line, file=sys.stderr))
    field = calibrated_map(base, BOX, found)
    nodes = write_grid(field, path, NODES)
    options = {"name": "grid", "path": str(path.resolve()), "interpolation": "cubic"}
    with new_file(named) as out:
        out.write(yaml.safe_dump(options, sort_keys=False).encode())
    return {"map": str(path), "field": str(named), "nodes": nodes}


def write_terms(path: Path, rows: Rows) -> dict[str, Any]:
    """Calibrate the terms with all rows and write the field file."""
    from trackkeras.domains.extrapolation.field_calibration import calibrate_terms, write_calibrated_terms
    from trackkeras.domains.extrapolation.grid import check_new

    check_new(path, False)
    tracks = tracks_of(rows)
    terms = calibrate_terms(tracks, lhcb.TERMS, log=lambda line: print(line, file=sys.stderr))
    write_calibrated_terms(path, terms, tracks)
    return {"field": str(path), "count": len(terms)}


def table(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    return "\n".join(_lines(report))


def _lines(report: dict[str, Any]) -> Iterable[str]:
    yield f"Position error [mm] with 95 % bootstrap interval; {report['sample']}."
    yield from _table(report["methods"])
    yield "\nMedian / 95 % by momentum [GeV]."
    bands = next(iter(report["methods"].values()))["bands_GeV"]
    heads = [f"{name} ({band['rows']})" for name, band in bands.items()]
    yield f"\n| | {' | '.join(heads)} |"
    yield f"|---|{'---|' * len(bands)}"
    for name, entry in report["methods"].items():
        cells = [f"{b['median']['value']:.3f} / {b['p95']['value']:.2f}" for b in entry["bands_GeV"].values()]
        yield f"| {name} | {' | '.join(cells)} |"
    if "legacy" in report:
        yield "\nPosition error [mm]; 2,500 tracks of the toy field, z 3000 to 7000 mm."
        yield from _table(report["legacy"])
    if "map" in report:
        yield f"\n{report['map']['map']}: {report['map']['nodes']} nodes; field {report['map']['field']}"
    if "terms" in report:
        yield f"\n{report['terms']['count']} terms; field {report['terms']['field']}"


def _table(entries: dict[str, Any]) -> Iterable[str]:
    yield f"\n| | {' | '.join(STATISTICS)} |"
    yield f"|---|{'---|' * len(STATISTICS)}"
    for name, entry in entries.items():
        cells = [
            f"{entry[key]['value']:.3f} ({entry[key]['low']:.3f}-{entry[key]['high']:.3f})"
            for key in STATISTICS
        ]
        yield f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
