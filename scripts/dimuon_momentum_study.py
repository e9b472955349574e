#!/usr/bin/env python
"""Compare a momentum network with a ridge regression on simulated muons of the experiment, fold by fold.

The network was trained on events of `trackkeras generate dimuon` and has never seen the files. `network` is
the network of the run folder, exactly what `trackkeras export` makes of it. The files' muons are divided
into folds, those of one generated muon or event together. For each fold ridge regression is fitted to the
others, and on these the network is calibrated (`network_calibrated`, what `trackkeras dimuon calibrate`
does) and so is the ridge regression; then all are tested on the fold that was left out. All rows have
absolute drift distances. Nothing is written but the text, or JSON with --json.

Example:
    trackkeras generate dimuon --n 60000 --out data/jpsi --workers 2
    trackkeras train momentum_medium --data data/jpsi --name jpsi
    scripts/dimuon_momentum_study.py --run runs/jpsi --file ../shared/data/spinquest/JPsi_Dump.root
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trackkeras.config import Run
from trackkeras.domain import Rows, Task
from trackkeras.domains.dimuon.mass import mixed_response
from trackkeras.domains.dimuon.momentum import open_momentum_run
from trackkeras.domains.dimuon.record_options import RecordOptions
from trackkeras.domains.dimuon.records import read_rows
from trackkeras.domains.dimuon.response import LinearResponse
from trackkeras.errors import UserError
from trackkeras.runs import RunFolder

Predict = Callable[[Rows], Rows]


def main() -> None:
    """Parse the arguments, study, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--run", type=Path, required=True, help="run folder of the pre-trained network")
    parser.add_argument("--file", type=Path, required=True, nargs="+", help="RUS files of muons")
    parser.add_argument("--folds", type=int, default=10, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the folds (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    try:
        study(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def study(arguments: argparse.Namespace) -> None:
    """Run all folds and print.

    Raises:
        UserError: No run folder or file, or too few events.
    """
    folder, run, task = open_momentum_run(arguments.run)
    muons = read_muons(arguments.file, task)
    groups = len(np.unique(muons["group"]))
    if arguments.folds < 3 or groups < 20 * arguments.folds:
        raise UserError(
            f"the study needs 3 folds of 20 groups of muons at least, received {arguments.folds} folds of "
            f"{groups} groups"
        )
    found = all_folds(folder, run, task, muons, arguments.folds, arguments.seed)
    result = {
        "target": task.place,
        "muons": len(muons["group"]),
        "groups": groups,
        "folds": arguments.folds,
        "estimators": {name: summary(muons, momentum) for name, momentum in found.items()},
        "mse_over_ridge": {
            name: paired_ratio(muons, found["ridge"], found[name])
            for name in ("network", "network_calibrated")
        },
    }
    print(json.dumps(result, indent=2) if arguments.json else text(result))


def read_muons(files: list[Path], task: Task) -> Rows:
    """Return the muons of some files, with the `group` of each; of files with dimuons, both muons or none.

    Raises:
        UserError: No muon has the momentum that the task asks for.
    """
    parts = list(read_rows(files, RecordOptions()))
    columns = (*(task.columns or ()), "group")
    events = {name: np.concatenate([part[name] for part in parts]) for name in columns}
    both = (events["muon"] > 0).all(axis=1)
    if both.any():
        events = {name: column[both] for name, column in events.items()}
    muons = task.own_rows(events)
    if not len(muons["event"]):
        raise UserError(f"no muon in {', '.join(map(str, files))} has the momentum that the network gives")
    return {**muons, "group": events["group"][muons["event"], 0]}


def all_folds(
    folder: RunFolder, run: Run, task: Task, muons: Rows, folds: int, seed: int
) -> dict[str, NDArray[Any]]:
    """Return the momenta `(n, 3)` [GeV] that each method gives muons it has not seen."""
    from trackkeras.checkpoints import load_model
    from trackkeras.domains.dimuon.calibration import with_response
    from trackkeras.domains.dimuon.momentum_baselines import mean_momentum, ridge
    from trackkeras.evaluation import predict

    saved = load_model(folder.best, task)
    _, bare = with_response(run, saved, None)
    network, uncalibrated = (partial(predict, model, task=task) for model in (saved, bare))
    groups, group = np.unique(muons["group"], return_inverse=True)
    fold = (np.random.default_rng(seed).permutation(len(groups)) % folds)[group]
    names = ("mean", "ridge", "ridge_calibrated", "network", "network_calibrated")
    found = {name: np.zeros((len(group), 3)) for name in names}
    for number in range(folds):
        test = fold == number
        fit, held = ({name: column[chosen] for name, column in muons.items()} for chosen in (~test, test))
        regression = ridge(fit)
        methods: dict[str, Predict] = {
            "mean": mean_momentum(fit),
            "ridge": regression,
            "ridge_calibrated": calibrated(regression, fit),
            "network": network,
            "network_calibrated": calibrated(uncalibrated, fit),
        }
        for name, method in methods.items():
            found[name][test] = method(held)["momentum"]
    return found


def calibrated(method: Predict, fit: Rows) -> Predict:
    """Return a method with its response on some muons taken back."""
    response = LinearResponse(fit["momentum"], method(fit)["momentum"], fit["charge"])
    return lambda rows: {"momentum": response.undo(method(rows)["momentum"], rows["charge"])}


def by_charge(muons: Rows, values: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the values of mu+ and mu-, as far as there are any."""
    charges = {"mu+": muons["charge"][:, 0] > 0, "mu-": muons["charge"][:, 0] < 0}
    return {name: values[own] for name, own in charges.items() if own.any()}


def summary(muons: Rows, momentum: NDArray[Any]) -> dict[str, Any]:
    """Return squared error with interval, bias and half width by charge, and the response of mixed masses."""
    result: dict[str, Any] = {}
    size, found_size = (np.linalg.norm(vectors, axis=1) for vectors in (muons["momentum"], momentum))
    relative = by_charge(muons, found_size / size - 1.0)
    for charge, residual in by_charge(muons, momentum - muons["momentum"]).items():
        squared = (residual**2).mean(axis=1)
        low, high = np.quantile(residual, [0.159, 0.841], axis=0)
        least, most = np.quantile(relative[charge], [0.159, 0.841])
        result[charge] = {
            "mse": float(squared.mean()),
            "mse_error_95": float(1.96 * squared.std() / len(squared) ** 0.5),
            "bias": residual.mean(axis=0).tolist(),
            "half_width_68": ((high - low) / 2).tolist(),
            "relative_half_width_68": float(most - least) / 2,
        }
    truth, found = (by_charge(muons, values) for values in (muons["momentum"].astype(float), momentum))
    if (np.bincount(muons["event"]) == 2).all():
        response = mixed_response((truth["mu+"], truth["mu-"]), (found["mu+"], found["mu-"]))
        result["mixed"] = vars(response)
    return result


def paired_ratio(muons: Rows, first: NDArray[Any], second: NDArray[Any]) -> dict[str, list[float]]:
    """Return MSE of the second over that of the first with its 95 % bootstrap interval, by charge."""
    rng = np.random.default_rng(0)
    errors = [
        by_charge(muons, ((momentum - muons["momentum"]) ** 2).mean(axis=1)) for momentum in (first, second)
    ]
    result = {}
    for charge in errors[0]:
        one, other = (values[charge] for values in errors)
        drawn = rng.integers(len(one), size=(1000, len(one)))
        low, high = np.quantile(other[drawn].mean(axis=1) / one[drawn].mean(axis=1), [0.025, 0.975])
        result[charge] = [float(other.mean() / one.mean()), float(low), float(high)]
    return result


def text(result: dict[str, Any]) -> str:
    """Return the result as lines of text."""
    lines = [
        f"{result['muons']} muons in {result['groups']} groups, {result['folds']} folds, {result['target']}"
    ]
    for name, values in result["estimators"].items():
        for charge in ("mu+", "mu-"):
            if charge in values:
                part = values[charge]
                bias, width = (", ".join(f"{x:+.3f}" for x in part[key]) for key in ("bias", "half_width_68"))
                lines.append(
                    f"{name:18s} {charge}: MSE {part['mse']:.3f} +- {part['mse_error_95']:.3f} GeV^2, "
                    f"bias ({bias}), half width ({width}) GeV, of |p| {part['relative_half_width_68']:.2%}"
                )
        if "mixed" in values:
            mixed = values["mixed"]
            lines.append(
                f"{name:18s} mixed pairs: slope {mixed['slope']:.3f}, bias {mixed['bias']:+.3f}, "
                f"half width {mixed['width']:.3f} GeV"
            )
    for name, ratios in result["mse_over_ridge"].items():
        for charge, (middle, low, high) in ratios.items():
            lines.append(f"MSE {name} / ridge {charge}: {middle:.3f} ({low:.3f} to {high:.3f})")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
