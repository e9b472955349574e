"""Measurements of this machine. Rates depend on it; ratios between rows of one call are what to quote."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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


def propagation(tracks: int, rounds: int = REPEATS) -> list[Row]:
    """Measure speed and error of every method of propagation; see `propagation_bench`.

    Args:
        tracks: Number of tracks per row.
        rounds: Number of rounds in which every row is timed once.
    """
    from trackkeras.domains.extrapolation.propagation_bench import measure

    return measure(tracks, rounds)


# -- inference ---------------------------------------------------------------------------------------------


def inference(bundle: Path) -> list[Row]:
    """Measure a bundle in ONNX Runtime on one thread.

    Args:
        bundle: Version folder.
    """
    from serving.bundle import read_bundle
    from serving.runtime import load
    from serving.signature import DEFAULT_SIGNATURE

    found = read_bundle(bundle)
    backend = load(found)
    table = []
    for batch in (1, 32, 256, 1024, 4096):
        inputs = _example_batch(found, batch)
        calls = max(20, 20_000 // batch)

        def run(inputs: Any = inputs, calls: int = calls) -> None:
            for _ in range(calls):
                backend.run(DEFAULT_SIGNATURE, inputs)

        seconds = _seconds(run) / calls
        table.append({"batch": batch, "us_per_call": 1e6 * seconds, "us_per_row": 1e6 * seconds / batch})
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
