"""The contract between the shared road and a detector domain, and the lookup of domains by name.

A domain is a package in `trackkeras/domains` whose `__init__` offers `DOMAIN`, an instance of `Domain`. The
shared modules (data, training, evaluation, export, report, cli) know a domain only through this class, so a
new detector is one new folder and no edit elsewhere. Its module `commands`, if it has one, offers a Typer
application `app` whose commands become those of `trackkeras NAME`. Methods import what they need when they
are called: looking a domain up loads neither TensorFlow nor Numba.
"""

from __future__ import annotations

import abc
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from numpy.typing import NDArray

from trackkeras import domains
from trackkeras.config import ModelOptions, Options, Run
from trackkeras.errors import UserError

if TYPE_CHECKING:
    import keras

    from tfrecords_tools.reader import Dataset
    from tfrecords_tools.schema import Schema
    from trackkeras.cpp_export import Network

Rows = dict[str, NDArray[Any]]
"""Columns of a dataset by name; the first axis of each is the row."""

Statistic = Literal["mean", "std", "w68", "median", "p68", "p95", "p99"]


@dataclass(frozen=True)
class Metric:
    """One number that an evaluation prints, as a statistic of one error quantity.

    Attributes:
        name: Key in `metrics.json`, with its unit as suffix (`pos_95_mm`).
        quantity: Key of `Domain.errors`.
        statistic: What is taken over the rows.
        unit: Unit of the value, `1` if it has none.
        target: Wanted upper limit, if there is one.
    """

    name: str
    quantity: str
    statistic: Statistic
    unit: str
    target: float | None = None


@dataclass(frozen=True)
class Axis:
    """A truth variable in whose bands every metric is repeated.

    Attributes:
        name: Key in `metrics.json`.
        label: Axis label with unit, for plots.
        values: Function of the rows that gives `(n,)`.
        edges: Band limits, ascending.
        log: Whether a plot of this axis is logarithmic.
    """

    name: str
    label: str
    values: Callable[[Rows], NDArray[Any]]
    edges: tuple[float, ...]
    log: bool = False


@dataclass(frozen=True)
class Line:
    """One line of a `Curve`: `(n,)` and `(n,)`, with NaN where there is no value.

    Attributes:
        label: What it is.
        kind: `network`, `baseline`, or `reference` for the truth.
        x: Where.
        y: How much.
    """

    label: str
    kind: Literal["network", "baseline", "reference"]
    x: NDArray[Any]
    y: NDArray[Any]


@dataclass(frozen=True)
class Curve:
    """A figure of lines that only one kind of network has, such as its error along a trajectory.

    Attributes:
        name: Short key; equal names of several runs are drawn together.
        title: What is shown, in a few words.
        x_label: Axis label with unit.
        y_label: Axis label with unit.
        lines: What is drawn.
        log: Whether the y axis is logarithmic.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    log: bool = False


@dataclass(frozen=True)
class Sample:
    """Rows to evaluate on, with what a reader must know about them.

    Attributes:
        name: Short key, such as `test` or `real_field`.
        description: Origin, field, cuts; printed beside every figure.
        rows: The columns.
        simulated: False for measured data or another experiment's own software.
    """

    name: str
    description: str
    rows: Rows
    simulated: bool = True


@dataclass(frozen=True)
class Baseline:
    """A classical method on the same rows.

    Attributes:
        name: Key in `metrics.json`.
        label: Text in tables and plots.
        predict: Function of the rows that gives the same columns as the network.
        cost: Operations per row, counted, or None.
    """

    name: str
    label: str
    predict: Callable[[Rows], Rows]
    cost: float | None = None


@dataclass(frozen=True)
class Parity:
    """How far an exported model may differ from Keras.

    Attributes:
        description: The rule in words, printed on the card.
        excess: Function `(rows, reference, other) -> (n,)`: difference divided by what is allowed, per row;
            a value above 1 refuses the export.
    """

    description: str
    excess: Callable[[Rows, Rows, Rows], NDArray[Any]]


@dataclass(frozen=True)
class Tensor:
    """An input or output of the exported signature: `(batch, *shape)`."""

    name: str
    shape: tuple[int, ...]
    unit: str
    doc: str
    dtype: Literal["float32", "int32"] = "float32"


@dataclass(frozen=True)
class Signature:
    """What a bundle takes and gives, in physical units."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    examples: Rows = field(default_factory=dict)


@dataclass(frozen=True)
class Endpoint:
    """A further function of a bundle, beside the network itself.

    Attributes:
        signature: What it takes and gives.
        compute: Function `(model, inputs) -> outputs` from TensorFlow tensors to tensors, by name; it may use
            only operations that ONNX has.
        reference: Function `(model, rows) -> outputs` from records to the same numbers, found another way.
        parity: How far the exported function may differ from the reference.
        parity_rows: Rows on which they are compared.
        in_header: Whether a C++ header of the network has the function, see `Network.endpoint`.
    """

    signature: Signature
    compute: Callable[[keras.Model, Mapping[str, Any]], dict[str, Any]]
    reference: Callable[[keras.Model, Rows], Rows]
    parity: Parity
    parity_rows: int = 10_000
    in_header: bool = False


class Task(abc.ABC):
    """What the road asks of one kind of network: what goes in and out, how it learns and is judged.

    Kinds that differ in more than their options (a finder and a momentum network) are different tasks.
    """

    options: ClassVar[type[ModelOptions]]
    """What a preset may say under `model`."""
    columns: ClassVar[tuple[str, ...] | None] = None
    """Columns that a dataset must have; None for all of the domain's schema."""
    keras_modules: ClassVar[tuple[str, ...]] = ()
    """Modules whose Keras classes a saved model may hold."""
    parity_rows: ClassVar[int] = 100_000
    """Rows of the validation split on which exported formats are compared with Keras."""
    parity_band_rows: ClassVar[int | None] = None
    """How many of them every band shall have, as far as there are; a thousand if None."""
    validation_rows: ClassVar[int] = 50_000
    """Rows of the validation split that the loss is computed on after each epoch; they stay in memory."""
    metric_rows: ClassVar[int] = 20_000
    """Rows of the validation split that the metrics are computed on after each epoch."""
    chunk_rows: ClassVar[int | None] = None
    """Rows whose inputs and outputs are in memory at a time where a network is applied; None for all."""
    floor: ClassVar[str | None] = None
    """Name of the baseline than which no network may be worse in any cell of the maps."""

    def for_model(self, model: ModelOptions) -> Task:
        """Return the task of networks with these options: the same unless told otherwise.

        A kind whose options decide which rows or which truth it reads has one task for each.
        """
        return self

    @abc.abstractmethod
    def signature(self) -> Signature:
        """Return names, shapes and units of the model's inputs and outputs."""

    def own_rows(self, rows: Rows) -> Rows:
        """Return the task's rows of some rows of a dataset: the same unless told otherwise.

        A task whose rows are not those of the records, such as the muons of events, makes them here for
        evaluation and export, and in `split_batch` for training.
        """
        return rows

    def read_rows(self, source: Dataset, split: str, limit: int | None = None) -> Rows:
        """Return the task's rows of a split.

        Args:
            source: A dataset.
            split: Name of the split.
            limit: Rows of the dataset to read at most.
        """
        return self.own_rows(source.read(split, self.columns, limit=limit))

    @abc.abstractmethod
    def build(self, run: Run, statistics: Mapping[str, Any]) -> keras.Model:
        """Return an uncompiled functional model with named inputs and outputs, in physical units.

        Args:
            run: The resolved configuration.
            statistics: Per-feature statistics of the training rows, from the manifest.
        """

    def build_deployed(self, run: Run, statistics: Mapping[str, Any]) -> keras.Model:
        """Return the network as it is saved and exported; its trainable weights are those of `build`."""
        return self.build(run, statistics)

    @abc.abstractmethod
    def compile_arguments(self, run: Run, statistics: Mapping[str, Any]) -> dict[str, Any]:
        """Return `loss`, `metrics` and the like for `model.compile` (the trainer adds the optimizer)."""

    @abc.abstractmethod
    def split_batch(self, run: Run, batch: Mapping[str, Any]) -> tuple[Any, ...]:
        """Turn one batch of record columns into `(inputs, truth)` for `fit`; called inside `tf.data`.

        `(inputs, truth, weights)` where rows count differently.
        """

    def check_data(self, run: Run, dataset_config: Mapping[str, Any]) -> None:
        """Refuse to train on data that the preset contradicts.

        Args:
            run: The resolved configuration.
            dataset_config: The generator's options from the manifest.

        Raises:
            UserError: They do not go together.
        """
        return

    def history(self, logs: Mapping[str, float]) -> dict[str, Any]:
        """Return the losses and metrics of an epoch as `history.json` shows them."""
        return dict(logs)

    def inputs(self, rows: Rows) -> Rows:
        """Return the network's inputs for some rows; the columns of their names unless told otherwise."""
        return {tensor.name: rows[tensor.name].astype(tensor.dtype) for tensor in self.signature().inputs}

    def summarise(self, rows: Rows, outputs: Rows) -> Rows:
        """Return what evaluation keeps of the network's outputs for some rows: all unless told otherwise.

        A task whose outputs are large, such as maps, keeps few numbers of each row here; `errors`,
        `residuals` and baselines have these columns.
        """
        return outputs

    def truth(self, rows: Rows) -> Rows:
        """Return the outputs of a network without error; the columns of their names unless told otherwise."""
        return {tensor.name: rows[tensor.name] for tensor in self.signature().outputs}

    @abc.abstractmethod
    def shrink(self, model: ModelOptions) -> ModelOptions:
        """Return the smallest network of the same structure: equal results mean equal structure.

        Tests and dry runs use it; presets that differ only in size shrink to the same options.
        """

    # -- evaluation --------------------------------------------------------------------------------------
    @abc.abstractmethod
    def metrics(self) -> tuple[Metric, ...]:
        """Return the numbers that an evaluation prints."""

    @abc.abstractmethod
    def axes(self) -> tuple[Axis, ...]:
        """Return the truth variables in whose bands the metrics are repeated."""

    def maps(self) -> tuple[tuple[Axis, Axis], ...]:
        """Return pairs of truth variables, horizontal and vertical, over which the error is mapped."""
        return ()

    def curves(self, path: Path, rows: Rows, dataset_config: Mapping[str, Any]) -> tuple[Curve, ...]:
        """Return what else there is to show of a trained network.

        Args:
            path: Run folder.
            rows: Rows that were not trained on.
            dataset_config: The generator's options from the manifest.
        """
        return ()

    @abc.abstractmethod
    def errors(self, rows: Rows, pred: Rows) -> Rows:
        """Return the error quantities, each `(n,)`, of a prediction on these rows."""

    @abc.abstractmethod
    def residuals(self, rows: Rows, pred: Rows) -> Rows:
        """Return the signed differences, each `(n,)`, whose distributions are plotted."""

    @abc.abstractmethod
    def residual_labels(self) -> dict[str, str]:
        """Return an axis label with unit for each residual."""

    @abc.abstractmethod
    def cost(self, run: Run) -> float:
        """Return the counted arithmetic operations of the network per row."""

    @abc.abstractmethod
    def baselines(self, dataset_config: Mapping[str, Any], run: Run) -> tuple[Baseline, ...]:
        """Return the classical methods to stand beside the network, in order of increasing cost."""

    def fitted_baselines(self, training_rows: Callable[[], Rows]) -> tuple[Baseline, ...]:
        """Return further methods that are fitted to the rows on which the network was trained.

        Args:
            training_rows: Reads the task's rows of the training split; a task without such methods does not
                call it.
        """
        return ()

    def extra_samples(self, run: Run) -> tuple[Sample, ...]:
        """Return samples outside the dataset, such as measured tracks; none where the data is absent."""
        return ()

    # -- export ------------------------------------------------------------------------------------------
    @abc.abstractmethod
    def parity(self) -> Parity:
        """Return how far the exported model may differ from Keras."""

    def endpoints(self) -> Mapping[str, Endpoint]:
        """Return the functions that a bundle offers beside `serving_default`, by name of their signature."""
        return {}

    def cpp_network(self, model: keras.Model) -> Network:
        """Return a model as weights and C++ text, for a header without dependencies.

        Raises:
            UserError: This task, or this model, has no such form.
        """
        raise UserError(f"networks such as {model.name!r} have no C++ header; use ONNX Runtime from C++")


class Domain(abc.ABC):
    """What the shared road asks of a detector: its records, and the tasks of its networks."""

    name: ClassVar[str]
    summary: ClassVar[str]
    tasks: ClassVar[Mapping[str, Task]]
    """What its networks are for, by `model.kind` of a preset."""
    GenerateOptions: ClassVar[type[Options]] = Options
    generation_presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named samples: values of `GenerateOptions` that each one changes."""
    merge_same: ClassVar[tuple[str, ...]] = ()
    """Keys of the generator's configuration in which datasets must agree to be merged."""
    shard_function: ClassVar[str] = ""
    """`module:function` that makes one shard, see `tfrecords_tools.generate`; empty without a simulation."""
    IngestOptions: ClassVar[type[Options]] = Options
    """What may be said about reading an experiment's own files."""
    group: ClassVar[str | None] = None
    """Column whose equal values stay in one split of ingested files, as rows of one origin must."""
    padded: ClassVar[tuple[str, ...]] = ()
    """Columns with room for a number of things that each sample chooses; networks take any length of them."""

    @abc.abstractmethod
    def schema(self) -> Schema:
        """Return the record schema of this domain's datasets."""

    def all_columns(self) -> Schema:
        """Return the schema with every column that some records have, of which tasks name those they read."""
        return self.schema()

    def generation_schema(self, options: Options) -> Schema:
        """Return the schema of a sample generated with these options; they may add columns."""
        return self.schema()

    def ingest_schema(self, options: Options) -> Schema:
        """Return the schema of files that are read with these options; they may change its columns."""
        return self.schema()

    def read_files(self, files: Sequence[Path], options: Options) -> Iterator[Rows]:
        """Yield the rows of an experiment's own files, for `ingest`.

        Raises:
            UserError: The domain reads no files, or a file is not as expected.
        """
        raise UserError(f"the domain {self.name!r} has no file reader; simulate with `trackkeras generate`")

    def write_file(self, source: Dataset, split: str, path: Path) -> int:
        """Write a split in the layout that the experiment's users know; return the number of rows.

        Raises:
            UserError: The domain writes no files.
        """
        raise UserError(f"the domain {self.name!r} has no file writer; read the records instead")

    def merge_files(self, files: Sequence[Path], path: Path, *, verify: bool) -> int:
        """Join files of that layout into one; return the number of rows.

        Args:
            files: The parts, in the order of the rows.
            path: The new file.
            verify: Read it again afterwards and compare every number with the parts.

        Raises:
            UserError: The domain writes no files, or the parts do not fit.
        """
        raise UserError(f"the domain {self.name!r} has no files to merge; merge datasets instead")

    def check_rows(self, rows: Rows) -> list[str]:
        """Return one message per violated rule of a sane sample; `verify` calls this chunk by chunk."""
        return []


def domain_names() -> list[str]:
    """Return the names of the domains that exist."""
    return sorted(module.name for module in pkgutil.iter_modules(domains.__path__) if module.ispkg)


def find_domain(name: str) -> Domain:
    """Return the domain called `name`.

    Raises:
        UserError: There is no such domain.
    """
    if name not in domain_names():
        raise UserError(f"no domain named {name!r}; there are: {', '.join(domain_names())}")
    found = importlib.import_module(f"{domains.__name__}.{name}").DOMAIN
    assert isinstance(found, Domain)
    return found


def find_task(domain: str, kind: str | None) -> Task:
    """Return what networks of a kind are for.

    Raises:
        UserError: There is no such domain, or it has no such kind.
    """
    tasks = find_domain(domain).tasks
    if kind is None or kind not in tasks:
        raise UserError(
            f"model.kind in domain {domain!r} must be one of {', '.join(sorted(tasks))}, received {kind!r}"
        )
    return tasks[kind]


def task_of(run: Run) -> Task:
    """Return the task of a run's network."""
    return find_task(run.domain, run.model.kind).for_model(run.model)


def open_dataset(directory: Path, run: Run) -> Dataset:
    """Open a dataset folder and check that it has what the run's network reads.

    Raises:
        UserError: The records are of another domain, or lack a column.
    """
    from tfrecords_tools.reader import Dataset

    source = Dataset(directory)
    domain = find_domain(run.domain)
    schema = domain.schema()
    # A sample may carry more columns than the networks read, such as states on the way.
    columns = task_of(run).columns
    known = domain.all_columns()
    wanted = schema.features if columns is None else [known.feature(name) for name in columns]
    found = {feature.name: feature for feature in source.schema.features}
    fits = all(
        found.get(feature.name) == feature or (feature.name in domain.padded and feature.name in found)
        for feature in wanted
    )
    if source.schema.name != schema.name or not fits:
        raise UserError(
            f"{directory} holds {source.schema.name!r} records with {', '.join(source.schema.names)}; "
            f"the preset wants {schema.name!r} with {', '.join(feature.name for feature in wanted)}"
        )
    return source
