"""KerasTuner's hypermodel over a preset: `build` gives a trial's network, `fit` hands its run to the trainer.

Batch size, row limits and block shuffling are hyperparameters like any other, because `fit` rebuilds the
`tf.data` pipeline from the one dataset on disk for every trial.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import tensorflow as tf

from trackkeras.checkpoints import trainable_parameters
from trackkeras.config import Run
from trackkeras.domain import open_dataset, task_of
from trackkeras.selection import kept_record
from trackkeras.training import train
from tuner.objectives import LATENCY, PARAMETERS, RATE, TIME
from tuner.plan import Plan
from tuner.space import settings

EPOCHS = "tuner/epochs"
"""The hyperparameter by which Hyperband says how long a trial trains."""

CALLS, BATCH = 20, 1024


class PresetHyperModel(keras_tuner.HyperModel):
    """The networks that a plan searches.

    Args:
        plan: What varies, and the dataset.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(name=plan.preset)
        self.plan = plan
        source = open_dataset(Path(plan.data), plan.parent)
        self.statistics = source.manifest.statistics("train")
        self._rows = task_of(plan.parent).read_rows(source, "validation", BATCH)

    def settings(self, hp: keras_tuner.HyperParameters) -> dict[str, Any]:
        """Return the option values, by dotted key, that KerasTuner proposes."""
        return settings(self.plan.parsed_space, hp.values)

    def run(self, hp: keras_tuner.HyperParameters) -> Run:
        """Return the configuration of a trial.

        Raises:
            UserError: The values do not go together.
        """
        return self.plan.run(self.settings(hp), hp.values.get(EPOCHS))

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Return the network as it would be deployed, with the weights of its start."""
        run = self.run(hp)
        return task_of(run).build_deployed(run, self.statistics)

    def measure(self, hp: keras_tuner.HyperParameters, model: keras.Model) -> dict[str, float]:
        """Return what is known of a network before its training, see `objectives.OF_THE_NETWORK`."""
        run = self.run(hp)
        task = task_of(run)
        inputs = task.inputs(self._rows)
        rows = len(next(iter(inputs.values())))
        latency, many = inference_times(model, inputs)
        return {
            PARAMETERS: trainable_parameters(model),
            "operations": float(task.cost(run)),
            LATENCY: 1e6 * latency,
            TIME: 1e6 * many / rows,
            RATE: rows / many,
        }

    def fit(self, hp: keras_tuner.HyperParameters, model: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Train a trial with the shared trainer; a trial that was interrupted goes on where it stopped.

        Args:
            hp: The values of the trial.
            model: Not used: the trainer builds the network for training, in its precision.
            *args: None.
            **kwargs: `path`, the run folder.

        Returns:
            Metrics of the validation rows at the epoch that was kept, and how the training went.

        Raises:
            UserError: The loss became NaN or infinite.
        """
        folder = train(self.run(hp), Path(self.plan.data), kwargs["path"], resume=True)
        history = folder.read("history.json")
        record = kept_record(history)
        return {
            "metrics": {"val_loss": record.pop("loss")}
            | {key: value for key, value in record.items() if key != "epoch"},
            "epochs": len(history["val"]),
            "best_epoch": history["best_epoch"],
            "seconds": history["training_time"],
            "stopped": history["stopped"],
        }


def inference_times(model: keras.Model, inputs: Mapping[str, Any]) -> tuple[float, float]:
    """Return the time [s] of one row and of all rows through a network as a TensorFlow function.

    The shortest of several calls counts: what other work on the machine adds is never negative. It ranks the
    networks of a search; `trackkeras bench inference` measures the engines of an exported one.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="__array__ implementation doesn't accept a copy keyword")
        call = tf.function(lambda batch: model(batch, training=False), reduce_retracing=True)
        times = []
        for rows in (1, None):
            batch = {name: tf.constant(column[:rows]) for name, column in inputs.items()}
            tf.nest.map_structure(lambda tensor: tensor.numpy(), call(batch))
            shortest = float("inf")
            for _ in range(CALLS):
                start = time.perf_counter()
                tf.nest.map_structure(lambda tensor: tensor.numpy(), call(batch))
                shortest = min(shortest, time.perf_counter() - start)
            times.append(shortest)
    return times[0], times[1]
