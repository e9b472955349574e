#!/usr/bin/env python
"""Compare a momentum network with a ridge regression on simulated J/psi of the experiment, fold by fold.

Events are divided into folds. In each, the ridge regression is fitted to the other folds; a network that was
trained on `trackkeras generate dimuon` is fine-tuned on them, and stops where one fold of them, which it does
not train on, gets worse. Both are tested on the fold that neither has seen. All rows have absolute drift
distances. Nothing is written but the text, or JSON with --json.

Example:
    trackkeras generate dimuon --n 60000 --out data/jpsi --workers 2
    trackkeras train momentum_medium --data data/jpsi --name pretrained
    scripts/dimuon_momentum_study.py --run runs/pretrained --file ../shared/data/spinquest/JPsi_Dump.root
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trackkeras.domain import Rows, task_of
from trackkeras.domains.dimuon.mass import mixed_response
from trackkeras.domains.dimuon.record_options import RecordOptions
from trackkeras.domains.dimuon.records import read_rows
from trackkeras.errors import UserError
from trackkeras.progress import Progress
from trackkeras.runs import RunFolder, open_run

Predict = Callable[[Rows], Rows]


@dataclass(frozen=True)
class FineTuning:
    """How a pre-trained network is adapted to other events.

    Attributes:
        learning_rate: Of Adam.
        epochs: At most.
        patience: Epochs without improvement before it stops.
        batch_size: Muons per step.
        seed: Of the order of muons.
    """

    learning_rate: float
    epochs: int
    patience: int
    batch_size: int
    seed: int


def main() -> None:
    """Parse the arguments, study, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--run", type=Path, required=True, help="run folder of the pre-trained network")
    parser.add_argument("--file", type=Path, required=True, help="RUS file of dimuon events")
    parser.add_argument("--folds", type=int, default=10, help="(default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=3e-4, help="(default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=20, help="at most (default: %(default)s)")
    parser.add_argument("--patience", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="(default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=1, help="of the folds and the order (default: %(default)s)"
    )
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
    options = FineTuning(
        arguments.learning_rate, arguments.epochs, arguments.patience, arguments.batch_size, arguments.seed
    )
    found, epochs = all_folds(folder, run, events, arguments.folds, options)
    truth = events["momentum"].astype(float)
    result = {
        "events": n,
        "folds": arguments.folds,
        "epochs": epochs,
        "estimators": {name: summary(truth, momentum) for name, momentum in found.items()},
    }
    ratio = paired_ratio(truth, found["ridge"], found["network"])
    result["mse_network_over_ridge"] = ratio
    print(json.dumps(result, indent=2) if arguments.json else text(result))


def all_folds(
    folder: RunFolder, run: Any, events: Rows, folds: int, options: FineTuning
) -> tuple[dict[str, NDArray[Any]], list[int]]:
    """Return the momenta `(n, 2, 3)` [GeV] that each estimator gives events it has not seen, and epochs."""
    from trackkeras.checkpoints import load_model
    from trackkeras.domains.dimuon.momentum_baselines import mean_momentum, ridge

    task = task_of(run)
    n = len(events["muon"])
    fold = np.random.default_rng(options.seed).permutation(n) % folds
    names = ("mean", "ridge", "pretrained", "network")
    found = {name: np.zeros((n, 2, 3)) for name in names}
    pretrained = load_model(folder.best, task)
    epochs = []
    progress = Progress("folds", folds)
    for number in range(folds):
        test, inner = fold == number, fold == (number + 1) % folds
        train, stop, fit, held = (
            task.own_rows({name: column[chosen] for name, column in events.items()})
            for chosen in (~test & ~inner, inner, ~test, test)
        )
        tuned, epoch = fine_tuned(pretrained, task, run, train, stop, options)
        epochs.append(epoch)
        estimators: dict[str, Predict] = {
            "mean": mean_momentum(fit),
            "ridge": ridge(fit),
            "pretrained": partial(network_momentum, pretrained, task),
            "network": partial(network_momentum, tuned, task),
        }
        for name, estimate in estimators.items():
            found[name][test] = estimate(held)["momentum"].reshape(-1, 2, 3)
        progress.update(number + 1)
    progress.finish(folds)
    return found, epochs


def fine_tuned(
    pretrained: Any, task: Any, run: Any, train: Rows, stop: Rows, options: FineTuning
) -> tuple[Any, int]:
    """Return a network that was trained further on some muons, and the epoch whose weights it has.

    Epoch 0, the pre-trained network itself, is one of the candidates.
    """
    import keras

    from trackkeras.checkpoints import copy_weights

    keras.utils.set_random_seed(options.seed)
    model = task.build(run, {})
    copy_weights(pretrained, model)
    model.compile(optimizer=keras.optimizers.Adam(options.learning_rate))
    held = task.inputs(stop), {"momentum": stop["momentum"]}
    before = model.evaluate(*held, batch_size=len(stop["charge"]), verbose=0)
    stopping = keras.callbacks.EarlyStopping(
        patience=options.patience, restore_best_weights=True, baseline=before
    )
    history = model.fit(
        task.inputs(train),
        {"momentum": train["momentum"]},
        validation_data=held,
        batch_size=options.batch_size,
        epochs=options.epochs,
        callbacks=[stopping],
        verbose=0,
    )
    losses = history.history["val_loss"]
    if min(losses) >= before:
        copy_weights(pretrained, model)
        return model, 0
    return model, int(np.argmin(losses)) + 1


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
    lines = [f"{result['events']} events, {result['folds']} folds, epochs kept {result['epochs']}"]
    for name, values in result["estimators"].items():
        for charge in ("mu+", "mu-"):
            part = values[charge]
            bias, width = (", ".join(f"{x:+.3f}" for x in part[key]) for key in ("bias", "half_width_68"))
            lines.append(
                f"{name:10s} {charge}: MSE {part['mse']:.3f} +- {part['mse_error_95']:.3f} GeV^2, "
                f"bias ({bias}), half width ({width}) GeV"
            )
        mixed = values["mixed"]
        lines.append(
            f"{name:10s} mixed pairs: slope {mixed['slope']:.3f}, bias {mixed['bias']:+.3f}, "
            f"half width {mixed['width']:.3f} GeV"
        )
    for charge, (middle, low, high) in result["mse_network_over_ridge"].items():
        lines.append(f"MSE network / ridge {charge}: {middle:.3f} ({low:.3f} to {high:.3f})")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
