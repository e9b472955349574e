"""The `trackkeras` command.

Every command validates its input before it imports anything heavy, so `--help` answers at once and a typing
error costs nothing. Errors are one line on stderr and exit code 2 for bad input, 1 for a failed check.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator, MutableMapping
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from trackkeras import __version__, domains
from trackkeras.console import JsonOption
from trackkeras.console import print_json as _print_json
from trackkeras.console import print_rows as _print_rows
from trackkeras.tensorflow_import import load_tensorflow

if TYPE_CHECKING:
    from tfrecords_tools.manifest import Manifest
    from trackkeras.domain import Rows
    from trackkeras.domains.extrapolation.fields import Field
    from trackkeras.progress import Progress
    from trackkeras.study import Experiment


class DomainCommands(TyperGroup):
    """The commands that a domain brings: `app` in its module `commands`, imported when one of them is used.

    Args:
        domain: Name of the domain.
    """

    def __init__(self, domain: str) -> None:
        about = f"Tools of the {domain} domain."
        super().__init__(name=domain, help=about, no_args_is_help=True, rich_markup_mode=None)

    @property
    def commands(self) -> MutableMapping[str, Any]:
        """Its commands by name."""
        module = importlib.import_module(f"{domains.__name__}.{self.name}.commands")
        found: MutableMapping[str, Any] = typer.main.get_group(module.app).commands
        return found

    @commands.setter
    def commands(self, value: Any) -> None:
        """Ignore what the base class begins with."""


class AllCommands(TyperGroup):
    """The commands of this module and, as a group for each, those of the domains."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for module in pkgutil.iter_modules(domains.__path__):
            folder = Path(module.module_finder.path) / module.name  # type: ignore[union-attr]
            if (folder / "commands.py").is_file():
                self.commands[module.name] = DomainCommands(module.name)


app = typer.Typer(
    name="trackkeras",
    cls=AllCommands,
    help="Keras networks for reconstruction, from detector simulation to a deployed model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
field_app = typer.Typer(help="Magnetic fields: describe, draw, write as a map, fit.", no_args_is_help=True)
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

FieldArgument = Annotated[
    str,
    typer.Argument(
        help="lhcb, maxwell, gaussian, two_dipole; or a map (.txt, .rtf, .dat, .bin) or options (.yaml)."
    ),
]


class MapFormat(StrEnum):
    """Layout of a field map."""

    TEXT = "text"
    ALLEN = "allen"


class Backend(StrEnum):
    """Engine of the local server."""

    ONNX = "onnx"
    SAVEDMODEL = "savedmodel"


class Oracle(StrEnum):
    """How a search proposes values."""

    RANDOM = "random"
    BAYESIAN = "bayesian"
    HYPERBAND = "hyperband"
    GRID = "grid"


class Launcher(StrEnum):
    """Where the shards of a generation are made."""

    PROCESSES = "processes"
    DASK = "dask"
    DASK_SLURM = "dask-slurm"
    DASK_HTCONDOR = "dask-htcondor"


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
    except OSError as error:
        sys.exit(_complain(str(error)))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _complain(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _prepare_environment() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")


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
    domain: Annotated[
        str | None, typer.Argument(help="Detector domain, e.g. extrapolation; default: that of the folder.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Dataset folder.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="Named sample: low_p, mid_p, high_p, full_range, ut_t, ...")
    ] = None,
    n: Annotated[int | None, typer.Option(help="Rows over all splits.  [default: 1000000]")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed; shard k depends on it, the options and k.  [default: 1]")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes, or jobs of a cluster.")] = 1,
    shards: Annotated[int | None, typer.Option(help="Files over all splits.  [default: 16]")] = None,
    shard: Annotated[
        list[int] | None, typer.Option(help="Make only this shard (repeat for more), as a batch job does.")
    ] = None,
    p_min: Annotated[float | None, typer.Option(help="Lowest momentum [GeV].")] = None,
    p_max: Annotated[float | None, typer.Option(help="Highest momentum [GeV].")] = None,
    z_start: Annotated[float | None, typer.Option(help="First plane [mm].")] = None,
    z_end: Annotated[float | None, typer.Option(help="Last plane [mm].")] = None,
    set_: SetOption = None,
    launcher: Annotated[Launcher, typer.Option(help="Where shards are made.")] = Launcher.PROCESSES,
    launcher_set: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Argument of the Dask cluster, e.g. queue.")
    ] = None,
    status: Annotated[
        Path | None, typer.Option(help="Only list missing and bad shards of this folder.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Simulate a dataset as sharded TFRecords; a second call makes only what is missing.

    Without a domain the generation that was begun in the folder is continued, whatever its options were.

    Example: trackkeras generate extrapolation --n 1000000 --out data/tracks --seed 1 --workers 2 --shards 16
    """
    if status is not None:
        _show_generation(status, as_json)
        return
    from tfrecords_tools.generate import Recipe, load_recipe
    from tfrecords_tools.generate import generate as make
    from trackkeras.config import merge, parse_assignments, validate
    from trackkeras.domain import find_domain
    from trackkeras.errors import UserError
    from trackkeras.progress import Progress

    if out is None:
        raise UserError("name the dataset folder with --out")
    flags = {"p_min": p_min, "p_max": p_max, "z_start": z_start, "z_end": z_end}
    given = {key: value for key, value in flags.items() if value is not None}
    if domain is None:
        if given or preset or set_ or not (n is seed is shards is None):
            raise UserError("options of the sample need a domain, as in `trackkeras generate extrapolation`")
        recipe = load_recipe(out)
    else:
        found = find_domain(domain)
        if preset is not None and preset not in found.generation_presets:
            names = ", ".join(found.generation_presets) or "none"
            raise UserError(f"{domain} has no generation preset {preset!r}; there are: {names}")
        base = found.generation_presets[preset] if preset else {}
        values = merge(merge(base, given), parse_assignments(set_ or ()))
        if not found.shard_function:
            raise UserError(f"the domain {domain!r} has no simulation; read files with `trackkeras ingest`")
        options = validate(found.GenerateOptions, values, f"generate {domain}")
        recipe = Recipe(
            schema=found.generation_schema(options),
            function=found.shard_function,
            config=options.model_dump(mode="json"),
            seed=1 if seed is None else seed,
            rows=1_000_000 if n is None else n,
            shards=16 if shards is None else shards,
            generator=f"trackkeras {__version__} {domain}",
        )
    progress = Progress(f"generate {recipe.schema.name}", recipe.rows)

    def report(rows: int, rows_total: int, done: int, total: int) -> None:
        progress.total = rows_total
        note = f"shard {done}/{total}"
        (progress.finish if done == total else progress.update)(rows, note)

    launch = None
    if launcher is not Launcher.PROCESSES:
        from tfrecords_tools.launch_dask import dask_launcher

        kind = launcher.value.removeprefix("dask").removeprefix("-") or "local"
        launch = dask_launcher(kind, workers, parse_assignments(launcher_set or ()))
    elif launcher_set:
        raise UserError("--launcher-set needs --launcher dask, dask-slurm or dask-htcondor")
    manifest = make(out, recipe, workers=workers, only=shard, progress=report, launcher=launch)
    if manifest is None:
        print(f"{out}: the requested shards are done; others are still missing")
    else:
        print(f"{out}: {_extent(manifest)}")


def _show_generation(folder: Path, as_json: bool) -> None:
    from trackkeras.cluster import progress_report

    report = progress_report(folder)
    if as_json:
        _print_json(report)
    else:
        print(f"{folder}: {report['done']} of {report['shards']} shards are done")
        for key, text in (("missing", "missing"), ("bad", "damaged")):
            if report[key]:
                print(f"{text}: {', '.join(map(str, report[key]))}")
        for where, line in report["resume"].items():
            print(f"{where + ':':<10} {line}")
    if not report["complete"]:
        raise typer.Exit(1)


def _extent(manifest: Manifest) -> str:
    return f"{manifest.rows:,} rows in {len(manifest.shards)} shards"


@app.command()
def ingest(
    domain: Annotated[str, typer.Argument(help="Detector domain, e.g. extrapolation.")],
    files: Annotated[list[Path], typer.Argument(help="Input files of the experiment.")],
    out: Annotated[Path, typer.Option(help="Dataset folder to make.")],
    shards: Annotated[int, typer.Option(help="Files over all splits.")] = 16,
    seed: Annotated[int, typer.Option(help="Seed of the split and of the shuffle.")] = 1,
    set_: SetOption = None,
) -> None:
    """Turn an experiment's files into a dataset: shuffled, split by group, sharded.

    With --set, options of the domain's reader are changed.

    Example: trackkeras ingest extrapolation tracks.npz --out data/ingested
    """
    from tfrecords_tools.convert import write_dataset
    from trackkeras.config import parse_assignments, validate
    from trackkeras.domain import find_domain

    found = find_domain(domain)
    options = validate(found.IngestOptions, parse_assignments(set_ or ()), f"ingest {domain}")
    chunks = _counted(found.read_files(files, options), f"read {domain} files")
    manifest = write_dataset(
        out,
        found.ingest_schema(options),
        chunks,
        shards=shards,
        seed=seed,
        source={"files": [path.name for path in files], **options.model_dump(mode="json")},
        name=f"trackkeras {__version__} {domain} ingest",
        group=found.group,
    )
    print(f"{out}: {_extent(manifest)}")


def _counted(chunks: Iterator[Rows], label: str) -> Iterator[Rows]:
    """Yield the chunks and show how many rows they have; how many there will be is not known."""
    from trackkeras.progress import Progress

    progress, done = Progress(label, 0), 0
    for chunk in chunks:
        done += len(next(iter(chunk.values())))
        progress.total = done
        progress.update(done)
        yield chunk


@app.command()
def dump(
    data: Annotated[Path, typer.Argument(help="Dataset folder.")],
    out: Annotated[Path, typer.Option(help="File to write: .parquet, or the domain's own .npz.")],
    split: Annotated[str, typer.Option(help="Which split.")] = "train",
) -> None:
    """Write one split as a Parquet file, or as an NPZ file in the layout that the domain's users know.

    Example: trackkeras dump data/tracks --split test --out test.npz
    """
    from tfrecords_tools.parquet import write_parquet
    from tfrecords_tools.reader import Dataset
    from trackkeras.domain import find_domain

    source = Dataset(data)
    if out.suffix == ".parquet":
        rows = write_parquet(source, split, out)
    else:
        rows = find_domain(source.schema.name).write_file(source, split, out)
    print(f"{out}: {rows:,} rows")


@app.command()
def merge(
    sources: Annotated[list[str], typer.Argument(help="Dataset folders, or NPZ files; a pattern in quotes.")],
    out: Annotated[Path, typer.Option(help="NPZ file to write, or dataset folder to make.")],
    domain: Annotated[str, typer.Option(help="Domain of NPZ files.")] = "extrapolation",
    verify_: Annotated[bool, typer.Option("--verify", help="Read the result again and check it.")] = False,
    shards: Annotated[int, typer.Option(help="Files of a dataset made of NPZ files.")] = 16,
    seed: Annotated[int, typer.Option(help="Seed of its split and its shuffle.")] = 1,
) -> None:
    """Join datasets, or the NPZ files of batch jobs, into one; refused where they do not fit together.

    Example: trackkeras merge 'batch_*.npz' --out all.npz --verify
    """
    from tfrecords_tools.files import expand
    from tfrecords_tools.merge import merge_datasets
    from tfrecords_tools.reader import Dataset
    from trackkeras.domain import domain_names, find_domain
    from trackkeras.errors import UserError

    paths = expand(sources)
    if out in paths:
        raise UserError(f"{out} is one of the files to merge: choose another name")
    folders = [path for path in paths if path.is_dir()]
    if folders and len(folders) < len(paths):
        raise UserError(
            f"merge dataset folders or files, not both; received {len(folders)} folders and others"
        )
    if not folders and out.suffix == ".npz":
        rows = find_domain(domain).merge_files(paths, out, verify=verify_)
        print(f"{out}: {rows:,} rows of {len(paths)} files{', verified' if verify_ else ''}")
        return
    if folders:
        name = Dataset(folders[0]).schema.name
        same = find_domain(name).merge_same if name in domain_names() else ()
        print(f"{out}: {_extent(merge_datasets(folders, out, same=same))}")
    else:
        ingest(domain, paths, out, shards, seed)
    if verify_:
        verify(out)


@app.command()
def reshard(
    data: Annotated[Path, typer.Argument(help="Dataset folder.")],
    out: Annotated[Path, typer.Option(help="Dataset folder to make.")],
    shards: Annotated[int, typer.Option(help="Files over all splits.")],
) -> None:
    """Write a dataset with another number of files; rows keep their order and their split.

    Example: trackkeras reshard data/tracks --shards 64 --out data/tracks64
    """
    from tfrecords_tools.merge import reshard as write

    print(f"{out}: {_extent(write(data, out, shards))}")


@app.command()
def tfio(
    file: Annotated[Path | None, typer.Argument(help="HDF5, Parquet or NumPy file to open.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Data set or column to read (repeat for more).")
    ] = None,
    rows: Annotated[int, typer.Option(help="Rows to show.")] = 3,
) -> None:
    """Say whether tensorflow-io runs here, and show the first rows of a file through it.

    Example: trackkeras tfio
    """
    from trackkeras.errors import UserError

    if file is not None and not file.is_file():
        raise UserError(f"no such file: {file}")
    load_tensorflow()
    from trackkeras.tfio import open_source, try_native_operation

    if file is None:
        print(try_native_operation().text)
        return
    for row in open_source(file, tuple(column or ())).take(rows):
        print(row)


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


def _open_field(source: str, assignments: list[str] | None = None) -> Field:
    from trackkeras.config import parse_assignments
    from trackkeras.domains.extrapolation.fields import field_options, make_field
    from trackkeras.progress import Progress

    options = field_options(source, parse_assignments(assignments or ()))
    return make_field(**options, report=_work(Progress(f"read {options.get('path', source)}", 0, "bytes")))


def _work(progress: Progress) -> Callable[[int, int], None]:
    """Let work that reports how much of how much is done drive a progress line."""

    def report(done: int, total: int) -> None:
        progress.total = total
        # In a log nothing is left behind: the command says itself what it has done.
        (progress.finish if done >= total and sys.stderr.isatty() else progress.update)(done)

    return report


@field_app.command("info")
def field_info(
    name: FieldArgument = "lhcb",
    set_: SetOption = None,
    ray: Annotated[
        list[str] | None,
        typer.Option(metavar="TX,TY", help="Also integrate along a line from the origin; repeat as needed."),
    ] = None,
    against: Annotated[str | None, typer.Option(help="Compare with another field, named alike.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Describe a field: peak, integrals, polarity, profile, Maxwell residuals, suspicious nodes.

    Example: trackkeras field info map.txt --ray 0.1,0.05 --against lhcb
    """
    rays = [_slopes(text) for text in ray or ()]
    from trackkeras.domains.extrapolation.field_report import describe

    field = _open_field(name, set_)
    report = describe(field, rays=rays, against=_open_field(against) if against else None)
    if as_json:
        _print_json(report)
    else:
        _print_pairs(report)


def _slopes(text: str) -> tuple[float, float]:
    from trackkeras.errors import UserError

    try:
        tx, ty = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--ray needs two slopes such as 0.1,0.05, received {text!r}") from None
    if not (abs(tx) < math.inf and abs(ty) < math.inf):
        raise UserError(f"--ray needs finite slopes, received {text!r}")
    return tx, ty


@field_app.command("make")
def field_make(
    out: Annotated[Path, typer.Option(help="File to write.")],
    name: FieldArgument = "lhcb",
    set_: SetOption = None,
    layout: Annotated[
        MapFormat, typer.Option("--format", help="Text `x y z Bx By Bz`, or the binary layout of Allen.")
    ] = MapFormat.TEXT,
    companions: Annotated[
        Path | None, typer.Option(help="Folder for profile, Gaussian and thinned map as well.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Write a field as a map on the 81 x 81 x 146 grid, in mm and tesla.

    Example: trackkeras field make lhcb --out lhcb_map.txt --companions lhcb_map
    """
    from trackkeras.domains.extrapolation.field_companions import write_companions
    from trackkeras.domains.extrapolation.grid import write_grid
    from trackkeras.domains.extrapolation.grid_allen import write_allen
    from trackkeras.progress import Progress

    field = _open_field(name, set_)
    write = write_allen if layout is MapFormat.ALLEN else write_grid
    write(field, out, overwrite=overwrite, report=_work(Progress(f"write {out}", 0, "nodes")))
    print(out)
    if companions is not None:
        for path in write_companions(field, companions, overwrite=overwrite):
            print(path)


@field_app.command("plot")
def field_plot(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    name: FieldArgument = "lhcb",
    set_: SetOption = None,
    against: Annotated[str | None, typer.Option(help="Draw another field into the profile.")] = None,
    limit: Annotated[float | None, typer.Option(help="End of the colour scale [T].")] = None,
) -> None:
    """Draw a field as PNG and SVG: the profile on the axis, and slices through the volume.

    Example: trackkeras field plot two_dipole --out plots --against lhcb
    """
    from trackkeras.errors import UserError

    if limit is not None and not 0 < limit < math.inf:
        raise UserError(f"--limit must be a positive field in tesla, received {limit:g}")
    field = _open_field(name, set_)
    other = _open_field(against) if against else None
    from trackkeras.domains.extrapolation.field_plots import write_plots

    for path in write_plots(field, out, other, limit):
        print(path)


@field_app.command("fit")
def field_fit(
    name: FieldArgument,
    out: Annotated[Path, typer.Option(help="YAML file to write, usable wherever a field is named.")],
    set_: SetOption = None,
    terms: Annotated[int, typer.Option(min=1, help="Terms of the closed form.")] = 6,
    points: Annotated[int, typer.Option(min=20, help="Points in the acceptance, half to test.")] = 2000,
    starts: Annotated[int, typer.Option(min=1, help="Random starting values; the best fit wins.")] = 6,
    seed: Annotated[int, typer.Option(help="Seed of points and starting values.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Fit the closed form `maxwell`, free of divergence and curl, to a whole map.

    Example: trackkeras field fit map.txt --terms 6 --out fitted.yaml
    """
    from trackkeras.domains.extrapolation.field_fit import fit_map, write_fit
    from trackkeras.domains.extrapolation.grid import check_new
    from trackkeras.errors import UserError

    if out.suffix not in (".yaml", ".yml"):
        raise UserError(f"--out must end in .yaml, received {out}")
    check_new(out, overwrite)
    field = _open_field(name, set_)
    found = fit_map(
        field, terms, seed, points, starts=starts, log=lambda line: print(line, file=sys.stderr, flush=True)
    )
    write_fit(found, field, out)
    print(
        f"{out}: {terms} terms leave {found.rms_T:.4g} T rms, {found.max_T:.4g} T at most, of "
        f"{found.field_rms_T:.4g} T rms, at points of the acceptance that the fit did not use"
    )


def _print_pairs(report: dict[str, Any], indent: str = "") -> None:
    width = 28 - len(indent)
    for key, value in report.items():
        if isinstance(value, dict):
            print(f"{indent}{key}:")
            _print_pairs(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for item in value:
                print(f"{indent}{key}:")
                _print_pairs(item, indent + "  ")
        elif isinstance(value, list):
            numbers = ", ".join(f"{x:.6g}" if isinstance(x, float) else str(x) for x in value)
            print(f"{indent}{key:<{width}} {numbers or 'none'}")
        else:
            text = f"{value:.6g}" if isinstance(value, float) else "none" if value is None else f"{value}"
            print(f"{indent}{key:<{width}} {text}")


# -- training ----------------------------------------------------------------------------------------------


@app.command()
def presets(as_json: JsonOption = False) -> None:
    """List the shipped presets with what each costs and reaches.

    Example: trackkeras presets
    """
    from trackkeras.presets import preset_files, preset_values

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
    from trackkeras.presets import load_run

    flags = {"training.strategy": strategy, "training.time_budget_s": time_budget}
    extra = [f"{key}={value}" for key, value in flags.items() if value is not None]
    run = load_run(preset, [*(set_ or ()), *extra])
    if not name or "/" in name or name.startswith("."):
        raise typer.BadParameter(f"a run name is a plain folder name, received {name!r}")
    _check_dataset(data)
    if mlflow:
        from trackkeras.tracking import check_installed

        check_installed()
    load_tensorflow()
    from trackkeras.training import train as fit

    folder = fit(run, data, runs / name, resume=resume, overwrite=overwrite, mlflow=mlflow)
    state = folder.read("state.json")
    parameters = folder.read("model_config.json")["parameters"]
    print(
        f"{folder.path}: {parameters:,} parameters, {state['epoch']} epochs in {state['seconds']:.0f} s "
        f"({state['reason']}), best val_loss {state['best_val_loss']:.4g} in epoch {state['best_epoch']}"
    )


@app.command()
def study(
    experiments: Annotated[str, typer.Argument(metavar="LIST", help="Name of a list, or a YAML file.")],
    data: Annotated[Path | None, typer.Option(help="Dataset of the experiments that name none.")] = None,
    sample: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=DIR", help="A dataset that experiments name; repeat as needed."),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of runs.")] = Path("runs"),
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Groups or experiments, such as 'pinn_*'; repeat as needed."),
    ] = None,
    set_: SetOption = None,
    time_budget: Annotated[
        float | None,
        typer.Option(help="Time of each training [s]; its learning rate ends with it, after whole epochs."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Evaluate on the first rows only.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Skip finished runs, go on with interrupted ones.")
    ] = False,
    index: Annotated[
        int | None, typer.Option(help="Run only this one of the chosen experiments, as an array's task.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Only list the chosen experiments.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train and evaluate the experiments of a list, one after the other; then compare the folder of runs.

    Example: trackkeras study extrapolation --data data/tracks --only base --time-budget 600 --resume
    """
    from trackkeras.errors import UserError
    from trackkeras.study import check_study, choose, load_study, run_study

    chosen = choose(load_study(experiments), only or ())
    if list_:
        _list_experiments(chosen, as_json)
        return
    if index is not None:
        if not 0 <= index < len(chosen):
            raise UserError(
                f"--index must be from 0 to {len(chosen) - 1}, received {index}; --list shows them"
            )
        chosen = [chosen[index]]
    if data is None:
        raise UserError("name the dataset folder with --data")
    _check_dataset(data)
    samples = _named_datasets("--sample", sample)
    budget = (
        [] if time_budget is None else [f"training.time_budget_s={time_budget}", "training.schedule=budget"]
    )
    assignments = [*(set_ or ()), *budget]
    check_study(chosen, samples, assignments)
    load_tensorflow()
    results = []
    for result in run_study(
        chosen, data, runs, samples=samples, assignments=assignments, resume=resume, limit=limit
    ):
        results.append(result)
        text = f"{len(results)}/{len(chosen)} {result.experiment.name}: {result.outcome} ({result.reason})"
        print(text, file=sys.stderr if as_json else sys.stdout, flush=True)
    if as_json:
        _print_json([{"name": r.experiment.name, "outcome": r.outcome, "reason": r.reason} for r in results])
    if any(result.outcome == "failed" for result in results):
        raise typer.Exit(1)


def _list_experiments(chosen: list[Experiment], as_json: bool) -> None:
    """Print the experiments with the numbers that `--index` takes."""
    if as_json:
        _print_json(
            [
                {"index": i, "name": e.name, "group": e.group, **e.options.model_dump(mode="json")}
                for i, e in enumerate(chosen)
            ]
        )
        return
    for number, experiment in enumerate(chosen):
        options = experiment.options
        changes = [f"{key}={value}" for key, value in options.set.items()]
        changes += [f"sample={options.sample}"] if options.sample else []
        preset = options.preset or experiment.name
        print(f"{number:>3} {experiment.group:<14} {experiment.name:<26} {' '.join([preset, *changes])}")


def _named_datasets(option: str, given: list[str] | None) -> dict[str, Path]:
    """Read `NAME=DIR` pairs; every folder must hold a dataset."""
    from trackkeras.errors import UserError

    found: dict[str, Path] = {}
    for item in given or ():
        name, separator, folder = item.partition("=")
        if not (name and separator and folder):
            raise UserError(f"{option} needs NAME=DIR, received {item!r}")
        if name in found:
            raise UserError(f"{option}: two datasets are named {name!r}")
        found[name] = Path(folder)
        _check_dataset(found[name])
    return found


def _check_dataset(data: Path) -> None:
    """Fail on a missing or damaged dataset before TensorFlow is imported."""
    from tfrecords_tools.reader import Dataset

    Dataset(data)


@app.command()
def tune(
    preset: Annotated[str, typer.Argument(help="Preset to start from, or path of a YAML file.")],
    data: Annotated[Path, typer.Option(help="Dataset folder; all trials read it.")],
    out: Annotated[Path | None, typer.Option(help="Search folder.  [default: searches/PRESET]")] = None,
    search: Annotated[
        str | None, typer.Option(help="Search of the domain, or a YAML file.  [default: the preset's kind]")
    ] = None,
    set_: SetOption = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=WEIGHT]", help="pos_95_mm, rows_per_s, parameters=0.1, ...; repeat."),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Train no network beyond it: parameters, operations, latency_us, us_per_row, rows_per_s.",
        ),
    ] = None,
    oracle: Annotated[Oracle | None, typer.Option(help="How values are proposed.")] = None,
    seed: Annotated[int, typer.Option(min=1, help="Seed of the proposals.")] = 1,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials in all.  [default: 20; grid, hyperband: as they need]")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Start no trial later than this, such as 90s, 30m or 2h.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of a trial: equal trials everywhere.")
    ] = None,
    trial_budget: Annotated[
        str | None, typer.Option(help="Time of a trial, on top: what it reaches depends on the load.")
    ] = None,
    keep: Annotated[int, typer.Option(min=1, help="Models to keep on disk.")] = 1,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes on this host that run trials beside each other.")
    ] = None,
    member: Annotated[
        int | None,
        typer.Option(min=0, help="In an array of jobs: 0 proposes, the others run trials.", metavar="INDEX"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted search.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start an existing search again.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Search better options than a preset's; the best ones become a preset file that `train` takes.

    The first trial is the preset itself. With --epochs, one seed and one process give the same trials again;
    --trial-budget does not. On a cluster: sbatch --array=0-4 --mem=4G scripts/cluster_job.sh tune mlp_medium
    --data data/tracks --member {index} --resume

    Example: trackkeras tune mlp_medium --data data/tracks --search sizes --trials 20 --budget 30m
    """
    from trackkeras.errors import UserError
    from tuner.plan import parse_duration, parse_weights
    from tuner.tune import make_plan
    from tuner.tune import tune as run_tune

    if workers is not None and member is not None:
        raise UserError(
            "--workers starts processes on this host, --member is one job of an array: choose one"
        )
    if member is not None and overwrite:
        raise UserError("--overwrite does not go with --member: remove the search folder before jobs start")
    _check_dataset(data)
    plan = make_plan(
        preset,
        data,
        search=search,
        assignments=set_,
        objectives=parse_weights(objective or [], "objective", 1.0),
        limits=parse_weights(limit or [], "limit", None),
        oracle=None if oracle is None else oracle.value,
        trials=trials,
        epochs=epochs,
        seed=seed,
        keep=keep,
        budget_s=None if budget is None else parse_duration(budget),
        trial_budget_s=None if trial_budget is None else parse_duration(trial_budget),
    )
    folder = out or Path("searches") / Path(preset).stem
    load_tensorflow()
    summary = run_tune(plan, folder, workers=workers, member=member, resume=resume, overwrite=overwrite)
    if summary is None:  # a worker: the chief tells the outcome
        return
    if as_json:
        _print_json(summary)
    else:
        _print_search(folder, summary)
    if summary["winner"] is None:
        raise typer.Exit(1)


def _print_search(folder: Path, summary: dict[str, Any]) -> None:
    names = list(dict.fromkeys([*summary["plan"]["objectives"], "parameters", "us_per_row"]))
    ranked = sorted(summary["trials"], key=lambda row: row.get("score", math.inf))
    _print_rows(
        [
            {
                "trial": row["trial"],
                **{name: row["metrics"][name] if "metrics" in row else "" for name in names},
                "Pareto": "*" if row["trial"] in summary["pareto"]["trials"] else "",
                "settings": row["reason"]
                or ", ".join(f"{key}={value}" for key, value in row["settings"].items()),
            }
            for row in ranked
        ]
    )
    counts = ", ".join(f"{count} {status}" for status, count in summary["counts"].items())
    print(f"{counts} in {summary['seconds']:.0f} s ({summary['ended_because']})")
    winner = summary["winner"]
    if winner is None:
        print("no trial finished: there is no preset", file=sys.stderr)
    else:
        changes = ", ".join(f"{key}={value}" for key, value in winner["changes"].items()) or "no change"
        print(f"winner: trial {winner['trial']}, {winner['extends']} with {changes}")
        print(f"preset: {folder / 'best.yaml'}")
    print(f"report: {folder / 'report.html'}")


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: Annotated[Path | None, typer.Option(help="Dataset folder; default: the run's own.")] = None,
    split: Annotated[str, typer.Option(help="Split to evaluate.")] = "test",
    limit: Annotated[int | None, typer.Option(help="Use only the first rows.")] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=DIR", help="Evaluate on a further dataset too; repeat as needed."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a run beside its baselines, in bands, and write metrics.json, plots and report.html.

    Example: trackkeras evaluate runs/first
    """
    from trackkeras.runs import open_run

    open_run(run)
    if data is not None:
        _check_dataset(data)
    others = _named_datasets("--also", also)
    load_tensorflow()
    from trackkeras.evaluation import evaluate as compute
    from trackkeras.report import write_report

    result = compute(run, data, split, limit, others)
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
    for chart in (sample["floor"] or {"maps": []})["maps"]:
        place = f"{chart['cells']} cells of {' and '.join(chart['axes'])} ({chart['metric']})"
        verdict = f"WORSE in {len(chart['worse'])}" if chart["worse"] else "worse in none"
        print(f"  {sample['floor']['baseline']}: {verdict} of {place}")
        for item in chart["worse"]:
            limits = (
                f"{name} {low:g}-{high:g}"
                for name, (low, high) in zip(chart["axes"], item["cell"], strict=True)
            )
            print(f"    {', '.join(limits)}: {item['network']:.4g} against {item['baseline']:.4g}")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Evaluated run folders, or folders of runs.")],
    out: Annotated[Path, typer.Option(help="File to write: HTML, or tables alone as .md.")] = Path(
        "comparison.html"
    ),
    sort: Annotated[str | None, typer.Option(help="Metric that orders the table.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare evaluated runs and their baselines on the rows that they share, and how the trainings went.

    Example: trackkeras compare runs/mlp_small runs/mlp_medium --out comparison.html
    Example: trackkeras compare runs --out study.html
    """
    from trackkeras.comparison import comparison_table, write_comparison

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
    run: Annotated[Path | None, typer.Argument(help="Run folder; or use --best.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of bundles.")] = Path("bundles"),
    data: Annotated[
        Path | None, typer.Option(help="Dataset for the parity check; default: the run's.")
    ] = None,
    cpp: Annotated[
        bool, typer.Option("--cpp", help="Also write an MLP as a C++ header without dependencies.")
    ] = False,
    keras_file: Annotated[
        Path | None, typer.Option(help="Also write it as this .keras or .h5 file, replaced if it exists.")
    ] = None,
    best: Annotated[
        Path | None, typer.Option(metavar="RUNS", help="Folder of runs, of which the best is exported.")
    ] = None,
    by: Annotated[
        str | None, typer.Option(metavar="METRIC", help="What --best goes by: smallest on validation rows.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Export the best model as SavedModel and ONNX, and as C++; refused unless all agree with Keras.

    Example: trackkeras export runs/first --out bundles --cpp, or export --best runs --by pos_95_mm
    """
    from trackkeras.errors import UserError
    from trackkeras.runs import open_run
    from trackkeras.selection import Choice, best_run

    if (run is None) == (best is None) or (best is None) != (by is None):
        raise UserError("name one run folder, or --best FOLDER with --by METRIC")
    choice: Choice | None = None
    if best is not None and by is not None:
        choice = best_run(best, by)
        run = choice.path
        print(choice.reason, file=sys.stderr)
    assert run is not None
    open_run(run)
    if data is not None:
        _check_dataset(data)
    load_tensorflow()
    from trackkeras.export import FORMATS
    from trackkeras.export import export as write

    path = write(run, out, data, cpp=cpp, keras_file=keras_file)
    parity = json.loads((path / "parity.json").read_text())
    if as_json:
        chosen = None if choice is None else choice.to_json()
        files = {} if keras_file is None else {"keras_file": str(keras_file)}
        _print_json({"bundle": str(path), **files, "run": str(run), "choice": chosen, "parity": parity})
        return
    if keras_file is not None:
        print(f"{keras_file}: the network as a Keras file")
    print(f"{path}: parity with Keras, the largest difference as a share of what is allowed")
    for name, entry in parity.items():
        shares = [
            f"{kind} {entry[kind]['excess']:.2g}"
            if "excess" in entry[kind]
            else f"{kind} not compared: {entry[kind]['not_compared']}"
            for kind in FORMATS
            if kind in entry
        ]
        print(f"  {name}: {', '.join(shares)} on {entry['rows']:,} rows ({entry['rule']})")


@app.command()
def publish(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[Path, typer.Option(help="Run folder to make.")],
    digits: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Significant binary digits of trained weights; half precision has 11."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Leave the best model of a run as a small run folder, to be kept with a project and exported from there.

    What fewer digits cost in accuracy, `trackkeras evaluate` tells of the new folder.

    Example: trackkeras publish runs/first --out results/first --digits 11
    """
    from trackkeras.runs import open_run

    open_run(run)
    load_tensorflow()
    from trackkeras.publishing import publish as write

    made = write(run, out, digits)
    sizes = {path.name: path.stat().st_size for path in sorted(made.path.iterdir())}
    if as_json:
        _print_json({"run": str(made.path), "bytes": sizes})
        return
    print(f"{made.path}: " + ", ".join(f"{name} {size / 1000:.3g} kB" for name, size in sizes.items()))


@app.command("compare-with-cpp")
def compare_with_cpp(
    bundle: Annotated[Path, typer.Argument(help="Version folder of a bundle.")],
    run: Annotated[
        Path | None, typer.Option(help="Run folder that it was exported from; default: runs/ITS NAME.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Dataset folder; default: the run's own.")] = None,
    rows: Annotated[int, typer.Option(help="Rows, such as tracks, muons or events.")] = 100_000,
    split: Annotated[str, typer.Option(help="Split that they are the first rows of.")] = "train",
    output: Annotated[Path | None, typer.Option(help="Also write the table to this JSON file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare a bundle in C++, over ONNX Runtime and TensorFlow's C API, with Keras on the same rows.

    For bundles of every domain. The exit code is 1 if an engine differs by more than the bundle's own rule.

    Example: trackkeras compare-with-cpp bundles/momentum_medium-jpsi/1 --data data/jpsi --rows 100000
    """
    from serving.bundle import read_bundle
    from trackkeras.runs import open_run

    found = run or Path("runs") / str(read_bundle(bundle).description.get("run"))
    open_run(found)
    if data is not None:
        _check_dataset(data)
    load_tensorflow()
    from trackkeras.cpp_parity import compare_engines

    table = _show_report(
        {"bundle": str(bundle), "run": str(found)},
        lambda: compare_engines(bundle, found, data, rows=rows, split=split),
        output,
        as_json,
        ("rule",),
    )
    if any(row["share_of_allowance"] > 1 for row in table):
        raise typer.Exit(1)


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
    max_concurrent: Annotated[
        int, typer.Option(help="Most requests that each protocol answers or keeps waiting.")
    ] = 128,
    reload_seconds: Annotated[
        float, typer.Option(help="Time between two looks for new and removed versions [s]; 0: never.")
    ] = 2.0,
) -> None:
    """Serve bundles with TF-Serving's REST and gRPC protocol until interrupted; new versions are picked up.

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
        limits=Limits(max_rows=max_rows, max_concurrent=max_concurrent),
        workers=workers,
        ready_file=ready_file,
        reload_seconds=reload_seconds,
    )


@app.command("serving-config")
def serving_config(
    bundles: Annotated[list[Path], typer.Argument(help="Bundles, or folders of bundles.")],
    root: Annotated[
        str | None, typer.Option(help="Folder of the bundles as the server sees it; with --out /models.")
    ] = None,
    batching: Annotated[
        Path | None,
        typer.Option(
            metavar="TIMES.json", help="Batch as this table of `bench inference --output` suggests."
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads that run batches; default: cores.")] = None,
    monitoring: Annotated[
        bool, typer.Option("--monitoring", help="Print the monitoring configuration.")
    ] = False,
    compose: Annotated[bool, typer.Option("--compose", help="Print a docker-compose.yaml.")] = False,
    kubernetes: Annotated[bool, typer.Option("--kubernetes", help="Print Kubernetes manifests.")] = False,
    image: Annotated[
        str, typer.Option(help="Image of TF-Serving in the manifests; pin a tag for production.")
    ] = "tensorflow/serving:latest",
    out: Annotated[
        Path | None, typer.Option(help="Write all files, the bundles and warm-up records to this new folder.")
    ] = None,
) -> None:
    """Print TF-Serving's models.config for some bundles, another of its files, or write a folder of all.

    A bundle is itself a TF-Serving model folder. The syntax of all files is tested; the real
    tensorflow_model_server was not run with them.

    Example: trackkeras serving-config bundles --root /models > models.config
    """
    from serving import deployment
    from serving.bundle import discover
    from serving.layout import models_config, write_layout

    if monitoring + compose + kubernetes + (out is not None) > 1:
        raise typer.BadParameter("choose one of --monitoring, --compose, --kubernetes and --out")
    models = discover(bundles)
    cores = os.cpu_count() or 1
    batches = (
        None
        if batching is None
        else deployment.batching_config(
            deployment.read_curve(batching), cores if threads is None else threads
        )
    )
    seen = PurePosixPath(root) if root else None
    if out is not None:
        print(
            write_layout(
                models, out, root=seen or deployment.ROOT, files=deployment.files(models, batches, image)
            )
        )
    elif monitoring:
        print(deployment.monitoring_config(), end="")
    elif compose:
        print(deployment.compose(models, batching=batches is not None, image=image), end="")
    elif kubernetes:
        print(deployment.kubernetes(models, batching=batches, image=image), end="")
    elif batches is not None:
        print(batches, end="")
    else:
        print(models_config(models, root=seen), end="")


@app.command()
def loadtest(
    address: Annotated[str, typer.Argument(help="HOST:PORT for gRPC, http://HOST:PORT for REST.")],
    model: Annotated[str, typer.Option(help="Name of the served model.")],
    inputs: Annotated[
        str | None, typer.Option(help="As for `query`, repeated to --rows rows; default: ones.")
    ] = None,
    rows: Annotated[int, typer.Option(help="Rows of a request.")] = 1,
    clients: Annotated[list[int] | None, typer.Option(help="Closed loop; repeat. [1, 2, 4, 8]")] = None,
    rate: Annotated[
        list[float] | None,
        typer.Option(
            help="Open loop [1/s]; repeat. Default: from 20 % of the best closed rate until missed."
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Longest time of a step [s].")] = 5.0,
    max_requests: Annotated[int, typer.Option(help="Most requests of a step.")] = 20_000,
    signature: Annotated[str, typer.Option(help="Which function of the model.")] = "serving_default",
    out: Annotated[
        Path | None, typer.Option(metavar="NAME", help="Write NAME.json, NAME.png and NAME.svg.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Load a server in closed and open loops: latency and errors against rate, and where it saturates.

    Example: trackkeras loadtest 127.0.0.1:8500 --model mlp_medium-first --out load
    """
    from serving.loadtest import Bounds, Step, load_test
    from serving.query import read_inputs

    def show(step: Step) -> None:
        times = "" if step.p50_ms is None else f", p50 {step.p50_ms:.2f} ms, p99 {step.p99_ms:.2f} ms"
        loop = (
            f"closed, {step.clients} clients"
            if step.loop == "closed"
            else f"open, {step.offered_per_s:.0f}/s"
        )
        errors = "".join(f", {count} x {name}" for name, count in step.errors.items())
        print(f"{loop}: {step.requests_per_s:.0f}/s{times}{errors}", file=sys.stderr)

    result = load_test(
        address,
        model,
        None if inputs is None else read_inputs(inputs),
        rows,
        clients or (1, 2, 4, 8),
        rate,
        Bounds(seconds, max_requests),
        signature,
        show,
    )
    if out is not None:
        from tfrecords_tools.files import write_json
        from trackkeras.load_figure import load_figure
        from trackkeras.plots import save

        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out.with_name(f"{out.name}.json"), result)
        save(load_figure(result), out)
    if as_json:
        _print_json(result)
        return
    saturation = result["saturation_per_s"]
    if saturation is None:
        print("saturated: the server did not keep up with any rate")
    elif result["saturated"]:
        print(f"saturated: the server keeps up to {saturation:.0f} requests/s")
    else:
        print(f"not saturated at {saturation:.0f} requests/s, the largest rate")
    if result["errors"]:
        raise typer.Exit(1)


@app.command()
def query(
    model: Annotated[str, typer.Argument(help="Name of the served model.")],
    inputs: Annotated[str, typer.Option(help="JSON object of inputs, or @FILE.json, or @FILE.npz.")],
    address: Annotated[
        str, typer.Option(help="HOST:PORT for gRPC, http://HOST:PORT for REST.")
    ] = "127.0.0.1:8500",
    version: Annotated[int | None, typer.Option(help="Version; default: the latest.")] = None,
    signature: Annotated[str, typer.Option(help="Which function of the model.")] = "serving_default",
    as_json: JsonOption = False,
) -> None:
    """Ask a server for a prediction and print it as a table.

    Example: trackkeras query mlp_medium-first
    --inputs '{"state": [[100, -50, 0.05, -0.02, 1e-4]], "z0": [[2665]], "dz": [[5161]]}'
    """
    from serving.query import ask, connect, read_inputs

    arrays = read_inputs(inputs)
    with connect(address) as client:
        sent, outputs = ask(client, model, arrays, version, signature)
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
    tracks: Annotated[int, typer.Option(help="Tracks per row.")] = 10_000,
    rounds: Annotated[int, typer.Option(help="Rounds in which every row is timed once.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Microseconds per track and core, and error, of every method on grids and in closed form, in one run.

    ACTS is in the same table where pyacts is installed. Example: trackkeras bench propagate
    """
    from trackkeras.bench import propagation

    _show_bench(propagation(tracks, rounds), as_json)


@bench_app.command("generate")
def bench_generate(
    tracks: Annotated[
        list[int] | None, typer.Option(help="Tracks of one run (repeat for more).  [default: 100000]")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
    folder: Annotated[Path | None, typer.Option(help="Where to write: 50 bytes per track.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Tracks/s generated and written, with memory, as the number of tracks grows; each run is verified.

    Example: trackkeras bench generate --tracks 100000 --tracks 1000000 --tracks 10000000
    """
    from trackkeras.bench import generation

    _show_bench(generation(tracks or [100_000], workers, folder), as_json)


@bench_app.command("inference")
def bench_inference(
    bundle: Annotated[Path, typer.Argument(help="Version folder of a bundle.")],
    run: Annotated[
        Path | None, typer.Option(help="Run folder that it was exported from: adds a row of Keras.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Also write the table to this JSON file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Time per call [us] by engine and batch size, one thread; C++ engines where there is a compiler.

    Keras, TensorFlow, ONNX Runtime, C++, the server over gRPC and REST, and classical extrapolation in C++,
    Numba and, where pyacts is installed, ACTS. About three minutes.

    Example: trackkeras bench inference bundles/mlp_medium-first/1 --run runs/first --output times.json
    """
    from trackkeras.bench import inference

    _show_report({"bundle": str(bundle)}, lambda: inference(bundle, run), output, as_json)


@bench_app.command("compare-with-cpp")
def bench_compare_with_cpp(
    bundle: Annotated[Path, typer.Argument(help="Version folder of an extrapolation bundle.")],
    tracks: Annotated[int, typer.Option(help="Simulated tracks.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Seed of the simulation.")] = 1,
    output: Annotated[Path | None, typer.Option(help="Also write the table to this JSON file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Accuracy and time per track of a network and of Runge-Kutta, both in C++ and on the same tracks.

    On simulated tracks, and on states of LHCb's C++ extrapolator where TRACKKERAS_DATA has them.

    Example: trackkeras bench compare-with-cpp bundles/mlp_medium-first/1 --output cpp.json
    """
    from trackkeras.bench import compare_with_cpp

    _show_report(
        {"bundle": str(bundle)},
        lambda: compare_with_cpp(bundle, tracks, seed),
        output,
        as_json,
        ("description",),
    )


@bench_app.command("pareto")
def bench_pareto(
    bundles: Annotated[list[Path], typer.Argument(help="Version folders of extrapolation bundles.")],
    out: Annotated[Path, typer.Option(help="Folder for pareto.json, .png, .html and .md.")],
    rows: Annotated[int, typer.Option(help="Tracks that are drawn for each sample.")] = 16_384,
    rounds: Annotated[int, typer.Option(help="Rounds in which every point is timed once.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 2026,
    as_json: JsonOption = False,
) -> None:
    """Error against time per track of networks and of every Runge-Kutta setting, on the same tracks.

    Says of each network which classical method is both faster and more accurate, and whether one is ahead of
    Runge-Kutta on a field map at p95 <= 0.5 mm. Networks with a C++ header run in C++ too. About ten minutes.

    Example: trackkeras bench pareto bundles/mlp_tiny-first/1 bundles/mlp_small-second/1 --out pareto
    """
    from trackkeras import pareto_page
    from trackkeras.bench import machine, machine_line, pareto

    pareto_page.check_folder(out)
    found = machine()
    report = {"machine": found, **pareto(bundles, rows, rounds, seed)}
    words = ["trackkeras bench pareto", *map(str, bundles), "--out", str(out)]
    words += ["--rows", str(rows), "--rounds", str(rounds), "--seed", str(seed)]
    paths = pareto_page.write(report, machine_line(found), " ".join(words), out)
    if as_json:
        _print_json(report)
        return
    for line in pareto_page.headline(report):
        print(line)
    print(machine_line(found))
    print(f"written: {', '.join(map(str, paths.values()))}")


@bench_app.command("server")
def bench_server(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")], as_json: JsonOption = False
) -> None:
    """Requests/s of the local server over gRPC and REST, by batch size.

    Example: trackkeras bench server bundles/mlp_medium-first
    """
    from trackkeras.bench import server

    _show_bench(server(bundle), as_json)


def _show_report(
    head: dict[str, Any],
    measure: Callable[[], list[dict[str, Any]]],
    output: Path | None,
    as_json: bool,
    hidden: tuple[str, ...] = (),
) -> list[dict[str, Any]]:
    """Print a table with the machine that it was measured on, write both to a file, return the rows."""
    from tfrecords_tools.files import write_json
    from trackkeras.bench import machine, machine_line
    from trackkeras.errors import UserError

    if output is not None and not output.parent.is_dir():
        raise UserError(f"no such folder: {output.parent}")
    rows = measure()
    report = head | {"machine": machine(), "rows": rows}
    if output is not None:
        write_json(output, report)
    if as_json:
        _print_json(report)
        return rows
    _print_rows([{key: value for key, value in row.items() if key not in hidden} for row in rows])
    for text in dict.fromkeys(row[key] for key in hidden for row in rows):
        print(text)
    print(machine_line(report["machine"]))
    return rows


def _show_bench(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        _print_json(rows)
    else:
        _print_rows(rows)


if __name__ == "__main__":
    main()
