#!/usr/bin/env python
"""Judge track finders on the same events, and see what background, noise and lost hits do to them.

Dimuons of a file get background made of the muons of other files, as `trackkeras dimuon messy` makes it;
every condition starts from the same dimuons and random numbers. `--pairs` makes the dimuons of single muons
instead, of which a half (by generated muon, never by event) is used for pairs and the other for background.
None of these files may have been trained on. Printed is one table of all runs: shares with 95 % bootstrap
intervals over events, of the elements as they are predicted and, in a row of its own, of the hits next to
them. Nothing is written but the text, or JSON with --json.

Example, all finders on the same events, under tracks that lost hits and under whole ones:
    scripts/dimuon_finder_study.py --run runs/roads --run runs/flagship --signal
    ../shared/data/spinquest/JPsi_Dump.root
        --background ../shared/data/spinquest/MUP_Dump_10K.root --background
        ../shared/data/spinquest/MUM_Dump_10K.root --only "0 to 50 tracks" --only "0 to 50 whole tracks"
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trackkeras.checkpoints import load_model
from trackkeras.domain import Rows, Task, task_of
from trackkeras.domains.dimuon.conditions import Condition, choose, conditions, messy_events
from trackkeras.domains.dimuon.events import CHARGES, Events
from trackkeras.domains.dimuon.finder_baselines import all_empty
from trackkeras.domains.dimuon.muons import muon_rows
from trackkeras.domains.dimuon.records import event_groups, event_rows
from trackkeras.domains.dimuon.rus_reading import read_rus
from trackkeras.domains.dimuon.training_files import finder_events
from trackkeras.errors import UserError
from trackkeras.evaluation import intervals, predict
from trackkeras.runs import open_run

COLUMNS = {
    "accuracy": "slots_wrong",
    "on hits": "hits_wrong",
    "within 2": "hits_far",
    "whole tracks": "tracks_wrong",
    "efficiency": "inefficiency",
    "fakes": "fake_rate",
}
"""Columns of the table: 1 less these shares, but for fakes."""

STAGES = {"predicted": "", "next hit": "refined_"}
"""What is judged, and how the names of its shares begin."""


def main() -> None:
    """Parse the arguments, study, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--run", type=Path, action="append", required=True, help="run folder of a finder")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--signal", type=Path, help="RUS file of dimuons")
    source.add_argument("--pairs", action="store_true", help="dimuons of single muons")
    parser.add_argument(
        "--background", type=Path, action="append", required=True, help="RUS file of single muons"
    )
    parser.add_argument("--events", type=int, default=1000, help="(default: %(default)s)")
    parser.add_argument(
        "--only",
        action="append",
        help="the condition of this name, or those whose name has it; repeat for more",
    )
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    try:
        study(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def study(arguments: argparse.Namespace) -> None:
    """Run all conditions and print.

    Raises:
        UserError: A bad file or run, or no condition of this name.
    """
    if arguments.events < 1:
        raise UserError(f"--events must be at least 1, received {arguments.events}")
    chosen = choose(conditions(), arguments.only)
    names = [path.name for path in arguments.run]
    if len(set(names)) < len(names):
        raise UserError(f"--run: folders must have different names, received {', '.join(names)}")
    finders = {path.name: _finder(path) for path in arguments.run}
    rng = np.random.default_rng(arguments.seed)
    muons = Events.concatenate([_plain(path) for path in arguments.background])
    if arguments.pairs:
        signal, muons = _pairs(muons, arguments.events, rng)
    else:
        signal = _first(arguments.signal, arguments.events)
    results = []
    for condition in chosen:
        shares = judge(finders, signal, muons, condition, arguments.seed)
        for name, values in shares.items():
            for stage, prefix in STAGES.items():
                row = {
                    column: _with_interval(values[prefix + share], share) for column, share in COLUMNS.items()
                }
                title = {"condition": condition.name, "finder": name, "hits": stage}
                results.append({**title, "events": len(signal), **row})
                if not arguments.json:
                    _print(results)
    if arguments.json:
        print(json.dumps(results, indent=1))


def judge(
    finders: dict[str, tuple[Task, Any]], signal: Events, muons: Events, condition: Condition, seed: int
) -> dict[str, Rows]:
    """Return the errors of all finders, and of the predictor that finds nothing, event by event."""
    found: dict[str, list[Rows]] = {name: [] for name in (*finders, "nothing found")}
    task = next(iter(finders.values()))[0]
    first = 0
    for events in messy_events(signal, muons, condition, seed):
        rows = task.own_rows(event_rows(events, max_hits=int(events.hit_counts.max()), first=first))
        first += len(events)
        for name, (own, model) in finders.items():
            found[name].append(task.errors(rows, predict(model, rows, own)))
        found["nothing found"].append(task.errors(rows, all_empty().predict(rows)))
    return {
        name: {share: np.concatenate([part[share] for part in parts]) for share in parts[0]}
        for name, parts in found.items()
    }


def _finder(path: Path) -> tuple[Task, Any]:
    folder, run = open_run(path)
    if run.domain != "dimuon" or run.model.kind != "finder":
        raise UserError(f"{path} is a run of {run.preset!r}; the study needs runs of finder_*")
    task = task_of(run)
    return task, load_model(folder.best, task)


def _plain(path: Path) -> Events:
    """Return the events of a file without the columns that another file might not have."""
    events = Events.concatenate(list(read_rus(path)))
    return Events(events.hits, events.tracks, events.hit_offsets, events.track_offsets)


def _first(path: Path, n: int) -> Events:
    events = _plain(path)
    if len(events) < n:
        print(f"{path} has {len(events)} events, fewer than {n}", file=sys.stderr)
    return events[:n]


def _pairs(muons: Events, n: int, rng: np.random.Generator) -> tuple[Events, Events]:
    """Return dimuons of a half of the generated muons, and the other half."""
    groups = event_groups(muons, muon_rows(muons))
    first = rng.random(len(np.unique(groups))) < 0.5
    own = first[np.unique(groups, return_inverse=True)[1]]
    mine, rest = muons[np.flatnonzero(own)], muons[np.flatnonzero(~own)]
    parts = []
    for charge in CHARGES:
        of_charge = np.flatnonzero(mine.tracks.charge == charge)
        if not of_charge.size:
            raise UserError(f"no muons of charge {charge:+d} among the background files")
        parts.append(mine[rng.choice(of_charge, n)])
    return finder_events(*parts), rest


def _with_interval(values: NDArray[Any], share: str) -> dict[str, float]:
    found = intervals(values, ["mean"])["mean"]
    if share == "fake_rate":
        return found
    return {"value": 1 - found["value"], "low": 1 - found["high"], "high": 1 - found["low"]}


def _print(results: Sequence[dict[str, Any]]) -> None:
    """Print the last line of the table, and its head before the first."""
    if len(results) == 1:
        print(f"| events | finder | hits | {' | '.join(COLUMNS)} |\n|---|---|---|{'---|' * len(COLUMNS)}")
    last = results[-1]
    cells = [f"{last[c]['value']:.3f} [{last[c]['low']:.3f}, {last[c]['high']:.3f}]" for c in COLUMNS]
    print(f"| {last['condition']} | {last['finder']} | {last['hits']} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
