"""Time per call of one bundle in every engine at hand.

Each batch size gets some calls that do not count and many that do. All engines take turns, three times, and
the median of the three counts, so that a busy machine slows all alike. An engine runs in a process of its
own, on one thread; the server has all its threads, and answers one client.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from serving import deployment
from serving.bundle import Bundle, read_bundle
from serving.signature import DEFAULT_SIGNATURE
from trackkeras.errors import UserError
from trackkeras.local_server import served
from trackkeras.memory import resident_mb
from trackkeras.progress import Progress
from trackkeras.tensorflow_import import load_tensorflow

Row = dict[str, Any]
Columns = Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        batches: Rows of a call, ascending.
        warm_ups: Calls of every batch size that do not count.
        calls: Calls that do.
        turns: How often an engine's turn comes.
    """

    batches: tuple[int, ...] = (1, 32, 256, 1024, 4096)
    warm_ups: int = 10
    calls: int = 100
    turns: int = 3

    @property
    def rows(self) -> int:
        """Rows at hand: every call takes others."""
        return 4 * max(self.batches[-1], 64)


_PYTHON_ENGINES = {
    "keras": "Keras, predict_on_batch",
    "savedmodel": "TensorFlow SavedModel, Python",
    "onnx": "ONNX Runtime, Python",
}
_CPP_ENGINES = {
    "onnx": "ONNX Runtime, C++",
    "saved_model": deployment.ENGINE,
    "generated": "generated C++",
    "generated, one row": "generated C++, entry point for one row",
    "generated, one row after the other": "generated C++, one row, each after the one before",
    "generated, one row with Jacobian": "generated C++, one row with Jacobian",
}

Turn = Callable[[], Iterable[Row]]
"""One turn of an engine: rows with `engine`, `batch`, `p50_us`, `p95_us`, perhaps `memory_mb`, `device`."""


def measure(
    path: Path, run: Path | None, rows: Columns, others: Sequence[Turn] = (), plan: Plan | None = None
) -> list[Row]:
    """Time a bundle in Keras, TensorFlow, ONNX Runtime, C++ and behind the server.

    Args:
        path: Version folder.
        run: Folder of the run that it was exported from, whose Keras model is timed too; without it there is
            no row for Keras.
        rows: Input columns, `plan.rows` rows.
        others: What else takes part.
        plan: Batch sizes and numbers of calls.

    Returns:
        One row per engine and batch size: median and 95th percentile of the time per call [us], rows/s, and
        the memory that the engine takes [MB]; `n/a` where there is none to give.

    Raises:
        UserError: The run is none, or was not exported to this bundle.
        ServingError: The bundle is broken.
    """
    plan = plan or Plan()
    bundle = read_bundle(path)
    model = None if run is None else _model_of(run, bundle)
    measured: dict[tuple[str, int], list[Row]] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        engines = [
            *_python_turns(bundle, model, rows, plan, Path(name), stack),
            *_server_turns(bundle, rows, plan, stack),
            *_cpp_turns(bundle, rows, plan, Path(name)),
            *others,
        ]
        total = plan.turns * len(engines)
        progress = Progress("bench inference", total, "turns")
        for number, turn in enumerate(engines * plan.turns):
            for row in turn():
                measured.setdefault((row["engine"], row["batch"]), []).append(row)
            progress.update(number)
        progress.finish(total)
    return [_table_row(engine, batch, several) for (engine, batch), several in measured.items()]


def _table_row(engine: str, batch: int, several: Sequence[Row]) -> Row:
    by_device = {
        device: [row for row in several if row.get("device", "cpu") == device] for device in ("cpu", "gpu")
    }
    times = {
        key: statistics.median(row["p50_us"] for row in found) if found else None
        for key, found in by_device.items()
    }
    cpu, gpu = times["cpu"], times["gpu"]
    assert cpu is not None
    memory = several[0].get("memory_mb")
    return {
        "engine": engine,
        "batch": batch,
        "inference_time_cpu": cpu,
        "p95_us": statistics.median(row["p95_us"] for row in by_device["cpu"]),
        "us_per_row": cpu / batch,
        "rows_per_s": 1e6 * batch / cpu,
        "inference_time_gpu": "n/a" if gpu is None else gpu,
        "throughput_gpu": "n/a" if gpu is None else 1e6 * batch / gpu,
        "memory_mb": "n/a" if memory is None else memory,
    }


def times_of(
    engine: str, run: Callable[[dict[str, Any]], object], rows: Columns, plan: Plan
) -> Iterator[Row]:
    """Time a function of input columns at every batch size."""
    for batch in plan.batches:
        times = []
        for call in range(plan.warm_ups + plan.calls):
            first = call * batch % (plan.rows - batch + 1)
            inputs = {name: column[first : first + batch] for name, column in rows.items()}
            start = time.perf_counter()
            run(inputs)
            times.append(1e6 * (time.perf_counter() - start))
        counted = times[plan.warm_ups :]
        p50, p95 = (float(np.quantile(counted, share)) for share in (0.5, 0.95))
        yield {"engine": engine, "batch": batch, "p50_us": p50, "p95_us": p95}


def scattered_examples(bundle: Bundle, rows: int) -> dict[str, Any]:
    """Return rows near the bundle's example: each number times 0.5 to 1.5, whole numbers as they are."""
    rng = np.random.default_rng(0)
    result = {}
    for name, spec in bundle.signatures[DEFAULT_SIGNATURE].inputs.items():
        example = np.repeat(np.asarray(bundle.description["examples"][name])[:1], rows, axis=0)
        factor = 1 if spec.dtype.kind == "i" else rng.uniform(0.5, 1.5, example.shape)
        result[name] = (example * factor).astype(spec.dtype)
    return result


# -- engines in Python -------------------------------------------------------------------------------------


def _model_of(run: Path, bundle: Bundle) -> Path:
    """Return the Keras model of a run, if the bundle came from it."""
    from trackkeras.runs import open_run

    folder, _ = open_run(run)
    if folder.name != bundle.description.get("run"):
        raise UserError(
            f"{bundle.path} was exported from the run {bundle.description.get('run')!r}, received {run}"
        )
    return folder.best


def _python_turns(
    bundle: Bundle, model: Path | None, rows: Columns, plan: Plan, folder: Path, stack: ExitStack
) -> list[Turn]:
    data = folder / "rows.npz"
    np.savez(data, allow_pickle=False, **rows)
    domain, kind = bundle.description["domain"], None
    if model is not None:
        from trackkeras.runs import open_run

        kind = open_run(model.parent)[1].model.kind
    context = multiprocessing.get_context("spawn")

    def turn(engine: str, device: str) -> Turn:
        worker = stack.enter_context(ProcessPoolExecutor(1, context))
        words = (engine, device, bundle.path, model, (domain, kind))
        return lambda: worker.submit(_python_times, words, data, plan).result()

    engines = [name for name in _PYTHON_ENGINES if name != "keras" or model is not None]
    turns = [turn(engine, "cpu") for engine in engines]
    if Path("/dev/nvidiactl").exists():  # the driver's device: no import of TensorFlow to find none
        turns += [turn(engine, "gpu") for engine in engines if engine != "onnx"]
    return turns


Words = tuple[str, str, Path, Path | None, tuple[str, str | None]]


@cache
def _open(words: Words) -> tuple[Callable[[dict[str, Any]], object], float] | None:
    """Load an engine into this process; return its function, and the memory that it took [MB].

    None if it is to run on a GPU and TensorFlow finds none that it can use.
    """
    engine, device, bundle, model, task = words
    before = resident_mb()
    if engine != "onnx":
        load_tensorflow()
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        if device == "cpu":
            tf.config.set_visible_devices([], "GPU")
        elif not tf.config.list_physical_devices("GPU"):
            return None
    if engine == "keras":
        from trackkeras.checkpoints import load_model
        from trackkeras.domain import find_task

        assert model is not None
        run = load_model(model, find_task(*task)).predict_on_batch
    else:
        from serving.runtime import load

        backend = load(read_bundle(bundle), engine)  # type: ignore[arg-type]

        def run(inputs: dict[str, Any]) -> object:
            return backend.run(DEFAULT_SIGNATURE, inputs)

    run(scattered_examples(read_bundle(bundle), 1))
    return run, resident_mb() - before


def _python_times(words: Words, data: Path, plan: Plan) -> list[Row]:
    import warnings

    with np.load(data) as arrays:
        rows = dict(arrays)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="__array__ implementation doesn't accept a copy keyword")
        opened = _open(words)
        if opened is None:
            return []
        run, memory = opened
        engine, device = words[:2]
        return [
            row | {"memory_mb": memory, "device": device}
            for row in times_of(_PYTHON_ENGINES[engine], run, rows, plan)
        ]


# -- the server --------------------------------------------------------------------------------------------


def _server_turns(bundle: Bundle, rows: Columns, plan: Plan, stack: ExitStack) -> list[Turn]:
    from serving.query import connect

    place = stack.enter_context(served(bundle.path))
    turns: list[Turn] = []
    for protocol in ("gRPC", "REST"):
        client = stack.enter_context(connect(place[protocol]))

        def once(client: Any = client, engine: str = f"server, {protocol}, Python client") -> Iterator[Row]:
            memory = resident_mb(place["pid"])
            for row in times_of(engine, lambda inputs: client.predict(bundle.name, inputs), rows, plan):
                yield row | {"memory_mb": memory}

        turns.append(once)
    return turns


# -- engines in C++ ----------------------------------------------------------------------------------------


def _cpp_turns(bundle: Bundle, rows: Columns, plan: Plan, folder: Path) -> list[Turn]:
    """Return the turns of all engines; none without a compiler."""
    from serving import native

    if native.find_compiler() is None:
        return []
    for key, column in rows.items():
        native.write_column(folder, key, column)
    header = next(iter(bundle.path.glob("*.hpp")), None)
    program = native.Program(native.build("benchmark", folder, header=header))
    engines = [
        f"onnx={bundle.onnx}@{native.find_library('onnxruntime')}",
        f"saved_model={bundle.path}@{native.find_library('tensorflow')}",
        *(["generated=best"] if header else []),
    ]
    batches = ",".join(map(str, plan.batches))

    def once(engine: str) -> Iterator[Row]:
        for row in program.run(folder, batches, engine):
            yield row | {"engine": _CPP_ENGINES[row["engine"]]}

    return [lambda engine=engine: once(engine) for engine in engines]  # type: ignore[misc]
