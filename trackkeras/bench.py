"""Measurements of this machine. Rates depend on it; ratios between rows of one call are what to quote."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tfrecords_tools.schema import Columns, Schema

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


def propagation(tracks: int) -> list[Row]:
    """Measure speed and error of RK4 against its step, on tracks of the default contract in `lhcb`.

    The error is the distance to the result with 5 mm steps.

    Args:
        tracks: Number of tracks.
    """
    from trackkeras.domains.extrapolation.generation_options import GenerateOptions
    from trackkeras.domains.extrapolation.propagation import propagate
    from trackkeras.domains.extrapolation.simulate import make_shard

    options = GenerateOptions()
    field = options.make_field()
    chunks = [columns for columns, _ in make_shard({}, np.random.default_rng(0), tracks)]
    rows = {name: np.concatenate([chunk[name] for chunk in chunks]).astype(float) for name in chunks[0]}
    state, z0, dz = rows["state"], rows["z0"][:, 0], rows["dz"][:, 0]
    reference = propagate(field, state, z0, dz, step=5.0, threads=2)
    table = []
    for step in (25.0, 50.0, 100.0, 200.0, 400.0):
        run = partial(propagate, field, state, z0, dz, step=step)
        seconds, done = _seconds(run, 3), run()
        ok = (done.status == 0) & (reference.status == 0)
        error = 1000.0 * np.linalg.norm((done.state - reference.state)[ok, :2], axis=1)
        table.append(
            {
                "step_mm": step,
                "tracks_per_s_one_core": tracks / seconds,
                "mean_error_um": float(error.mean()),
                "p95_error_um": float(np.quantile(error, 0.95)),
                "max_error_um": float(error.max()),
                "default": step == options.step,
            }
        )
    return table


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
            column.tofile(folder / f"{key}.f32")
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
    """Return the bundle's example, each number times 0.5 to 1.5."""
    rng = np.random.default_rng(0)
    examples = {name: np.asarray(value, "float32") for name, value in bundle.description["examples"].items()}
    return {
        name: (value[:1] * rng.uniform(0.5, 1.5, (rows, *value.shape[1:]))).astype("float32")
        for name, value in examples.items()
    }


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


def _example_batch(bundle: Any, batch: int) -> dict[str, Any]:
    examples = bundle.description["examples"]
    return {name: np.repeat(np.asarray(value, "float32"), batch, axis=0) for name, value in examples.items()}


# -- server ------------------------------------------------------------------------------------------------


def server(bundle: Path) -> list[Row]:
    """Measure the local server over loopback, gRPC and REST, with one and with eight clients.

    Args:
        bundle: Bundle folder.
    """
    from serving.bundle import discover
    from serving.query import connect
    from serving.server import Server

    models = discover([bundle])
    newest = models[0].versions[-1]
    table = []
    with Server(models, rest_port=0, grpc_port=0) as running:
        addresses = {"gRPC": running.grpc_target, "REST": running.rest_url}
        for protocol, address in addresses.items():
            for batch in (1, 256, 4096):
                for clients in (1, 8):
                    inputs = _example_batch(newest, batch)
                    requests = max(40, (800 if batch == 1 else 20_000 // batch) // clients)

                    def ask(
                        _: int, address: str = address, inputs: Any = inputs, requests: int = requests
                    ) -> list[float]:
                        client, times = connect(address), []
                        client.predict(newest.name, inputs)
                        for _ in range(requests):
                            start = time.perf_counter()
                            client.predict(newest.name, inputs)
                            times.append(time.perf_counter() - start)
                        return times

                    start = time.perf_counter()
                    with ThreadPoolExecutor(clients) as pool:
                        times = [value for part in pool.map(ask, range(clients)) for value in part]
                    elapsed = time.perf_counter() - start
                    table.append(
                        {
                            "protocol": protocol,
                            "batch": batch,
                            "clients": clients,
                            "requests_per_s": len(times) / elapsed,
                            "rows_per_s": batch * len(times) / elapsed,
                            "p50_ms": 1e3 * float(np.quantile(times, 0.5)),
                            "p99_ms": 1e3 * float(np.quantile(times, 0.99)),
                        }
                    )
    return table
