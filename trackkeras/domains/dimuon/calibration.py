"""A momentum network calibrated on muons of known momentum: its response becomes part of what is exported.

What a simulation has a little wrong, such as the energy that iron takes, and the drawing of every estimate of
least squared error to the mean of its training sample, are both seen as a response: slope and offset of the
reconstructed against the true momentum. They are written into the run's configuration (`model.response`)
and into the saved network, so that Keras, SavedModel, ONNX and what the study reports are one function.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import keras

from tfrecords_tools.files import new_folder
from trackkeras.checkpoints import copy_weights, load_model, save_model
from trackkeras.config import Run
from trackkeras.domain import Rows, task_of
from trackkeras.domains.dimuon.momentum_options import ResponseOptions, Three
from trackkeras.domains.dimuon.response import LinearResponse
from trackkeras.errors import UserError
from trackkeras.evaluation import predict
from trackkeras.runs import RunFolder

COPIED = ("dataset.json", "environment.json", "normalization.json", "model_config.json", "history.json")
"""Files of a run that stay what they were."""


def with_response(run: Run, model: keras.Model, response: ResponseOptions | None) -> tuple[Run, keras.Model]:
    """Return the same network with another response, or none, taken back; and its configuration."""
    changed = run.model_copy(update={"model": run.model.model_copy(update={"response": response})})
    network = task_of(changed).build_deployed(changed, {})
    copy_weights(model, network)
    return changed, network


def calibrated(run: Run, model: keras.Model, rows: Rows) -> tuple[Run, keras.Model]:
    """Return a network whose response has slope 1 and offset 0 on some muons.

    Args:
        run: Its configuration.
        model: The saved network; a response that it takes back already is forgotten.
        rows: Muons, see `muon_columns`.

    Raises:
        UserError: The network does not follow their momenta.
    """
    run, bare = with_response(run, model, None)
    found = predict(bare, rows, task_of(run))["momentum"]
    fit = LinearResponse(rows["momentum"], found, rows["charge"])
    return with_response(run, bare, ResponseOptions(slope=_three(fit.slope), offset=_three(fit.offset)))


def calibrate(folder: RunFolder, run: Run, rows: Rows, out: Path) -> Run:
    """Calibrate the network of a run and leave it as another run folder, ready to be exported.

    Args:
        folder: Run folder of a momentum network.
        run: Its configuration.
        rows: Muons, see `muon_columns`.
        out: Run folder to make.

    Raises:
        UserError: `out` exists, or the network does not follow the momenta.
    """
    if out.exists():
        raise UserError(f"{out} exists; choose another folder")
    changed, network = calibrated(run, load_model(folder.best, task_of(run)), rows)
    with new_folder(out) as temporary:
        made = RunFolder(temporary)
        for name in COPIED:
            if (folder.path / name).is_file():
                shutil.copy(folder.path / name, temporary / name)
        save_model(network, made.best)
        made.write("config.json", changed.model_dump(mode="json"))
    return changed


def _three(values: object) -> Three:
    px, py, pz = map(float, values)  # type: ignore[call-overload]
    return px, py, pz
