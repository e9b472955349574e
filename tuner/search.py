"""Trials in one process: KerasTuner's loop, with every way in which a trial can end."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.engine.trial import Trial, TrialStatus

from tfrecords_tools.errors import RecordError
from trackkeras.errors import UserError
from tuner.hypermodel import PresetHyperModel
from tuner.objectives import broken_limits, score
from tuner.oracles import SCORE, SearchOracle, make_oracle
from tuner.plan import Plan
from tuner.records import COMPLETED, FAILED, PRUNED, read_record, trial_folder, write_record

ENVIRONMENT = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")


class Pruned(Exception):
    """A network that breaks a limit and is not trained."""


class SearchTuner(BaseTuner):  # type: ignore[misc]
    """Runs the trials that an oracle proposes.

    Args:
        plan: The search.
        folder: Its folder.
        oracle: Proposes, and keeps the results; it has read its state.
    """

    def __init__(self, plan: Plan, folder: Path, oracle: SearchOracle) -> None:
        self.plan, self.folder = plan, folder
        super().__init__(
            oracle, PresetHyperModel(plan), directory=str(folder.parent), project_name=folder.name
        )

    def _populate_initial_space(self) -> None:
        """The oracle has the whole space from the start."""

    def save(self) -> None:
        """Leave saving to the oracle, which saves each of its changes."""

    def run_trial(self, trial: Trial, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the record of a trial.

        Raises:
            Pruned: The network breaks a limit.
            UserError: The values do not go together, or the loss is not finite.
        """
        hp, known = trial.hyperparameters, self.plan.known
        keras.backend.clear_session()
        model = self.hypermodel.build(hp)
        quantities = self.hypermodel.measure(hp, model)
        if broken := broken_limits(self.plan.limits, quantities, known):
            raise Pruned("; ".join(broken))
        result = self.hypermodel.fit(hp, model, path=trial_folder(self.folder, trial.trial_id))
        values = quantities | result["metrics"]
        return result | {"metrics": values, "score": score(self.plan.objectives, values, known)}

    def _try_run_and_update_trial(self, trial: Trial, *args: Any, **kwargs: Any) -> None:
        """Run a trial, whatever comes of it; only a fault of machine or dataset ends the search."""
        record = read_record(self.folder, trial.trial_id)  # its process died after writing it
        if record is None:
            record = self._record(trial)
            write_record(self.folder, record)
        if record["status"] == COMPLETED:
            self.oracle.update_trial(trial.trial_id, {SCORE: record["score"]})
            trial.status = TrialStatus.COMPLETED
        else:
            trial.status, trial.message = TrialStatus.FAILED, record["reason"]

    def _record(self, trial: Trial) -> dict[str, Any]:
        record: dict[str, Any] = {
            "trial": trial.trial_id,
            "status": FAILED,
            "reason": None,
            "settings": self.hypermodel.settings(trial.hyperparameters),
            "worker": self.tuner_id,
        }
        start = time.monotonic()
        try:
            record |= self.run_trial(trial) | {"status": COMPLETED}
        except Pruned as limit:
            record |= {"status": PRUNED, "reason": str(limit)}
        except (RecordError, OSError):
            raise
        except (MemoryError, tf.errors.ResourceExhaustedError) as error:
            record["reason"] = f"out of memory: {_first_line(error)}"
        except UserError as error:
            place = trial_folder(self.folder, trial.trial_id)
            record["reason"] = str(error).removeprefix(f"{place}: ")
        except Exception as error:
            record["reason"] = f"{type(error).__name__}: {_first_line(error)}"
        return record | {"wall_s": time.monotonic() - start}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:300]


def run_search(plan: Plan, folder: Path) -> SearchOracle:
    """Run a search, or go on with it, in this process.

    Args:
        plan: The search.
        folder: Its folder, with or without earlier trials.

    Returns:
        The oracle with all trials.
    """
    for name in ENVIRONMENT:  # they would make KerasTuner look for a chief
        os.environ.pop(name, None)
    oracle = make_oracle(plan, folder, announcer(plan))
    with quiet():
        SearchTuner(plan, folder, oracle).search()
    return oracle


def announcer(plan: Plan) -> Any:
    """Return a function that prints one line on stderr for each finished trial."""
    start, first = time.monotonic(), [-1]

    def announce(record: dict[str, Any], done: int) -> None:
        if first[0] < 0:
            first[0] = done - 1  # what an earlier process finished does not count for the rate
        total = "" if plan.trials is None or plan.oracle == "hyperband" else f"/{plan.trials}"
        rate = 60 * (done - first[0]) / max(time.monotonic() - start, 1e-9)
        if record["status"] == COMPLETED:
            what = ", ".join(f"{name} {record['metrics'][name]:.4g}" for name in plan.objectives)
        else:
            what = f"{record['status']}: {record['reason']}"
        line = f"trial {record['trial']}, {done}{total} done, {rate:.1f}/min: {what}"
        print(line, file=sys.stderr, flush=True)

    return announce


@contextlib.contextmanager
def quiet() -> Any:
    """Keep KerasTuner's prints, some of them left from debugging, off standard output."""
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it counts the traces of different networks
    with contextlib.redirect_stdout(io.StringIO()):
        yield
