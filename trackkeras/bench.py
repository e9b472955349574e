"""Measurements of this machine. Rates depend on it; ratios between rows of one call are what to quote."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np

from tfrecords_tools.schema import Columns, Schema
from trackkeras.errors import UserError

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
            workers = [_resident(process.pid) for process in multiprocessing.active_children() if process.pid]
            self.largest = max([self.largest, *workers])
            self.together = max(self.together, sum(workers) + _resident(os.getpid()))


def _resident(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):  # it has just ended
        return 0.0
    return pages * resource.getpagesize() / 1e6


# -- inference ---------------------------------------------------------------------------------------------


BATCHES = (1, 32, 256, 1024, 4096)
WARM_UPS, CALLS, PASSES = 10, 100, 3


def inference(bundle: Path) -> list[Row]:
    """Measure a bundle in every engine at hand, one thread, and the Runge-Kutta baseline in C++ beside it.

    Each batch size gets 10 calls that do not count and 100 that do; Python and C++ take turns, three times,
    and the median of the three counts. C++ rows need a compiler, the header a bundle of `export --cpp`.

    Args:
        bundle: Version folder.
    """
    from serving import native
    from serving.bundle import read_bundle
    from serving.runtime import load
    from serving.signature import DEFAULT_SIGNATURE

    found = read_bundle(bundle)
    backend = load(found)
    rows = _scattered_examples(found, 4 * BATCHES[-1])
    measured: dict[tuple[str, int], list[Row]] = {}
    table: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for key, column in rows.items():
            native.write_column(folder, key, column)
        program, header = None, next(iter(bundle.glob("*.hpp")), None)
        if native.find_compiler() is not None:
            program = native.Program(native.build("benchmark", folder, header=header))
        for _ in range(PASSES):
            passed = list(_python_times(lambda inputs: backend.run(DEFAULT_SIGNATURE, inputs), rows))
            if program is not None:
                passed += _cpp_times(program, found.path, folder, header is not None)
            for row in passed:
                measured.setdefault((row["engine"], row["batch"]), []).append(row)
        if program is not None and found.description["domain"] == "extrapolation":
            table = _cpp_propagation(folder)
    return [
        _inference_row(
            engine,
            batch,
            statistics.median(row["p50_us"] for row in several),
            statistics.median(row["p95_us"] for row in several),
            several[0].get("memory_mb"),
        )
        for (engine, batch), several in measured.items()
    ] + table


def _inference_row(engine: str, batch: int, p50_us: float, p95_us: float | str, memory_mb: Any) -> Row:
    return {
        "engine": engine,
        "batch": batch,
        "inference_time_cpu": p50_us,
        "p95_us": p95_us,
        "us_per_row": p50_us / batch,
        "rows_per_s": 1e6 * batch / p50_us,
        "inference_time_gpu": "n/a",
        "throughput_gpu": "n/a",
        "memory_mb": "n/a" if memory_mb is None else memory_mb,
    }


def _scattered_examples(bundle: Any, rows: int) -> dict[str, Any]:
    """Return the bundle's example, each number times 0.5 to 1.5; whole numbers as they are."""
    rng = np.random.default_rng(0)
    result = {}
    for name, spec in bundle.signatures["serving_default"].inputs.items():
        example = np.repeat(np.asarray(bundle.description["examples"][name])[:1], rows, axis=0)
        factor = 1 if spec.dtype.kind == "i" else rng.uniform(0.5, 1.5, example.shape)
        result[name] = (example * factor).astype(spec.dtype)
    return result


def _python_times(run: Callable[[dict[str, Any]], Any], rows: dict[str, Any]) -> Iterator[Row]:
    for batch in BATCHES:
        times = []
        for call in range(WARM_UPS + CALLS):
            first = call * batch % (3 * BATCHES[-1])
            inputs = {name: column[first : first + batch] for name, column in rows.items()}
            start = time.perf_counter()
            run(inputs)
            times.append(1e6 * (time.perf_counter() - start))
        counted = times[WARM_UPS:]
        p50, p95 = (float(np.quantile(counted, share)) for share in (0.5, 0.95))
        yield {"engine": "ONNX Runtime, Python", "batch": batch, "p50_us": p50, "p95_us": p95}


_CPP_ENGINES = {
    "onnx": "ONNX Runtime, C++",
    "saved_model": "TensorFlow C API, C++",
    "generated": "generated C++",
    "generated, one row": "generated C++, entry point for one row",
    "generated, one row after the other": "generated C++, one row, each after the one before",
    "generated, one row with Jacobian": "generated C++, one row with Jacobian",
}


def _cpp_times(program: Any, bundle: Path, folder: Path, generated: bool) -> list[Row]:
    from serving.native import find_library

    engines = [
        f"onnx={bundle / 'model.onnx'}@{find_library('onnxruntime')}",
        f"saved_model={bundle}@{find_library('tensorflow')}",
        *(["generated=best"] if generated else []),
    ]
    batches = ",".join(map(str, BATCHES))
    # One process each: TensorFlow's threads would slow the others.
    said = [row for engine in engines for row in program.run(folder, batches, engine)]
    return [{**row, "engine": _CPP_ENGINES[row["engine"]]} for row in said]


def _cpp_propagation(folder: Path) -> list[Row]:
    """Time RK4 and an adaptive method in C++ on a trilinear map of `lhcb` with 81 x 81 x 146 nodes."""
    from serving import native
    from trackkeras.domains.extrapolation import make_field
    from trackkeras.domains.extrapolation.grid import NODES

    axes = [np.arange(first, last + step / 2, step) for first, last, step in NODES]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    grid = folder / "map.f64"
    np.concatenate([points, make_field("lhcb").field(*points.T)], axis=1).tofile(grid)
    program = native.Program(native.build("propagate", folder))
    table = []
    for method, value, label in (
        ("rk4", 100.0, "C++ RK4, steps of 100 mm"),
        ("rk4", 25.0, "C++ RK4, steps of 25 mm"),
        ("adaptive", 1e-3, "C++ Cash-Karp, tolerance 1e-3 mm"),
    ):
        (said,) = program.run(grid, method, str(value), folder, "3")
        table.append(_inference_row(label, 1, said["us_per_track"], "n/a", None))
    return table


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

    newest = discover([bundle])[0].versions[-1]
    table = []
    with _served(bundle) as place:
        addresses = {
            "gRPC": f"{place['host']}:{place['grpc_port']}",
            "REST": f"http://{place['host']}:{place['rest_port']}",
        }
        for protocol, address in addresses.items():
            for batch in (1, 256, 4096):
                result = load_test(
                    address,
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


@contextmanager
def _served(bundle: Path) -> Iterator[dict[str, Any]]:
    """Run `trackkeras serve` on free ports; gives what it says of itself."""
    command = [
        sys.executable,
        "-m",
        "trackkeras.cli",
        "serve",
        str(bundle),
        "--rest-port",
        "0",
        "--grpc-port",
        "0",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise UserError(f"the server of {bundle} did not start; see its message above")
            yield json.loads(line)
        finally:
            process.terminate()
