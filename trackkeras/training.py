"""The one trainer: a resolved `Run` and a dataset folder become a run folder.

The order of batches, the weights' start and the schedule depend on the configuration alone, and every epoch
leaves a checkpoint with the optimizer inside: a killed run that is resumed ends in the same weights as one
that was never interrupted.
"""

from __future__ import annotations

import math
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfrecords_tools.reader import Dataset
from trackkeras.checkpoints import copy_weights, load_model, save_model, trainable_parameters
from trackkeras.config import Run, TrainingOptions, differences
from trackkeras.data import Batches, ordered_batches, training_batches
from trackkeras.distributed import make_strategy
from trackkeras.domain import Rows, Task, open_dataset, task_of
from trackkeras.errors import UserError
from trackkeras.evaluation import metric_values, predict
from trackkeras.optimizers import SOAP, RenewBases
from trackkeras.progress import Progress
from trackkeras.runs import RunFolder, environment
from trackkeras.schedules import AdjustableCosineDecay


def train(
    run: Run,
    data: Path,
    path: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    mlflow: bool = False,
) -> RunFolder:
    """Fit the preset's model and leave everything about it in the run folder `path`.

    Args:
        run: The resolved configuration.
        data: Dataset folder.
        path: Run folder.
        resume: Go on with an interrupted run; a finished one is left as it is.
        overwrite: Remove an existing run folder first.
        mlflow: Also log to MLflow (extra `mlflow`).

    Raises:
        UserError: The folder exists and neither `resume` nor `overwrite` is set, the configuration of the
            resumed run differs, or data and preset do not fit.
    """
    task = task_of(run)
    source = open_dataset(data, run)
    task.check_data(run, source.manifest.config)
    folder = RunFolder(path)
    state = _prepare_folder(folder, run, source, resume=resume, overwrite=overwrite)
    if state["finished"]:
        return folder
    keras.utils.set_random_seed(run.training.seed)
    strategy = make_strategy(run.training.strategy, run.data.batch_size)
    batches = training_batches(
        source,
        partial(task.split_batch, run),
        batch_size=run.data.batch_size,
        shuffle_blocks=run.data.shuffle_blocks,
        seed=run.training.seed,
        first_epoch=state["epoch"],
        limit=run.data.train_rows,
        columns=task.columns,
    )
    validation = _validation_batches(source, task, run)
    statistics = source.manifest.statistics("train")
    with strategy.scope():
        if state["checkpoint"]:
            model = load_model(path / state["checkpoint"], task)
        else:
            model = build_model(task, run, statistics, batches.steps)
    folder.write("normalization.json", statistics)
    folder.write(
        "model_config.json", {"parameters": trainable_parameters(model), "config": model.get_config()}
    )
    deployed = task.build_deployed(run, statistics)
    rows = task.read_rows(source, "validation", _validated(run, task.metric_rows))
    recorder = EpochRecorder(folder, run, state, task, deployed, rows)
    callbacks = [ShowProgress(batches, run.training.epochs), recorder, _tensorboard(folder)]
    if run.training.optimizer == "soap":
        callbacks.append(RenewBases())
    if mlflow:
        from trackkeras.tracking import MlflowLogger

        callbacks.append(MlflowLogger(folder, run))
    with _known_warnings():
        model.fit(
            batches.dataset,
            validation_data=validation.dataset,
            steps_per_epoch=batches.steps,
            initial_epoch=state["epoch"],
            epochs=run.training.epochs,
            shuffle=False,
            verbose=0,
            callbacks=callbacks,
        )
    recorder.finish()
    return folder


@contextmanager
def _known_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="__array__ implementation doesn't accept a copy keyword")
        yield


def _prepare_folder(
    folder: RunFolder, run: Run, source: Dataset, *, resume: bool, overwrite: bool
) -> dict[str, Any]:
    config = run.model_dump(mode="json")
    if (folder.path / "config.json").exists() and not overwrite:
        if not resume:
            raise UserError(f"{folder.path} exists; --resume continues it, --overwrite starts it again")
        different = [
            f"{key} was {old!r}, is {new!r}"
            for key, old, new in differences(folder.read("config.json"), config)
            # How long it may take does not change what it computes, unless the schedule follows the budget.
            if key != "training.time_budget_s" or run.training.schedule == "budget"
        ]
        if different:
            raise UserError(f"{folder.path} was trained with another configuration: {'; '.join(different)}")
        if folder.state.exists():
            return dict(folder.read("state.json"))
    if folder.path.exists() and any(folder.path.iterdir()):
        if not (folder.path / "config.json").exists():
            raise UserError(f"{folder.path} exists and is not a run folder; choose another --name")
        shutil.rmtree(folder.path)
    folder.checkpoints.mkdir(parents=True)
    folder.write("environment.json", environment())
    folder.write(
        "dataset.json",
        {
            "path": str(source.directory.resolve()),
            "config_hash": source.manifest.config_hash,
            "seed": source.manifest.seed,
            "rows": {split: source.rows(split) for split in source.splits},
        },
    )
    folder.write("config.json", config)
    return {
        "epoch": 0,
        "checkpoint": None,
        "best_epoch": 0,
        "best_val_loss": None,
        "wait": 0,
        "seconds": 0.0,
        "processor_seconds": 0.0,
        "finished": False,
        "reason": None,
    }


def _validation_batches(source: Dataset, task: Task, run: Run) -> Batches:
    batches = ordered_batches(
        source,
        "validation",
        partial(task.split_batch, run),
        batch_size=run.data.batch_size,
        limit=_validated(run, task.validation_rows),
        columns=task.columns,
    )
    return Batches(batches.dataset.cache().prefetch(4), batches.steps, batches.rows)


def _validated(run: Run, usual: int) -> int:
    return min(usual, run.data.validation_rows or usual)


def build_model(task: Task, run: Run, statistics: Mapping[str, Any], steps: int) -> keras.Model:
    """Return the preset's model, compiled.

    Args:
        task: Builds the network and names its losses.
        run: The resolved configuration.
        statistics: Per-feature statistics of the training rows.
        steps: Steps in one epoch, for the schedule.
    """
    policy = keras.config.dtype_policy()
    if run.training.mixed_precision != "off":
        keras.config.set_dtype_policy(f"mixed_{run.training.mixed_precision}")
    try:
        model = task.build(run, statistics)
    finally:
        keras.config.set_dtype_policy(policy)
    model.compile(
        optimizer=make_optimizer(run.training, steps),
        jit_compile=run.training.jit_compile,
        **task.compile_arguments(run, statistics),
    )
    return model


def make_optimizer(options: TrainingOptions, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Return the optimizer with linear warm-up, cosine decay, clipping and moving average as configured."""
    warmup = round(options.warmup_epochs * steps_per_epoch)
    decay = max(1, options.epochs * steps_per_epoch - warmup)
    alpha = options.final_learning_rate / options.learning_rate
    if options.schedule == "budget":
        schedule = AdjustableCosineDecay(
            options.learning_rate, options.final_learning_rate, warmup, options.epochs * steps_per_epoch
        )
    elif warmup:
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0, decay, alpha=alpha, warmup_target=options.learning_rate, warmup_steps=warmup
        )
    else:
        schedule = keras.optimizers.schedules.CosineDecay(options.learning_rate, decay, alpha=alpha)
    kind = {"adamw": keras.optimizers.AdamW, "soap": SOAP}[options.optimizer]
    return kind(
        schedule,
        weight_decay=options.weight_decay,
        global_clipnorm=options.clip_norm,
        use_ema=options.ema is not None,
        ema_momentum=options.ema or 0.99,
    )


class EpochRecorder(keras.callbacks.Callback):
    """History, best model, checkpoints, early stopping and time budget, all resumable.

    With a moving average of the weights, validation and `best.keras` use the average and the checkpoint for
    resuming keeps the raw weights. `best.keras` holds `deployed`, the network in the precision of its use.
    """

    def __init__(
        self,
        folder: RunFolder,
        run: Run,
        state: dict[str, Any],
        task: Task,
        deployed: keras.Model,
        rows: Rows,
    ) -> None:
        super().__init__()
        self.folder, self.options, self.state, self.task = folder, run.training, state, task
        self.deployed, self.rows = deployed, rows
        self.records: dict[str, Any] = {"train": [], "val": []}
        if state["epoch"]:
            before = folder.read("history.json")
            self.records = {key: before[key][: state["epoch"]] for key in ("train", "val")}
        self._raw: list[np.ndarray] | None = None
        self._start = np.zeros(2)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clock of this epoch."""
        self._start = np.array([time.monotonic(), time.process_time()])

    def on_test_begin(self, logs: Any = None) -> None:
        """Validate with the moving average."""
        if self.options.ema is not None:
            self._raw = self._average_in()

    def on_test_end(self, logs: Any = None) -> None:
        """Go back to the raw weights."""
        if self._raw is not None:
            self._put_back(self._raw)
            self._raw = None

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Record the epoch, keep the best model, decide whether to stop."""
        logs = dict(logs or {})
        if not math.isfinite(logs["loss"]) or not math.isfinite(logs["val_loss"]):
            self.state |= {"reason": f"loss is not finite in epoch {epoch + 1}"}
            self.model.stop_training = True
            return
        learning_rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        train = {key: float(value) for key, value in logs.items() if not key.startswith("val_")}
        val = {
            key.removeprefix("val_"): float(value) for key, value in logs.items() if key.startswith("val_")
        }
        best = self.state["best_val_loss"]
        improved = best is None or val["loss"] < best - self.options.min_delta
        raw = self._average_in() if self.options.ema is not None else None
        val |= metric_values(self.task, self.rows, predict(self.model, self.rows, self.task))
        if improved:
            copy_weights(self.model, self.deployed)
            save_model(self.deployed, self.folder.best)
        if raw is not None:
            self._put_back(raw)
        self.records["train"].append({"epoch": epoch + 1, **self.task.history(train), "lr": learning_rate})
        self.records["val"].append({"epoch": epoch + 1, **self.task.history(val)})
        self._advance(epoch + 1, val["loss"], improved)

    def _advance(self, epochs: int, val_loss: float, improved: bool) -> None:
        state, options = self.state, self.options
        if improved:
            state |= {"best_epoch": epochs, "best_val_loss": val_loss, "wait": 0}
        else:
            state["wait"] += 1
        wall, processor = np.array([time.monotonic(), time.process_time()]) - self._start
        state["seconds"] += float(wall)
        state["processor_seconds"] += float(processor)
        self._fit_schedule()
        if state["wait"] >= options.patience:
            state["reason"] = f"no improvement for {options.patience} epochs"
        elif options.time_budget_s is not None and self._used() >= options.time_budget_s:
            state["reason"] = f"time budget of {options.time_budget_s:g} s used"
        elif epochs == options.epochs:
            state["reason"] = "all epochs done"
        previous, name = state["checkpoint"], f"checkpoints/epoch_{epochs:04d}.keras"
        save_model(self.model, self.folder.path / name)
        state |= {"epoch": epochs, "checkpoint": name, "finished": state["reason"] is not None}
        self._write_history()
        self.folder.write("state.json", state)
        if previous and (epochs - 1) % options.checkpoint_every:
            (self.folder.path / previous).unlink(missing_ok=True)
        if state["finished"]:
            self.model.stop_training = True

    def _used(self) -> float:
        """Return what counts against the time budget [s]."""
        return float(self.state["seconds" if self.options.clock == "wall" else "processor_seconds"])

    def _fit_schedule(self) -> None:
        """Let the learning rate end with the time budget, at the speed of the epochs so far."""
        if self.options.schedule == "budget":
            assert self.options.time_budget_s is not None
            steps = int(self.model.optimizer.iterations)
            affordable = steps * self.options.time_budget_s / self._used()
            most = steps / (self.state["epoch"] + 1) * self.options.epochs
            optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
            optimizer._learning_rate.end_at(min(affordable, most))

    def _write_history(self) -> None:
        state = self.state
        self.folder.write(
            "history.json",
            {
                **self.records,
                "test_final": {},
                "best_epoch": state["best_epoch"],
                "best_val_loss": state["best_val_loss"],
                "training_time": state["seconds"],
                "processor_time": state["processor_seconds"],
                "stopped": state["reason"],
            },
        )

    def finish(self) -> None:
        """Check that the training ended in a usable model.

        Raises:
            UserError: The loss became NaN or infinite.
        """
        if not self.state["finished"]:
            raise UserError(
                f"{self.folder.path}: {self.state['reason'] or 'training ended early'}; last good epoch "
                f"{self.state['epoch']}; lower training.learning_rate, or check rows with `trackkeras verify`"
            )

    def _averages(self) -> list[tuple[keras.Variable, keras.Variable]]:
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        return list(
            zip(self.model.trainable_variables, optimizer._model_variables_moving_average, strict=True)
        )

    def _average_in(self) -> list[np.ndarray]:
        pairs = self._averages()
        raw = [keras.ops.convert_to_numpy(variable) for variable, _ in pairs]
        for variable, average in pairs:
            variable.assign(keras.ops.convert_to_numpy(average))
        return raw

    def _put_back(self, raw: list[np.ndarray]) -> None:
        for (variable, _), value in zip(self._averages(), raw, strict=True):
            variable.assign(value)


class ShowProgress(keras.callbacks.Callback):
    """One line per epoch, and the rate in rows/s while an epoch runs."""

    def __init__(self, batches: Batches, epochs: int) -> None:
        super().__init__()
        self.batches, self.epochs = batches, epochs
        self.batch_rows = batches.rows // batches.steps
        self._progress = Progress("epoch", batches.rows)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start a new line."""
        self._progress = Progress(f"epoch {epoch + 1}/{self.epochs}", self.batches.rows)
        self._progress.update(0)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Show the rate."""
        self._progress.update((batch + 1) * self.batch_rows)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Show the losses."""
        shown = ("loss", "val_loss", "val_pos_mean_mm")
        numbers = ", ".join(f"{key} {logs[key]:.4g}" for key in shown if logs and key in logs)
        self._progress.finish(self.batches.rows, numbers)


def _tensorboard(folder: RunFolder) -> keras.callbacks.Callback:
    return keras.callbacks.TensorBoard(log_dir=str(folder.path / "tensorboard"), write_graph=False)
