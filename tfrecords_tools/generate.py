"""Datasets that a function makes, shard by shard, in one process, in many, or in many jobs on a cluster.

Shard k is a pure function of (recipe, seed, k). A finished shard leaves a note in `.shards/`; whoever finds
all notes merges them into the manifest. So a killed or failed generation is continued by the same call, which
makes only what is missing, and every road leads to the same bytes.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tfrecords_tools.blocks import row_count
from tfrecords_tools.errors import RecordError
from tfrecords_tools.files import read_json, remove_leftovers, write_json, writing
from tfrecords_tools.manifest import (
    FILE,
    SPLITS,
    Manifest,
    ShardInfo,
    Split,
    allot,
    digest,
    plain,
    shard_name,
    total,
    write_metadata,
)
from tfrecords_tools.schema import Columns, Schema
from tfrecords_tools.writer import file_crc, write_shard

ShardFunction = Callable[[dict[str, Any], np.random.Generator, int], Iterator[tuple[Columns, dict[str, int]]]]
"""`f(config, rng, rows)` yields columns and counts by reason until it has made `rows` rows."""

Progress = Callable[[int, int, int, int], None]
"""Called with rows done, rows in total, shards done, shards in total."""

RECIPE = "recipe.json"
NOTES = ".shards"
_POLL = 0.2  # seconds between two looks at the workers


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the bytes of a dataset.

    Attributes:
        schema: The columns.
        function: `module:function`, a `ShardFunction` that any process can import.
        config: Its configuration, JSON-like.
        seed: Seed of all random streams.
        rows: Rows over all splits.
        shards: Files over all splits, numbered through the splits in their order.
        generator: Who makes the rows, in words; stands in the manifest.
        splits: Share of every split.

    Raises:
        RecordError: Too few rows or shards for the splits, a bad fraction or seed, or a configuration that
            JSON cannot hold.
    """

    schema: Schema
    function: str
    config: dict[str, Any]
    seed: int
    rows: int
    shards: int
    generator: str
    splits: Mapping[str, float] = field(default_factory=lambda: dict(SPLITS))

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise RecordError(f"seed must not be negative, received {self.seed}")
        # The function sees what recipe.json holds, in the first run as in a resumed one.
        object.__setattr__(self, "config", plain(self.config, "the configuration"))
        self.plan()

    def plan(self) -> tuple[Task, ...]:
        """Return what every shard is to hold, in order of the shard numbers.

        Raises:
            RecordError: Too few rows or shards for the splits.
        """
        shards, rows = allot(self.shards, self.splits), allot(self.rows, self.splits)
        tasks: list[Task] = []
        for split, count in shards.items():
            each, more = divmod(rows[split], count)
            if not each:
                raise RecordError(
                    f"split {split!r}: {rows[split]} rows cannot fill {count} shards; use fewer"
                )
            for index in range(count):
                name = shard_name(self.schema.name, split, index, count)
                tasks.append(Task(len(tasks), split, name, each + (index < more)))
        return tuple(tasks)

    def to_json(self) -> dict[str, Any]:
        """Return this recipe as a JSON object."""
        return {
            "schema": self.schema.to_json(),
            "function": self.function,
            "config": self.config,
            "seed": self.seed,
            "rows": self.rows,
            "shards": self.shards,
            "splits": dict(self.splits),
            "generator": self.generator,
        }

    def stream(self, shard: int) -> np.random.Generator:
        """Return the random stream of a shard.

        It depends on the seed, the number of the shard and all that shapes the dataset, so that two datasets
        of one seed share no rows unless they are the same.
        """
        shape = digest([self.function, self.config, self.rows, self.shards, dict(self.splits)])
        return np.random.Generator(
            np.random.PCG64DXSM(np.random.SeedSequence([self.seed, int(shape, 16), shard]))
        )


@dataclass(frozen=True)
class Task:
    """One shard to make: its number over all splits, its split, file name and rows."""

    number: int
    split: str
    file: str
    rows: int

    @property
    def note(self) -> str:
        """Name of the note that a finished shard leaves, relative to the dataset."""
        return f"{NOTES}/{self.number:05d}.json"


@dataclass(frozen=True)
class Status:
    """Numbers of the shards that are done, not made yet, and made but not as their note says."""

    done: tuple[int, ...]
    missing: tuple[int, ...]
    bad: tuple[int, ...]


def generate(
    directory: Path | str,
    recipe: Recipe,
    workers: int = 1,
    only: Sequence[int] | None = None,
    progress: Progress | None = None,
    launcher: Launcher | None = None,
) -> Manifest | None:
    """Make the missing shards of a dataset, and its manifest once all are there.

    With more than one worker the calling program needs the usual `if __name__ == "__main__":` guard.

    Args:
        directory: The dataset's folder; made if it is missing, continued if it holds the same recipe.
        recipe: What to make.
        workers: Processes. The result does not depend on their number.
        only: Numbers of the shards to make, all if None. Jobs with different numbers may share the folder.
        progress: Called as rows are made.
        launcher: Makes the shards elsewhere, such as on a cluster, in place of `workers` processes.

    Returns:
        The manifest, or None while shards of other jobs are missing.

    Raises:
        RecordError: The folder holds another recipe or another dataset, the function cannot be loaded or
            makes wrong rows, or a number in `only` does not exist. Finished shards stay.
    """
    directory = Path(directory)
    tasks = recipe.plan()
    if workers < 1:
        raise RecordError(f"workers must be at least 1, received {workers}")
    numbers = range(len(tasks)) if only is None else sorted(set(only))
    for number in numbers:
        if not 0 <= number < len(tasks):
            raise RecordError(f"there is no shard {number}; the recipe has shards 0 to {len(tasks) - 1}")
    load_function(recipe.function)
    recipe = _pin(directory, recipe)
    remove_leftovers(directory)
    remove_leftovers(directory / NOTES)

    state = _inspect(directory, [tasks[number] for number in numbers], full=True)
    todo = [tasks[number] for number in (*state.missing, *state.bad)]
    todo.sort(key=lambda task: task.number)
    report = Report(progress, [tasks[number] for number in numbers], todo)
    report.show()
    if launcher and todo:
        launcher(directory.resolve(), recipe, todo, report)
    elif workers == 1 or len(todo) < 2:
        for task in todo:
            make_shard(directory, recipe, task, report.add_rows)
            report.add_shard()
    else:
        _make_in_processes(directory, recipe, todo, min(workers, len(todo)), report)
    return _merge(directory, recipe, tasks)


def status(directory: Path | str, full: bool = False) -> Status:
    """Return how far the generation in a folder has come.

    Args:
        directory: A folder in which `generate` was started.
        full: Compare the CRC of every shard too, not only its size.

    Raises:
        RecordError: No generation was started there.
    """
    directory = Path(directory)
    return _inspect(directory, load_recipe(directory).plan(), full=full)


def load_recipe(directory: Path) -> Recipe:
    """Read the recipe that a folder is pinned to.

    Raises:
        RecordError: It is missing or unreadable.
    """
    path = directory / RECIPE
    content = read_json(path)
    try:
        return Recipe(**{**content, "schema": Schema.from_json(content["schema"])})
    except (RecordError, TypeError, KeyError) as error:
        raise RecordError(f"{path} is not a recipe: {error}") from None


def load_function(name: str) -> ShardFunction:
    """Return the function that `module:function` names.

    Raises:
        RecordError: There is none.
    """
    module, _, attribute = name.partition(":")
    try:
        function: ShardFunction = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise RecordError(f"cannot load the shard function {name!r}: {error}") from None
    return function


def make_shard(
    directory: Path, recipe: Recipe, task: Task, add_rows: Callable[[int], None] | None = None
) -> ShardInfo:
    """Make one shard, then its note.

    Args:
        directory: The dataset's folder.
        recipe: What to make.
        task: Which shard.
        add_rows: Called with the number of rows whenever some are made.

    Raises:
        RecordError: The function yields rows that do not suit the schema, too few or too many.
    """
    counts: Counter[str] = Counter()
    made = 0

    def chunks() -> Iterator[Columns]:
        nonlocal made
        function = load_function(recipe.function)
        for columns, count in function(recipe.config, recipe.stream(task.number), task.rows):
            yield columns
            made += row_count(columns)
            counts.update({reason: int(number) for reason, number in count.items()})
            if made > task.rows:
                break
            if add_rows:
                add_rows(row_count(columns))
        if made != task.rows:
            raise RecordError(
                f"{task.file}: {recipe.function} made {made} rows or more, {task.rows} were asked for"
            )

    info = replace(write_shard(directory / task.file, recipe.schema, chunks()), counts=total([counts]))
    write_json(directory / task.note, info.to_json())
    return info


class Report:
    """Counts rows and shards, and tells the caller's progress function.

    Args:
        progress: The function; None for silence.
        tasks: Shards that are asked for.
        todo: Those that are not done yet.
    """

    def __init__(self, progress: Progress | None, tasks: Sequence[Task], todo: Sequence[Task]) -> None:
        self.progress = progress
        self.rows_total = sum(task.rows for task in tasks)
        self.shards_total = len(tasks)
        self.rows_found = self.rows_total - sum(task.rows for task in todo)
        self.rows_made = 0
        self.shards_done = len(tasks) - len(todo)

    def add_rows(self, rows: int) -> None:
        """Count rows that were made."""
        self.rows_made += rows
        self.show()

    def add_shard(self) -> None:
        """Count a finished shard."""
        self.shards_done += 1
        self.show()

    def show(self) -> None:
        """Tell the progress function."""
        if self.progress:
            self.progress(
                self.rows_found + self.rows_made, self.rows_total, self.shards_done, self.shards_total
            )


Launcher = Callable[[Path, Recipe, Sequence[Task], Report], None]
"""Makes the shards of the given tasks in the folder, calling `make_shard` wherever it likes."""


# -- the folder ------------------------------------------------------------------------------------------
def _pin(directory: Path, recipe: Recipe) -> Recipe:
    """Bind the folder to the recipe, or make sure that it is bound to the same one; return it as stored."""
    path = directory / RECIPE
    if directory.exists() and not directory.is_dir():
        raise RecordError(f"{directory} is a file: choose a folder")
    if not path.exists():
        if (directory / FILE).exists():
            raise RecordError(f"{directory} holds another dataset: choose another folder")
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
        # Of two writers who find no recipe at the same time, the first one's stays.
        write_json(path, recipe.to_json(), replace=False)
    pinned = load_recipe(directory)
    differences = list(_differences(pinned.to_json(), recipe.to_json()))
    if differences:
        raise RecordError(
            f"{directory} holds a dataset of another recipe: {'; '.join(differences[:5])}; "
            "choose another folder, or ask for the same recipe to continue it"
        )
    with writing(directory):
        (directory / NOTES).mkdir(exist_ok=True)
    return pinned


def _differences(pinned: Any, wanted: Any, where: str = "") -> Iterator[str]:
    if isinstance(pinned, dict) and isinstance(wanted, dict):
        for key in sorted({*pinned, *wanted}):
            yield from _differences(pinned.get(key), wanted.get(key), f"{where}.{key}" if where else str(key))
    elif pinned != wanted:
        yield f"{where} is {_short(pinned)} there and {_short(wanted)} here"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _inspect(directory: Path, tasks: Sequence[Task], *, full: bool) -> Status:
    done, missing, bad = [], [], []
    for task in tasks:
        path = directory / task.file
        if not path.exists() or not (directory / task.note).exists():
            missing.append(task.number)
        elif _sound(directory, task, full=full):
            done.append(task.number)
        else:
            bad.append(task.number)
    return Status(tuple(done), tuple(missing), tuple(bad))


def _sound(directory: Path, task: Task, *, full: bool) -> bool:
    """Whether a shard is as its note says; an unreadable note speaks for nothing."""
    path = directory / task.file
    try:
        shard = _note(directory, task).shard
    except RecordError:
        return False
    if (shard.file, shard.rows, shard.bytes) != (task.file, task.rows, path.stat().st_size):
        return False
    return not full or file_crc(path) == shard.crc32c


def _note(directory: Path, task: Task) -> ShardInfo:
    path = directory / task.note
    try:
        return ShardInfo.from_json(read_json(path))
    except (TypeError, AttributeError, KeyError) as error:
        raise RecordError(f"{path} is not a shard's note: {error}") from None


def _merge(directory: Path, recipe: Recipe, tasks: Sequence[Task]) -> Manifest | None:
    """Write the metadata from the notes of all shards, or nothing while one is missing."""
    if len(_inspect(directory, tasks, full=False).done) < len(tasks):
        return None
    notes: dict[str, list[ShardInfo]] = {split: [] for split in recipe.splits}
    for task in tasks:
        notes[task.split].append(_note(directory, task))
    manifest = Manifest(
        schema=recipe.schema,
        generator=recipe.generator,
        function=recipe.function,
        config=recipe.config,
        seed=recipe.seed,
        group=None,
        splits={split: Split.of(infos, recipe.schema) for split, infos in notes.items()},
    )
    write_metadata(directory, manifest)
    return manifest


# -- worker processes ------------------------------------------------------------------------------------
class _Stopped(Exception):
    """The calling process wants no more rows."""


_stop: Any = None
_rows: Any = None


def _start_worker(stop: Any, rows: Any) -> None:
    """Prepare a worker: Ctrl-C belongs to the caller, and no worker outlives it."""
    global _stop, _rows
    _stop, _rows = stop, rows
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
    os._exit(1)


def _work(directory: Path, recipe: Recipe, task: Task) -> None:
    def add_rows(count: int) -> None:
        if _stop.is_set():
            raise _Stopped
        with _rows.get_lock():
            _rows.value += count

    make_shard(directory, recipe, task, add_rows)


def _make_in_processes(
    directory: Path, recipe: Recipe, todo: Sequence[Task], workers: int, report: Report
) -> None:
    # Never fork: TensorFlow and Numba threads of the caller do not survive it.
    context = multiprocessing.get_context("spawn")
    stop, rows = context.Event(), context.Value("q", 0)
    with ProcessPoolExecutor(workers, context, _start_worker, (stop, rows)) as pool:
        pending = {pool.submit(_work, directory, recipe, task) for task in todo}
        try:
            while pending:
                done, pending = wait(pending, timeout=_POLL, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                report.shards_done += len(done)
                report.rows_made = rows.value
                report.show()
        except BrokenProcessPool:
            raise RecordError(
                "a worker process died (out of memory?); run the same command again to continue"
            ) from None
        finally:
            # On success nothing is pending; else the workers drop their shards at the next chunk.
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
