"""KerasTuner's four oracles, made to survive a kill at any moment.

What is added to them: the whole state with all trials is one file, replaced in one step after every change
(KerasTuner writes three, in place); state that KerasTuner forgets (the queue of the grid, the random numbers
of the Bayesian one) is kept or drawn from seed and trial; a trial whose process died is given out again, at
most three times; a budget in seconds; and the first trial is the preset itself.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.engine.trial import Trial, TrialStatus
from keras_tuner.oracles import (
    BayesianOptimizationOracle,
    GridSearchOracle,
    HyperbandOracle,
    RandomSearchOracle,
)

from tfrecords_tools.files import read_json, write_json
from tuner.plan import Plan
from tuner.records import FAILED, epochs_done, read_record, remove_losers, write_record
from tuner.space import declare, settings

SCORE = "score"
STARTS = 3
"""How often a trial is begun without getting on; a process that dies each time is the trial's fault."""
FAILURES = 8
"""Failed trials in a row after which something other than the trials must be wrong."""

Announce = Callable[[dict[str, Any], int], None]


class SearchOracle(keras_tuner.Oracle):  # type: ignore[misc]
    """What the four oracles share; it stands before one of KerasTuner's among the base classes.

    Args:
        plan: The search.
        folder: Its folder.
        announce: Called with the record of a finished trial and the number of finished ones.
    """

    ongoing_trials: dict[str, Trial]

    def __init__(self, plan: Plan, folder: Path, announce: Announce | None = None, **options: Any) -> None:
        self._held = 0
        hp = keras_tuner.HyperParameters()
        declare(plan.parsed_space, hp, plan.start())
        super().__init__(
            objective=keras_tuner.Objective(SCORE, "min"),
            hyperparameters=hp,
            allow_new_entries=False,
            seed=plan.seed,
            max_consecutive_failed_trials=10**9,  # KerasTuner's own limit raises while it holds its lock
            **options,
        )
        self.plan, self.folder, self.announce = plan, folder, announce
        self.max_trials = plan.trials
        self.verbose = 0
        self.starts: dict[str, int] = {}
        self.reached: dict[str, int] = {}
        self.ended_because: str | None = None
        self._spent, self._since = 0.0, time.monotonic()
        self._set_project_dir(str(folder.parent), folder.name)

    @property
    def spent(self) -> float:
        """Time of the search so far [s], without the pauses between a kill and a resumption."""
        return self._spent + time.monotonic() - self._since

    # -- trials ----------------------------------------------------------------------------------------------

    @keras_tuner.synchronized
    def create_trial(self, tuner_id: str) -> Trial:
        """Give a worker its next trial; those that were interrupted come first."""
        with self._one_step():
            self._give_up_on_deadly_trials()
            trial = super().create_trial(tuner_id)
            if trial.status == TrialStatus.RUNNING:
                self.starts[trial.trial_id] = self.starts.get(trial.trial_id, 0) + 1
            elif trial.status == TrialStatus.STOPPED and (self.ongoing_trials or self._retry_queue):
                # Somebody must be left to take over, should another worker die.
                trial.status = TrialStatus.IDLE
                self.tuner_ids.add(tuner_id)
        if trial.status == TrialStatus.STOPPED and self.ended_because is None:
            all_done = self.max_trials and len(self.trials) >= self.max_trials
            self.ended_because = "all trials done" if all_done else "nothing left to try"
        return trial

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Propose values, unless the search is over."""
        if self.plan.budget_s is not None and self.spent >= self.plan.budget_s:
            return self._stop(f"budget of {self.plan.budget_s:g} s used")
        last = [read_record(self.folder, name) for name in self.end_order[-FAILURES:]]
        if len(last) == FAILURES and all(record and record["status"] == FAILED for record in last):
            return self._stop(f"{FAILURES} trials in a row failed")
        return super().populate_space(trial_id)

    def _stop(self, reason: str) -> dict[str, Any]:
        self.ended_because = reason
        return {"status": TrialStatus.STOPPED, "values": None}

    def _random_values(self) -> dict[str, Any] | None:
        if self.trials:
            return super()._random_values()
        hp = keras_tuner.HyperParameters()
        hp.merge(self.hyperparameters.space)  # every value is at its default: the preset's own
        return hp.values

    @keras_tuner.synchronized
    def end_trial(self, trial: Trial) -> None:
        """Take a result, and remove what losing trials leave on the disk."""
        if trial.trial_id in self.end_order:  # told twice
            return
        own = self.trials[trial.trial_id]
        trial.hyperparameters = own.hyperparameters
        record = read_record(self.folder, trial.trial_id)
        if record is not None:  # KerasTuner's messages between processes do not carry the reason
            trial.message = record["reason"]
        with self._one_step():
            super().end_trial(trial)
        self._finished(trial.trial_id)

    def _finished(self, name: str) -> None:
        records = self.records()
        remove_losers(self.folder, records, self.plan.keep)
        if self.announce is not None:
            (record,) = [row for row in records if row["trial"] == name]
            self.announce(record, len(records))

    def records(self) -> list[dict[str, Any]]:
        """Return what came of the finished trials, in the order of their start."""
        found = (read_record(self.folder, name) for name in self.start_order if name in self.end_order)
        return [record for record in found if record is not None]

    @keras_tuner.synchronized
    def release(self, tuner_id: str) -> str | None:
        """Forget a worker that died; return the name of its trial, which is given to another one."""
        self.tuner_ids.discard(tuner_id)
        trial = self.ongoing_trials.pop(tuner_id, None)
        if trial is None:
            return None
        self._retry_queue.append(trial.trial_id)
        self.save()
        return str(trial.trial_id)

    def _give_up_on_deadly_trials(self) -> None:
        for name in list(self._retry_queue):
            done = epochs_done(self.folder, name)
            if done > self.reached.get(name, 0):  # a long trial may be interrupted often, if it gets on
                self.reached[name], self.starts[name] = done, 0
            if self.starts.get(name, 0) >= STARTS:
                self._give_up(self.trials[name])

    def _give_up(self, trial: Trial) -> None:
        reason = f"the process died {STARTS} times in this trial, perhaps out of memory"
        trial.status, trial.message = TrialStatus.FAILED, reason
        chosen = settings(self.plan.parsed_space, trial.hyperparameters.values)
        record = {"trial": trial.trial_id, "status": FAILED, "reason": reason, "settings": chosen}
        write_record(self.folder, record)
        self._retry_queue.remove(trial.trial_id)
        self.end_order.append(trial.trial_id)
        self._finished(trial.trial_id)

    # -- state -----------------------------------------------------------------------------------------------

    @contextmanager
    def _one_step(self) -> Iterator[None]:
        """Save once, when a change is complete."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        self.save()

    def save(self) -> None:
        """Replace the state on disk."""
        if not self._held:
            write_json(Path(self._get_oracle_fname()), self.get_state())

    def _save_trial(self, trial: Trial) -> None:
        """Trials are part of the state."""

    def get_state(self) -> dict[str, Any]:
        """Return the oracle with its trials."""
        return super().get_state() | {
            "trials": {name: trial.get_state() for name, trial in self.trials.items()},
            "starts": self.starts,
            "reached": self.reached,
            "spent_s": self.spent,
            "ended_because": self.ended_because,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from a state; trials that were under way are given out again."""
        self.trials = {name: Trial.from_state(content) for name, content in state["trials"].items()}
        super().set_state(state)
        self.starts, self.reached = dict(state["starts"]), dict(state["reached"])
        self._spent, self._since = state["spent_s"], time.monotonic()
        self._retry_queue += [trial.trial_id for trial in self.ongoing_trials.values()]
        self._retry_queue.sort(reverse=True)  # the oldest is taken first, from the end
        self.ongoing_trials = {}

    def reload(self) -> None:
        """Read the state, if a search was begun in the folder."""
        path = Path(self._get_oracle_fname())
        if path.exists():
            self.set_state(read_json(path))


class RandomOracle(SearchOracle, RandomSearchOracle):  # type: ignore[misc]
    """Random search."""


class BayesianOracle(SearchOracle, BayesianOptimizationOracle):  # type: ignore[misc]
    """Bayesian optimization; a failed trial counts as the worst one, so that its region is left."""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Propose values that were not tried; the draws depend on seed and trial alone."""
        self._random_state = np.random.RandomState([self.seed, int(trial_id)])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="sklearn")  # on kernels that fit few points
            proposal = super().populate_space(trial_id)
        if proposal["values"] is not None and self._duplicate(proposal["values"]):
            return self._random_populate_space()
        return proposal

    def _vectorize_trials(self) -> tuple[Any, Any]:
        failed = [trial for trial in self.trials.values() if trial.status == TrialStatus.FAILED]
        worst = max(trial.score for trial in self.trials.values() if trial.status == TrialStatus.COMPLETED)
        for trial in failed:
            trial.status, trial.score = TrialStatus.COMPLETED, worst
        try:
            return super()._vectorize_trials()
        finally:
            for trial in failed:
                trial.status, trial.score = TrialStatus.FAILED, None


class HyperbandTrials(SearchOracle, HyperbandOracle):  # type: ignore[misc]
    """Hyperband; a promoted trial trains anew, so that its schedule is laid over all of its epochs."""


class GridOracle(SearchOracle, GridSearchOracle):  # type: ignore[misc]
    """Every combination, from the preset's own values on; ranges without a step are cut in ten."""

    def get_state(self) -> dict[str, Any]:
        """Return the state with the place in the grid, which KerasTuner leaves out."""
        ordered, index = [], self._ordered_ids._next_index[None]
        while index is not None:
            ordered.append(self._ordered_ids._memory[index])
            index = self._ordered_ids._next_index[index]
        return super().get_state() | {"ordered_ids": ordered, "populate_next": self._populate_next}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        super().set_state(state)
        for name in state["ordered_ids"]:
            self._ordered_ids.insert(name)
        self._populate_next = list(state["populate_next"])


def make_oracle(plan: Plan, folder: Path, announce: Announce | None = None) -> SearchOracle:
    """Return the oracle that a plan asks for, at the state that its folder holds."""
    oracle: SearchOracle
    if plan.oracle == "random":
        oracle = RandomOracle(plan, folder, announce, max_trials=plan.trials)
    elif plan.oracle == "bayesian":
        # KerasTuner's default, three times the number of keys, would leave a short search random.
        first = 5 if plan.trials is None else max(3, plan.trials // 3)
        oracle = BayesianOracle(plan, folder, announce, max_trials=plan.trials, num_initial_points=first)
    elif plan.oracle == "hyperband":
        oracle = HyperbandTrials(plan, folder, announce, max_epochs=plan.epochs)
    else:
        oracle = GridOracle(plan, folder, announce, max_trials=plan.trials)
    oracle.reload()
    return oracle
