"""Measurements of this machine. Rates depend on it; ratios between rows of one call are what to quote."""

from __future__ import annotations

import multiprocessing
import os
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tfrecords_tools.schema import Columns, Schema
from trackkeras.memory import resident_mb

if TYPE_CHECKING:
    from trackkeras.inference_bench import Plan

Row = dict[str, Any]

REPEATS = 5


def _seconds(action: Callable[[], Any], repeats: int = REPEATS) -> float:
    """Return the median time of some calls, after one that does not count."""
    action()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


# -- records -----------------------------------------------------------------------------------------------


def records(rows: int) -> list[Row]:
    """Measure writing and reading of the extrapolation records, in blocks and one Example per row.

    Args:
        rows: Rows of the block dataset; the row dataset has a twentieth of them.
    """
    from dataclasses import replace

    from trackkeras.domain import find_domain

    blocks = find_domain("extrapolation").schema()
    single = replace(blocks, block_rows=1)
    with tempfile.TemporaryDirectory() as folder:
        result = [
            *_record_rates("blocks of 1,024 rows", blocks, rows, Path(folder) / "blocks"),
            *_record_rates("one Example per row", single, rows // 20, Path(folder) / "single"),
        ]
    slow = {row["what"]: row["rows_per_s"] for row in result if row["layout"] == "one Example per row"}
    return [{**row, "ratio": row["rows_per_s"] / slow[row["what"]]} for row in result]


def _record_rates(layout: str, schema: Schema, rows: int, folder: Path) -> Iterator[Row]:
    from tfrecords_tools.manifest import Manifest, Split, shard_name, write_metadata
    from tfrecords_tools.reader import Dataset
    from tfrecords_tools.writer import write_shard

    folder.mkdir()
    columns = _random_columns(schema, rows)

    def part(first: int, count: int) -> Columns:
        return {name: column[first : first + count] for name, column in columns.items()}

    def write() -> Split:
        shards = 8
        bounds = np.linspace(0, rows, shards + 1).astype(int)
        infos = [
            write_shard(
                folder / shard_name(schema.name, "train", index, shards),
                schema,
                [part(bounds[index], bounds[index + 1] - bounds[index])],
            )
            for index in range(shards)
        ]
        return Split.of(infos, schema)

    yield {"what": "write", "layout": layout, "rows": rows, "rows_per_s": rows / _seconds(write, 3)}
    write_metadata(folder, Manifest(schema, "bench", None, {}, 0, None, {"train": write()}))
    source = Dataset(folder)
    read = _seconds(lambda: source.read("train"), 3)
    yield {"what": "read, NumPy", "layout": layout, "rows": rows, "rows_per_s": rows / read}
    yield {
        "what": "read, tf.data, shuffled",
        "layout": layout,
        "rows": rows,
        "rows_per_s": _shuffled_rate(source),
    }


def _shuffled_rate(source: Any) -> float:
    from trackkeras.data import training_batches

    batches = training_batches(source, lambda batch: batch, batch_size=2048)
    epoch = iter(batches.dataset)
    next(epoch)
    rates = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(batches.steps):
            next(epoch)
        rates.append(batches.rows / (time.perf_counter() - start))
    return statistics.median(rates)


def _random_columns(schema: Schema, rows: int) -> Columns:
    rng = np.random.default_rng(0)
    shapes = {feature.name: (rows, *feature.row_shape) for feature in schema.features}
    return {name: rng.uniform(-0.5, 0.5, shape).astype("float32") for name, shape in shapes.items()}


# -- propagation -------------------------------------------------------------------------------------------


def propagation(tracks: int, rounds: int = REPEATS) -> list[Row]:
    """Measure speed and error of every method of propagation; see `propagation_bench`.

    Args:
        tracks: Number of tracks per row.
        rounds: Number of rounds in which every row is timed once.
    """
    from trackkeras.domains.extrapolation.propagation_bench import measure

    return measure(tracks, rounds)


# -- generation --------------------------------------------------------------------------------------------


def generation(sizes: Sequence[int], workers: int, folder: Path | None = None) -> list[Row]:
    """Measure generating and writing the default contract, start of the workers included.

    Args:
        sizes: Numbers of tracks, one run for each.
        workers: Processes.
        folder: Where the datasets are made and removed; a temporary folder if None.

    Returns:
        Per size: wall time, tracks/s, tracks per second of processor time, largest memory of one process and
        of all together, and problems that `verify` found.
    """
    from tfrecords_tools.generate import Recipe, generate
    from tfrecords_tools.verify import verify
    from trackkeras.domain import find_domain

    domain = find_domain("extrapolation")
    options = domain.GenerateOptions()
    table = []
    for rows in sizes:
        recipe = Recipe(
            schema=domain.generation_schema(options),
            function=domain.shard_function,
            config=options.model_dump(mode="json"),
            seed=1,
            rows=rows,
            shards=max(2 * workers, 4, rows // 1_000_000),
            generator="bench",
        )
        with tempfile.TemporaryDirectory(dir=folder) as made, _Memory() as memory:
            start, used = time.perf_counter(), _processor_seconds()
            manifest = generate(Path(made) / "data", recipe, workers=workers)
            elapsed, used = time.perf_counter() - start, _processor_seconds() - used
            assert manifest is not None
            table.append(
                {
                    "tracks": rows,
                    "workers": workers,
                    "seconds": elapsed,
                    "tracks_per_s": rows / elapsed,
                    "tracks_per_cpu_s": rows / used,
                    "worker_mb": memory.largest,
                    "all_mb": memory.together,
                    "problems": len(verify(Path(made) / "data", (domain.check_rows,)).problems),
                    "acceptance": manifest.acceptance,
                }
            )
    return table


def _processor_seconds() -> float:
    """Return the processor time of this process and of its children that have ended."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


class _Memory:
    """Watches the resident memory of this process and its workers [MB] while a block runs."""

    def __enter__(self) -> Self:
        self.largest = self.together = 0.0
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._run, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watch.join()

    def _run(self) -> None:
        while not self._done.wait(0.1):
            workers = [
                resident_mb(process.pid) for process in multiprocessing.active_children() if process.pid
            ]
            self.largest = max([self.largest, *workers])
            self.together = max(self.together, sum(workers) + resident_mb())


# -- inference ---------------------------------------------------------------------------------------------


def inference(bundle: Path, run: Path | None = None, plan: Plan | None = None) -> list[Row]:
    """Time a bundle in every engine at hand, with the domain's classical methods in C++ and Numba beside it.

    C++ rows need a compiler, the header a bundle of `export --cpp`.

    Args:
        bundle: Version folder.
        run: Folder of the run that it was exported from, for a row of Keras itself.
        plan: Batch sizes and numbers of calls.
    """
    from serving.bundle import read_bundle
    from trackkeras.inference_bench import Plan, measure, scattered_examples

    plan = plan or Plan()
    found = read_bundle(bundle)
    if found.description["domain"] != "extrapolation":
        return measure(bundle, run, scattered_examples(found, plan.rows), plan=plan)
    from trackkeras.domains.extrapolation.inference_baselines import INPUTS, classical_turns, simulated

    tracks = simulated(plan.rows)
    with tempfile.TemporaryDirectory() as folder:
        others = classical_turns(found, tracks, plan, Path(folder))
        return measure(bundle, run, {name: tracks[name] for name in INPUTS}, others, plan)


def compare_with_cpp(bundle: Path, tracks: int, seed: int) -> list[Row]:
    """Compare an extrapolation bundle with the C++ baseline; see `cpp_comparison`.

    Args:
        bundle: Version folder.
        tracks: Number of simulated tracks.
        seed: Seed of the simulation.
    """
    from trackkeras.domains.extrapolation.cpp_comparison import compare

    return compare(bundle, tracks, seed)


def pareto(bundles: Sequence[Path], rows: int, rounds: int, seed: int) -> Row:
    """Measure networks and classical extrapolation on the same tracks; see `pareto_bench`.

    Args:
        bundles: Version folders.
        rows: Tracks that are drawn for each sample.
        rounds: Turns in which every point is timed once.
        seed: Seed of the samples.
    """
    from trackkeras.domains.extrapolation.pareto_bench import measure

    return measure(bundles, rows, rounds, seed)


def machine() -> Row:
    """Return what the numbers of this module depend on: processor, cores, memory, load and versions."""
    from trackkeras.runs import environment

    names = [
        line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")
    ]
    sizes = [line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")]
    return environment() | {
        "processor": names[0] if names else "unknown",
        "memory_gb": round(int(sizes[0]) / 1e6, 1) if sizes else None,
        "load": os.getloadavg()[0],
    }


def machine_line(found: Row) -> str:
    """Return `machine()` as one line of text."""
    packages = found["packages"]
    return (
        f"{found['processor']}, {found['cpus']} cores, {found['memory_gb']} GB, load {found['load']:.1f}; "
        f"Python {found['python']}, TensorFlow {packages['tensorflow']}, Keras {packages['keras']}, "
        f"ONNX Runtime {packages['onnxruntime']}, Numba {packages['numba']}"
    )


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


# -- server ------------------------------------------------------------------------------------------------


def server(bundle: Path, seconds: float = 2.0) -> list[Row]:
    """Measure the local server over loopback, gRPC and REST, with one and with eight clients.

    The server is a process of its own; the clients, threads of this one, share the machine with it.

    Args:
        bundle: Bundle folder.
        seconds: Time for each row of the table [s].
    """
    from serving.bundle import discover
    from serving.loadtest import Bounds, load_test
    from trackkeras.local_server import served

    newest = discover([bundle])[0].versions[-1]
    table = []
    with served(bundle) as place:
        for protocol in ("gRPC", "REST"):
            for batch in (1, 256, 4096):
                result = load_test(
                    place[protocol],
                    newest.name,
                    newest.description["examples"],
                    batch,
                    clients=(1, 8),
                    rates=(),
                    bounds=Bounds(seconds),
                )
                columns = ("clients", "requests_per_s", "rows_per_s", "p50_ms", "p99_ms")
                table += [
                    {"protocol": protocol, "batch": batch, **{key: step[key] for key in columns}}
                    | {"errors": sum(step["errors"].values())}
                    for step in result["steps"]
                ]
    return table
