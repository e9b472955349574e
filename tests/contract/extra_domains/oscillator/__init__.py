"""A detector that the project does not know: the position of an oscillator after some time.

The test puts this folder on the search path of the domains and edits nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from tfrecords_tools.schema import Feature, Schema
from trackkeras.config import ModelOptions, Options, Run
from trackkeras.domain import Axis, Baseline, Domain, Metric, Parity, Rows, Signature, Task, Tensor


class GenerateOptions(Options):
    frequency: float = 1.0


class PositionOptions(ModelOptions):
    kind: Literal["position"] = "position"
    hidden: tuple[int, ...] = (16,)


def make_shard(
    config: Mapping[str, Any], rng: np.random.Generator, rows: int
) -> Iterator[tuple[Rows, dict[str, int]]]:
    time = rng.uniform(0, 3, (rows, 1)).astype("float32")
    yield {"time": time, "position": np.cos(config["frequency"] * time)}, {"tried": rows}


class Position(Task):
    options = PositionOptions

    def signature(self) -> Signature:
        return Signature((Tensor("time", (1,), "s", "time"),), (Tensor("position", (1,), "mm", "position"),))

    def build(self, run: Run, statistics: Mapping[str, Any]) -> Any:
        import keras

        from trackkeras.layers.dense import dense_stack

        time = keras.Input((1,), name="time")
        hidden = dense_stack(time, run.model.hidden, "tanh")
        position = keras.layers.Dense(1, name="position", dtype="float32")(hidden)
        return keras.Model({"time": time}, {"position": position})

    def compile_arguments(self, run: Run, statistics: Mapping[str, Any]) -> dict[str, Any]:
        return {"loss": {"position": "mse"}}

    def split_batch(self, run: Run, batch: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        return {"time": batch["time"]}, {"position": batch["position"]}

    def shrink(self, model: ModelOptions) -> ModelOptions:
        return model

    def metrics(self) -> tuple[Metric, ...]:
        return (Metric("mean_mm", "distance", "mean", "mm", target=1e-6),)

    def axes(self) -> tuple[Axis, ...]:
        return (Axis("time", "time [s]", lambda rows: rows["time"][:, 0], (0.0, 1.0, 2.0, 3.0)),)

    def errors(self, rows: Rows, pred: Rows) -> Rows:
        return {"distance": np.abs(self.residuals(rows, pred)["position"])}

    def residuals(self, rows: Rows, pred: Rows) -> Rows:
        return {"position": (pred["position"] - rows["position"])[:, 0].astype(float)}

    def residual_labels(self) -> dict[str, str]:
        return {"position": "position residual [mm]"}

    def cost(self, run: Run) -> float:
        return 100.0

    def baselines(self, dataset_config: Mapping[str, Any], run: Run) -> tuple[Baseline, ...]:
        return (Baseline("start", "at rest", lambda rows: {"position": np.ones_like(rows["time"])}, 0.0),)

    def parity(self) -> Parity:
        def excess(rows: Rows, reference: Rows, other: Rows) -> Any:
            return np.abs(other["position"] - reference["position"])[:, 0] / 1e-5

        return Parity("|difference| <= 1e-5 mm", excess)


class Oscillator(Domain):
    name = "oscillator"
    summary = "time to position"
    tasks: ClassVar[Mapping[str, Task]] = {"position": Position()}
    GenerateOptions = GenerateOptions
    shard_function = "trackkeras.domains.oscillator:make_shard"

    def schema(self) -> Schema:
        time = Feature("time", "float32", (1,), "s", "time")
        return Schema("oscillator", (time, Feature("position", "float32", (1,), "mm", "position")))


DOMAIN = Oscillator()
