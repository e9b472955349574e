"""`trackkeras dimuon`: the experiment's files cut, mixed, made noisy, checked. None of them needs ROOT."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trackkeras.console import JsonOption, print_json, print_rows
from trackkeras.domains.dimuon.attention_command import attention
from trackkeras.domains.dimuon.calibration_command import calibrate
from trackkeras.domains.dimuon.chain_command import export_chain
from trackkeras.domains.dimuon.command_files import (
    new_files,
    number_of_events,
    shown,
    summarize,
    write_events,
)
from trackkeras.domains.dimuon.command_options import (
    Counts,
    CountsOption,
    DecayOption,
    EfficiencyOption,
    FileArgument,
    FolderOption,
    Model,
    ModelOption,
    OverwriteOption,
    SeedOption,
    SigmaOption,
    SpreadOption,
    occupancy_of,
)
from trackkeras.domains.dimuon.display_command import display
from trackkeras.domains.dimuon.evaluate_command import evaluate
from trackkeras.domains.dimuon.mass_command import mass
from trackkeras.domains.dimuon.reconstruct_command import reconstruct
from trackkeras.domains.dimuon.simulation_command import simulate
from trackkeras.errors import UserError

if TYPE_CHECKING:
    from trackkeras.domains.dimuon.events import Events

app = typer.Typer(rich_markup_mode=None)
app.command()(simulate)
app.command()(reconstruct)
app.command()(mass)
app.command()(evaluate)
app.command()(display)
app.command("export-chain")(export_chain)
app.command()(attention)
app.command()(calibrate)


@app.command()
def check(file: FileArgument, as_json: JsonOption = False) -> None:
    """Say whether a file is valid RUS, what it lacks and what to beware of; exit code 1 if it is not valid.

    Example: trackkeras dimuon check JPsi_Dump.root
    """
    from trackkeras.domains.dimuon.rus_check import check_rus

    report = check_rus(file)
    if as_json:
        print_json(report.to_json())
    else:
        verdict = "valid" if report.valid else "not valid"
        print(
            f"{file}: {verdict} RUS, {report.naming} naming, {report.events:,} events, {report.hits:,} hits, "
            f"{report.tracks:,} truth tracks"
        )
        for label, lines in (("problem", report.problems), ("note", report.notes)):
            for line in lines:
                print(f"  {label}: {line}")
    if not report.valid:
        raise typer.Exit(1)


@app.command()
def separate(
    file: FileArgument,
    out: FolderOption = Path(),
    max_events: Annotated[int | None, typer.Option(min=1, help="Use only the first events.")] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Split dimuon events into NAME_track1.root with the mu+ and NAME_track2.root with the mu-.

    Events without both muons are left out of both. Example: trackkeras dimuon separate JPsi_Target.root
    """
    from trackkeras.domains.dimuon.rus_reading import naming_of, read_rus
    from trackkeras.domains.dimuon.rus_writing import rus_writer
    from trackkeras.domains.dimuon.training_files import separate as split

    paths = [out / f"{file.stem}_track{number}.root" for number in (1, 2)]
    naming = naming_of(file)
    made, lost = 0, 0
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(rus_writer(path, naming)) for path in new_files(paths, overwrite)]
        for events in shown(read_rus(file, stop=max_events), "separate", number_of_events(file, max_events)):
            *parts, incomplete = split(events)
            for write, part in zip(writers, parts, strict=True):
                write(part)
            made += len(parts[0])
            lost += incomplete
    summarize(as_json, paths, made, incomplete_events=lost)


@app.command("gen-training")
def gen_training(
    plus: Annotated[Path, typer.Argument(help="File of the mu+, as from `separate`.")],
    minus: Annotated[Path, typer.Argument(help="File of the mu- of the same events.")],
    out: FolderOption = Path(),
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write finder_training.root with the hit arrays of both muons, and momentum_training-1.root and -2.root.

    Example: trackkeras dimuon gen-training JPsi_Target_track1.root JPsi_Target_track2.root
    """
    from trackkeras.domains.dimuon.rus_reading import naming_of
    from trackkeras.domains.dimuon.rus_writing import rus_writer
    from trackkeras.domains.dimuon.training_files import finder_events, momentum_events, paired

    names = ("finder_training", "momentum_training-1", "momentum_training-2")
    paths = [out / f"{name}.root" for name in names]
    naming = naming_of(plus)
    made = 0
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(rus_writer(path, naming)) for path in new_files(paths, overwrite)]
        for one, two in shown(paired(plus, minus), "gen-training", number_of_events(plus)):
            parts = (finder_events(one, two), momentum_events(one), momentum_events(two))
            for write, part in zip(writers, parts, strict=True):
                write(part)
            made += len(one)
    summarize(as_json, paths, made)


@app.command()
def combine(
    first: Annotated[Path, typer.Argument(help="RUS file; its first event comes first.")],
    second: Annotated[Path, typer.Argument(help="RUS file with the same branches.")],
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("single_muons.root"),
    max_events: Annotated[int, typer.Option(min=1, help="Most events to write.")] = 100_000,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take events of two files in turn, such as mu+ and mu-, until one ends; eventID counts from 0.

    Example: trackkeras dimuon combine MUP_Dump_10K.root MUM_Dump_10K.root --out single_muons.root
    """
    from trackkeras.domains.dimuon.mixing import combine as alternate

    total = min(2 * number_of_events(first), 2 * number_of_events(second), max_events)
    write_events(alternate(first, second, max_events), first, out, total, "combine", overwrite, as_json)


@app.command()
def messy(
    signal: Annotated[Path, typer.Argument(help="RUS file of the signal, such as finder_training.root.")],
    background: Annotated[Path, typer.Argument(help="RUS file of single muons.")],
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("mc_events.root"),
    lower_bound: Annotated[int, typer.Option(help="Fewest tracks added to an event.")] = 0,
    num_tracks: Annotated[int, typer.Option(help="Most tracks added to an event.")] = 50,
    counts: CountsOption = Counts.UNIFORM,
    model: ModelOption = Model.GAUSSIAN,
    sigma: SigmaOption = 60.0,
    decay: DecayOption = 15.0,
    efficiency: EfficiencyOption = 0.9,
    spread: SpreadOption = 0.1,
    clean: Annotated[
        bool, typer.Option("--clean", help="Also write detectorIDClean, elementIDClean: the signal alone.")
    ] = False,
    once: Annotated[
        bool, typer.Option("--once", help="Fail rather than use a background muon twice.")
    ] = False,
    seed: SeedOption = 1,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Add hits of background muons to events; truth and hit arrays of the signal stay as they are.

    Muons are taken in order, and from the first again when they are used up; the result says how often.

    Example: trackkeras dimuon messy finder_training.root single_muons.root --num-tracks 16 --counts skewed
    """
    from trackkeras.domains.dimuon.mixing import SingleMuons, add_background
    from trackkeras.domains.dimuon.random_streams import chunk_rng
    from trackkeras.domains.dimuon.rus_reading import read_rus

    occupancy = occupancy_of(model, sigma, decay, efficiency, spread, lower_bound, num_tracks, counts)
    size = number_of_events(signal)
    muons = SingleMuons(background)
    tracks, hits = 0, 0

    def chunks() -> Iterator[Events]:
        nonlocal tracks, hits
        for number, events in enumerate(read_rus(signal)):
            mixed = add_background(events, muons, occupancy, chunk_rng(seed, "messy", number))
            if once and muons.passes > 1:
                raise UserError(
                    f"{background} has only {muons.size:,} muons, too few for {size:,} events: add fewer, "
                    "bring more, or leave out --once"
                )
            tracks += len(mixed.tracks) - len(events.tracks)
            hits += len(mixed.hits)
            yield mixed

    chunk_rng(seed, "messy")  # refuse a bad seed before anything is read
    extra = {
        "background_tracks": lambda: tracks,
        "hits": lambda: hits,
        "background_passes": lambda: muons.passes,
    }
    write_events(chunks(), signal, out, size, "messy", overwrite, as_json, clean=clean, **extra)


@app.command()
def noise(
    file: FileArgument,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("noisy_output.root"),
    electronic: Annotated[float, typer.Option(help="Chance that an element without a hit fires.")] = 0.002,
    cluster: Annotated[float, typer.Option(help="Chance that a detector has a cluster.")] = 0.01,
    shortest: Annotated[int, typer.Option(help="Fewest elements of a cluster.")] = 2,
    longest: Annotated[int, typer.Option(help="Most elements of a cluster.")] = 4,
    seed: SeedOption = 1,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Add electronic noise and clusters, only where a detector has elements; their track number is 0.

    Example: trackkeras dimuon noise mc_events.root --electronic 0.01 --cluster 0.05 --out noisy_output.root
    """
    from trackkeras.domains.dimuon.noise import Noise, add_noise
    from trackkeras.domains.dimuon.random_streams import chunk_rng
    from trackkeras.domains.dimuon.rus_reading import read_rus

    amount = Noise(electronic, cluster, shortest, longest)
    chunk_rng(seed, "noise")
    added = 0

    def chunks() -> Iterator[Events]:
        nonlocal added
        for number, events in enumerate(read_rus(file)):
            noisy = add_noise(events, amount, chunk_rng(seed, "noise", number))
            added += len(noisy.hits) - len(events.hits)
            yield noisy

    write_events(
        chunks(), file, out, number_of_events(file), "noise", overwrite, as_json, noise_hits=lambda: added
    )


@app.command()
def skim(
    file: FileArgument,
    out: Annotated[Path, typer.Option(help="File to write.")],
    start: Annotated[int, typer.Option(min=0, help="First event.")] = 0,
    max_events: Annotated[int, typer.Option(min=1, help="Most events to write.")] = 2000,
    drop_invalid: Annotated[
        bool, typer.Option("--drop-invalid", help="Leave out hits outside of the detectors.")
    ] = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Copy a range of events, and nothing that is corrupt.

    Example: trackkeras dimuon skim MUP_Dump_10K.root --start 4000 --max-events 1000 --out mup_1000.root
    """
    from trackkeras.domains.dimuon.rus_reading import read_rus

    size = number_of_events(file)
    if start >= size:
        raise UserError(f"{file} has {size:,} events, so that none is at --start {start:,}")
    stop = min(start + max_events, size)
    chunks = read_rus(file, start=start, stop=stop, drop_invalid=drop_invalid)
    write_events(chunks, file, out, stop - start, "skim", overwrite, as_json)


@app.command()
def merge(
    files: Annotated[
        list[str], typer.Argument(help="RUS files with the same branches; a pattern in quotes.")
    ],
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("merged_RUS.root"),
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Join files, one after the other.

    Example: trackkeras dimuon merge 'batch_*.root' --out all.root
    """
    from tfrecords_tools.files import expand
    from trackkeras.domains.dimuon.rus_reading import read_rus

    paths = expand(files)
    if out in paths:
        raise UserError(f"{out} is one of the files to merge: choose another name")
    total = sum(map(number_of_events, paths))
    chunks = (events for path in paths for events in read_rus(path))
    write_events(chunks, paths[0], out, total, "merge", overwrite, as_json, merged_files=lambda: len(paths))


@app.command()
def background(
    file: Annotated[Path, typer.Argument(help="RUS file of single muons.")],
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("background.root"),
    events: Annotated[int, typer.Option(min=1, help="Events to make.")] = 10_000,
    lower_bound: Annotated[int, typer.Option(help="Fewest tracks of an event.")] = 1,
    num_tracks: Annotated[int, typer.Option(help="Most tracks of an event.")] = 20,
    counts: CountsOption = Counts.UNIFORM,
    model: ModelOption = Model.FLAT,
    sigma: SigmaOption = 60.0,
    decay: DecayOption = 15.0,
    efficiency: EfficiencyOption = 1.0,
    spread: SpreadOption = 0.0,
    seed: SeedOption = 1,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make events of background alone, from muons drawn with replacement; their hit arrays are empty.

    Example: trackkeras dimuon background single_muons.root --events 10000 --out background.root
    """
    from trackkeras.domains.dimuon.mixing import background_chunks
    from trackkeras.domains.dimuon.random_streams import chunk_rng

    occupancy = occupancy_of(model, sigma, decay, efficiency, spread, lower_bound, num_tracks, counts)
    chunk_rng(seed, "background")
    chunks = background_chunks(file, events, occupancy, seed)
    write_events(chunks, file, out, events, "background", overwrite, as_json)


@app.command()
def bench(
    events: Annotated[int, typer.Option(min=1, help="Events to work on.")] = 10_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds in which every row is timed once.")] = 3,
    block: Annotated[int, typer.Option(min=1, help="Events at a time; the commands work on 2048.")] = 2048,
    simulation: Annotated[
        bool, typer.Option("--simulation", help="Time the simulation of some samples instead.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Microseconds per event of the tools, beside plain Python loops that do the same, in one run.

    Example: trackkeras dimuon bench --simulation --events 5000
    """
    from trackkeras.domains.dimuon import simulation_bench, tools_bench

    rows = simulation_bench.measure(events) if simulation else tools_bench.measure(events, rounds, block)
    (print_json if as_json else print_rows)(rows)
