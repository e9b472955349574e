#!/usr/bin/env python
"""Compare a momentum network with a ridge regression on simulated J/psi of the experiment, fold by fold.

The network was trained on events of `trackkeras generate dimuon` and has never seen the file. Its events are
divided into folds. For each fold the ridge regression is fitted to the others, and so is the response of
both methods, by which their momenta are corrected; then all are tested on the fold that was left out. All
rows have absolute drift distances. Nothing is written but the text, or JSON with --json.

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
from trackkeras.domain import Rows, task_of
from trackkeras.domains.dimuon.mass import mixed_response
from trackkeras.domains.dimuon.record_options import RecordOptions
from trackkeras.domains.dimuon.records import read_rows
from trackkeras.domains.dimuon.response import LinearResponse
from trackkeras.errors import UserError
from trackkeras.runs import RunFolder, open_run

Predict = Callable[[Rows], Rows]


def main() -> None:
    """Parse the arguments, study, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--run", type=Path, required=True, help="run folder of the pre-trained network")
    parser.add_argument("--file", type=Path, required=True, help="RUS file of dimuon events")
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
    folder, run = open_run(arguments.run)
    if run.domain != "dimuon" or run.model.kind != "momentum":
        raise UserError(f"{arguments.run} is a run of {run.preset!r}; the study needs one of momentum_*")
    parts = list(read_rows([arguments.file], RecordOptions()))
    events = {name: np.concatenate([part[name] for part in parts]) for name in task_of(run).columns or ()}
    events = {name: column[(events["muon"] > 0).all(axis=1)] for name, column in events.items()}
    n = len(events["muon"])
    if arguments.folds < 3 or n < 20 * arguments.folds:
        raise UserError(
            f"the study needs 3 folds of 20 events at least, received {arguments.folds} folds of {n} events"
        )
    found = all_folds(folder, run, events, arguments.folds, arguments.seed)
    truth = events["momentum"].astype(float)
    result = {
        "events": n,
        "folds": arguments.folds,
        "estimators": {name: summary(truth, momentum) for name, momentum in found.items()},
    }
    result["mse_network_over_ridge"] = paired_ratio(truth, found["ridge"], found["network"])
    print(json.dumps(result, indent=2) if arguments.json else text(result))


def all_folds(folder: RunFolder, run: Run, events: Rows, folds: int, seed: int) -> dict[str, NDArray[Any]]:
    """Return the momenta `(n, 2, 3)` [GeV] that each method gives events it has not seen.

    `ridge_corrected` and `network` have the response of `ridge` and `network_alone` taken back.
    """
    from trackkeras.checkpoints import load_model
    from trackkeras.domains.dimuon.momentum_baselines import mean_momentum, ridge

    task = task_of(run)
    n = len(events["muon"])
    fold = np.random.default_rng(seed).permutation(n) % folds
    network = partial(network_momentum, load_model(folder.best, task), task)
    names = ("mean", "ridge", "ridge_corrected", "network_alone", "network")
    found = {name: np.zeros((n, 2, 3)) for name in names}
    for number in range(folds):
        test = fold == number
        fit, held = (
            task.own_rows({name: column[chosen] for name, column in events.items()})
            for chosen in (~test, test)
        )
        regression = ridge(fit)
        methods: dict[str, Predict] = {
            "mean": mean_momentum(fit),
            "ridge": regression,
            "ridge_corrected": corrected(regression, fit),
            "network_alone": network,
            "network": corrected(network, fit),
        }
        for name, method in methods.items():
            found[name][test] = method(held)["momentum"].reshape(-1, 2, 3)
    return found


def corrected(method: Predict, fit: Rows) -> Predict:
    """Return a method with its response on some muons taken back."""
    response = LinearResponse(fit["momentum"], method(fit)["momentum"], fit["charge"])
    return lambda rows: {"momentum": response.undo(method(rows)["momentum"], rows["charge"])}


def network_momentum(model: Any, task: Any, rows: Rows) -> Rows:
    """Return what a network gives some muons."""
    return {name: np.asarray(value) for name, value in model(task.inputs(rows), training=False).items()}


def summary(truth: NDArray[Any], momentum: NDArray[Any]) -> dict[str, Any]:
    """Return squared error with interval, bias and half width by charge, and the response of mixed masses."""
    result: dict[str, Any] = {}
    for index, charge in enumerate(("mu+", "mu-")):
        residual = momentum[:, index] - truth[:, index]
        squared = (residual**2).mean(axis=1)
        low, high = np.quantile(residual, [0.159, 0.841], axis=0)
        error = 1.96 * squared.std() / len(squared) ** 0.5
        result[charge] = {
            "mse": float(squared.mean()),
            "mse_error_95": float(error),
            "bias": residual.mean(axis=0).tolist(),
            "half_width_68": ((high - low) / 2).tolist(),
        }
    response = mixed_response((truth[:, 0], truth[:, 1]), (momentum[:, 0], momentum[:, 1]))
    return {**result, "mixed": vars(response)}


def paired_ratio(truth: NDArray[Any], first: NDArray[Any], second: NDArray[Any]) -> dict[str, list[float]]:
    """Return MSE of the second over that of the first with its 95 % bootstrap interval, by charge."""
    rng = np.random.default_rng(0)
    one, other = (((momentum - truth) ** 2).mean(axis=2) for momentum in (first, second))
    drawn = rng.integers(len(truth), size=(1000, len(truth)))
    ratios = other[drawn].mean(axis=1) / one[drawn].mean(axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975], axis=0)
    middle = other.mean(axis=0) / one.mean(axis=0)
    return {
        charge: [float(middle[index]), float(low[index]), float(high[index])]
        for index, charge in enumerate(("mu+", "mu-"))
    }


def text(result: dict[str, Any]) -> str:
    """Return the result as lines of text."""
    lines = [f"{result['events']} events, {result['folds']} folds"]
    for name, values in result["estimators"].items():
        for charge in ("mu+", "mu-"):
            part = values[charge]
            bias, width = (", ".join(f"{x:+.3f}" for x in part[key]) for key in ("bias", "half_width_68"))
            lines.append(
                f"{name:15s} {charge}: MSE {part['mse']:.3f} +- {part['mse_error_95']:.3f} GeV^2, "
                f"bias ({bias}), half width ({width}) GeV"
            )
        mixed = values["mixed"]
        lines.append(
            f"{name:15s} mixed pairs: slope {mixed['slope']:.3f}, bias {mixed['bias']:+.3f}, "
            f"half width {mixed['width']:.3f} GeV"
        )
    for charge, (middle, low, high) in result["mse_network_over_ridge"].items():
        lines.append(f"MSE network / ridge {charge}: {middle:.3f} ({low:.3f} to {high:.3f})")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
