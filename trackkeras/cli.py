"""The `trackkeras` command.

Every command validates its input before it imports anything heavy, so `--help` answers at once and a typing
error costs nothing. Errors are one line on stderr and exit code 2 for bad input, 1 for a failed check.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
import tempfile
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trackkeras import __version__

if TYPE_CHECKING:
    from tfrecords_tools.manifest import Manifest

app = typer.Typer(
    name="trackkeras",
    help="Keras networks for reconstruction, from detector simulation to a deployed model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
field_app = typer.Typer(
    help="Magnetic fields: describe one, or write it as a text map.", no_args_is_help=True
)
bench_app = typer.Typer(
    help="Measure this machine: records, propagation, inference, server.", no_args_is_help=True
)
app.add_typer(field_app, name="field")
app.add_typer(bench_app, name="bench")

LINES_OF_A_TENSOR = 10

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one option; repeat as needed."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


class Backend(StrEnum):
    """Engine of the local server."""

    ONNX = "onnx"
    SAVEDMODEL = "savedmodel"


def main() -> None:
    """Run the command; turn the packages' own errors into one line."""
    from serving.errors import ServingError
    from tfrecords_tools.errors import RecordError
    from trackkeras.errors import UserError

    _prepare_environment()
    try:
        app()
    except (UserError, RecordError, ServingError) as error:
        sys.exit(_complain(str(error)))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _complain(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _prepare_environment() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    # Compiled kernels differ between machines that share a home directory, as on a batch farm.
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "trackkeras"
    os.environ.setdefault("NUMBA_CACHE_DIR", str(cache / f"numba-{socket.gethostname()}"))


def _load_tensorflow() -> None:
    """Import TensorFlow without what its native libraries write to stderr whatever the log level."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as hidden:
        os.dup2(hidden.fileno(), 2)
        try:
            importlib.import_module("tensorflow")
        except BaseException:
            hidden.seek(0)
            os.write(saved, hidden.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, allow_nan=False))


def _version(show: bool) -> None:
    if show:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


# -- data --------------------------------------------------------------------------------------------------


@app.command()
def generate(
    domain: Annotated[str, typer.Argument(help="Detector domain, e.g. extrapolation.")],
    out: Annotated[Path, typer.Option(help="Dataset folder.")],
    n: Annotated[int, typer.Option(help="Rows over all splits.")] = 1_000_000,
    seed: Annotated[int, typer.Option(help="Seed; shard k depends on it, the configuration and k.")] = 1,
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
    shards: Annotated[int, typer.Option(help="Files over all splits.")] = 16,
    shard: Annotated[
        list[int] | None, typer.Option(help="Make only this shard (repeat for more), as a batch job does.")
    ] = None,
    p_min: Annotated[float | None, typer.Option(help="Lowest momentum [GeV].")] = None,
    p_max: Annotated[float | None, typer.Option(help="Highest momentum [GeV].")] = None,
    z_start: Annotated[float | None, typer.Option(help="First plane [mm].")] = None,
    z_end: Annotated[float | None, typer.Option(help="Last plane [mm].")] = None,
    set_: SetOption = None,
) -> None:
    """Simulate a dataset as sharded TFRecords; a second call makes only what is missing.

    Example: trackkeras generate extrapolation --n 1000000 --out data/tracks --seed 1 --workers 2 --shards 16
    """
    from tfrecords_tools.generate import Recipe
    from tfrecords_tools.generate import generate as make
    from trackkeras.config import merge, parse_assignments, validate
    from trackkeras.domain import find_domain
    from trackkeras.progress import Progress

    found = find_domain(domain)
    flags = {"p_min": p_min, "p_max": p_max, "z_start": z_start, "z_end": z_end}
    values = merge(
        {key: value for key, value in flags.items() if value is not None}, parse_assignments(set_ or ())
    )
    options = validate(found.GenerateOptions, values, f"generate {domain}")
    recipe = Recipe(
        schema=found.schema(),
        function=found.shard_function,
        config=options.model_dump(mode="json"),
        seed=seed,
        rows=n,
        shards=shards,
        generator=f"trackkeras {__version__} {domain}",
    )
    progress = Progress(f"generate {domain}", n)

    def report(rows: int, rows_total: int, done: int, total: int) -> None:
        progress.total = rows_total
        note = f"shard {done}/{total}"
        (progress.finish if done == total else progress.update)(rows, note)

    manifest = make(out, recipe, workers=workers, only=shard, progress=report)
    if manifest is None:
        print(f"{out}: the requested shards are done; others are still missing")
    else:
        print(f"{out}: {_extent(manifest)}")


def _extent(manifest: Manifest) -> str:
    return f"{manifest.rows:,} rows in {len(manifest.shards)} shards"


@app.command()
def ingest(
    domain: Annotated[str, typer.Argument(help="Detector domain, e.g. extrapolation.")],
    files: Annotated[list[Path], typer.Argument(help="Input files of the experiment.")],
    out: Annotated[Path, typer.Option(help="Dataset folder to make.")],
    shards: Annotated[int, typer.Option(help="Files over all splits.")] = 16,
    seed: Annotated[int, typer.Option(help="Seed of the split and of the shuffle.")] = 1,
) -> None:
    """Turn an experiment's files into a dataset: shuffled, split by group, sharded.

    Example: trackkeras ingest extrapolation tracks.npz --out data/ingested
    """
    from tfrecords_tools.convert import write_dataset
    from trackkeras.domain import find_domain

    found = find_domain(domain)
    chunks = found.read_files(files)
    manifest = write_dataset(
        out,
        found.schema(),
        chunks,
        shards=shards,
        seed=seed,
        source={"files": [path.name for path in files]},
        name=f"trackkeras {__version__} {domain} ingest",
    )
    print(f"{out}: {_extent(manifest)}")


@app.command()
def dump(
    data: Annotated[Path, typer.Argument(help="Dataset folder.")],
    out: Annotated[Path, typer.Option(help="NPZ file to write.")],
    split: Annotated[str, typer.Option(help="Which split.")] = "train",
) -> None:
    """Write one split as an NPZ file in the layout that the domain's users know.

    Example: trackkeras dump data/tracks --split test --out test.npz
    """
    from tfrecords_tools.reader import Dataset
    from trackkeras.domain import find_domain

    source = Dataset(data)
    rows = find_domain(source.schema.name).write_file(source, split, out)
    print(f"{out}: {rows:,} rows")


@app.command()
def inspect(
    data: Annotated[Path, typer.Argument(help="Dataset folder.")], as_json: JsonOption = False
) -> None:
    """Show what a dataset holds: rows, units, ranges, configuration, acceptance.

    Example: trackkeras inspect data/tracks
    """
    from tfrecords_tools.card import card, describe
    from tfrecords_tools.reader import Dataset

    manifest = Dataset(data).manifest
    if as_json:
        _print_json(describe(manifest))
    else:
        print(card(manifest))


@app.command()
def verify(
    data: Annotated[Path, typer.Argument(help="Dataset folder.")], as_json: JsonOption = False
) -> None:
    """Check every shard: checksums, counts, finite numbers, ranges and the domain's sanity rules.

    Example: trackkeras verify data/tracks
    """
    from tfrecords_tools.reader import Dataset
    from tfrecords_tools.verify import verify as check
    from trackkeras.domain import domain_names, find_domain

    name = Dataset(data).schema.name
    checks = (find_domain(name).check_rows,) if name in domain_names() else ()
    report = check(data, checks)
    if as_json:
        _print_json(report.to_json())
    else:
        for problem in report.problems:
            print(f"{problem.file}: {problem.message}")
        print(f"{data}: {report.rows:,} rows, {len(report.problems)} problems")
    if report.problems:
        raise typer.Exit(1)


# -- field -------------------------------------------------------------------------------------------------


def _field_options(name: str, assignments: list[str] | None) -> dict[str, Any]:
    from trackkeras.config import parse_assignments

    return {"name": name, **parse_assignments(assignments or ())}


@field_app.command("info")
def field_info(
    name: Annotated[str, typer.Argument(help="lhcb, maxwell, gaussian or grid.")] = "lhcb",
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Describe a field: peak, integral, polarity, Maxwell residuals, valid volume.

    Example: trackkeras field info grid --set path=map.txt --set length=mm --set field=T
    """
    from trackkeras.domains.extrapolation.field_report import describe
    from trackkeras.domains.extrapolation.fields import make_field

    report = describe(make_field(**_field_options(name, set_)))
    if as_json:
        _print_json(report)
    else:
        _print_pairs(report)


@field_app.command("make")
def field_make(
    out: Annotated[Path, typer.Option(help="Text file `x y z Bx By Bz` to write.")],
    name: Annotated[str, typer.Argument(help="lhcb, maxwell, gaussian or grid.")] = "lhcb",
    set_: SetOption = None,
) -> None:
    """Write a field as a text map on the 81 x 81 x 146 grid, in mm and tesla.

    Example: trackkeras field make lhcb --out lhcb_map.txt
    """
    from trackkeras.domains.extrapolation.fields import make_field
    from trackkeras.domains.extrapolation.grid import write_grid

    write_grid(make_field(**_field_options(name, set_)), out)
    print(out)


def _print_pairs(report: dict[str, Any], indent: str = "") -> None:
    for key, value in report.items():
        if isinstance(value, dict):
            print(f"{indent}{key}:")
            _print_pairs(value, indent + "  ")
        else:
            print(
                f"{indent}{key:<28} {value:.6g}" if isinstance(value, float) else f"{indent}{key:<28} {value}"
            )


# -- training ----------------------------------------------------------------------------------------------


@app.command()
def presets(as_json: JsonOption = False) -> None:
    """List the shipped presets with what each costs and reaches.

    Example: trackkeras presets
    """
    from trackkeras.config import preset_files, preset_values

    files = preset_files()
    entries = [
        {
            "name": name,
            "domain": preset_values(name)[1]["domain"],
            "about": [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#")],
        }
        for name, path in files.items()
    ]
    if as_json:
        _print_json(entries)
        return
    for entry in entries:
        print(f"{entry['name']:<20} {entry['domain']}")
        for line in entry["about"]:
            print(f"    {line}")


@app.command()
def train(
    preset: Annotated[str, typer.Argument(help="Name of a preset, or path of a YAML file.")],
    data: Annotated[Path, typer.Option(help="Dataset folder.")],
    name: Annotated[str, typer.Option(help="Name of the run.")],
    runs: Annotated[Path, typer.Option(help="Folder of runs.")] = Path("runs"),
    set_: SetOption = None,
    strategy: Annotated[
        str | None, typer.Option(help="single, or mirrored: all devices of this host.")
    ] = None,
    time_budget: Annotated[
        float | None, typer.Option(help="Stop after the epoch that crosses it [s].")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start an existing run again.")] = False,
    mlflow: Annotated[bool, typer.Option("--mlflow", help="Also log to MLflow (extra `mlflow`).")] = False,
) -> None:
    """Train a preset on a dataset; everything about the run is left in runs/NAME.

    Example: trackkeras train mlp_medium --data data/tracks --name first --set training.epochs=20
    """
    from trackkeras.config import load_run

    flags = {"training.strategy": strategy, "training.time_budget_s": time_budget}
    extra = [f"{key}={value}" for key, value in flags.items() if value is not None]
    run = load_run(preset, [*(set_ or ()), *extra])
    if not name or "/" in name or name.startswith("."):
        raise typer.BadParameter(f"a run name is a plain folder name, received {name!r}")
    _check_dataset(data)
    if mlflow:
        from trackkeras.tracking import check_installed

        check_installed()
    _load_tensorflow()
    from trackkeras.training import train as fit

    folder = fit(run, data, runs / name, resume=resume, overwrite=overwrite, mlflow=mlflow)
    state = folder.read("state.json")
    parameters = folder.read("model_config.json")["parameters"]
    print(
        f"{folder.path}: {parameters:,} parameters, {state['epoch']} epochs in {state['seconds']:.0f} s "
        f"({state['reason']}), best val_loss {state['best_val_loss']:.4g} in epoch {state['best_epoch']}"
    )


def _check_dataset(data: Path) -> None:
    """Fail on a missing or damaged dataset before TensorFlow is imported."""
    from tfrecords_tools.reader import Dataset

    Dataset(data)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: Annotated[Path | None, typer.Option(help="Dataset folder; default: the run's own.")] = None,
    split: Annotated[str, typer.Option(help="Split to evaluate.")] = "test",
    limit: Annotated[int | None, typer.Option(help="Use only the first rows.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a run beside its baselines, in bands, and write metrics.json, plots and report.html.

    Example: trackkeras evaluate runs/first
    """
    from trackkeras.runs import open_run

    open_run(run)
    if data is not None:
        _check_dataset(data)
    _load_tensorflow()
    from trackkeras.evaluation import evaluate as compute
    from trackkeras.report import write_report

    result = compute(run, data, split, limit)
    path = write_report(run)
    if as_json:
        _print_json(result)
        return
    for sample in result["samples"]:
        _print_sample(sample)
    print(f"\nreport: {path}\nplots:  {run / 'plots'}")


def _print_sample(sample: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    names = list(sample["metrics"]["network"])
    table = Table(
        title=f"{sample['name']}: {sample['rows']:,} rows. {sample['description']}", title_justify="left"
    )
    table.add_column("metric")
    for estimator in sample["estimators"].values():
        table.add_column(estimator["label"], justify="right")
    for name in names:
        values = [sample["metrics"][key][name] for key in sample["estimators"]]
        table.add_row(name, *(f"{value['value']:.4g}" for value in values))
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    for name, target in sample["targets"].items():
        verdict = "met" if target["met"] else "missed"
        print(f"  target {name} < {target['limit']:g}: {verdict} ({target['value']:.4g})")
    worse: dict[tuple[str, str, str], list[str]] = {}
    for item in sample["worse_than_baseline"]:
        low, high = item["band"]
        key = (item["baseline"], item["metric"], item["axis"])
        worse.setdefault(key, []).append(f"{low:g}-{high:g}")
    for (baseline, metric, axis), bands in worse.items():
        print(f"  WORSE than {baseline} in {metric} for {axis} {', '.join(bands)}")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more evaluated run folders.")],
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("comparison.html"),
    sort: Annotated[str | None, typer.Option(help="Metric that orders the table.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare evaluated runs, and their baselines, on the rows that they share.

    Example: trackkeras compare runs/mlp_small runs/mlp_medium --out comparison.html
    """
    from trackkeras.report import comparison_table, write_comparison

    table = comparison_table(runs, sort)
    write_comparison(runs, out, sort)
    if as_json:
        _print_json(table)
        return
    for sample in dict.fromkeys(row["sample"] for row in table):
        rows = [row for row in table if row["sample"] == sample]
        print(f"\n{sample}: {rows[0]['rows']:,} rows")
        hidden = {"sample", "rows", "simulated", "kind", "preset", "cost"}
        _print_rows([{key: value for key, value in row.items() if key not in hidden} for row in rows])
    print(f"\n{out}")


def _print_rows(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for key in rows[0]:
        table.add_column(key, justify="left" if isinstance(rows[0][key], str) else "right")
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="Run folder.")]) -> None:
    """Write report.html and the plots of a run again from its files.

    Example: trackkeras report runs/first
    """
    from trackkeras.report import write_report

    print(write_report(run))


# -- deployment --------------------------------------------------------------------------------------------


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[Path, typer.Option(help="Folder of bundles.")] = Path("bundles"),
    data: Annotated[
        Path | None, typer.Option(help="Dataset for the parity check; default: the run's.")
    ] = None,
    cpp: Annotated[
        bool, typer.Option("--cpp", help="Also write an MLP as a C++ header without dependencies.")
    ] = False,
) -> None:
    """Export the best model as SavedModel and ONNX, and as C++; refused unless all agree with Keras.

    Example: trackkeras export runs/first --out bundles --cpp
    """
    from trackkeras.runs import open_run

    open_run(run)
    if data is not None:
        _check_dataset(data)
    _load_tensorflow()
    from trackkeras.export import export as write

    path = write(run, out, data, cpp=cpp)
    parity = json.loads((path / "parity.json").read_text())
    print(f"{path}: parity with Keras ({parity['rule']}) on {parity['rows']:,} rows")
    for name in ("saved_model", "onnx", "cpp"):
        if "excess" in parity.get(name, {}):
            print(f"  {name:<12} largest difference is {parity[name]['excess']:.2g} of what is allowed")
        elif name in parity:
            print(f"  {name:<12} not compared: {parity[name]['not_compared']}")


@app.command()
def serve(
    bundles: Annotated[list[Path], typer.Argument(help="Bundles, or folders of bundles.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    rest_port: Annotated[int, typer.Option(help="REST port; 0 takes a free one.")] = 8501,
    grpc_port: Annotated[int, typer.Option(help="gRPC port; 0 takes a free one.")] = 8500,
    backend: Annotated[Backend, typer.Option(help="Engine.")] = Backend.ONNX,
    max_rows: Annotated[int, typer.Option(help="Most rows in one request.")] = 1_000_000,
    workers: Annotated[int, typer.Option(help="Threads that answer requests.")] = 8,
    ready_file: Annotated[Path | None, typer.Option(help="JSON with ports and pid, once ready.")] = None,
) -> None:
    """Serve bundles with TF-Serving's REST and gRPC protocol until interrupted.

    Example: trackkeras serve bundles/mlp_medium-first
    """
    from serving.repository import Limits
    from serving.server import serve as run_server

    run_server(
        bundles,
        host=host,
        rest_port=rest_port,
        grpc_port=grpc_port,
        backend=backend.value,
        limits=Limits(max_rows=max_rows),
        workers=workers,
        ready_file=ready_file,
    )


@app.command("serving-config")
def serving_config(
    bundles: Annotated[list[Path], typer.Argument(help="Bundles, or folders of bundles.")],
    root: Annotated[
        str | None, typer.Option(help="Folder of the bundles as the server sees it, e.g. /models.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also copy the bundles to this new folder.")] = None,
) -> None:
    """Print TF-Serving's models.config for some bundles; a bundle is itself a TF-Serving model folder.

    Example: trackkeras serving-config bundles --root /models > models.config
    """
    from serving.bundle import discover
    from serving.layout import models_config, write_layout

    models = discover(bundles)
    seen = PurePosixPath(root) if root else None
    if out is None:
        print(models_config(models, root=seen), end="")
    else:
        print(write_layout(models, out, root=seen))


@app.command()
def query(
    model: Annotated[str, typer.Argument(help="Name of the served model.")],
    inputs: Annotated[str, typer.Option(help="JSON object of inputs, or @FILE.json, or @FILE.npz.")],
    address: Annotated[
        str, typer.Option(help="HOST:PORT for gRPC, http://HOST:PORT for REST.")
    ] = "127.0.0.1:8500",
    version: Annotated[int | None, typer.Option(help="Version; default: the latest.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a server for a prediction and print it as a table.

    Example: trackkeras query mlp_medium-first
    --inputs '{"state": [[100, -50, 0.05, -0.02, 1e-4]], "z0": [[2665]], "dz": [[5161]]}'
    """
    from serving.query import ask, connect, read_inputs

    arrays = read_inputs(inputs)
    with connect(address) as client:
        sent, outputs = ask(client, model, arrays, version)
    if as_json:
        _print_json({name: value.tolist() for name, value in outputs.items()})
        return
    for name, value in (sent | outputs).items():
        print(f"{name} {value.shape}")
        for row in value.reshape(len(value), -1)[:LINES_OF_A_TENSOR]:
            print("   " + " ".join(f"{number:13.6g}" for number in row))


# -- benchmarks --------------------------------------------------------------------------------------------


@bench_app.command("records")
def bench_records(
    rows: Annotated[int, typer.Option(help="Rows to write and read.")] = 2_000_000,
    as_json: JsonOption = False,
) -> None:
    """Rows/s written and read in blocks, beside one Example per row, in one run.

    Example: trackkeras bench records
    """
    from trackkeras.bench import records

    _show_bench(records(rows), as_json)


@bench_app.command("propagate")
def bench_propagate(
    tracks: Annotated[int, typer.Option(help="Tracks to propagate.")] = 50_000, as_json: JsonOption = False
) -> None:
    """Tracks/s and error of the propagator for several steps, and of generation with writing.

    Example: trackkeras bench propagate
    """
    from trackkeras.bench import propagation

    _show_bench(propagation(tracks), as_json)


@bench_app.command("inference")
def bench_inference(
    bundle: Annotated[Path, typer.Argument(help="Version folder of a bundle.")],
    output: Annotated[Path | None, typer.Option(help="Also write the table to this JSON file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Time per call [us] by engine and batch size, one thread; C++ engines where there is a compiler.

    Example: trackkeras bench inference bundles/mlp_medium-first/1 --output times.json
    """
    from tfrecords_tools.files import write_json
    from trackkeras.bench import inference

    rows = inference(bundle)
    if output is not None:
        write_json(output, rows)
    _show_bench(rows, as_json)


@bench_app.command("server")
def bench_server(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")], as_json: JsonOption = False
) -> None:
    """Requests/s of the local server over gRPC and REST, by batch size.

    Example: trackkeras bench server bundles/mlp_medium-first
    """
    from trackkeras.bench import server

    _show_bench(server(bundle), as_json)


def _show_bench(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        _print_json(rows)
    else:
        _print_rows(rows)


if __name__ == "__main__":
    main()
